"""Where the segments of a text lie: statistics, a histogram and a page that shows them.

The documents of a text are read as `bipe-hf pretrain` and `bipe-hf evaluate` read them: one behind the other, each
closed by the tokenizer's end-of-text token. A segment therefore runs over the border of two documents where no
separator ends the first, and every document counts, those of a training split before those of a validation split.
"""

from .inputs import TextSegmentation, open_segmentation
from .run import SegmentReport, report_segments, segment_table
from .statistics import BlockStatistics, SegmentStatistics, segment_statistics


__all__ = [
    "BlockStatistics",
    "SegmentReport",
    "SegmentStatistics",
    "TextSegmentation",
    "open_segmentation",
    "report_segments",
    "segment_statistics",
    "segment_table",
]
