"""Records as they stand in files: tables with a delimiter, JSON lines and logs, read without losing anything.

What a file does not say is guessed, and the guess is said:

- whether it is compressed (gzip, bzip2, xz, zstd), by its first bytes: then what it holds is read;
- its encoding: that of its byte order mark (UTF-8, UTF-16, UTF-32), else UTF-8, else Latin-1, which takes any byte;
- its kind: by its ending (`KIND_OF_ENDING`), else JSON lines where each of the first lines is a JSON object, a table
  where the first rows have the same number of fields, at least two, else a log;
- delimiter and quotes of a table: clevercsv, which compares whole parses of the file (van den Burg et al. 2019,
  doi 10.1007/s10618-019-00646-y). The sniffer of the standard library, which pandas uses too, counts characters: where
  fields hold line breaks and quotes it is led astray (of 60 such tables it knew 45, clevercsv 60);
- its header: the first row names the columns if none of its fields is a number and none comes again in its column.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ...model.errors_bipe import InputError, InputNotFoundError
from ..common.extras import require
from ..data.formats import check_is_text, content_suffix, read_bytes
from ..data.tables import visible_files
from .form import LINE, Row, parse_json
from .schema import KINDS, Source


KIND_OF_ENDING = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv"), "table"),
    **dict.fromkeys((".jsonl", ".jsonlines", ".ndjson", ".json"), "json"),
    ".log": "log",
}
DELIMITERS = ",\t;|"
QUOTE, NO_QUOTE = '"', "none"
# UTF-32 first: its mark starts with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NAMES = {"table": "a table", "json": "JSON lines", "log": "a log"}
# Which Excel reads, and writes, in front of the header.
_EXCEL_LINE = re.compile(r"\ufeff?sep=.\r?\n", re.IGNORECASE)
# A field may be a whole document; the limit of `csv` is 131,072 characters.
csv.field_size_limit(2**31 - 1)
# Lines that a guess looks at: clevercsv parses them once for each dialect.
_SAMPLE_LINES = 100
_HEADER_ROWS = 1000


class Given(NamedTuple):
    """What a user says of the files; None where it is to be guessed."""

    kind: str | None = None
    """One of `KINDS`."""
    delimiter: str | None = None
    """One character, between the fields of a table."""
    quote: str | None = None
    """One character, or `NO_QUOTE`."""
    header: bool | None = None
    """Whether the first row of a table names its columns."""
    text_encoding: str | None = None
    """As Python names it."""


@dataclass(frozen=True)
class Records:
    """What files hold."""

    source: Source
    """How they are written."""
    columns: list[str]
    """Names of the fields of a row, in their order."""
    files: dict[str, list[Row]]
    """The rows of each file."""
    notes: list[str]
    """What was guessed, and what was passed over."""

    @property
    def rows(self) -> list[Row]:
        """All rows, file by file."""
        return [row for rows in self.files.values() for row in rows]


NOTHING_GIVEN = Given()


def read_records(paths: Sequence[str | Path], given: Given = NOTHING_GIVEN) -> Records:
    """Reads files and folders of records, all of one kind and with the same columns.

    Args:
        paths: files, and folders, of which every file is read but hidden ones.
        given: what is known of them.

    Returns:
        The rows, and what was guessed of the files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file has no rows, holds a NUL byte, is not in its encoding, or has a line that is no row; rows of
            unequal length, a column named twice, files that do not go together. The message names file and line.
    """
    _check(given)
    sources, files, columns, notes = [], {}, [], []
    for file in _files(paths):
        text, text_encoding, note = _decode(file, given.text_encoding)
        notes += [note] if note else []
        first = sources[0] if sources else None
        source, why = _source(file, text, text_encoding, given, first)
        notes += [f"{file}: {why}"] if not sources or source != first else []
        rows, own, skipped = _READERS[source.kind](file, text, source)
        if not rows:
            raise InputError(f"{file}: it holds no rows")
        if skipped:
            notes.append(f"{file}: {skipped} empty line(s) passed over")
        if source.kind == "table" and columns and own != columns:
            raise InputError(
                f"{file}, line 1: its columns are {_list(own)}, those of {next(iter(files))} {_list(columns)}"
            )
        columns = list(dict.fromkeys([*columns, *own]))
        sources.append(source)
        files[str(file)] = rows
    return Records(sources[0], columns, files, notes)


def read_like(paths: Sequence[str | Path], source: Source, columns: Sequence[str], but: Sequence[str] = ()) -> Records:
    """Reads files of the kind and with the columns that a model was trained on, in any order and with any delimiter.

    Args:
        paths: as in [`read_records`].
        source: how the records to train on were written.
        columns: theirs.
        but: columns that a table may lack.

    Raises as [`read_records`] does, and `ValueError` for a table with other columns.
    """
    records = read_records(paths, Given(kind=source.kind, header=source.header if source.kind == "table" else None))
    if source.kind != "table":
        return records
    lacking = [name for name in columns if name not in {*records.columns, *but}]
    others = [name for name in records.columns if name not in columns]
    if lacking or others:
        wrong = [f"{_list(lacking)} missing"] * bool(lacking) + [f"{_list(others)} not learnt"] * bool(others)
        raise InputError(
            f"{next(iter(records.files))}, line 1: other columns than those of the model: {'; '.join(wrong)}"
        )
    own = [name for name in columns if name in records.columns]
    files = {file: [{name: row[name] for name in own} for row in rows] for file, rows in records.files.items()}
    return replace(records, columns=own, files=files)


def _check(given: Given) -> None:
    if given.kind not in (None, *KINDS):
        raise InputError(f"kind: {given.kind!r} given, one of {', '.join(KINDS)} is accepted")
    if given.delimiter is not None and (len(given.delimiter) != 1 or given.delimiter in '\n\r"'):
        raise InputError(
            f"delimiter: {given.delimiter!r} given, one character that is no quote or line break is accepted"
        )
    if given.quote is not None and given.quote != NO_QUOTE and len(given.quote) != 1:
        raise InputError(f"quote: {given.quote!r} given, one character or {NO_QUOTE} is accepted")
    if given.text_encoding is not None:
        try:
            "".encode(given.text_encoding)
        except (LookupError, UnicodeError) as error:
            raise InputError(f"text_encoding: {given.text_encoding!r} is no encoding that Python knows") from error


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found = []
    if not paths:
        raise InputError("give at least one file or folder of records")
    for path in map(Path, paths):
        path = path.expanduser()
        if path.is_dir():
            files = [file for file in visible_files(path) if file.name != "README.md"]
            if not files:
                raise InputError(f"the folder {path} holds no files")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise InputNotFoundError(f"no such file or folder: {path}")
    if len(set(found)) < len(found):
        raise InputError(f"the same file is given twice: {_list(map(str, found))}")
    return found


def _decode(file: Path, given: str | None) -> tuple[str, str, str | None]:
    """The text of a file, its encoding, and what is to be said of that."""
    data = read_bytes(file)
    check_is_text(file, data)
    mark = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    text_encoding, note = given or mark or "utf-8", None
    try:
        text = data.decode(text_encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if given or mark:
            raise InputError(f"{file}, line {line}: byte {error.start} is no {text_encoding}") from error
        text_encoding, text = "latin-1", data.decode("latin-1")
        note = f"{file}, line {line}: byte {error.start} is no UTF-8, so it is read as Latin-1 (else: text_encoding)"
    except UnicodeError as error:  # of UTF-16 and UTF-32
        raise InputError(f"{file}: it is no {text_encoding} ({error})") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{file}, line {line}: a NUL character, so it is no text, or none in {text_encoding} (another one, such as"
            " utf-16: text_encoding)"
        )
    if not text.strip():
        raise InputError(f"{file}: it holds no rows")
    return text, text_encoding, note


def _source(file: Path, text: str, text_encoding: str, given: Given, first: Source | None) -> tuple[Source, str]:
    """How a file is written, and why it is said to be. All files are of the kind of the `first`."""
    line_ending = "\r\n" if "\r\n" in text else "\n"
    dialect, suffix = None, content_suffix(file)
    by_name = KIND_OF_ENDING.get(suffix)
    if first and not given.kind and by_name not in (None, first.kind):
        raise InputError(
            f"{file}: its name ends in {suffix}, but the first file is {_NAMES[first.kind]}; give files of one"
            " kind, or say which: kind"
        )
    if given.kind or first:
        kind, why = given.kind or first.kind, "as given" if given.kind else "as the first file"
    elif by_name:
        kind, why = by_name, f"as its name ends in {suffix}"
    elif all(map(_is_object, _first_lines(text))):
        kind, why = "json", "as its lines are JSON objects"
    elif given.delimiter or ((dialect := _dialect(text)) is not None and _is_regular(text, dialect)):
        kind, why = "table", "as its rows have the same number of fields"
    else:
        kind, why = "log", "as it is neither JSON lines nor a table"
    source = Source(kind, text_encoding, line_ending)
    if kind != "table":
        return source, f"{_NAMES[kind]}, {why}"
    if _EXCEL_LINE.match(text):
        raise InputError(f"{file}, line 1: {text.splitlines()[0]!r} is a word to Excel and no row; delete this line")
    dialect = dialect or _dialect(text, given.delimiter) or (given.delimiter or ",", QUOTE, None)
    delimiter, quote, escape = dialect
    if given.quote is not None:
        # A quote in a field is doubled then: an escape that a few characters suggest may be none.
        quote, escape = None if given.quote == NO_QUOTE else given.quote, None
    source = replace(source, delimiter=delimiter, quote=quote, escape=escape)
    header = first.header if first and given.header is None else given.header
    is_guessed = header is None
    if is_guessed:
        header = _has_header(file, text, source)
    said = f"{_NAMES[kind]}, {why}; {delimiter!r} between fields"
    said += "; its first row names the columns" if header else "; its first row is data"
    return replace(source, header=header), said + (" (else: header)" if is_guessed else "")


def _first_lines(text: str) -> list[str]:
    return text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES]


def _is_object(line: str) -> bool:
    try:
        return not line.strip() or isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _dialect(text: str, delimiter: str | None = None) -> tuple[str, str | None, str | None] | None:
    """Delimiter, quote and escape of a table; None where clevercsv finds none."""
    require("clevercsv", "records", "a table")
    from clevercsv.detect import Detector

    sample = "\n".join(_first_lines(text.replace("\r\n", "\n"))) + "\n"
    found = Detector().detect(sample, delimiters=list(delimiter or DELIMITERS))
    if found is None or not found.delimiter:
        return None
    return found.delimiter, found.quotechar or QUOTE, found.escapechar or None


def _is_regular(text: str, dialect: tuple[str, str | None, str | None]) -> bool:
    """Whether the first rows have the same number of fields, from two on."""
    lengths = set()
    try:
        lengths |= {len(row) for row in islice(_parse(io.StringIO(text, newline=""), *dialect), _SAMPLE_LINES) if row}
    except csv.Error:
        return False
    return len(lengths) == 1 and min(lengths) > 1


def _parse(text: io.StringIO, delimiter: str, quote: str | None, escape: str | None) -> "csv.reader":
    quoting = {"quoting": csv.QUOTE_NONE} if quote is None else {"quotechar": quote}
    return csv.reader(text, delimiter=delimiter, escapechar=escape, doublequote=escape is None, strict=True, **quoting)


def _has_header(file: Path, text: str, source: Source) -> bool:
    first, *others = islice((row for _, row in _table_rows(file, text, source) if row), _HEADER_ROWS)
    if any(_is_number(cell) for cell in first):
        return False
    return not any(cell == name for row in others for name, cell in zip(first, row, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _table_rows(file: Path, text: str, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Each row of a table with the line that it starts in; an empty line is an empty row."""
    text = text.removeprefix("\ufeff")
    reader = _parse(io.StringIO(text, newline=""), source.delimiter, source.quote, source.escape)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: {error} ({source.quote or 'nothing'} quotes a field; another one, or {NO_QUOTE}:"
            " quote)"
        ) from error


