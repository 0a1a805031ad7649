"""What a cache of bounded size and edits of a cached prompt save, in time and memory.

    python scripts/bounded_memory.py --output results/bounded_memory.json

A step of decoding with a SepLLMCache beside one with a full cache, one of the stock Llama, and one of a stock Llama
whose layers see a window of as many tokens as the SepLLMCache holds (transformers calls it Mistral), after 1,024 to
102,400 tokens: seconds and bytes of the cache. From these follows what it takes to generate as many. Then
`edit_cache`, which puts 12 tokens and one more separator in the place of 8 in the middle of a prompt, beside a forward
of the edited prompt, both with the logits of the next token. Weights and tokens are random, as in
scripts/benchmark.py, whose manner of timing this has: in turns, ratios within a round, and a machine with nothing else
to do.

The file is written after every row, tables and a picture beside it; the same command goes on with what is missing, on
the same machine with the same code, and `--fresh` starts over. All rows take about an hour on two cores; the last one
of decoding holds 16 GB.
"""

import argparse
import copy
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from benchmark import environment, results_to_go_on_with
from benchmarking.measurements import ShareOfOthers, Work, compare_times, repeated_cache, times_in_turn, warm_up
from benchmarking.models import SHAPES, Setting, build, tokens
from benchmarking.report import disturbed
from transformers import Cache, DynamicCache, MistralConfig, MistralForCausalLM

from bipe_hf import SepLLMCache, edit_cache
from bipe_hf.lab.common.figures import add_legend, label_lengths, label_values, line_looks, new_panels, save_figure
from bipe_hf.lab.common.results import in_words
from bipe_hf.lab.common.tables import markdown


if TYPE_CHECKING:
    from matplotlib.figure import Figure


DECODED = [1024, 4096, 8192, 16384, 32768, 102400]
EDITED = [1024, 4096, 16384]
LIMITS = {"initial_tokens": 4, "separators": 64, "neighbors": 256, "capacity": 800}  # those of the authors
STEPS, CHUNK = 20, 256
OLD_TOKENS, NEW_TOKENS = 8, 12
BUDGET = 60
NAMES = {
    "stock": "Llama, full cache",
    "windowed": "Llama, sliding window",
    "full": "BiPE-RoPE, full cache",
    "bounded": "BiPE-RoPE, SepLLMCache",
    "prefill": "forward of the edited prompt",
    "edit": "edit_cache",
}


