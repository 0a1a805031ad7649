"""What an encoding changes in a layer besides positions: its queries, keys and values, and what its heads give."""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from .cache_bipe import append_layer_states, latest_layer_state
from .index_steps_bipe import IndexSteps


class LayerMixing(nn.Module):
    """Base of what an inter encoding changes in a layer besides positions, which it names as its `mixing_class`.

    Every attention layer has a module of it. Its state of a token is kept beside that of a [`LayerEncoding`], as it is
    given, and treated alike.

    Args:
        config: of the model.
        head_dim: of queries and keys.
        num_key_heads: number of key heads.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__()

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values of its own parameters, as an inter encoding does; its modules draw their own.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """

    def mix(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        steps: IndexSteps,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What takes the place of queries, keys and values before the encoding.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): as projected.
            key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
            value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
            steps ([`IndexSteps`]): say what is padding and where documents start.
            past (`torch.FloatTensor` of shape `(batch, 1, numbers)`, *optional*):
                The state after the tokens that came before. None came by default.

        Returns:
            Queries, keys and values of the same shapes, and the state after each token, `(batch, length, numbers)`.
        """
        raise NotImplementedError

    def finish(self, hidden_states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What takes the place of the output of attention before it is projected, of the same shape.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            output (`torch.FloatTensor` of shape `(batch, length, heads, head_dim)`): of attention.
        """
        raise NotImplementedError

    def forward(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        steps: IndexSteps,
        cache: Cache | None,
        layer_idx: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As [`LayerMixing.mix`], with the state from and to the cache of the layer.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): as projected.
            key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
            value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as projected.
            steps ([`IndexSteps`]): say what is padding and where documents start.
            cache ([`~transformers.Cache`], *optional*): with the segments of the new tokens.
            layer_idx: of the layer, from 0.

        Returns:
            Queries, keys and values of the same shapes.
        """
        if cache is None:
            return self.mix(hidden_states, query, key, value, steps, None)[:3]
        place = f"mixing {layer_idx}"
        past = latest_layer_state(cache, place, new_length=hidden_states.shape[1])
        *mixed, states = self.mix(hidden_states, query, key, value, steps, past)
        append_layer_states(cache, place, states)
        return tuple(mixed)
