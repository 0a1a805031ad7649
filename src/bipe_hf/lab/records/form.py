r"""The canonical form of a record: one line, in which a separator ends a field and stands nowhere else.

What a file looks like (quotes, delimiters, line breaks in a field) is gone here, so that a model sees a separator only
where a field ends. Each form is reversible: `parse(line)` gives the row back.

- a table: its fields in their order, a tab behind each and a newline behind the last. In a field `\t`, `\n`, `\r` and
  `\\` stand for a tab, a line feed, a carriage return and a backslash (the text format of PostgreSQL's COPY).
- JSON lines: JSON without white space. In a string `\u002c` and `\u003a`, which JSON has for comma and colon, stand
  for these two, so that every other comma and colon ends a value or a key. Keys keep their order.
- a log: its lines.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...model.errors_bipe import InputError


Row = Mapping[str, Any]
"""A record by the names of its columns: text in a table, values in JSON, text under `LINE` in a log."""
LINE = "line"

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {escape: character for character, escape in _ESCAPES.items()}
# In strings of JSON: separators, and what no UTF-8 holds.
_HIDDEN_IN_STRINGS = re.compile("[,:\ud800-\udfff]")


class Form(ABC):
    """The canonical form of the records of one kind."""

    levels: Mapping[str, Sequence[str]]
    """The levels that the form has, coarse to fine, and the characters that end a unit of each."""

    @property
    def separators(self) -> str:
        """Every character that ends a unit."""
        return "".join(character for level in self.levels.values() for character in level)

    @abstractmethod
    def cells(self, row: Row) -> dict[str, str]:
        """The text of each field of a row, by its column."""

    @abstractmethod
    def parts(self, row: Row) -> list[tuple[str, str]]:
        """The line in pieces: each column with the text of its field and of the separator that ends it; of a log its
        words, all in one column."""

    @abstractmethod
    def start(self, row: Row) -> str:
        """The beginning of a line: the fields of an incomplete row, which has the first ones, each ended."""

    @abstractmethod
    def parse(self, line: str) -> Row:
        """The row of a line, with or without the newline at its end. Raises `ValueError` where it is none."""

    @abstractmethod
    def replaced(self, row: Row, column: str, cell: str) -> Row:
        """The row with another text in one field."""

    def line(self, row: Row) -> str:
        """The row in its canonical form, with the newline."""
        return "".join(text for _, text in self.parts(row))


class TableForm(Form):
    """Of a table with these columns."""

    levels = {"lines": ["\n"], "fields": ["\t"]}

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)

    def cells(self, row: Row) -> dict[str, str]:
        return dict(row)

    def parts(self, row: Row) -> list[tuple[str, str]]:
        ends = ["\t"] * (len(self.columns) - 1) + ["\n"]
        return [(name, _escape(row[name]) + end) for name, end in zip(self.columns, ends, strict=True)]

    def start(self, row: Row) -> str:
        return "".join(_escape(row[name]) + "\t" for name in self.columns[: len(row)])

    def parse(self, line: str) -> Row:
        fields = line.removesuffix("\n").split("\t")
        if len(fields) != len(self.columns):
            raise InputError(f"{len(fields)} fields, a row has {len(self.columns)}")
        return dict(zip(self.columns, map(_unescape, fields), strict=True))

    def replaced(self, row: Row, column: str, cell: str) -> Row:
        return {**row, column: cell}


class JsonForm(Form):
    """Of JSON lines, each an object."""

    levels = {"lines": ["\n"], "values": [",", ":"]}

    def cells(self, row: Row) -> dict[str, str]:
        return {name: _json_text(value) for name, value in row.items()}

    def parts(self, row: Row) -> list[tuple[str, str]]:
        parts = [(name, f"{_json_text(name)}:{cell},") for name, cell in self.cells(row).items()]
        if not parts:
            return [("", "{}\n")]
        parts[0] = (parts[0][0], "{" + parts[0][1])
        parts[-1] = (parts[-1][0], parts[-1][1][:-1] + "}\n")
        return parts

    def start(self, row: Row) -> str:
        return self.line(row).removesuffix("}\n") + ("," if row else "")

    def parse(self, line: str) -> Row:
        return parse_json(line)

    def replaced(self, row: Row, column: str, cell: str) -> Row:
        return {**row, column: json.loads(cell)}


class LogForm(Form):
    """Of the lines of a log."""

    levels = {"lines": ["\n"]}

    def cells(self, row: Row) -> dict[str, str]:
        return dict(row)

    def parts(self, row: Row) -> list[tuple[str, str]]:
        *words, last = re.split(r"(?<=\S)(?= +\S)", row[LINE])
        return [(LINE, text) for text in (*words, last + "\n")]

    def start(self, row: Row) -> str:
        return ""

    def parse(self, line: str) -> Row:
        return {LINE: line.removesuffix("\n")}

    def replaced(self, row: Row, column: str, cell: str) -> Row:
        return {column: cell}


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises `ValueError` for anything else, for a key twice and for NaN and infinity."""
    value = json.loads(text, object_pairs_hook=_without_twins, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(value, dict):
        raise InputError(f"a JSON object is expected, got {type(value).__name__}")
    return value


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"the key {key!r} stands twice in an object")
        found[key] = value
    return found


def _refuse(name: str) -> None:
    raise InputError(f"{name} is no number of JSON")


def _finite(number: str) -> float:
    if math.isinf(float(number)):
        raise InputError(f"{number} is more than a float holds")
    return float(number)


def _json_text(value: Any) -> str:
    """JSON without white space, in whose strings nothing separates."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return _HIDDEN_IN_STRINGS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json_text(key)}:{_json_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    return json.dumps(value)


def _escape(cell: str) -> str:
    return re.sub(r"[\\\t\n\r]", lambda found: _ESCAPES[found[0]], cell)


def _unescape(field: str) -> str:
    return re.sub(r"\\.?", lambda found: _unescape_one(found[0]), field)


def _unescape_one(escape: str) -> str:
    if escape not in _UNESCAPES:
        raise InputError(f"{escape!r} is none of the escapes {' '.join(_UNESCAPES)}")
    return _UNESCAPES[escape]
