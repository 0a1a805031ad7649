"""What a report says, as it is stored."""

from dataclasses import dataclass

from .marks import HiddenSeparators
from .statistics import LevelStatistics, SegmentStatistics


FORMAT = "bipe-hf segments 1"


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


@dataclass(frozen=True)
class LevelReport(SegmentReport):
    """The report of a segmentation whose levels were given, or that has inner ones."""

    inner_separator_token_ids: list[list[int]]
    max_inner_index: int
    levels: list[LevelStatistics]
    """Segments first, then the inner levels, coarse to fine."""
    hidden: HiddenSeparators
