"""The whole report: arguments checked, text read, numbers printed and files written."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import write_whole
from ..common.figures import require_matplotlib, save_figure
from ..common.files import user_path
from ..common.results import check_writable, moment, write_results
from ..common.tables import require_tabulate
from ..data import all_documents, tokenize_documents
from .inputs import TextSegmentation, open_segmentation
from .marks import hidden_separators
from .results import FORMAT, LevelReport, SegmentReport
from .statistics import level_statistics, level_units, segment_statistics
from .tables import markdown_tables


LENGTHS = (128, 512, 1024, 4096)
FILES = ("segments.json", "segments.md", "segments.png", "segments.svg", "segments.html")


def report_segments(
    text: str,
    *,
    tokenizer: str,
    separators: str | list[int | str] | None = None,
    max_segment_length: int | None = None,
    revision: str | None = None,
    lengths: Sequence[int] = LENGTHS,
    text_column: str = "text",
    output: str | Path | None = None,
    overwrite: bool = False,
    levels: list[str | list[int | str]] | None = None,
    command: str = "bipe_hf.lab.reports.report_segments",
) -> SegmentReport:
    """Measures the segments of a text, and its units at inner levels, and writes what shows them.

    Args:
        text: what `bipe_hf.lab.data.load_documents` reads. All of it is measured: a text file as one document,
            training documents before validation documents.
        tokenizer: folder or Hub name, as `source` of [`open_segmentation`].
        separators: as in [`open_segmentation`].
        max_segment_length: as in [`open_segmentation`].
        revision: as in [`open_segmentation`].
        lengths: of the blocks in which segments are counted, distinct, in tokens.
        text_column: as in `load_documents`.
        output: folder for `FILES`: the numbers as JSON and Markdown, the histogram as PNG and SVG, and the page. None
            writes nothing.
        overwrite: replace those files.
        levels: as in [`open_segmentation`].
        command: recorded in the report.

    Returns:
        A [`LevelReport`] where levels were given or `tokenizer` brings inner ones, else a [`SegmentReport`].

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before the text is read.
    """
    if not lengths:
        raise InputError("lengths: give at least one block length")
    if len(set(lengths)) < len(lengths):
        raise InputError(f"lengths: the same one is given twice in {', '.join(map(str, lengths))}")
    for length in lengths:
        if length < 1:
            raise InputError(f"lengths: {length} is less than 1 token")
    if output is not None:
        output = user_path(output)
        _check_folder(output, overwrite)
    segmentation = open_segmentation(tokenizer, separators, max_segment_length, revision, levels)
    documents = all_documents(text, text_column=text_column)
    ids = _read_stream(documents, segmentation)
    config = segmentation.config
    content = {
        "created": moment(),
        "command": command,
        "text": text,
        "tokenizer": tokenizer if revision is None else f"{tokenizer}@{revision}",
        "segmentation": segmentation.description,
        "separator_token_ids": config.separator_token_ids,
        "max_segment_length": config.max_segment_length,
        "statistics": segment_statistics(ids, config, lengths, documents=len(documents)),
    }
    if segmentation.levels:
        report = LevelReport(
            **content,
            inner_separator_token_ids=config.inner_separator_token_ids,
            max_inner_index=config.max_inner_index,
            levels=level_statistics(ids, config, segmentation.levels),
            hidden=hidden_separators(ids.numpy(), documents, segmentation),
        )
    else:
        report = SegmentReport(**content)
    if output is not None:
        _write(output, report, ids, documents, segmentation)
    return report


def _check_folder(output: Path, overwrite: bool) -> None:
    require_matplotlib("output")
    require_tabulate("output")
    for file in FILES:
        if (output / file).exists() and not overwrite:
            raise InputExistsError(f"output: {output / file} exists (--overwrite replaces it)")
    check_writable(output)


def _read_stream(documents: Dataset, segmentation: TextSegmentation) -> Tensor:
    """Token ids (long, `(tokens,)`) of all documents, each closed by the end-of-text token."""
    try:
        tokenized = tokenize_documents(documents, segmentation.tokenizer)
    except InputError as error:
        raise InputError(f"tokenizer: {error}") from error
    return torch.from_numpy(np.concatenate([np.asarray(row["input_ids"], np.int64) for row in tokenized]))


def _write(
    output: Path, report: SegmentReport, ids: Tensor, documents: Dataset, segmentation: TextSegmentation
) -> None:
    from .histogram import draw_histogram, draw_levels
    from .page import render_page

    write_results(output / "segments.json", FORMAT, report, lambda: markdown_tables(report))
    name, statistics = os.path.basename(os.path.normpath(report.text)), report.statistics
    units = level_units(ids, segmentation.config)
    title = f"{name}: {statistics.segments:,} segments ({report.segmentation})"
    if len(units) > 1:
        limits = report.max_segment_length, segmentation.config.max_inner_index
        figure = draw_levels(segmentation.levels, units, *limits, title)
    else:
        figure = draw_histogram(units[0].tokens, report.max_segment_length, title)
    save_figure(figure, output / "segments.png")
    facts = (
        f"{statistics.segments:,} segments of {statistics.tokens_per_segment['mean']:.1f} tokens on average"
        f" ({report.segmentation})."
    )
    if len(units) > 1:
        facts += f" Inside: {_averages(report)}."
    page = render_page(documents, segmentation, name, len(ids), facts)
    write_whole(output / "segments.html", page)


def _averages(report: LevelReport) -> str:
    """`4.0 fields per segment, 2.5 tokens per field`, for every level."""
    innermost = report.levels[-1]
    units = [
        f"{level.units_per_parent['mean']:.1f} {level.unit}s per {parent.unit}"
        for parent, level in pairwise(report.levels)
    ]
    return ", ".join([*units, f"{innermost.tokens_per_unit['mean']:.1f} tokens per {innermost.unit}"])
