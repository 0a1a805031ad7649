"""Where the segments of a text lie, and the units of levels inside them: statistics, a histogram and a page.

The documents of a text are read as `bipe-hf pretrain` and `bipe-hf evaluate` read them: one behind the other, each
closed by the tokenizer's end-of-text token. A segment therefore runs over the border of two documents where no
separator ends the first, and every document counts, those of a training split before those of a validation split.
"""

from .inputs import TextSegmentation, open_segmentation
from .results import LevelReport, SegmentReport
from .run import report_segments
from .statistics import BlockStatistics, LevelStatistics, SegmentStatistics, segment_statistics
from .tables import segment_table


__all__ = [
    "BlockStatistics",
    "LevelReport",
    "LevelStatistics",
    "SegmentReport",
    "SegmentStatistics",
    "TextSegmentation",
    "open_segmentation",
    "report_segments",
    "segment_statistics",
    "segment_table",
]
