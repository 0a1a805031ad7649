"""How long segments and the units inside them are, how many units they have, how many segments stand in a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...model.configuration_bipe import BipeConfigMixin
from ..data.segments import segment_batch
from .inputs import Level


@dataclass(frozen=True)
class BlockStatistics:
    """Segments in the non-overlapping blocks of one length; the rest of the text that fills no block is left out.

    A block starts at segment 0, position 0, as it does for a model. All but `length` and `blocks` are None where the
    text fills no block.

    Args:
        length: of a block, in tokens.
        blocks: how many there are.
        segments_mean: distinct segments of a block, on average.
        segments_fewest: distinct segments of the block with the fewest.
        segments_most: distinct segments of the block with the most.
        clamped_share: share of tokens whose position, that in the innermost unit where there are inner levels, is
            `max_segment_length` or more.
    """

    length: int
    blocks: int
    segments_mean: float | None
    segments_fewest: int | None
    segments_most: int | None
    clamped_share: float | None


@dataclass(frozen=True)
class SegmentStatistics:
    """Segments of a whole text, of which the last one counts even if nothing ends it.

    Args:
        documents: of the text.
        tokens: of the text.
        segments: of the text.
        tokens_per_segment: `mean`, `median`, `percentile_5`, `percentile_95` (linear between neighbours) and
            `longest`.
        clamped_share: share of tokens whose position inside their segment, with inner levels inside their innermost
            unit, is `max_segment_length` or more, so that they share the last row of the intra table.
        suggested_alibi_slope_scale: the mean length in tokens: with it a step to the next segment weighs, on average,
            what the tokens in between weigh in plain ALiBi.
        blocks: of each length.
    """

    documents: int
    tokens: int
    segments: int
    tokens_per_segment: dict[str, float]
    clamped_share: float
    suggested_alibi_slope_scale: float
    blocks: list[BlockStatistics]


@dataclass(frozen=True)
class LevelStatistics:
    """Segments, or the units of one level inside them, of a whole text.

    Args:
        unit: what one of them is called.
        separators: the preset or the list that ends them; None for segments that end at no separator.
        units: how many there are.
        tokens_per_unit: as `tokens_per_segment` of [`SegmentStatistics`].
        units_per_parent: the same of the units inside each one of the next coarser level, with `most` in place of
            `longest`; None for segments.
        clamped_share: share of tokens whose index at this level is `max_inner_index` or more, so that they share the
            last row of its table; None for segments.
    """

    unit: str
    separators: str | list[int | str] | None
    units: int
    tokens_per_unit: dict[str, float]
    units_per_parent: dict[str, float] | None
    clamped_share: float | None


class Units(NamedTuple):
    """The units of one level in a stream of tokens."""

    tokens: np.ndarray
    """Tokens of each, in their order; int64, `(units,)`."""
    per_parent: np.ndarray | None
    """How many stand in each one of the next coarser level; int64, `(parents,)`. None for segments."""
    clamped_share: float | None
    """As in `LevelStatistics`."""


def level_units(ids: Tensor, config: BipeConfigMixin) -> list[Units]:
    """The segments of the stream `ids` (long, `(tokens,)`), then the units of each inner level."""
    segments = segment_batch({"input_ids": ids[None]}, config)
    starts = _changes(segments.segment_ids)
    found = [Units(_lengths(starts), None, None)]
    for indices in segments.inner_indices:
        last_of_parents = np.append(np.flatnonzero(starts)[1:], len(ids)) - 1
        starts = starts | _changes(indices)
        index = indices[0].numpy()
        clamped_share = (index >= config.max_inner_index).mean().item()
        found.append(Units(_lengths(starts), index[last_of_parents] + 1, clamped_share))
    return found


def _changes(indices: Tensor) -> np.ndarray:
    """Where another unit starts, as far as its own index tells, the first token included; bool, `(tokens,)`."""
    index = indices[0].numpy()
    return np.concatenate([[True], index[1:] != index[:-1]])


def _lengths(starts: np.ndarray) -> np.ndarray:
    return np.diff(np.flatnonzero(starts), append=len(starts))


def level_statistics(ids: Tensor, config: BipeConfigMixin, levels: Sequence[Level]) -> list[LevelStatistics]:
    """Statistics of each of the `levels`, as `open_segmentation` returns them, of the stream `ids`."""
    return [
        LevelStatistics(
            unit=level.unit,
            separators=level.separators,
            units=len(units.tokens),
            tokens_per_unit=_distribution(units.tokens, "longest"),
            units_per_parent=None if units.per_parent is None else _distribution(units.per_parent, "most"),
            clamped_share=units.clamped_share,
        )
        for level, units in zip(levels, level_units(ids, config), strict=True)
    ]


def _distribution(counts: np.ndarray, most: str) -> dict[str, float]:
    """Mean, median, 5th and 95th percentile, and the largest by the name that is given."""
    low, median, high = np.percentile(counts, (5, 50, 95)).tolist()
    return {
        "mean": counts.mean().item(),
        "median": median,
        "percentile_5": low,
        "percentile_95": high,
        most: int(counts.max()),
    }


def segment_statistics(
    ids: Tensor, config: BipeConfigMixin, lengths: Sequence[int], *, documents: int
) -> SegmentStatistics:
    """The statistics of a stream of token ids.

    Args:
        ids (`torch.LongTensor` of shape `(tokens,)`): the text, at least one token.
        config: says where segments end and how long the intra table is.
        lengths: of the blocks, in tokens.
        documents: how many the text has.
    """
    segments = segment_batch({"input_ids": ids[None]}, config)
    per_segment = torch.bincount(segments.segment_ids[0]).numpy()
    tokens_per_segment = _distribution(per_segment, "longest")
    return SegmentStatistics(
        documents=documents,
        tokens=len(ids),
        segments=len(per_segment),
        tokens_per_segment=tokens_per_segment,
        clamped_share=int((segments.intra_positions >= config.max_segment_length).sum()) / len(ids),
        suggested_alibi_slope_scale=tokens_per_segment["mean"],
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
