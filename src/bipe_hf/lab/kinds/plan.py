"""The folder of comparisons, one for each kind of text, read and checked."""

from collections.abc import Sequence
from pathlib import Path

from ...model.errors_bipe import InputError, InputNotFoundError
from ..common.files import user_path
from ..comparison import Comparison, read_comparison
from ..comparison.entries import among


def read_kinds(folder: str | Path) -> dict[str, Comparison]:
    """The comparisons that the files `*.yaml` of a folder describe, in the order of their names.

    Raises:
        FileNotFoundError: no such folder, or no such file in it.
        ValueError: as [`read_comparison`] does; a task that is no text, or one whose losses of documents are not kept.
    """
    folder = user_path(folder)
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InputNotFoundError(f"{folder}: no folder with files *.yaml, each the comparison of one kind of text")
    kinds = {}
    for file in files:
        comparison = read_comparison(file)
        if comparison.task != "text":
            raise InputError(f"{file}: task: {comparison.task} is no kind of text")
        if comparison.measure.unit_tokens is None:
            raise InputError(f"{file}: measure, unit_tokens is missing: intervals need the losses of each document")
        kinds[comparison.name] = comparison
    return kinds


def chosen_kinds(kinds: dict[str, Comparison], names: Sequence[str] | None) -> list[Comparison]:
    """The kinds of these names in their order, or all without any. Raises `ValueError` for one that there is not."""
    for name in names or ():
        if name not in kinds:
            raise InputError(f"only: there is no kind {name!r}{among(name, kinds)}")
    return [kinds[name] for name in dict.fromkeys(names or kinds)]
