"""What much text costs: the speed and memory of a stream that is tokenized or evaluated, by how much was read.

    python scripts/much_text.py --work runs/much_text --output results/much_text.json

A stream of `datasets` brings the sources of the running Python, over and over, until 1 GB is read. `BipeTokenizer`
and the tokenizer that it wraps, a byte-level BPE of 4,096 entries, tokenize a tenth of it in turns, another one first
each time. Then `bipe-hf evaluate --streaming` scores 65,536 to 1,048,576 tokens of the same sources with a BiPE-RoPE
model and the stock Llama of the same shape, each in a process of its own, whose greatest memory is noted. Weights are
random: what they are changes neither time nor memory.

The file is written after every part, a table and a picture beside it; the same command goes on with what is missing,
on the same machine with the same code, and `--fresh` starts over. The machine should have nothing else to do. All of
it takes about half an hour on two cores. Memory is read as Linux counts it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from benchmark import environment, results_to_go_on_with
from benchmarking.measurements import ShareOfOthers, median_interval
from benchmarking.models import SHAPES
from benchmarking.report import disturbed
from datasets import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.lab.common.figures import add_legend, line_looks, new_panels, save_figure
from bipe_hf.lab.common.results import in_words
from bipe_hf.lab.common.tables import markdown
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.data.python_corpus import python_installation, read_python


if TYPE_CHECKING:
    from matplotlib.figure import Figure


BYTES, PARTS = 1_000_000_000, 10
BATCH = 16  # documents that are tokenized at a time
TOKENS = [65_536, 262_144, 1_048_576]
LENGTH = 1024
VOCABULARY = 4096
LIMIT = 1.10
TOKENIZERS = {"wrapped": "the wrapped tokenizer", "bipe": "BipeTokenizer"}
MODELS = {"stock": "Llama", "bipe": "BiPE-RoPE"}


def endless_sources() -> Iterator[dict[str, str]]:
    """The documents of the running Python, over and over."""
    yield from cycle(list(read_python(**python_installation(), version=0)))


def tokenized(tokenizer: PreTrainedTokenizerBase) -> Iterator[dict]:
    """The stream as rows of what the tokenizer gives, with the bytes of each document."""

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
        sizes = [len(text.encode()) for text in batch["text"]]
        return {**tokenizer(batch["text"], verbose=False), "num_bytes": sizes}

    documents = IterableDataset.from_generator(endless_sources)
    return iter(documents.map(tokenize, batched=True, batch_size=BATCH, remove_columns=["text", "name"]))


def read_part(rows: Iterator[dict], size: int) -> dict[str, float]:
    """Seconds and bytes of the next rows of at least so many bytes, and their tokens."""
    begin, num_bytes, tokens = time.perf_counter(), 0, 0
    while num_bytes < size:
        row = next(rows)
        num_bytes += row["num_bytes"]
        tokens += len(row["input_ids"])
    return {"seconds": time.perf_counter() - begin, "bytes": num_bytes, "tokens": tokens}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tokenizing(tokenizers: dict[str, PreTrainedTokenizerBase]) -> Iterator[dict]:
    """One part after the other: what each tokenizer took, the memory behind it, the share that others used."""
    streams = {name: tokenized(tokenizer) for name, tokenizer in tokenizers.items()}
    for part in range(PARTS):
        others = ShareOfOthers()
        order = list(streams) if part % 2 == 0 else list(streams)[::-1]
        took = {name: read_part(streams[name], BYTES // PARTS) for name in order}
        yield {"models": took, "resident": resident(), "others": others.so_far()}


def save_models(work: Path, wrapped: PreTrainedTokenizerBase, tokenizer: BipeTokenizer) -> None:
    """A folder with model and tokenizer for each of `MODELS`."""
    fields = {**SHAPES["tiny"], "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
    fields |= {"bos_token_id": wrapped.bos_token_id, "eos_token_id": wrapped.eos_token_id}
    separators = {"separator_token_ids": tokenizer.separator_token_ids}
    configs = {"stock": LlamaConfig(**fields), "bipe": BipeLlamaConfig(**fields, **separators)}
    for name, model_class in (("stock", LlamaForCausalLM), ("bipe", BipeLlamaForCausalLM)):
        torch.manual_seed(0)
        model_class(configs[name]).save_pretrained(work / name)
        (wrapped if name == "stock" else tokenizer).save_pretrained(work / name)


def evaluating(work: Path, tokens: int) -> dict:
    """Seconds of the scoring and the greatest memory of the process, for each model."""
    others, took = ShareOfOthers(), {}
    for name in MODELS:
        output = work / f"{name}-{tokens}.json"
        command = [sys.executable, "-m", "bipe_hf", "evaluate", str(work / name), "--data", "python", "--streaming"]
        command += ["--split", "train", "--lengths", str(LENGTH), "--max-tokens", str(tokens), "--device", "cpu"]
        command += ["--output", str(output), "--overwrite"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
        (result,) = json.loads(output.read_text(encoding="utf-8"))["results"]
        took[name] = {"seconds": result["seconds"], "bytes": usage.ru_maxrss * 1024, "tokens": result["text_tokens"]}
    return {"models": took, "others": others.so_far()}


def parts_of(record: dict) -> list[dict]:
    """The parts that are tokenized, in order."""
    return record["results"].get("tokenizing", [])


def evaluated(record: dict) -> dict[int, dict]:
    """The rows of evaluation by their tokens."""
    found = {tokens: record["results"].get(f"evaluating {tokens}") for tokens in TOKENS}
    return {tokens: row for tokens, row in found.items() if row is not None}


def rate(part: dict) -> float:
    """Megabytes a second."""
    return part["bytes"] / part["seconds"] / 1e6


def document(record: dict) -> str:
    """Markdown: with what it was measured, and the tables."""
    sections = [f"Measured with {in_words(record['environment'])}; vocabulary {VOCABULARY:,}."]
    parts = parts_of(record)
    if parts:
        ratios = [rate(row["models"]["wrapped"]) / rate(row["models"]["bipe"]) for row in parts]
        low, high = median_interval(ratios)
        table = [["GB read", *(f"{label}: MB/s" for label in TOKENIZERS.values()), "time, ratio", "resident: MiB"]]
        for number, (row, ratio) in enumerate(zip(parts, ratios, strict=True), start=1):
            rates = [f"{rate(row['models'][name]):.2f}" for name in TOKENIZERS]
            read = f"{number * BYTES / PARTS / 1e9:g}{disturbed(row)}"
            table.append([read, *rates, f"{ratio:.3f}", f"{row['resident'] / 2**20:,.0f}"])
        whole = (
            f"Time of BipeTokenizer in parts of that of {TOKENIZERS['wrapped']}: {statistics.median(ratios):.3f}, the"
            f" median over parts; with 95 % probability between {low:.3f} and {high:.3f} (limit {LIMIT:.2f})."
        )
        sections += ["## A stream tokenized", markdown(table), whole]
    rows = evaluated(record)
    if rows:
        table = [["tokens", *(f"{label}: s" for label in MODELS.values())]]
        table[0] += ["time, ratio", *(f"{label}: MiB" for label in MODELS.values())]
        for tokens, row in rows.items():
            stock, ours = (row["models"][name] for name in MODELS)
            times = [f"{each['seconds']:.1f}" for each in (stock, ours)]
            sizes = [f"{each['bytes'] / 2**20:,.0f}" for each in (stock, ours)]
            table.append([f"{tokens:,}{disturbed(row)}", *times, f"{ours['seconds'] / stock['seconds']:.3f}", *sizes])
        sections += [f"## A stream evaluated, in blocks of {LENGTH:,} tokens", markdown(table)]
    return "\n\n".join(sections) + "\n"


def draw(record: dict) -> "Figure":
    """Speed by what was read, and memory by the tokens that were scored."""
    panels, parts, rows = [], parts_of(record), evaluated(record)
    if parts:
        read = [number * BYTES / PARTS / 1e9 for number in range(1, len(parts) + 1)]
        lines = {name: [rate(row["models"][name]) for row in parts] for name in TOKENIZERS}
        panels.append(("MB/s tokenized", "GB read", TOKENIZERS, read, lines))
        memory = {"both": [row["resident"] / 2**20 for row in parts]}
        panels.append(("MiB resident", "GB read", {"both": "both tokenizers"}, read, memory))
    if rows:
        lines = {name: [row["models"][name]["bytes"] / 2**20 for row in rows.values()] for name in MODELS}
        panels.append(("MiB of the evaluation", "tokens scored", MODELS, list(rows), lines))
    figure, all_axes = new_panels([list(labels.values()) for _, _, labels, _, _ in panels])
    for axes, (title, along, labels, at, lines) in zip(all_axes, panels, strict=True):
        looks = line_looks(labels)
        for name, line in lines.items():
            axes.plot(at, line, **looks[name])
        axes.set_ylim(0, 1.15 * max(value for line in lines.values() for value in line))
        axes.set_ylabel(title)
        axes.set_xlabel(along)
        add_legend(axes, [(label, looks[name]) for name, label in labels.items()])
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for two small models and their results")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write and to go on with")
    parser.add_argument("--fresh", action="store_true", help="start over")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".json" or not options.output.parent.is_dir():
        parser.error(f"--output {options.output}: a file that ends in .json, in a folder that exists, is needed")
    if not Path("/proc/self/statm").exists():
        parser.error("memory is read from /proc/self, which only Linux has")
    settings = {"bytes": BYTES, "parts": PARTS, "tokens": TOKENS, "vocabulary": VOCABULARY}
    record = {"settings": settings, "environment": environment("cpu"), "results": {}}
    if options.output.exists() and not options.fresh:
        try:
            record["results"] = results_to_go_on_with(options.output, record)
        except ValueError as error:
            parser.error(f"{error} --fresh starts over; --output takes another file")
    results = record["results"]

    def save() -> None:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(document(record), encoding="utf-8")
        save_figure(draw(record), options.output)

    sources = [row["text"] for row in islice(endless_sources(), 2000)]
    wrapped = train_tokenizer(sources, VOCABULARY)
    tokenizer = BipeTokenizer.from_tokenizer(wrapped, separators="lines")
    if len(parts_of(record)) < PARTS:  # a stream cannot be entered in the middle
        results["tokenizing"] = []
        for number, row in enumerate(tokenizing({"wrapped": wrapped, "bipe": tokenizer}), start=1):
            print(f"tokenized: {number} of {PARTS} parts", file=sys.stderr)
            results["tokenizing"].append(row)
            save()
    save_models(options.work, wrapped, tokenizer)
    for tokens in TOKENS:
        if f"evaluating {tokens}" not in results:
            print(f"evaluating {tokens:,} tokens", file=sys.stderr)
            results[f"evaluating {tokens}"] = evaluating(options.work, tokens)
            save()
    print(document(record))


if __name__ == "__main__":
    main()
