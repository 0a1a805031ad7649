"""Attention with the terms of any inter encoding: what happens between the projections of a layer, in every family."""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .alibi_bipe import BiasColumns
from .errors_bipe import check_has_all_heads
from .inter_bipe import INTER_ENCODINGS
from .inter_terms_bipe import InterTerms
from .layer_pattern_bipe import LayerInputs, layer_kind
from .logits_bipe import all_own_keys, attention_with_logits
from .packing_bipe import Documents, attention_by_document
from .tape_bipe import angles_of


class BipeAttentionMixin:
    """An attention module with the part that its inter encoding has in every layer.

    It comes before the family's own.

    Args:
        config: of the model.
        layer_idx: of the layer, from 0.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.layer_kind = layer_kind(config, layer_idx)
        layer_class = mixing_class = logits_class = None
        if self.layer_kind == "inter":
            inter_encoding = INTER_ENCODINGS[config.inter_encoding]
            layer_class, mixing_class = inter_encoding.layer_class, inter_encoding.mixing_class
            logits_class = inter_encoding.logits_class
        key_heads, head_dim = self.key_shape
        self.layer_encoding = None if layer_class is None else layer_class(config, head_dim, key_heads)
        self.layer_mixing = None if mixing_class is None else mixing_class(config, head_dim, key_heads)
        self.layer_logits = None if logits_class is None else logits_class(config, head_dim, key_heads)

    @property
    def key_shape(self) -> tuple[int, int]:
        """The number of key heads and the dimension of a head, which every family says."""
        raise NotImplementedError


def bilevel_attention(
    layer: BipeAttentionMixin,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    terms: InterTerms | dict[str, LayerInputs],
    attention_mask: torch.Tensor | None,
    cache: Cache | None,
    *,
    hidden_states: torch.Tensor,
    rotate: Callable,
    eager_attention: Callable,
    rotary_state: torch.Tensor | None = None,
    documents: Documents | None = None,
    **kwargs,
) -> tuple[torch.Tensor, ...]:
    """Applies the terms, updates the cache and calls the attention backend of the configuration.

    Args:
        layer: the attention module of a transformers family, with its `config`, `layer_idx`, `scaling` and
            `attention_dropout`.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): as projected.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
        value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
        terms ([`InterTerms`], or a dictionary of [`LayerInputs`]):
            Where layers differ, what those of each kind receive.
        attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
            In the form that the backend wants, bool or of the dtype of the queries, or a block mask; where layers
            differ, that of those with the inter encoding.
        cache ([`~transformers.Cache`], *optional*): gets the keys as attention sees them, columns included.
        hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters the layer.
        rotate: the family's `apply_rotary_pos_emb`.
        eager_attention: the family's `eager_attention_forward`.
        rotary_state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`, *optional*):
            What queries and keys turn by where layers hand it on (see [`TapeUpdates`]).
        documents ([`Documents`], *optional*): of packed rows, where they stand for the mask.

    Returns:
        Output of shape `(batch, length, heads * head_dim)`, and the weights where the backend gives them; with a
        rotary state also its mean under those weights, of the shape of the state.
    """
    head_dim, scaling = value.shape[-1], layer.scaling
    if isinstance(terms, dict):
        own = terms[layer.layer_kind]
        terms = own.terms
        if layer.layer_kind != "inter":  # whose bias and mask came by position
            kwargs.pop("position_bias", None)
            attention_mask = own.attention_mask
            kwargs |= own.kwargs
    if layer.layer_mixing is not None:
        heads = query, key, value
        query, key, value = layer.layer_mixing(hidden_states, *heads, terms.steps, cache, layer.layer_idx)
    if layer.layer_encoding is not None:
        terms = layer.layer_encoding(hidden_states, query, key, terms, cache, layer.layer_idx)
    if rotary_state is not None:
        terms = terms._replace(head_rotary=angles_of(rotary_state))
    query, key, value = apply_terms(terms, query, key, value, rotate)
    if terms.columns is not None:
        eager_attention, scaling = eager_with_columns(eager_attention), terms.columns.scaling
    if rotary_state is not None:
        value = torch.cat([value, rotary_state.transpose(1, 2).to(value.dtype)], dim=-1)
        value = F.pad(value, (0, -value.shape[-1] % 8))  # flash kernels want a multiple of 8,
    backend = layer.config._attn_implementation
    if isinstance(cache, PagedAttentionCache):
        key, value = cache.update(key, value, layer.layer_idx, kwargs=kwargs)
        backend = backend.removeprefix("paged|")  # which is for the cache alone
    elif cache is not None:
        key, value = cache.update(key, value, layer.layer_idx)
    if rotary_state is not None:  # and one head dimension for all three
        query, key = (F.pad(each, (0, value.shape[-1] - head_dim)) for each in (query, key))

    dropout = layer.attention_dropout if layer.training else 0.0
    if layer.layer_logits is not None:
        layer_logits = layer.layer_logits
        own_queries, own_keys = all_own_keys(layer_logits, hidden_states, terms.steps, cache, layer.layer_idx)
        output, weights = attention_with_logits(
            layer_logits,
            query,
            key,
            value,
            own_keys,
            attention_mask,
            terms.ids,
            scaling=scaling,
            dropout=dropout,
            backend=backend,
            own_queries=own_queries,
        )
    elif documents is not None:
        given = {"scaling": scaling, "dropout": dropout, "window": kwargs.get("sliding_window")}
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        output, weights = attention_by_document(sdpa, layer, query, key, value, documents, **given)
    else:
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)
        output, weights = attention(
            layer,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
    if terms.columns is not None:
        output = output[..., :head_dim]
    if rotary_state is not None:
        output, attended = output[..., : head_dim + rotary_state.shape[-1]].tensor_split([head_dim], dim=-1)
        return output.flatten(2), weights, attended
    if layer.layer_mixing is not None:
        output = layer.layer_mixing.finish(hidden_states, output)
    return output.flatten(2), weights


def apply_terms(
    terms: InterTerms, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Callable
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The queries, keys and values as an attention kernel gets them: scaled, turned, and with columns where there are
    any.

    Args:
        terms ([`InterTerms`]): of the layer.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): before any encoding.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): before any encoding.
        value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): before any encoding.
        rotate: the family's `apply_rotary_pos_emb`.

    Returns:
        Three tensors of the same shapes, whose last dimension is longer by the columns.
    """
    if terms.query_scale is not None:
        query = query * terms.query_scale
    if terms.key_scale is not None:
        key = key * terms.key_scale
    if terms.rotary is not None:
        query, key = rotate(query, key, *terms.rotary)
    if terms.head_rotary is not None:
        query, key = rotate_by_head(rotate, query, key, *terms.head_rotary)
    if terms.columns is not None:
        query, key, value = attach_columns(terms.columns, query, key, value)
    return query, key, value


def rotate_by_head(
    rotate: Callable, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns each key head, and the query heads of its group, by angles of its own.

    It computes in the dtype of `cos` and `sin`.

    Args:
        rotate: the family's `apply_rotary_pos_emb`.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): before the encoding.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): before the encoding.
        cos (`torch.FloatTensor` of shape `(batch, key heads, length, rotary dimensions)`): of the angles.
        sin (`torch.FloatTensor` of shape `(batch, key heads, length, rotary dimensions)`): of the angles.

    Returns:
        Queries and keys of the same shapes, in the dtype of the queries.

    Raises:
        ValueError: if the number of key heads is not that of the angles, as under tensor parallelism.
    """
    key_heads = cos.shape[1]
    check_has_all_heads("inter_encoding has angles for each of", key_heads, key.shape[1], "key heads")
    dtype = query.dtype
    query, key = rotate(query.unflatten(1, (key_heads, -1)), key[:, :, None], cos, sin, unsqueeze_dim=2)
    return query.flatten(1, 2).to(dtype), key.squeeze(2).to(dtype)


def attach_columns(
    columns: BiasColumns, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Puts the columns in front of queries and keys and as many zeros behind the values.

    Flash kernels want one head dimension for all three; the attention output ends with the zeros' share, to be cut
    off.

    Args:
        columns ([`BiasColumns`]): of the same heads.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): turned.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): turned.
        value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.

    Returns:
        Queries, keys and values with `columns + head_dim` numbers a head.

    Raises:
        ValueError: if the number of heads is not that of the columns, as under tensor parallelism.
    """
    check_has_all_heads("the bias of inter_encoding has columns for each of", columns.query.shape[1], query.shape[1])
    if columns.query_factor != 1.0:
        query = query * columns.query_factor
    query = torch.cat([columns.query, query], dim=-1)
    key = torch.cat([columns.key.expand(-1, key.shape[1], -1, -1), key], dim=-1)
    return query, key, F.pad(value, (0, key.shape[-1] - value.shape[-1]))


def eager_with_columns(eager_attention: Callable) -> Callable:
    """The eager attention of a family with logits that are at least float32.

    A bias can leave the range of float16 where the mask is about to be added, and infinity minus infinity is no
    number.
    """

    def forward(module, query, key, value, attention_mask, **kwargs):
        dtype = torch.promote_types(query.dtype, torch.float32)
        inputs = (x.to(dtype) for x in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            output, weights = eager_attention(module, *inputs, attention_mask, **kwargs)
        return output.to(query.dtype), weights.to(query.dtype)

    return forward


def mask_for_columns(attention_mask: torch.Tensor) -> torch.Tensor:
    """An additive 16-bit mask whose masked entries stay below any bias: float32, at that dtype's minimum.

    Args:
        attention_mask (float16 or bfloat16 `torch.Tensor` of shape `(batch or 1, 1, length, keys)`):
            Added to the logits.
    """
    is_masked = attention_mask <= torch.finfo(attention_mask.dtype).min
    return attention_mask.float().masked_fill(is_masked, torch.finfo(torch.float32).min)
