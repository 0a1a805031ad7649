"""Where text comes from, and what a reader of a kind of text is given and returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .archives import Package
from .documents import Document, Splits


@dataclass(frozen=True)
class Source:
    """As `sources.json` names it; None is what nobody states."""

    name: str
    version: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Places:
    """Folders that hold what is read."""

    corpora: Path
    packages: Path


@dataclass(frozen=True)
class Material:
    """All documents of a kind of text and their sources."""

    splits: Splits
    sources: list[Source]
    held_out_elsewhere: Sequence[Document] = ()
    """Validation of another kind that has the same training text."""


def as_sources(*packages: Package) -> list[Source]:
    return [Source(package.name, package.version, package.licence) for package in packages]
