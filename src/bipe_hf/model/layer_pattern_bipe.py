"""Layers that differ in what they see of positions, as a pattern over the layers of a model.

Current language models mix layers: some turn with the token and others see no position (Yang et al., NeurIPS 2025,
arXiv 2501.18795), some attend within a window and others to the whole text (Gemma Team 2024, arXiv 2408.00118). Here
layers with the inter encoding, which counts segments, can stand beside layers that count tokens.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask
from transformers import PreTrainedConfig
from transformers.masking_utils import sliding_window_overlay

from .inter_base_bipe import InterEncoding
from .inter_terms_bipe import InterTerms
from .segmentation_bipe import Segments


class LayerInputs(NamedTuple):
    """What the attention of all layers of one kind receives."""

    terms: InterTerms
    """What the encoding of the layers contributes."""
    attention_mask: torch.Tensor | None
    """`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, bool or float, in the form that the attention backend
    wants."""
    kwargs: dict
    """What the backend wants besides."""


def layer_kind(config: PreTrainedConfig, layer_idx: int) -> str:
    """The kind of a layer by the pattern, which starts anew behind its last entry, or `inter` (see `layer_encodings`).

    Args:
        config: of the model.
        layer_idx: of the layer, from 0.
    """
    pattern = config.layer_encodings
    return pattern[layer_idx % len(pattern)] if pattern else "inter"


class TokenLayers(InterEncoding):
    """The encoding of layers of the other kinds, which see tokens, or no position.

    It has no parameters. Layers with RoPE beside layers without: Yang et al., NeurIPS 2025, arXiv 2501.18795; local
    ones beside global ones: Gemma Team 2024, arXiv 2408.00118.

    Args:
        config: of the model.
        rotary_class: of the family.
        head_dim: of queries and keys.
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.log_scale_train_length = None  # which counts segments
        self.kinds = sorted(set(config.layer_encodings) - {"inter"})
        if {"rope", "local"} & set(self.kinds):
            self.rotary_emb = rotary_class(config)

    def terms(self, segments: Segments, hidden_states: torch.Tensor) -> dict[str, InterTerms]:
        """The terms of each kind of layer, by its name.

        Args:
            segments ([`Segments`]): positions of each token, entries of shape `(batch, length)`.
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): read for its dtype and device.
        """
        plain = super().forward(segments, hidden_states)
        if self.rotary_emb is None:
            return dict.fromkeys(self.kinds, plain)
        rotary = self.rotary_emb(hidden_states, position_ids=segments.token_positions)
        return {kind: plain if kind == "none" else plain._replace(rotary=rotary) for kind in self.kinds}


def windowed(
    attention_mask: torch.Tensor | BlockMask, window: int, past_length: int | torch.Tensor
) -> torch.Tensor | BlockMask:
    """A finished mask without the keys that stand `window` or more columns before the query.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`):
            Bool, or float and added to the logits; or a block mask of that shape.
        window: columns, that of the query counted.
        past_length (`int`, or a long tensor of shape `()`): column at which the first query stands.
    """
    is_near = sliding_window_overlay(window)
    if isinstance(attention_mask, BlockMask):

        def is_near_in_block(row, head, query, key):
            return is_near(row, head, query + past_length, key)

        batch, heads, length, keys = attention_mask.shape
        both = and_masks(attention_mask.mask_mod, is_near_in_block)
        return create_block_mask(both, batch, heads, length, keys, device=attention_mask.kv_indices.device)
    columns = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
    queries = past_length + torch.arange(attention_mask.shape[-2], device=attention_mask.device)
    is_near = is_near(None, None, queries[:, None], columns)
    if attention_mask.dtype == torch.bool:
        return attention_mask & is_near
    return attention_mask.masked_fill(~is_near, torch.finfo(attention_mask.dtype).min)
