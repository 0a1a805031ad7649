"""How long segments are and how many of them stand in a block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...model.configuration_bipe import BipeConfigMixin
from ..data.segments import segment_batch


@dataclass(frozen=True)
class BlockStatistics:
    """Segments in the non-overlapping blocks of one length; the rest of the text that fills no block is left out.

    A block starts at segment 0, position 0, as it does for a model. `segments_*` count the distinct segments of a
    block, `clamped_share` is the share of tokens whose position is `max_segment_length` or more. All but `length` and
    `blocks` are None where the text fills no block.
    """

    length: int
    blocks: int
    segments_mean: float | None
    segments_fewest: int | None
    segments_most: int | None
    clamped_share: float | None


@dataclass(frozen=True)
class SegmentStatistics:
    """Segments of a whole text.

    `tokens_per_segment` has `mean`, `median`, `percentile_5`, `percentile_95` (linear between neighbours) and
    `longest`. The last segment counts even if nothing ends it. `clamped_share` is the share of tokens whose position
    inside their segment is `max_segment_length` or more, so that they share the last row of the intra table.
    `suggested_alibi_slope_scale` is the mean length: with it a step to the next segment weighs, on average, what the
    tokens in between weigh in plain ALiBi.
    """

    documents: int
    tokens: int
    segments: int
    tokens_per_segment: dict[str, float]
    clamped_share: float
    suggested_alibi_slope_scale: float
    blocks: list[BlockStatistics]


def segment_lengths(ids: Tensor, config: BipeConfigMixin) -> np.ndarray:
    """Tokens of each segment of the stream `ids` (long, `(tokens,)`), in their order; int64, `(segments,)`."""
    return torch.bincount(segment_batch({"input_ids": ids[None]}, config).segment_ids[0]).numpy()


def segment_statistics(
    ids: Tensor, config: BipeConfigMixin, lengths: Sequence[int], *, documents: int
) -> SegmentStatistics:
    """Statistics of a stream of token ids.

    Args:
        ids (`torch.LongTensor` of shape `(tokens,)`): the text, at least one token.
        config: says where segments end and how long the intra table is.
        lengths: of the blocks, in tokens.
        documents: how many the text has.
    """
    per_segment = segment_lengths(ids, config)
    low, median, high = np.percentile(per_segment, (5, 50, 95)).tolist()
    mean = len(ids) / len(per_segment)
    return SegmentStatistics(
        documents=documents,
        tokens=len(ids),
        segments=len(per_segment),
        tokens_per_segment={
            "mean": mean,
            "median": median,
            "percentile_5": low,
            "percentile_95": high,
            "longest": int(per_segment.max()),
        },
        clamped_share=int((per_segment - config.max_segment_length).clip(min=0).sum()) / len(ids),
        suggested_alibi_slope_scale=mean,
        blocks=[_of_blocks(ids, config, length) for length in lengths],
    )


def _of_blocks(ids: Tensor, config: BipeConfigMixin, length: int) -> BlockStatistics:
    blocks = ids[: len(ids) // length * length].view(-1, length)
    if len(blocks) == 0:
        return BlockStatistics(length, 0, None, None, None, None)
    segments = segment_batch({"input_ids": blocks}, config)
    per_block = segments.segment_ids[:, -1] + 1
    return BlockStatistics(
        length=length,
        blocks=len(blocks),
        segments_mean=per_block.double().mean().item(),
        segments_fewest=int(per_block.min()),
        segments_most=int(per_block.max()),
        clamped_share=(segments.intra_positions >= config.max_segment_length).double().mean().item(),
    )
