"""Logits of a layer: attention whose logits go through a module of the layer before mask and softmax.

CoPE reads a position from all logits of a query, DAPE mixes those of all heads: no kernel does either. Queries are
taken in blocks, so that memory is block x keys in the forward, and in the backward too, which makes the logits of a
block anew.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from .cache_bipe import append_layer_states, latest_layer_state, layer_states
from .errors_bipe import InputError
from .index_steps_bipe import IndexSteps
from .inter_terms_bipe import PairIds


QUERIES_IN_A_BLOCK = 128
BACKENDS = ("sdpa", "eager")
"""Those that an encoding with logits of a layer has: blocks of queries, and all of them at once with their weights."""


class LogitsBlock(NamedTuple):
    """What stands behind the logits of a block of queries."""

    query: torch.Tensor
    """`torch.FloatTensor` of shape `(batch, heads, queries, head_dim)`."""
    key: torch.Tensor
    """`torch.FloatTensor` of shape `(batch, key heads, keys, head_dim)`: all that are cached, and in a static cache
    those yet to come."""
    value: torch.Tensor
    """`torch.FloatTensor` of shape `(batch, key heads, keys, head_dim)`, as the keys."""
    own_keys: torch.Tensor | None
    """`torch.FloatTensor` of shape `(batch, keys, numbers)`: what [`LayerLogits.own_keys`] made of every token."""
    is_visible: torch.Tensor
    """`torch.BoolTensor` of shape `(batch or 1, 1, queries, keys)`: the keys that a query attends to."""
    query_ids: torch.Tensor
    """`torch.LongTensor` of shape `(batch, queries)`: segments."""
    key_ids: torch.Tensor
    """`torch.LongTensor` of shape `(batch, keys)`; they mean nothing where no query of the row attends to a key."""
    scaling: float
    """What the products of queries and keys were multiplied by."""
    own_queries: torch.Tensor | None = None
    """`torch.FloatTensor` of shape `(batch, queries, numbers)`: what [`LayerLogits.own_keys`] made of the queries' own
    tokens."""


class LayerLogits(nn.Module):
    """Base of what an inter encoding does with the logits of a layer, which it names as its `logits_class`.

    It changes [`LayerLogits.products`] as they are made, or what they are when they are finished.

    Args:
        config: of the model.
        head_dim: of queries and keys.
        num_key_heads: number of key heads.
    """

    reads_steps = False
    """Whether [`LayerLogits.own_keys`] reads how the segment index goes on."""

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__()

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values of its own parameters, as an inter encoding does; its modules draw their own.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """

    def own_keys(
        self, hidden_states: torch.Tensor, steps: IndexSteps | None, past: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What it reads of each token besides its key and value, for the cache to keep.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            steps ([`IndexSteps`], *optional*):
                How the segment index goes on, what is padding and where documents start; None unless it `reads_steps`.
            past (`torch.FloatTensor` of shape `(batch, 1, numbers)`, *optional*):
                What was made of the last token before. None came by default.

        Returns:
            Of shape `(batch, length, numbers)`; None where that is nothing.
        """
        return None

    def products(self, block: LogitsBlock) -> torch.Tensor:
        """The scaled products of queries and keys, of shape `(batch, heads, queries, keys)`, in float32 at least."""
        products = grouped_product(block.query, block.key.transpose(2, 3))
        return products.to(torch.promote_types(products.dtype, torch.float32)) * block.scaling

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        """The logits to take instead, by default the same.

        Args:
            logits (`torch.FloatTensor` of shape `(batch, heads, queries, keys)`):
                The [`LayerLogits.products`], nothing masked.
            block ([`LogitsBlock`]): what stands behind them.

        Returns:
            Of the same shape. What stands where `block.is_visible` is False is for the mask to hide.
        """
        return logits


def check_backend(inter_encoding: str, attn_implementation: str | None) -> None:
    """Raises `ValueError` for an attention backend that an encoding with logits of a layer does not have.

    Args:
        inter_encoding: its name, for the message.
        attn_implementation: name of the backend; None for the default.
    """
    if attn_implementation not in (None, *BACKENDS):
        raise InputError(
            f"attn_implementation={attn_implementation!r}: inter_encoding={inter_encoding!r} changes the logits of a "
            "query before softmax, which no such kernel lets it see. Use 'sdpa', which takes queries in blocks, or "
            "'eager' (docs/methods.md has the backends of each encoding)."
        )


def all_own_keys(
    logits: LayerLogits, hidden_states: torch.Tensor, steps: IndexSteps | None, cache: Cache | None, layer_idx: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """[`LayerLogits.own_keys`] of the new tokens, and of all: those of the cache, which keeps the new ones, too.

    Args:
        logits ([`LayerLogits`]): of the layer.
        hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
        steps ([`IndexSteps`], *optional*): as in [`LayerLogits.own_keys`].
        cache ([`~transformers.Cache`], *optional*): with the segments of the new tokens.
        layer_idx: of the layer, from 0.

    Returns:
        Of shapes `(batch, length, numbers)` and `(batch, keys, numbers)`; None twice where that is nothing.
    """
    past = None if cache is None else latest_layer_state(cache, layer_idx, new_length=hidden_states.shape[1])
    own_keys = logits.own_keys(hidden_states, steps, past)
    if own_keys is None or cache is None:
        return own_keys, own_keys
    append_layer_states(cache, layer_idx, own_keys)
    return own_keys, layer_states(cache, layer_idx)


def attention_with_logits(
    layer_logits: LayerLogits,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    own_keys: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    ids: PairIds,
    *,
    scaling: float,
    dropout: float,
    backend: str,
    own_queries: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Computes softmax attention with the logits of a layer.

    Args:
        layer_logits ([`LayerLogits`]): of the layer.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): as the layer has turned it.
        key (`torch.FloatTensor` of shape `(batch, key heads, keys, head_dim)`): of all tokens.
        value (`torch.FloatTensor` of shape `(batch, key heads, keys, head_dim)`): of all tokens.
        own_keys (`torch.FloatTensor` of shape `(batch, keys, numbers)`, *optional*):
            Of all tokens (see [`all_own_keys`]).
        attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
            Bool, or float and added to the logits. None is causal: the last query sees all keys.
        ids ([`PairIds`]): segments.
        scaling: factor on the products of queries and keys.
        dropout: share of the weights that are dropped.
        backend: `sdpa`, or `eager`, which gives the weights.
        own_queries (`torch.FloatTensor` of shape `(batch, length, numbers)`, *optional*): of the queries' tokens.

    Returns:
        Output of shape `(batch, length, heads, head_dim)`, and the weights `(batch, heads, length, keys)` or None.
    """
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    # a traced graph serves every length, of which no number of blocks is known
    is_whole = backend == "eager" or torch.jit.is_tracing() or torch.compiler.is_exporting()
    size = QUERIES_IN_A_BLOCK
    starts = (0,) if is_whole else range(0, length, size)

    def attend(place, query, key, value, own_queries, own_keys, attention_mask, query_ids, key_ids):
        is_visible = _is_visible(attention_mask, place, query, key)
        block = LogitsBlock(query, key, value, own_keys, is_visible, query_ids, key_ids, scaling, own_queries)
        logits = layer_logits.products(block)
        with torch.autocast(query.device.type, enabled=False):
            logits = layer_logits(logits, block)
            if attention_mask is not None and attention_mask.dtype != torch.bool:
                logits = logits + attention_mask
            weights = logits.masked_fill(~is_visible, torch.finfo(logits.dtype).min).softmax(-1)
        weights = F.dropout(weights.to(value.dtype), dropout)
        return grouped_product(weights, value), weights

    outputs, weights = [], None
    for start in starts:
        rows = slice(None) if is_whole else slice(start, start + size)
        keys = slice(None) if attention_mask is not None or is_whole else slice(past + start + size)  # none is later
        inputs = (
            query[:, :, rows],
            key[:, :, keys],
            value[:, :, keys],
            None if own_queries is None else own_queries[:, rows],
            None if own_keys is None else own_keys[:, keys],
            None if attention_mask is None else attention_mask[:, :, rows],
            ids.query[:, rows],
            ids.key[:, keys],
        )
        if torch.is_grad_enabled() and len(starts) > 1:
            output, _ = checkpoint(attend, past + start, *inputs, use_reentrant=False)
        else:
            output, weights = attend(past + start, *inputs)
        outputs.append(output)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2), weights if backend == "eager" else None


def grouped_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product of two matrices for each head, where the heads of a group take the same right one.

    Args:
        left (`torch.FloatTensor` of shape `(batch, heads, n, m)`): of queries.
        right (`torch.FloatTensor` of shape `(batch, key heads, m, k)`): of keys or values.

    Returns:
        `torch.FloatTensor` of shape `(batch, heads, n, k)`.
    """
    groups = left.shape[1] // right.shape[1]
    return left @ (right if groups == 1 else right.repeat_interleave(groups, dim=1))


def _is_visible(
    attention_mask: torch.Tensor | None, place: int, query: torch.Tensor, key: torch.Tensor
) -> torch.Tensor:
    """As in [`LogitsBlock`]; the first query stands at key `place`."""
    if attention_mask is None:
        queries = place + torch.arange(query.shape[2], device=query.device)
        return (torch.arange(key.shape[2], device=query.device) <= queries[:, None])[None, None]
    if attention_mask.dtype == torch.bool:
        return attention_mask
    return attention_mask > torch.finfo(attention_mask.dtype).min