def _read_table(file: Path, text: str, source: Source) -> tuple[list[Row], list[str], int]:
    columns, rows, skipped = None, [], 0
    for line, row in _table_rows(file, text, source):
        if not row:
            skipped += 1
        elif columns is None and source.header:
            twice = sorted({name for name in row if row.count(name) > 1})
            if twice:
                raise InputError(f"{file}, line {line}: the column name {twice[0]!r} stands twice; rename one of them")
            columns = row
        else:
            columns = columns or [f"column {number}" for number in range(1, len(row) + 1)]
            if len(row) != len(columns):
                raise InputError(
                    f"{file}, line {line}: {len(row)} field(s), the table has {len(columns)} columns"
                    f" ({source.delimiter!r} between fields; another one: delimiter; docs/records.md)"
                )
            rows.append(dict(zip(columns, row, strict=True)))
    return rows, columns or [], skipped


def _read_json(file: Path, text: str, source: Source) -> tuple[list[Row], list[str], int]:
    rows, columns, skipped = [], {}, 0
    for line, content in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not content.strip():
            skipped += 1
            continue
        try:
            row = parse_json(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {line}: {_why_no_object(text, error)}") from error
        columns |= dict.fromkeys(row)
        rows.append(row)
    if rows and not columns:
        raise InputError(f"{file}: its objects are empty, so there is nothing to learn")
    return rows, list(columns), skipped - text.endswith("\n")


def _why_no_object(text: str, error: Exception) -> str:
    """What to do where a line holds no object: often the file as a whole is JSON."""
    if isinstance(error, RecursionError):
        return "lists and objects lie too deep inside each other"
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return f"no JSON object on one line ({error})"
    if isinstance(whole, list):
        return "the file is one JSON list, and each line must be an object (jq -c '.[]' makes lines of it)"
    if isinstance(whole, dict) and "\n" in text.strip():
        return "the file is one JSON object over many lines, and each line must be one (jq -c . makes a line of it)"
    return f"no JSON object on one line ({error})"


def _read_log(file: Path, text: str, source: Source) -> tuple[list[Row], list[str], int]:
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    return [{LINE: line.removesuffix("\r")} for line in lines], [LINE], 0


_READERS = {"table": _read_table, "json": _read_json, "log": _read_log}


def _list(names: Iterable[str]) -> str:
    return ", ".join(name or "(no name)" for name in names)
