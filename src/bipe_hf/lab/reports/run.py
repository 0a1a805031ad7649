"""The whole report: arguments checked, text read, numbers printed and files written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ...model.errors_bipe import InputError, InputExistsError
from ..common.figures import require_matplotlib, save_figure
from ..common.results import check_writable, moment, write_results
from ..common.tables import aligned, markdown, require_tabulate
from ..data import tokenize_documents
from .inputs import TextSegmentation, open_segmentation, read_documents
from .statistics import SegmentStatistics, segment_lengths, segment_statistics


FORMAT = "bipe-hf segments 1"
LENGTHS = (128, 512, 1024, 4096)
FILES = ("segments.json", "segments.md", "segments.png", "segments.svg", "segments.html")


@dataclass(frozen=True)
class SegmentReport:
    """Statistics with what they depend on; `segmentation` says in words what ends a segment."""

    created: str
    command: str
    text: str
    tokenizer: str
    segmentation: str
    separator_token_ids: list[int]
    max_segment_length: int
    statistics: SegmentStatistics


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
    command: str = "bipe_hf.lab.reports.report_segments",
) -> SegmentReport:
    """Measure the segments of a text and write what shows them.

    Args:
        text: what `bipe_hf.lab.data.load_documents` reads. All of it is measured: a text file as one document,
            training documents before validation documents.
        tokenizer, separators, max_segment_length, revision: as in `open_segmentation`.
        lengths: of the blocks in which segments are counted, distinct, in tokens.
        text_column: as in `load_documents`.
        output: folder for `FILES`: the numbers as JSON and Markdown, the histogram as PNG and SVG, and the page. None
            writes nothing.
        overwrite: replace those files.
        command: recorded in the report.

    Raises `ValueError`, `FileNotFoundError` or `FileExistsError` for bad arguments before the text is read.
    """
    if not lengths:
        raise InputError("lengths: give at least one block length")
    if len(set(lengths)) < len(lengths):
        raise InputError(f"lengths: the same one is given twice in {', '.join(map(str, lengths))}")
    for length in lengths:
        if length < 1:
            raise InputError(f"lengths: {length} is less than 1 token")
    if output is not None:
        output = Path(output)
        _check_folder(output, overwrite)
    segmentation = open_segmentation(tokenizer, separators, max_segment_length, revision)
    documents = read_documents(text, text_column)
    ids = _read_stream(documents, segmentation)
    report = SegmentReport(
        created=moment(),
        command=command,
        text=text,
        tokenizer=tokenizer if revision is None else f"{tokenizer}@{revision}",
        segmentation=segmentation.description,
        separator_token_ids=segmentation.config.separator_token_ids,
        max_segment_length=segmentation.config.max_segment_length,
        statistics=segment_statistics(ids, segmentation.config, lengths, documents=len(documents)),
    )
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
    from .histogram import draw_histogram
    from .page import render_page

    tables = [f"{title}:\n\n{markdown(rows)}" for title, rows in _tables(report)]
    content = "\n\n".join([f"`{report.command}`, measured {report.created}", *tables]) + "\n"
    write_results(output / "segments.json", FORMAT, report, lambda: content)
    name, statistics = os.path.basename(os.path.normpath(report.text)), report.statistics
    lengths = segment_lengths(ids, segmentation.config)
    title = f"{name}: {len(lengths):,} segments ({report.segmentation})"
    save_figure(draw_histogram(lengths, report.max_segment_length, title), output / "segments.png")
    facts = (
        f"{statistics.segments:,} segments of {statistics.tokens_per_segment['mean']:.1f} tokens on average"
        f" ({report.segmentation})."
    )
    page = render_page(documents, segmentation, name, len(ids), facts)
    (output / "segments.html").write_bytes(page.encode())


def segment_table(report: SegmentReport) -> str:
    """The numbers of a report as aligned plain text."""
    return "\n\n".join(f"{title}\n{aligned(rows)}" for title, rows in _tables(report))


def _tables(report: SegmentReport) -> list[tuple[str, list[list[str]]]]:
    statistics = report.statistics
    per_segment = statistics.tokens_per_segment
    whole = [
        ["quantity", "value"],
        ["documents", f"{statistics.documents}"],
        ["tokens, end-of-text tokens included", f"{statistics.tokens}"],
        ["segments", f"{statistics.segments}"],
        ["tokens per segment, mean", f"{per_segment['mean']:.2f}"],
        ["tokens per segment, median", f"{per_segment['median']:g}"],
        ["tokens per segment, 5th percentile", f"{per_segment['percentile_5']:g}"],
        ["tokens per segment, 95th percentile", f"{per_segment['percentile_95']:g}"],
        ["tokens per segment, longest", f"{per_segment['longest']}"],
        [f"positions from {report.max_segment_length} on (clamped)", _percent(statistics.clamped_share)],
        ["alibi_slope_scale that the mean suggests", f"{statistics.suggested_alibi_slope_scale:.1f}"],
    ]
    blocks = [["tokens per block", "blocks", "segments, mean", "fewest", "most", "clamped"]]
    for block in statistics.blocks:
        if block.blocks == 0:
            blocks.append([str(block.length), "0", "-", "-", "-", "-"])
        else:
            counts = [f"{block.segments_mean:.1f}", str(block.segments_fewest), str(block.segments_most)]
            blocks.append([str(block.length), str(block.blocks), *counts, _percent(block.clamped_share)])
    title = f"Segments of {report.text} (tokenizer {report.tokenizer}, {report.segmentation})"
    return [(title, whole), ("Segments per block, the rest that fills no block left out", blocks)]


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or share == 0 else "< 0.01%"
