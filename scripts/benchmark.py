"""Time and memory of BiPE beside stock Llama of transformers, in one run, with ratios.

    python scripts/benchmark.py --output results/benchmark.json

All models have the same shape, weights of the same size, dtype and attention backend (`sdpa`). Times are measured in
turns, another model first in each round; a time is the least of its rounds, which is the one that the rest of the
machine disturbed least, and a ratio is that of two such times. All times stand in the file. Peak memory is that of one
training step in a process of its own, weights and Python not counted. On a GPU, peak memory is what the allocator
reports.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import bipe_hf
from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM


SHAPES = {
    # 12 layers as in the paper (162 M parameters), and a tiny one in which every microsecond of Python shows
    "paper": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}
MODELS = ("stock", "bipe_rope", "bipe_alibi")
LIMITS = {
    "training step, 1024 tokens": {"bipe_rope": 1.03, "bipe_alibi": 1.15},
    "peak memory of a training step, 4096 tokens": {"bipe_rope": 1.05, "bipe_alibi": 1.15},
    "decoding a token, 1024 cached": {"bipe_rope": 1.05, "bipe_alibi": 1.15},
}


def build(name: str, shape: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    fields = {**SHAPES[shape], "attn_implementation": "sdpa", "max_position_embeddings": 8192}
    torch.manual_seed(0)
    if name == "stock":
        model = LlamaForCausalLM(LlamaConfig(**fields))
    else:
        inter_encoding = name.removeprefix("bipe_")
        separators = list(range(0, fields["vocab_size"], 20))  # one random token in 20 ends a segment
        config = BipeLlamaConfig(**fields, inter_encoding=inter_encoding, separator_token_ids=separators)
        model = BipeLlamaForCausalLM(config)
    return model.to(device=device, dtype=dtype)


def tokens(shape: str, length: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, SHAPES[shape]["vocab_size"], (1, length), generator=generator).to(device)


def training_step(model: torch.nn.Module, ids: torch.Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW; the gradient buffers stay allocated, as in a long run."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def decoding_steps(model: torch.nn.Module, ids: torch.Tensor, count: int) -> Callable[[], None]:
    """`count` single-token steps from a cache of `ids`, which is cropped back afterwards."""
    model.eval()
    with torch.inference_mode():
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def steps() -> None:
        for i in range(count):
            model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        cache.crop(-count)

    return steps


def seconds(function: Callable[[], None], device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def compare_times(functions: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, dict]:
    """Runs all functions in turn, `rounds` times after one round of warm-up, each round with another one first."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for round_ in range(rounds + 1):
        order = [*order[1:], order[0]]
        for name in order:
            elapsed = seconds(functions[name], device)
            if round_ > 0:
                times[name].append(elapsed)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    best = {name: min(values) for name, values in times.items()}
    return {
        name: {"seconds": best[name], "ratio": best[name] / best["stock"], "all": values}
        for name, values in times.items()
    }


def peak_memory_in_this_process(name: str, shape: str, length: int, device: str, dtype: torch.dtype) -> int:
    """Bytes that one training step takes beyond the weights, their gradients and the optimizer's state."""
    model = build(name, shape, device, dtype)
    training_step(model, tokens(shape, 32, device))()  # allocates gradients and optimizer state, loads all code
    ids = tokens(shape, length, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present size
    model(ids, labels=ids, use_cache=False).loss.backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def compare_memory(shape: str, length: int, device: str, dtype: str) -> dict[str, dict[str, float]]:
    peaks = {}
    for name in MODELS:
        command = [sys.executable, __file__, "--memory-of", name, "--shape", shape, "--length", str(length)]
        # One arena: glibc otherwise keeps freed blocks per thread, and the peak would depend on which thread ran.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        command += ["--device", device, "--dtype", dtype]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks[name] = int(result.stdout.split()[-1])
    return {name: {"bytes": peak, "ratio": peak / peaks["stock"]} for name, peak in peaks.items()}


def table(measurements: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a measurement; stock in its unit, the others as ratios to stock with the limit to keep."""
    lines = ["| | stock Llama | BiPE-RoPE / stock | BiPE-ALiBi / stock |", "|---|---|---|---|"]
    for title, results in measurements.items():
        stock = results["stock"]
        unit = f"{stock['seconds'] * 1e3:.1f} ms" if "seconds" in stock else f"{stock['bytes'] / 2**20:.0f} MiB"
        cells = [
            f"{results[name]['ratio']:.3f}" + (f" (limit {LIMITS[title][name]:.2f})" if title in LIMITS else "")
            for name in MODELS[1:]
        ]
        lines.append(f"| {title} | {unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="paper")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=6, help="measured rounds of each comparison (default: 6)")
    parser.add_argument("--output", type=Path, help="JSON file to write; a Markdown table goes beside it")
    parser.add_argument("--memory-of", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=4096, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    if options.memory_of:
        print(peak_memory_in_this_process(options.memory_of, options.shape, options.length, options.device, dtype))
        return

    models = {name: build(name, options.shape, options.device, dtype) for name in MODELS}
    ids = tokens(options.shape, 1024, options.device)
    decode = {name: decoding_steps(model, ids, count=10) for name, model in models.items()}
    measurements = {"decoding a token, 1024 cached": compare_times(decode, options.rounds, options.device)}
    for result in measurements["decoding a token, 1024 cached"].values():
        result["seconds"] /= 10
        result["all"] = [elapsed / 10 for elapsed in result["all"]]
    train = {name: training_step(model, ids) for name, model in models.items()}
    measurements["training step, 1024 tokens"] = compare_times(train, options.rounds, options.device)
    del models, decode, train
    title = "peak memory of a training step, 4096 tokens"
    measurements[title] = compare_memory(options.shape, 4096, options.device, options.dtype)

    print(table(measurements))
    if options.output:
        environment = {
            "machine": platform.machine(),
            "processor": torch.cuda.get_device_name() if options.device != "cpu" else f"{os.cpu_count()} cores",
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "bipe_hf": bipe_hf.__version__,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"shape": options.shape, "dtype": options.dtype, "environment": environment, "results": measurements}
        options.output.write_text(json.dumps(record, indent=2) + "\n")
        options.output.with_suffix(".md").write_text(table(measurements) + "\n")


if __name__ == "__main__":
    main()
