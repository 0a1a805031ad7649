"""Rows read from files, drawn or completed, and written as the files that a model learnt from were."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import write_whole
from ..common.files import user_path
from ..common.results import check_writable
from .fill import Filled, check_fillable, fill_rows
from .form import Row
from .reading import read_like
from .sample import Sample, sample_rows
from .schema import MISSING, Schema
from .scoring import open_records
from .writing import rows_as_text


def continue_records(
    model: str | Path,
    count: int,
    *,
    prompt: str | Path | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    device: str | None = None,
) -> Sample:
    """Draws valid rows and writes them.

    Args:
        model: as in [`open_records`].
        count: rows, for each row of `prompt` where rows stand alone.
        prompt: a file. Where rows stand alone, with their first columns, else with the rows that come before.
        temperature: as in [`sample_rows`].
        seed: as in [`sample_rows`].
        output: file to write; None writes to standard output.
        overwrite: replace that file.
        revision: as in [`open_records`].
        device: as in [`open_records`].

    Returns:
        The rows, and how many were drawn for them.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before a row is drawn.
    """
    _check_output(output, overwrite)
    used = open_records(model, revision=revision, device=device)
    given = {} if prompt is None else _prompt(user_path(prompt), used.schema)
    sample = sample_rows(used, count, **given, temperature=temperature, seed=seed, show_progress=True)
    _write(sample.rows, used.schema, used.schema.names, output)
    return sample


def _prompt(file: Path, schema: Schema) -> dict[str, list[Row]]:
    """What [`sample_rows`] takes of a file."""
    rows = read_like([file], schema.source, schema.names, but=schema.names).rows
    if schema.order == "file":
        return {"before": rows}
    for row in rows:
        if schema.source.kind == "table" and list(row) != schema.names[: len(row)]:
            raise InputError(
                f"prompt: {file} has the columns {', '.join(row)}, but the first ones of the table are needed:"
                f" {', '.join(schema.names[: len(row)])}"
            )
        if schema.source.kind == "table" and len(row) == len(schema.names):
            raise InputError(f"prompt: {file} has all columns of the table, so that nothing is left to complete")
    return {"starts": rows}


def fill_records(
    model: str | Path,
    path: str | Path,
    column: str,
    *,
    missing: Collection[str] = MISSING,
    output: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    device: str | None = None,
) -> Filled:
    """Fills a column of a file as [`fill_rows`] does, and writes its rows.

    Args:
        model: as in [`open_records`].
        path: file of the kind and with the columns that were learnt; it may lack the one to fill.
        column: to fill.
        missing: words in it that say nothing.
        output: file to write; None writes to standard output.
        overwrite: replace that file.
        revision: as in [`open_records`].
        device: as in [`open_records`].

    Returns:
        The rows with the field filled in.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before a row is filled.
    """
    _check_output(output, overwrite)
    used = open_records(model, revision=revision, device=device)
    check_fillable(used.schema, column)
    records = read_like([path], used.schema.source, used.schema.names, but=[column])
    filled = fill_rows(used, records.rows, column, f"filling {column}", missing=missing)
    source = replace(used.schema.source, **{name: vars(records.source)[name] for name in _OF_THE_FILE})
    _write(filled.rows, replace(used.schema, source=source), used.schema.names, output)
    return filled


# A filled file is written as it was itself, which may be otherwise than those that were learnt from.
_OF_THE_FILE = ("delimiter", "quote", "escape", "line_ending", "text_encoding")


def _check_output(output: str | Path | None, overwrite: bool) -> None:
    if output is None:
        return
    if user_path(output).exists() and not overwrite:
        raise InputExistsError(f"output: {output} exists (--overwrite replaces it)")
    check_writable(user_path(output).parent)


def _write(rows: Sequence[Row], schema: Schema, columns: Sequence[str], output: str | Path | None) -> None:
    text = rows_as_text(rows, schema.source, columns)
    if output is None:
        sys.stdout.write(text)
    else:
        write_whole(user_path(output), text.encode(schema.source.text_encoding))
