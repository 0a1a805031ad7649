"""How unusual rows are: the bits of every field, in a table, as numbers and on a page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import write_whole
from ..common.files import user_path
from ..common.results import check_writable, describe_environment, in_words, moment, write_results
from ..common.tables import aligned, markdown
from .reading import read_like
from .scoring import by_column, open_records


SCORES_FORMAT = "bipe-hf record scores 1"
FILES = ("scores.csv", "scores.json", "scores.md", "scores.html")
# Rows that are listed in `scores.json` and printed.
LISTED = 20


@dataclass(frozen=True)
class ScoredRow:
    """A row and its bits by column; `row` counts from 1 in its file, the header left out."""

    file: str
    row: int
    bits: float
    bits_per_field: dict[str, float]
    cells: dict[str, str]


@dataclass(frozen=True)
class ScoreReport:
    """What `scores.json` holds."""

    created: str
    """When, in ISO 8601."""
    command: str
    """What was called."""
    environment: dict[str, str]
    """What `describe_environment` found."""
    model: str
    """Folder or name on the Hub, as it was given."""
    files: list[str]
    """Those that were scored."""
    rows: int
    """How many they hold."""
    bits_per_row: dict[str, float]
    """`mean`, `median` and `highest`."""
    columns: dict[str, dict[str, float]]
    """Of each column the `mean`, the standard deviation (`sd`) and the `highest` of its bits."""
    results: list[ScoredRow]
    """The rows with the most bits."""


def score_records(
    model: str | Path,
    paths: Sequence[str | Path],
    *,
    output: str | Path,
    overwrite: bool = False,
    page_rows: int = 200,
    revision: str | None = None,
    device: str | None = None,
    command: str = "bipe_hf.lab.records.score_records",
) -> ScoreReport:
    """Scores rows and writes what shows which are unusual.

    A field takes `-log2 p` bits, where p is the probability of its text and of the separator that ends it behind the
    fields before it. The bits of a row are the sum. They measure how unlikely a row is, so a long text takes more than
    a short one.

    Args:
        model: as in [`open_records`].
        paths: files of the kind and with the columns that were learnt.
        output: folder for `FILES`.
        overwrite: replace those files.
        page_rows: rows on the page, those with the most bits.
        revision: as in [`open_records`].
        device: as in [`open_records`].
        command: recorded in the report.

    Returns:
        What `scores.json` holds.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before anything is scored.
    """
    output = user_path(output)
    if page_rows < 1:
        raise InputError(f"page_rows: {page_rows} given, at least 1 is needed")
    for file in FILES:
        if (output / file).exists() and not overwrite:
            raise InputExistsError(f"output: {output / file} exists (--overwrite replaces it)")
    used = open_records(model, revision=revision, device=device)
    records = read_like(paths, used.schema.source, used.schema.names)
    check_writable(output)

    rows, fields, bits = [], [], []
    for file, own in records.files.items():
        fields_of_file = used.fields(own)
        bits_of_file = used.bits(fields_of_file, description=Path(file).name)
        for number, (row, parts, costs) in enumerate(zip(own, fields_of_file, bits_of_file, strict=True), 1):
            each = by_column(parts, costs)
            rows.append(ScoredRow(file, number, sum(costs), each, used.form.cells(row)))
        fields += fields_of_file
        bits += bits_of_file
    ranked = sorted(range(len(rows)), key=lambda at: -rows[at].bits)
    names = list(dict.fromkeys(name for row in rows for name in row.bits_per_field))
    totals = [row.bits for row in rows]
    report = ScoreReport(
        created=moment(),
        command=command,
        environment=describe_environment(used.model.device, str(used.model.dtype).removeprefix("torch.")),
        model=str(model),
        files=list(records.files),
        rows=len(rows),
        bits_per_row={"mean": float(np.mean(totals)), "median": float(np.median(totals)), "highest": max(totals)},
        columns={name: _statistics([row.bits_per_field.get(name, 0.0) for row in rows]) for name in names},
        results=[rows[at] for at in ranked[:LISTED]],
    )
    from .page import render_page

    write_whole(output / "scores.csv", _csv(rows, names))
    shown = ranked[:page_rows]
    page = render_page(
        report, [rows[at] for at in shown], [list(zip(fields[at], bits[at], strict=True)) for at in shown]
    )
    write_whole(output / "scores.html", page)
    write_results(output / "scores.json", SCORES_FORMAT, report, lambda: _markdown(report))
    return report


def _statistics(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values)), "highest": max(values)}


def _csv(rows: Sequence[ScoredRow], names: Sequence[str]) -> str:
    """Every row in its order, with an empty field where it lacks a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "row", "bits", *(f"bits of {name}" for name in names)])
    for row in rows:
        own = [f"{row.bits_per_field[name]:.4f}" if name in row.bits_per_field else "" for name in names]
        writer.writerow([row.file, row.row, f"{row.bits:.4f}", *own])
    return text.getvalue()


def score_table(report: ScoreReport) -> str:
    """The numbers of a report as aligned plain text."""
    return "\n\n".join(f"{title}\n{aligned(rows)}" for title, rows in _tables(report))


def _markdown(report: ScoreReport) -> str:
    tables = [f"{title}:\n\n{markdown(rows)}" for title, rows in _tables(report)]
    head = f"`{report.command}`, measured {report.created} with {in_words(report.environment)}"
    return "\n\n".join([head, *tables]) + "\n"


def _tables(report: ScoreReport) -> list[tuple[str, list[list[str]]]]:
    columns = [["column", "", "bits, mean", "sd", "highest"]]
    for name, numbers in report.columns.items():
        columns.append([name, "", *(f"{numbers[each]:.2f}" for each in ("mean", "sd", "highest"))])
    rows = [["row", "most of them in", "bits"]]
    for row in report.results:
        name = max(row.bits_per_field, key=row.bits_per_field.get)
        where = f"{name} = {row.cells.get(name, '')}".replace("\n", " ")[:60]
        rows.append([f"{Path(row.file).name} {row.row}", where, f"{row.bits:.2f}"])
    usual = report.bits_per_row
    title = f"{report.rows:,} rows, {usual['mean']:.2f} bits a row (median {usual['median']:.2f})"
    return [(title, columns), ("Most unusual rows", rows)]
