"""Documents: cut out of longer texts, held apart from validation, chosen up to a limit, written as files."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


LINE = r"\n"
PARAGRAPH = r"\n\s*\n"

LEAST_BYTES = 16_000
"""Of a document that is cut out of a longer text, or joined: more than 4,096 tokens of a small vocabulary."""

_LONG_LINE = 20  # characters: shorter lines recur by chance
_REPEATED = 0.3


@dataclass(frozen=True)
class Document:
    """A text and the name of its file, without the ending."""

    name: str
    text: str

    @property
    def num_bytes(self) -> int:
        return len(self.text.encode())


Splits = dict[str, list[Document]]
"""Documents of `"train"` and `"validation"`."""


def cut(name: str, text: str, boundary: str, least: int = LEAST_BYTES) -> list[Document]:
    """Cuts a text behind matches of `boundary` into consecutive documents `name.000`, `name.001`, ...

    Each is cut where it first has `least` bytes. What is left at the end, if shorter, belongs to the last one.
    """
    parts, size, start = [], 0, 0
    at = 0
    for end in [*(match.end() for match in re.finditer(boundary, text)), len(text)]:
        size += len(text[at:end].encode())
        at = end
        if size >= least:
            parts.append(text[start:end])
            start, size = end, 0
    if start < len(text):
        parts[-1:] = ["".join(parts[-1:]) + text[start:]]
    return [Document(f"{name}.{number:03d}", part) for number, part in enumerate(parts)]


def join(short: Iterable[Document], least: int = LEAST_BYTES) -> list[Document]:
    """Joins consecutive documents until they have `least` bytes; the first gives the name.

    What is left at the end, if shorter, belongs to the last one.
    """
    joined: list[Document] = []
    for document in short:
        if joined and joined[-1].num_bytes < least:
            joined[-1] = Document(joined[-1].name, joined[-1].text + document.text)
        else:
            joined.append(document)
    if len(joined) > 1 and joined[-1].num_bytes < least:
        *joined, last, rest = joined
        joined.append(Document(last.name, last.text + rest.text))
    return joined


def first_lines(text: str, limit: int) -> str:
    """Whole lines from the start of a text, `limit` bytes at most."""
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: encoded.rfind(b"\n", 0, limit) + 1].decode()


def without_repeats(train: Iterable[Document], validation: Iterable[Document]) -> tuple[list[Document], list[str]]:
    """Training documents that do not repeat validation, and the names of those that do.

    A document repeats validation where more than 3 in 10 of its lines of 20 characters or more are lines of it.
    """
    held_out = {line for document in validation for line in _long_lines(document.text)}
    kept, repeats = [], []
    for document in train:
        lines = _long_lines(document.text)
        if sum(line in held_out for line in lines) > _REPEATED * len(lines):
            repeats.append(document.name)
        else:
            kept.append(document)
    return kept, repeats


def _long_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.split("\n")) if len(line) >= _LONG_LINE]


def up_to(documents: Sequence[Document], limit: int) -> list[Document]:
    """Whole documents of `limit` bytes at most together, in their order; all, where they are no more.

    Which ones is decided by a hash of their names: it is the same choice each time, and spread over all sources.
    """
    chosen, total = set(), 0
    for document in sorted(documents, key=lambda each: hashlib.sha256(each.name.encode()).digest()):
        total += document.num_bytes
        if total > limit:
            break
        chosen.add(document.name)
    return [document for document in documents if document.name in chosen]


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 of the text in UTF-8, in the order of the names, a zero byte behind each document."""
    found = hashlib.sha256()
    for document in sorted(documents, key=lambda each: each.name):
        found.update(document.text.encode() + b"\0")
    return found.hexdigest()


def write_splits(folder: Path, splits: Splits) -> None:
    """Writes `folder/SPLIT/NAME.txt`, the folder as a whole or not at all. It must not be there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    for split, documents in splits.items():
        (partial / split).mkdir(parents=True)
        for document in documents:
            with (partial / split / f"{document.name}.txt").open("xb") as file:  # two of a name are a defect
                file.write(document.text.encode())
    partial.rename(folder)
