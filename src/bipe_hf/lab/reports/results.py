"""What a report says, as it is stored."""

from dataclasses import dataclass

from .marks import HiddenSeparators
from .statistics import LevelStatistics, SegmentStatistics


FORMAT = "bipe-hf segments 1"


@dataclass(frozen=True)
class SegmentReport:
    """Statistics with what they depend on.

    Args:
        created: when, in ISO 8601.
        command: that reported.
        text: what was read, as it was given.
        tokenizer: as it was given.
        segmentation: in words what ends a segment.
        separator_token_ids: tokens that end a segment.
        max_segment_length: rows of the intra table.
        statistics: of the segments.
    """

    created: str
    command: str
    text: str
    tokenizer: str
    segmentation: str
    separator_token_ids: list[int]
    max_segment_length: int
    statistics: SegmentStatistics


@dataclass(frozen=True)
class LevelReport(SegmentReport):
    """The report of a segmentation whose levels were given, or that has inner ones."""

    inner_separator_token_ids: list[list[int]]
    """Tokens that end a unit of each inner level, coarse to fine."""
    max_inner_index: int
    """Rows of the table of each inner level."""
    levels: list[LevelStatistics]
    """Segments first, then the inner levels, coarse to fine."""
    hidden: HiddenSeparators
    """What the vocabulary hides of the separators of the text."""
