"""The encoding that suits a text: `encoding: auto`.

Where every line has as many fields as the line before, as in tables, rows and fields are what a model should see: an
encoding with levels. In JSON lines and logs of sources that are not trained on it is the hybrid over lines, everywhere
else the hybrid over tokens. The rule is as good as what was measured: `docs/levels.md` says on which kinds of text.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from re import Pattern
from typing import Any

from datasets import Dataset, IterableDataset

from ...model.marks_bipe import PRESET_PATTERNS


AUTO = "auto"
# What is looked at: pieces of documents, evenly spaced, in whole lines; of a stream, of the first documents.
PIECES, CHARACTERS = 200, 10_000
# A line is one of a record if it has as many separators as the line before, and no fewer than this.
FEWEST_SEPARATORS = 2
# Lines of a log begin alike, numbers and names aside, in so many words.
FIRST_WORDS = 3
# From this share of such lines on, a text is taken for a table, for JSON lines or for a log.
MOST = 0.65
# Where fewer of the words that are held out occur in training, they are of other sources.
FAMILIAR = 0.75
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Choice:
    """An encoding, the levels to use it with, and why."""

    encoding: str
    levels: tuple[str, ...]
    """Coarse to fine; none where the encoding has no segments."""
    reason: str

    def __str__(self) -> str:
        levels = f" with levels {', '.join(self.levels)}" if self.levels else ""
        return f"encoding {self.encoding}{levels}: {self.reason} (else: encoding)"


def choose_encoding(pieces: Sequence[str], held_out: Sequence[str]) -> Choice:
    """The encoding that suits a text.

    Args:
        pieces: of the text to train on, each of whole lines.
        held_out: likewise, of the text that the model is validated on.
    """
    lines = [[line for line in piece.split("\n") if line.strip()] for piece in pieces]
    objects = share(line.lstrip().startswith("{") for own in lines for line in own)
    if objects >= MOST:
        return _of_lines(f"JSON lines, since {objects:.0%} of the lines begin with a brace", pieces, held_out)
    regular = regularity(lines, PRESET_PATTERNS["fields"])
    fields = f"{regular:.0%} of the lines have as many fields as the line before"
    if regular >= MOST:
        return Choice("bipe_levels_axes", ("lines", "fields"), f"a table, since {fields}")
    alike = likeness(lines)
    beginnings = f"{alike:.0%} begin like the line before, with a number"
    if alike >= MOST:
        return _of_lines(f"a log, since of the lines {beginnings}", pieces, held_out)
    return Choice("hybrid", (), f"neither table nor log, since {fields} and {beginnings}; {MOST:.0%} would be one")


def _of_lines(what: str, pieces: Sequence[str], held_out: Sequence[str]) -> Choice:
    """The encoding for lines that are alike: over them where those held out are of sources that training lacks."""
    known = familiarity(pieces, held_out)
    found = f"{what}; {known:.0%} of the words held out occur in training, {{}} than {FAMILIAR:.0%}: {{}}"
    if known < FAMILIAR:
        return Choice("bipe_hybrid", ("lines",), found.format("fewer", "of other sources"))
    return Choice("hybrid", (), found.format("no fewer", "of the same sources"))


def familiarity(pieces: Iterable[str], held_out: Iterable[str]) -> float:
    """The share of the words held out that occur in training; 1 where there are none."""
    known = {word for piece in pieces for word in WORD.findall(piece)}
    words = [word for piece in held_out for word in WORD.findall(piece)]
    return share(word in known for word in words) if words else 1.0


def regularity(pieces: Iterable[list[str]], separator: Pattern[str]) -> float:
    """The share of the lines that have as many separators as the line before, and at least `FEWEST_SEPARATORS`.

    Args:
        pieces: the lines of each.
        separator: matches one.
    """
    return _repeated(pieces, lambda line: len(separator.findall(line)), lambda count: count >= FEWEST_SEPARATORS)


def likeness(pieces: Iterable[list[str]]) -> float:
    """The share of the lines that begin like the line before, as those of a log do with date, time and name.

    Args:
        pieces: the lines of each.
    """
    return _repeated(pieces, _shape, lambda shape: "0" in shape)


def _repeated(pieces: Iterable[list[str]], trait: Callable[[str], Any], counts: Callable[[Any], bool]) -> float:
    """The share of the lines that have the same of something as the line before, where that counts."""
    traits = (map(trait, lines) for lines in pieces)
    return share(each == before and counts(each) for of_piece in traits for before, each in pairwise(of_piece))


def _shape(line: str) -> str:
    """The first words with one letter for each run of letters, and one digit for each number."""
    letters = re.sub(r"[^\W\d_]+", "a", " ".join(line.split()[:FIRST_WORDS]))
    return re.sub(r"\d+", "0", letters)


def share(of: Iterable[bool]) -> float:
    """How many are true, of all; 0 of none."""
    values = list(of)
    return sum(values) / len(values) if values else 0.0


def sample(documents: Dataset | IterableDataset) -> list[str]:
    """Pieces of the documents in a column `text`."""
    if isinstance(documents, Dataset):
        rows = documents.select(range(0, len(documents), -(-len(documents) // PIECES)))
        each = PIECES // len(rows)
    else:
        rows, each = documents, 1
    return [piece for row in islice(rows, PIECES) for piece in _pieces(row["text"], each)]


def _pieces(text: str, count: int) -> list[str]:
    """Up to so many pieces of a text, evenly spaced, each without the line that it would begin in the middle of."""
    step = max(len(text) // count, CHARACTERS)
    pieces = []
    for start in range(0, len(text), step):
        begin = 0 if start == 0 else text.find("\n", start) + 1
        if start == 0 or begin:
            pieces.append(text[begin : begin + CHARACTERS].rpartition("\n")[0] or text[begin : begin + CHARACTERS])
    return pieces
