"""Segments of batches and blocks, as a model finds them."""

import math

import torch
from datasets import Dataset, IterableDataset

from ...model.configuration_bipe import BipeConfigMixin
from ...model.segmentation_bipe import Segmenter, SegmentInputs, Segments, document_starts


def segment_batch(batch: dict[str, torch.Tensor], config: BipeConfigMixin) -> Segments:
    """What a model with `config` takes for the segments of a batch.

    Args:
        batch: `input_ids` and, where there are any, a 2-D `attention_mask`, `position_ids` that restart with each
            packed document, and `segment_ids`, which override the separators; each of shape `(batch, length)`, the
            last also `(batch, length, levels)`.
        config: of the model.
    """
    input_ids, mask, segment_ids = (batch.get(name) for name in ("input_ids", "attention_mask", "segment_ids"))
    is_token = torch.ones_like(input_ids, dtype=torch.bool)
    if mask is not None and mask.ndim == 2:
        is_token &= mask.bool()
    if segment_ids is not None:
        is_token &= (segment_ids if segment_ids.ndim == 2 else segment_ids[..., 0]) >= 0
    starts_document = None
    if "position_ids" in batch:
        starts_document = document_starts(batch["position_ids"].expand_as(input_ids), is_token)
    return Segmenter(config)(SegmentInputs(input_ids, is_token, starts_document, segment_ids))


def mean_segment_length(blocks: Dataset | IterableDataset, config: BipeConfigMixin, *, most: int = 1000) -> float:
    """Mean number of tokens in a segment, over a sample of blocks.

    A segment that a block cuts counts in each block with what the block has of it, as it does for the model.

    Args:
        blocks: with `input_ids` and perhaps `position_ids`, as [`make_blocks`] returns them.
        config: of the model.
        most: blocks to look at: the first ones of a stream, else evenly spaced ones.
    """
    if isinstance(blocks, Dataset):
        sample = blocks.select(range(0, len(blocks), math.ceil(len(blocks) / most)))
    else:
        sample = blocks.take(most)
    tokens = segments = 0
    for block in sample:
        found = segment_batch({name: torch.tensor([values]) for name, values in block.items()}, config)
        ids = found.segment_ids
        starts = (found.token_positions == 0) | (ids != torch.nn.functional.pad(ids[:, :-1], (1, 0), value=-1))
        tokens += ids.numel()
        segments += starts.sum().item()
    return tokens / segments
