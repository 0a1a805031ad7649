"""Time of `BipeTokenizer` with levels beside the tokenizer that it wraps, with the ratio.

    python scripts/tokenizer_speed.py --output results/tokenizer_speed.json

The levels are lines and fields; the texts are 5 MB of the sources of the running Python and a generated table of 5
MB as CSV, each as one long text, with offsets and without, in a batch of 1,000 texts, as lists and as padded
tensors, and the first lines of it one call a line. The tokenizer is a byte-level BPE of 4096 entries, trained on the
same text. Both are timed in turns, another one first in each round. The ratio is the median over rounds of the ratio
within a round, as in scripts/benchmark.py; the limit that we hold ourselves to is 1.10. The machine should have
nothing else to do. Since the two are timed seconds apart, the ratio scatters with the machine. So each call with
levels is timed within, too: how long it takes over how long it would without what `BipeTokenizer` does behind the
tokenizer's own part. Where garbage is collected counts where it happens, mostly in the tokenizer's own part; where
many calls keep their results (one line a call), only the first ratio has all that lists of indices cost. The file is
written after every row; all of them take about eighteen minutes.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmark import environment
from benchmarking.measurements import ShareOfOthers, Work, compare_times, times_in_turn, warm_up
from benchmarking.report import disturbed
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from bipe_hf import BipeTokenizer
from bipe_hf.lab.common.results import in_words
from bipe_hf.lab.common.tables import markdown
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.data.python_corpus import python_installation, read_python


LEVELS = ["lines", "fields"]
BYTES = 5_000_000
TEXTS = 1000
LINES = 5000
VOCABULARY = 4096
LIMIT = 1.10
ROUNDS_WITHIN = 7
NAMES = ("wrapped", "levels")


def python_sources() -> Iterator[str]:
    """The modules of the standard library."""
    documents = read_python(**python_installation(), version=0)
    return (document["text"] for document in documents if document["name"].startswith("stdlib:"))


def table_rows() -> Iterator[str]:
    """Rows of a table: a number, a date, two words, a quoted text with a comma, an amount, an empty field."""
    draw = random.Random(0)
    words = [f"{a}{b}{c}" for a in ("ba", "co", "fer", "lin") for b in ("ma", "ti", "so") for c in ("n", "ra", "del")]
    for number in range(10**9):
        date = f"20{draw.randrange(10, 30)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
        quoted = f'"{draw.choice(words).title()}, {draw.choice(words)}"'
        yield f"{number},{date},{draw.choice(words)},{draw.choice(words)},{quoted},{draw.uniform(0, 9999):.2f},\n"


def first_bytes(parts: Iterator[str], size: int) -> str:
    """The first parts, cut at the last line that fits."""
    text, have = [], 0
    for part in parts:
        text.append(part)
        have += len(part.encode())
        if have >= size:
            break
    whole = "".join(text).encode()[:size].decode(errors="ignore")
    return whole[: whole.rindex("\n") + 1]


def divided(text: str, count: int) -> list[str]:
    """The text in so many parts of about equally many lines."""
    lines = text.splitlines(keepends=True)
    borders = [len(lines) * at // count for at in range(count + 1)]
    return ["".join(lines[begin:end]) for begin, end in pairwise(borders)]


def calls_of(text: str) -> dict[str, tuple[list, dict]]:
    """What is given, one call each, and the options of the calls, by the name of the row."""
    batch = divided(text, TEXTS)
    return {
        "one text": ([text], {}),
        "one text, offsets": ([text], {"return_offsets_mapping": True}),
        f"{TEXTS:,} texts": ([batch], {}),
        f"{TEXTS:,} texts, padded tensors": ([batch], {"padding": True, "return_tensors": "pt"}),
        "one line a call": (text.splitlines(keepends=True)[:LINES], {}),
    }


class Added:
    """The seconds that `BipeTokenizer` adds to the calls of the tokenizer that it is, while this is entered."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self) -> "Added":
        self._own = TokenizersBackend._encode_plus, BipeTokenizer._encode_plus
        TokenizersBackend._encode_plus = self._timed(self._own[0], -1)
        BipeTokenizer._encode_plus = self._timed(self._own[1], 1)
        return self

    def __exit__(self, *args) -> None:
        TokenizersBackend._encode_plus, BipeTokenizer._encode_plus = self._own

    def _timed(self, encode: Callable, sign: int) -> Callable:
        def timed(*args, **kwargs):
            start = time.perf_counter()
            encoded = encode(*args, **kwargs)
            self.seconds += sign * (time.perf_counter() - start)
            return encoded

        return timed


