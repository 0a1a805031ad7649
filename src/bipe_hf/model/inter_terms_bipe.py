"""What an inter encoding contributes to attention."""

from typing import NamedTuple

import torch

from .alibi_bipe import BiasColumns
from .index_steps_bipe import IndexSteps


class PairIds(NamedTuple):
    """Segments of queries and of keys."""

    query: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`: those of the new tokens."""
    key: torch.Tensor
    """`torch.LongTensor` of shape `(batch, keys)`: those of all tokens that have a key."""


class InterTerms(NamedTuple):
    """What an inter encoding contributes to attention.

    The terms of positions are computed once per forward and used by every layer. A [`LayerEncoding`] replaces some of
    them by those of its layer.
    """

    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    """cos and sin, each a `torch.FloatTensor` of shape `(batch, length, rotary dimensions)`."""
    head_rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    """The same where each key head turns by angles of its own: each a `torch.FloatTensor` of shape
    `(batch, key heads, length, rotary dimensions)`."""
    columns: BiasColumns | None = None
    """Columns in front of queries and keys."""
    query_scale: torch.Tensor | None = None
    """Factor on the queries: `torch.FloatTensor` of shape `(batch, 1 or heads, length, 1 or head_dim)`."""
    key_scale: torch.Tensor | None = None
    """Factor on the keys: `torch.FloatTensor` of shape `(batch, 1 or key heads, length, head_dim)`."""
    steps: IndexSteps | None = None
    """For encodings that have a module in every layer: how the segment index goes on, from token to token."""
    ids: PairIds | None = None
    """For encodings that have [`LayerLogits`]."""
    rotary_state: torch.Tensor | None = None
    """`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`, float32 at least: what enters the
    first layer, where layers hand one on (see [`TapeUpdates`])."""
