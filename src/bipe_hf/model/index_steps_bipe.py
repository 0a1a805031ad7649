"""How far the segment index goes from each token to the next: what running sums over segments are made of."""

from typing import NamedTuple

import torch

from .segmentation_bipe import SegmentState, at_latest


class IndexSteps(NamedTuple):
    """What the layers of a model need to know of the segments, once per forward."""

    size: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`: segment of the token minus that of the token before; 0 at padding
    and at the first token of a document. Where every token is its own segment it is 1 at all the others."""
    latest: torch.Tensor | None = None
    """`torch.LongTensor` of shape `(batch, length)`: the last token up to each place that is no padding, counted from
    1; 0 where none came in this forward. None where nothing is padding."""
    starts_document: torch.Tensor | None = None
    """`torch.BoolTensor` of shape `(batch, length)`: True where a packed document starts. None where none does."""


def index_steps(
    state: SegmentState,
    *,
    is_token: torch.Tensor | None = None,
    starts_document: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> IndexSteps:
    """The steps of the segment index.

    Args:
        state ([`SegmentState`]): after each token, entries of shape `(batch, length)`.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*): False at padding.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*): True where one starts.
        past ([`SegmentState`], *optional*): after the tokens that came before, entries of shape `(batch, 1)`.
    """
    index = state.segment_id
    before_all = torch.full_like(index[:, :1], -1) if past is None else past.segment_id
    before = torch.cat([before_all, index], dim=1)[:, :-1]  # a program that is exported takes two tokens, too
    size = (index - before).masked_fill(before < 0, 0)
    if starts_document is not None:
        size = size.masked_fill(starts_document, 0)
    latest = None
    if is_token is not None:
        places = torch.arange(1, 1 + index.shape[1], device=index.device)
        latest = at_latest(places.expand_as(is_token), is_token)
    return IndexSteps(size, latest, starts_document)
