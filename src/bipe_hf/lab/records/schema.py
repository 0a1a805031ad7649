"""What is known of the records that a model was trained on: how they were written, and what their columns hold."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ...model.errors_bipe import InputError, did_you_mean
from .form import Form, JsonForm, LogForm, TableForm


KINDS = ("table", "json", "log")
FORMAT = "bipe-hf records 1"
# Different values of a column that are kept, to tell a row that holds another one and to choose from.
MOST_VALUES = 256
# A column whose values stand for classes repeats each this often on average.
REPEATS = 5
# Numbers count as classes only where there are few of them.
MOST_CLASSES_OF_NUMBERS = 20
MISSING = {"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"}

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Source:
    """How the records were written."""

    kind: str
    """One of `KINDS`."""
    text_encoding: str
    """By its name in Python."""
    line_ending: str
    delimiter: str | None = None
    """Between the fields of a table; None for other kinds."""
    quote: str | None = None
    escape: str | None = None
    """What stands in front of a quote in a field; None where it is doubled."""
    header: bool = False
    """Whether the first line of a table names its columns."""


@dataclass(frozen=True)
class Column:
    """What a column holds, as far as the rows to train on show it."""

    name: str
    kind: str
    """`integer`, `number`, `category` (few values, which come again) or `text`."""
    optional: bool
    """Whether a row may lack it: JSON lines alone."""
    missing: list[str]
    """What stands in it where nothing is known: nothing, `NA`, ..."""
    values: dict[str, int]
    """How often each value stands in it: all of them, or up to `MOST_VALUES` evenly spaced ones of a number; none of a
    text."""
    distinct: int
    """Different values."""

    def accepts(self, cell: str) -> bool:
        """Whether a text is one that such a column may hold."""
        if cell in self.missing:
            return True
        if self.kind == "category":
            return cell in self.values
        pattern = {"integer": _INTEGER, "number": _NUMBER}.get(self.kind)
        return pattern is None or pattern.fullmatch(cell) is not None

    @property
    def is_number(self) -> bool:
        return self.kind in ("integer", "number")


@dataclass(frozen=True)
class Schema:
    """What stands in `records.json` beside a model."""

    source: Source
    order: str
    """`any` where each row stands alone, `file` where it follows those before it."""
    levels: list[str | list[int | str]]
    """Coarse to fine, by their names or by what ends them."""
    columns: list[Column]
    longest: int
    """Tokens of the longest row."""

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Raises `ValueError` for anything but what `to_dict` gives."""
        if content.get("format") != FORMAT:
            raise InputError(f'its "format" is not "{FORMAT}"')
        fields = {name: content[name] for name in ("order", "levels", "longest")}
        columns = [Column(**column) for column in content["columns"]]
        return cls(source=Source(**content["source"]), columns=columns, **fields)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def form(self) -> Form:
        return form_of(self.source.kind, self.names)

    def column(self, name: str) -> Column:
        """The column of that name. Raises `ValueError` where there is none."""
        if name not in self.names:
            raise InputError(
                f"column: there is no {name!r}{did_you_mean(name, self.names)}; there are {', '.join(self.names)}"
            )
        return self.columns[self.names.index(name)]


def form_of(kind: str, columns: Sequence[str]) -> Form:
    """The canonical form of records of a kind."""
    return {"table": lambda: TableForm(columns), "json": JsonForm, "log": LogForm}[kind]()


def check_form_levels(kind: str, form: Form, levels: Sequence[Any]) -> None:
    """Refuses a level that another kind of records has, and this one has not.

    Args:
        kind: of the records.
        form: of them.
        levels: as they were given; presets that a field may be divided by are accepted.

    Raises:
        ValueError: names the level, and those that the records have.
    """
    others = {*TableForm.levels, *JsonForm.levels} - form.levels.keys() if len(form.levels) > 1 else set()
    for level in levels:
        if isinstance(level, str) and level in others:
            raise InputError(
                f"levels: {level!r} given, but {kind} records have {', '.join(form.levels)}; presets such as words may"
                " follow (docs/records.md)"
            )


def describe_columns(names: Sequence[str], rows: Sequence[dict[str, str]]) -> list[Column]:
    """What each column holds.

    Args:
        names: of the columns.
        rows: the texts of their fields, by column.
    """
    return [_describe(name, [row[name] for row in rows if name in row], len(rows)) for name in names]


def _describe(name: str, cells: Sequence[str], rows: int) -> Column:
    counts = Counter(cells)
    missing = sorted(counts.keys() & MISSING)
    known = {cell: count for cell, count in counts.most_common() if cell not in missing}
    kind = _kind(known)
    values = known
    if kind in ("integer", "number"):
        values = _evenly_spaced(known, MOST_VALUES)
    elif kind == "text":
        values = {}
    return Column(name, kind, len(cells) < rows, missing, values, len(known))


def _kind(counts: dict[str, int]) -> str:
    numbers = _fit(_NUMBER, counts)
    most = MOST_CLASSES_OF_NUMBERS if numbers else MOST_VALUES
    if 0 < len(counts) <= most and sum(counts.values()) >= REPEATS * len(counts):
        return "category"
    if not numbers:
        return "text"
    return "integer" if _fit(_INTEGER, counts) else "number"


def _fit(pattern: re.Pattern[str], cells: Iterable[str]) -> bool:
    cells = list(cells)
    return bool(cells) and all(map(pattern.fullmatch, cells))


def _evenly_spaced(counts: dict[str, int], most: int) -> dict[str, int]:
    """Of numbers at most so many, among which each stands for as many rows."""
    ordered = sorted(counts, key=float)
    if len(ordered) <= most:
        return {cell: counts[cell] for cell in ordered}
    total, kept, passed = sum(counts.values()), {}, 0
    for cell in ordered:
        passed += counts[cell]
        if passed * most > len(kept) * total:
            kept[cell] = counts[cell]
    return kept