def cache_bytes(cache: Cache) -> int:
    """Of keys, values and the segment history."""
    tensors = [each for layer in cache.layers for each in vars(layer).values() if isinstance(each, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors)


def steps_of(model: torch.nn.Module, cache: Cache, ids: torch.Tensor, length: int | None) -> Work:
    """Single-token steps; a cache of `length` tokens is cropped back to them between runs."""

    @torch.inference_mode()
    def steps() -> None:
        for token in ids.split(1, dim=1):
            model(token, past_key_values=cache, use_cache=True)

    def crop() -> None:
        if length is not None and cache.get_seq_length() > length:
            cache.crop(length - cache.get_seq_length())

    return Work(steps, warm_up=steps, prepare=crop, count=ids.shape[1])


def windowed_llama(setting: Setting) -> torch.nn.Module:
    """The stock Llama with a window in every layer, which is what Mistral is."""
    torch.manual_seed(0)
    heads = setting.fields["num_attention_heads"]
    fields = {**setting.fields, "num_key_value_heads": heads, "attn_implementation": "sdpa"}
    model = MistralForCausalLM(MistralConfig(**fields, sliding_window=LIMITS["capacity"]))
    return model.to(device=setting.device, dtype=getattr(torch, setting.dtype)).eval()


def decoding(setting: Setting, length: int, rounds: int | None) -> dict:
    """Times and bytes of all four after `length` tokens."""
    stock, model = (build(setting, name).eval() for name in ("stock", "bipe_rope"))
    windowed = windowed_llama(setting)
    bounded, window = SepLLMCache(model.config, **LIMITS), DynamicCache(config=windowed.config)
    with torch.inference_mode():
        for chunk in tokens(setting, length).split(CHUNK, dim=1):
            model(chunk, past_key_values=bounded, logits_to_keep=1)
            windowed(chunk, past_key_values=window, logits_to_keep=1)
    caches = {name: repeated_cache(each, setting, length) for name, each in (("stock", stock), ("full", model))}
    ids = tokens(setting, STEPS)
    works = {
        "stock": steps_of(stock, caches["stock"], ids, length),
        "full": steps_of(model, caches["full"], ids, length),
        "bounded": steps_of(model, bounded, ids, None),
        "windowed": steps_of(windowed, window, ids, None),
    }
    caches |= {"bounded": bounded, "windowed": window}
    sizes = {name: cache_bytes(cache) for name, cache in caches.items()}
    against = {"full": "stock", "bounded": "full", "windowed": "stock"}
    return measured(works, against, setting, rounds) | {"bytes": sizes}


def editing(setting: Setting, length: int, rounds: int | None) -> dict:
    """Times of an edit in the middle of a prompt of `length` tokens, and of a forward of the edited prompt."""
    model = build(setting, "bipe_rope").eval()
    ids, start = tokens(setting, length), length // 2
    new_ids = torch.ones(1, NEW_TOKENS, dtype=torch.long, device=ids.device)
    new_ids[0, NEW_TOKENS // 2] = 0  # a separator; 1 is none
    edited = torch.cat([ids[:, :start], new_ids, ids[:, start + OLD_TOKENS :]], dim=1)
    caches = []
    with torch.no_grad():
        full = model(ids, use_cache=True, logits_to_keep=1).past_key_values

    def copied() -> None:
        caches[:] = [copy.deepcopy(full)]

    @torch.no_grad()
    def edit() -> None:
        edit_cache(model, caches[0], ids, start, start + OLD_TOKENS, new_ids)
        caches[0].crop(-1)
        model(edited[:, -1:], past_key_values=caches[0])

    @torch.no_grad()
    def prefill() -> None:
        model(edited, use_cache=True, logits_to_keep=1)

    works = {"prefill": Work(prefill, warm_up=prefill), "edit": Work(edit, warm_up=edit, prepare=copied)}
    return measured(works, {"edit": "prefill"}, setting, rounds)


def measured(works: dict[str, Work], against: dict[str, str], setting: Setting, rounds: int | None) -> dict:
    warm_up(works)
    others = ShareOfOthers()
    times = times_in_turn(works, setting.device, BUDGET, rounds)
    return {"models": compare_times(times, against), "others": others.so_far()}


def rows() -> dict[str, tuple]:
    """What is measured, by its name: a function, and its length."""
    return {f"decoding {length}": (decoding, length) for length in DECODED} | {
        f"editing {length}": (editing, length) for length in EDITED
    }


def of_kind(record: dict, kind: str) -> dict[int, dict]:
    """The rows of that kind which are measured, by their length."""
    found = [(name.split(), row) for name, row in record["results"].items()]
    return {int(length): row for (name, length), row in found if name == kind}


def seconds_of_all(lengths: dict[int, dict], name: str) -> float:
    """Seconds to generate as many tokens as the longest length, the time of a step going straight between two."""
    points = [(length, row["models"][name]["seconds"]) for length, row in sorted(lengths.items())]
    points = [(0, points[0][1]), *points]
    return sum((after[0] - before[0]) * (before[1] + after[1]) / 2 for before, after in pairwise(points))


def document(record: dict) -> str:
    """Markdown: with what it was measured, and the tables."""
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items() if value is not None)
    limits = ", ".join(f"{name}={value}" for name, value in LIMITS.items())
    parts = [
        f"Measured with {in_words(record['environment'])}; {settings}; SepLLMCache with {limits}.",
        "Ratio: the median over rounds of the ratio within a round; in brackets where it lies with 95 % probability.",
    ]
    decoded, edited = of_kind(record, "decoding"), of_kind(record, "editing")
    if decoded:
        names = ("stock", "windowed", "full", "bounded")
        table = [["tokens before", *(f"{NAMES[name]}: ms a token" for name in names)]]
        table[0] += ["SepLLMCache / full", *(f"{NAMES[name]}: MiB" for name in names)]
        for length, row in sorted(decoded.items()):
            times = [f"{row['models'][name]['seconds'] * 1e3:.1f}" for name in names]
            sizes = [f"{row['bytes'][name] / 2**20:.1f}" for name in names]
            table.append([f"{length:,}{disturbed(row)}", *times, _ratio(row["models"]["bounded"]), *sizes])
        parts += ["## Decoding", markdown(table)]
        longest = max(decoded)
        whole = [f"{NAMES[name]} {longest / seconds_of_all(decoded, name):.1f}" for name in names]
        parts.append(f"Tokens a second over the first {longest:,}, from these rows: {', '.join(whole)}.")
    if edited:
        table = [["tokens of the prompt", "forward: s", "edit_cache: s", "edit_cache / forward"]]
        for length, row in sorted(edited.items()):
            times = [f"{row['models'][name]['seconds']:.3f}" for name in ("prefill", "edit")]
            table.append([f"{length:,}{disturbed(row)}", *times, _ratio(row["models"]["edit"])])
        parts += [f"## Editing: {NEW_TOKENS} tokens in the place of {OLD_TOKENS}, in the middle", markdown(table)]
    return "\n\n".join(parts) + "\n"


def _ratio(record: dict) -> str:
    low, high = record["interval"]
    return f"{record['ratio']:.3f} ({low:.3f} to {high:.3f})"


def draw(record: dict) -> "Figure":
    """Time of a step, bytes of the cache and time of an edit by the number of tokens."""
    decoded, edited = of_kind(record, "decoding"), of_kind(record, "editing")
    models, ways = (
        {name: NAMES[name] for name in names}
        for names in (("stock", "windowed", "full", "bounded"), ("prefill", "edit"))
    )
    panels = [
        ("ms a token", models, lambda name, row: 1e3 * row["models"][name]["seconds"], decoded),
        ("MiB of the cache", models, lambda name, row: row["bytes"][name] / 2**20, decoded),
        ("s an edit", ways, lambda name, row: row["models"][name]["seconds"], edited),
    ]
    panels = [panel for panel in panels if panel[-1]]
    figure, all_axes = new_panels([list(labels.values()) for _, labels, _, _ in panels])
    for axes, (title, labels, value, found) in zip(all_axes, panels, strict=True):
        looks, lengths = line_looks(labels), sorted(found)
        lines = {name: [value(name, found[length]) for length in lengths] for name in labels}
        for name, line in lines.items():
            axes.plot(lengths, line, **looks[name])
        label_lengths(axes, lengths)
        label_values(axes, [each for line in lines.values() for each in line])
        axes.set_ylabel(title)
        add_legend(axes, [(label, looks[name]) for name, label in labels.items()])
    all_axes[-1].set_xlabel("tokens")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="paper")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, help="rounds of every row (default: by what a round takes)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write and to go on with")
    parser.add_argument("--fresh", action="store_true", help="start over")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1 is needed")
    if options.output.suffix != ".json" or not options.output.parent.is_dir():
        parser.error(f"--output {options.output}: a file that ends in .json, in a folder that exists, is needed")
    settings = {key: vars(options)[key] for key in ("shape", "device", "dtype", "rounds")}
    record = {"settings": settings, "environment": environment(options.device), "results": {}}
    if options.output.exists() and not options.fresh:
        try:
            record["results"] = results_to_go_on_with(options.output, record)
        except ValueError as error:
            parser.error(f"{error} --fresh starts over; --output takes another file")
    setting = Setting("llama", options.shape, options.device, options.dtype)
    for number, (name, (measure, length)) in enumerate(rows().items(), start=1):
        title = f"[{number}/{len(rows())}] {name}"
        if name in record["results"]:
            print(f"{title}: in {options.output} already", file=sys.stderr)
            continue
        print(title, end=" ", flush=True, file=sys.stderr)
        record["results"][name] = measure(setting, length, options.rounds)
        print(file=sys.stderr)
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(document(record), encoding="utf-8")
        save_figure(draw(record), options.output)
    print(document(record))


if __name__ == "__main__":
    main()