def within(call: Callable[[], int], rounds: int) -> list[float]:
    """How long the calls of a tokenizer with levels take over how long without what levels add, once a round."""
    found = []
    for _ in range(rounds):
        with Added() as added:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        found.append(seconds / (seconds - added.seconds))
    return found


def measure(given: list, options: dict, tokenizers: dict, budget: float, rounds: int | None) -> dict:
    """Times of one row, as `compare_times` puts them, with the number of tokens and the share that others used."""

    def every(tokenizer: PreTrainedTokenizerBase) -> int:
        encoded = [tokenizer(each, verbose=False, **options) for each in given]
        return sum(len(encoding.ids) for each in encoded for encoding in each.encodings)

    calls = {name: partial(every, tokenizer) for name, tokenizer in tokenizers.items()}
    works = {name: Work(run=call, warm_up=call) for name, call in calls.items()}
    warm_up(works)
    others = ShareOfOthers()
    times = times_in_turn(works, "cpu", budget, rounds)
    return {
        "within": within(calls["levels"], min(len(times["levels"]), ROUNDS_WITHIN)),
        "tokens": calls["wrapped"](),
        "models": compare_times(times, {"levels": "wrapped"}),
        "others": others.so_far(),
    }


def document(record: dict) -> str:
    """Markdown: with what it was measured, and a table."""
    limited = f"(limit {LIMIT:.2f})"
    rows = [
        ["text", "given as", "tokens", "wrapped", f"with levels / wrapped {limited}", f"within the call {limited}"]
    ]
    for row in record["results"]:
        wrapped, levels = (row["models"][name] for name in NAMES)
        low, high = levels["interval"]
        ratio = f"{levels['ratio']:.3f} ({low:.3f} to {high:.3f}; {levels['of_least']:.3f})"
        each = row["within"]
        inside = f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"
        numbers = [f"{row['tokens']:,}", f"{wrapped['seconds']:.2f} s", ratio, inside]
        rows.append([row["text"] + disturbed(row), row["given as"], *numbers])
    settings = f"levels {', '.join(LEVELS)}, {BYTES:,} bytes, vocabulary {VOCABULARY:,}"
    legend = (
        "Ratio: the median over rounds of the ratio within a round; in brackets where it lies with 95 % probability,"
        " and the ratio of the two least times. Within the call: its time over that without what levels add to it,"
        " median, least and greatest; a collection of garbage counts where it happens."
    )
    return f"Measured with {in_words(record['environment'])}; {settings}.\n\n{legend}\n\n{markdown(rows)}\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="each tokenizer once in every round (default: by what one takes)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, a table beside it")
    arguments = parser.parse_args(arguments)
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: at least 1 is needed")
    if arguments.output.suffix != ".json" or not arguments.output.parent.is_dir():
        parser.error(f"--output {arguments.output}: a file that ends in .json, in a folder that exists, is needed")
    record = {"command": "python scripts/tokenizer_speed.py", "environment": environment("cpu"), "results": []}
    for name, parts in (("Python sources", python_sources()), ("a table as CSV", table_rows())):
        text = first_bytes(parts, BYTES)
        wrapped = train_tokenizer([text], VOCABULARY)
        tokenizers = dict(zip(NAMES, (wrapped, BipeTokenizer.from_tokenizer(wrapped, levels=LEVELS)), strict=True))
        for given_as, (given, options) in calls_of(text).items():
            print(f"{name}, {given_as}", file=sys.stderr)
            row = {"text": name, "given as": given_as}
            record["results"].append(row | measure(given, options, tokenizers, 60, arguments.rounds))
            arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            arguments.output.with_suffix(".md").write_text(document(record), encoding="utf-8")
    print(document(record))
    for row in record["results"]:
        for how, ratio in (
            ("side by side", row["models"]["levels"]["ratio"]),
            ("within", statistics.median(row["within"])),
        ):
            if ratio > LIMIT:
                print(f"over the limit, {how}: {row['text']}, {row['given as']}", file=sys.stderr)


if __name__ == "__main__":
    main()
