"""Kinds of text whose sources lie in folders: the corpora, and what Python and torch are installed with."""

import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch

from bipe_hf.lab.data.python_corpus import python_installation, read_python
from bipe_hf.model.errors_bipe import InputNotFoundError

from .documents import LINE, PARAGRAPH, Document, Splits, cut, join
from .sources import Material, Places, Source


SPLITS = ("train", "validation")

# Packages and modules of the standard library that are held out whole.
HELD_OUT_MODULES = {"asyncio", "dataclasses.py", "email", "sqlite3", "statistics.py", "wsgiref", "zoneinfo"}

# Of headers that a program wrote, which say the same thing for every operator: in their path or their text.
GENERATED = "generated"


def read_novels(places: Places) -> Material:
    return _pieces(places, "books", PARAGRAPH, "public domain")


def read_mathematics(places: Places) -> Material:
    return _pieces(places, "math", PARAGRAPH, "GFDL")


def read_tables(places: Places) -> Material:
    splits = {
        split: [Document(file.stem, text) for file, text in _texts(places.corpora / "tables" / split)]
        for split in SPLITS
    }
    return Material(splits, [Source("corpora/tables")])


def read_logs_unseen(places: Places) -> Material:
    return _pieces(places, "logs", LINE)


def read_logs_seen(places: Places) -> Material:
    """The last tenth of the lines of each system is held out."""
    splits: Splits = {split: [] for split in SPLITS}
    for folder in SPLITS:
        for file, text in _texts(places.corpora / "logs" / folder):
            lines = re.findall(r"[^\n]*\n|[^\n]+", text)
            start = len(lines) - len(lines) // 10
            splits["train"] += cut(file.stem, "".join(lines[:start]), LINE)
            splits["validation"] += cut(file.stem, "".join(lines[start:]), LINE)
    return Material(splits, [Source("corpora/logs")])


def read_python_library(places: Places) -> Material:
    """Modules of the standard library, without tests and tables; packages in `HELD_OUT_MODULES` are validation."""
    splits: Splits = {split: [] for split in SPLITS}
    for row in read_python(**python_installation(), version=0):
        origin, _, path = row["name"].partition(":")
        if origin == "stdlib":
            held_out = path.partition("/")[0] in HELD_OUT_MODULES
            splits[SPLITS[held_out]].append(Document(path.replace("/", "."), row["text"]))
    splits = {split: join(found) for split, found in splits.items()}
    return Material(splits, [Source("Python standard library", platform.python_version(), "PSF-2.0")])


def read_cpp(places: Places) -> Material:
    """Headers of C++ that torch is installed with: those of `c10` are validation."""
    include = Path(torch.__file__).parent / "include"
    splits: Splits = {split: [] for split in SPLITS}
    for top in ("ATen", "c10", "torch/csrc"):
        for file, text in _texts(include / top, "**/*.h"):
            path = file.relative_to(include).as_posix()
            if GENERATED not in path and f"@{GENERATED}" not in text:
                splits[SPLITS[top == "c10"]].append(Document(path.replace("/", "."), text))
    splits = {split: join(found) for split, found in splits.items()}
    return Material(splits, [Source("headers of torch", version("torch"), "BSD-3-Clause")])


def _pieces(places: Places, corpus: str, boundary: str, licence: str | None = None) -> Material:
    """Files of a corpus, cut; files of its folder `validation` are held out whole."""
    splits = {
        split: [
            document
            for file, text in _texts(places.corpora / corpus / split)
            for document in cut(file.stem, text, boundary)
        ]
        for split in SPLITS
    }
    return Material(splits, [Source(f"corpora/{corpus}", licence=licence)])


def _texts(folder: Path, pattern: str = "*") -> Iterable[tuple[Path, str]]:
    """Files of a folder and their text, sorted. Any end of line is read as a line feed."""
    files = sorted(file for file in folder.glob(pattern) if file.is_file())
    if not files:
        raise InputNotFoundError(f"there are no texts in {folder}")
    return ((file, file.read_text(encoding="utf-8")) for file in files)
