"""Kernel CABLE (Veisi et al., 2025, arXiv 2503.08067, section 5.6)."""

import torch
from transformers import PreTrainedConfig

from .cable_bipe import CableDecrements
from .errors_bipe import check_has_all_heads
from .index_steps_bipe import IndexSteps
from .logits_bipe import LayerLogits, LogitsBlock
from .running_bias_bipe import running_sums


class CableKernelLogits(LayerLogits):
    """A bias that falls with the logarithm of the decrements between key and query: `-g_i log(1 + (S_i - S_j)^2)`.

    Kernel CABLE (Veisi et al., 2025, arXiv 2503.08067, section 5.6). S is the running sum of decrements and g the
    weight of the query, by `cable_kind` as in [`CableDecrements`]; over tokens and over segments as there. It is no
    product of columns: it is made for each pair of tokens, from the sum of each token, in float64 up to the
    difference.
    """

    reads_steps = True

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.num_heads = config.num_attention_heads
        self.decrements = CableDecrements(config, head_dim, num_key_heads)

    def own_keys(self, hidden_states: torch.Tensor, steps: IndexSteps, past: torch.Tensor | None) -> torch.Tensor:
        """The sum at each token, over segments what the token would bring, and the weight where there is one, in
        float64.
        """
        brought, weights = self.decrements.brought(hidden_states)
        takes_in_query = self.decrements.takes_in_query
        if past is not None:
            past = past[..., : self.num_heads * (1 if takes_in_query else 2)]
        _, states = running_sums(brought, steps, past, takes_in_query=takes_in_query)
        return states if weights is None else torch.cat([states, weights.double()], dim=-1)

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        """Adds the bias. Raises `ValueError` for another number of heads than the configuration has."""
        check_has_all_heads("kernel CABLE has a sum for each of", self.num_heads, logits.shape[1])
        query, key = (own[..., : self.num_heads].transpose(1, 2) for own in (block.own_queries, block.own_keys))
        far = (query[..., :, None] - key[..., None, :]).to(logits.dtype)
        bias = -torch.log1p(far.square())
        if self.decrements.weight_map is not None:
            weights = block.own_queries[..., -self.num_heads :].transpose(1, 2)[..., None]
            bias = weights.to(logits.dtype) * bias
        return logits + bias
