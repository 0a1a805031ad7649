"""Throughput of BiPE-RoPE and BiPE-ALiBi beside stock Llama, all of one shape, under `bipe-hf serve`.

    export OMP_NUM_THREADS=1 THP_MEM_ALLOC_ENABLE=1
    python scripts/benchmark_serving.py --output results/benchmark_serving.json

Each model has a server with continuous batching, in a process of its own. In every round each server in turn, another
one first, answers the same requests: `--requests` clients at once, prompts of mixed length, answers of one length. The
ratio is the median over rounds of tokens a second of BiPE over those of stock Llama in the same round. All
servers are launched `--launches` times, another one first, since where the memory of one lies may tell as long as it
runs; large pages lessen that. With one thread a server leaves the other core to the clients. The machine should have
nothing else to do. `--shape tiny` shows every microsecond of Python. A ratio under its limit is named at the end, and
the exit status is 1. At the default sizes it takes twenty minutes.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import requests
from benchmark import environment
from benchmarking.measurements import orders_of
from benchmarking.models import SHAPES, Setting, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


MODELS = {"stock": "stock Llama", "bipe_rope": "BiPE-RoPE", "bipe_alibi": "BiPE-ALiBi"}
LIMITS = {"bipe_rope": 0.95, "bipe_alibi": 0.88}
"""The least that a ratio of throughputs may be."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="paper")
    add("--device", default="cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--launches", type=int, default=4, help="of all servers anew (default: %(default)s)")
    add("--rounds", type=int, default=4, help="of each launch (default: %(default)s)")
    add("--requests", type=int, default=64, help="clients at once (default: %(default)s)")
    add("--prompt", type=int, default=64, help="most tokens of a prompt (default: %(default)s)")
    add("--answer", type=int, default=16, help="tokens of an answer (default: %(default)s)")
    add("--output", type=Path, help="JSON file to write; a Markdown table goes beside it")
    options = parser.parse_args(arguments)

    settings = {name: value for name, value in vars(options).items() if name != "output"}
    record = {"settings": settings, "environment": environment(options.device), "launches": []}
    draw = random.Random(0)
    size = SHAPES[options.shape]["vocab_size"]
    prompts = [
        " ".join(f"w{draw.randrange(size)}" for _ in range(draw.randint(1, options.prompt)))
        for _ in range(options.requests)
    ]
    orders = orders_of(list(MODELS))
    for launch in range(options.launches):
        record["launches"].append([])
        with ExitStack() as stack:
            urls = {name: stack.enter_context(served(name, options)) for name in orders[launch % len(orders)]}
            for url in urls.values():  # what happens once
                answer_all(url, prompts, 1)
            for number in range(options.rounds):
                order = orders[number % len(orders)]
                seconds = {name: answer_all(urls[name], prompts, options.answer) for name in order}
                record["launches"][-1].append({name: seconds[name] for name in MODELS})
                done = f"launch {launch + 1} of {options.launches}, round {number + 1} of {options.rounds}"
                print(f"{done}: {record['launches'][-1][-1]}", file=sys.stderr)
                if options.output:
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps(record, indent=2) + "\n")
                    options.output.with_suffix(".md").write_text(document(record) + "\n")
    print(document(record))
    if short := under_limit(record):
        sys.exit("\n".join(f"under the limit: {line}" for line in short))


@contextmanager
def served(name: str, options: argparse.Namespace) -> Iterator[str]:
    """The address of a server of that model."""
    page = 256
    blocks = options.requests * -(-(options.prompt + options.answer) // page) + 8
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(SHAPES[options.shape]["vocab_size"]).save_pretrained(folder)
        model = build(Setting("llama", options.shape, "cpu", options.dtype), name)
        model.config.eos_token_id = model.generation_config.eos_token_id = None  # answers run to their full length
        model.save_pretrained(folder)
        del model
        command = [sys.executable, "-m", "bipe_hf.commands", "serve", folder, "--port", "0", "--continuous-batching"]
        command += ["--num-blocks", str(blocks), "--max-batch-tokens", "512", "--device", options.device]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            yield re.findall(r"is served at (\S+)", process.stdout.readline())[0]
        finally:
            process.terminate()
            process.wait()


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One word for each id."""
    backend = Tokenizer(models.WordLevel({f"w{at}": at for at in range(size)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def answer_all(url: str, prompts: list[str], length: int) -> float:
    """Seconds until the last of these clients, who come at once, has its answer."""

    def ask(prompt: str) -> int:
        response = requests.post(f"{url}/completions", json={"prompt": prompt, "max_tokens": length}, timeout=3600)
        response.raise_for_status()
        return response.json()["usage"]["completion_tokens"]

    with ThreadPoolExecutor(len(prompts)) as pool:
        start = time.perf_counter()
        lengths = list(pool.map(ask, prompts))
        seconds = time.perf_counter() - start
    assert lengths == [length] * len(prompts)
    return seconds


class Ratio(NamedTuple):
    """Throughput of a BiPE model over that of the stock model."""

    median: float
    """Of all rounds."""
    rounds: tuple[float, float]
    """The least and the greatest."""
    launches: tuple[float, float]
    """The least and the greatest median of one."""


def ratios(record: dict) -> dict[str, Ratio]:
    """Of each BiPE model."""
    found = {}
    for name in LIMITS:
        launches = [[times["stock"] / times[name] for times in rounds] for rounds in record["launches"] if rounds]
        rounds, medians = [ratio for each in launches for ratio in each], [*map(statistics.median, launches)]
        spreads = ((min(each), max(each)) for each in (rounds, medians))
        found[name] = Ratio(statistics.median(rounds), *spreads)
    return found


def under_limit(record: dict) -> list[str]:
    """One line for each ratio that is under its limit."""
    return [
        f"{MODELS[name]} {ratio.median:.3f}, limit {LIMITS[name]:.2f}"
        for name, ratio in ratios(record).items()
        if ratio.median < LIMITS[name]
    ]


def document(record: dict) -> str:
    """Markdown: where and with what was measured, and the table."""
    environment, settings = (
        ", ".join(f"{name} {value}" for name, value in record[part].items()) for part in ("environment", "settings")
    )
    num_tokens = record["settings"]["requests"] * record["settings"]["answer"]
    found = ratios(record)
    rows = []
    for name, title in MODELS.items():
        speed = statistics.median(num_tokens / times[name] for rounds in record["launches"] for times in rounds)
        ratio = ""
        if name in found:
            median, rounds, launches = found[name]
            ratio = "{:.3f} ({:.3f} to {:.3f}; {:.3f} to {:.3f})".format(median, *rounds, *launches)
        rows.append(f"| {title} | {speed:.1f} | {ratio} | {LIMITS.get(name, '')} |")
    columns = ["", "tokens a second", "of stock Llama (least and greatest round; launch)", "at least"]
    head = [f"| {' | '.join(columns)} |", "| --- | ---: | ---: | ---: |"]
    return "\n\n".join([f"Measured with {environment}; {settings}.", "\n".join([*head, *rows])])


if __name__ == "__main__":
    main()
