"""The part of an inter encoding that sees a layer: one module in every attention layer, with a state in the cache."""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from .cache_bipe import append_layer_states, latest_layer_state
from .inter_terms_bipe import InterTerms


class LayerEncoding(nn.Module):
    """Base of the parts of inter encodings that see a layer: they turn what enters attention into the terms of that
    layer.

    What such a part knows of the tokens before it is its state, which the cache keeps after every token, so that it is
    cropped, reordered and repeated together with the keys. A subclass implements [`LayerEncoding.terms`], and an inter
    encoding names it as its `layer_class`.

    Args:
        config: of the model.
        head_dim: of queries and keys.
        num_key_heads: number of key heads.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__()
        self.num_heads = config.num_attention_heads

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values of its own parameters, as an inter encoding does; its modules draw their own.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """

    def terms(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        terms: InterTerms,
        past: torch.Tensor | None,
    ) -> tuple[InterTerms, torch.Tensor]:
        """The terms of the layer.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): before any encoding.
            key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): before any encoding.
            terms ([`InterTerms`]): those of positions, with `steps`.
            past (`torch.FloatTensor` of shape `(batch, 1, numbers)`, *optional*):
                The state after the tokens that came before. None came by default.

        Returns:
            The terms to apply, and the state after each token, of shape `(batch, length, numbers)`.
        """
        raise NotImplementedError

    def forward(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        terms: InterTerms,
        cache: Cache | None,
        layer_idx: int,
    ) -> InterTerms:
        """As [`LayerEncoding.terms`], with the state from and to the cache of the layer.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): before any encoding.
            key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): before any encoding.
            terms ([`InterTerms`]): those of positions, with `steps`.
            cache ([`~transformers.Cache`], *optional*): with the segments of the new tokens.
            layer_idx: of the layer, from 0.
        """
        if cache is None:
            return self.terms(hidden_states, query, key, terms, None)[0]
        past = latest_layer_state(cache, layer_idx, new_length=hidden_states.shape[1])
        terms, states = self.terms(hidden_states, query, key, terms, past)
        append_layer_states(cache, layer_idx, states)
        return terms
