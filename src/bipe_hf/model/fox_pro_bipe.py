"""The layer of FoX (Pro) (Lin, Nikishin, He and Courville, ICLR 2025, arXiv 2503.02130)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .index_steps_bipe import IndexSteps
from .last_inputs_bipe import last_inputs
from .layer_mixing_bipe import LayerMixing


class ProMixing(LayerMixing):
    """What FoX (Pro) has besides forget gates: a shift of keys and values, norms, and a gate of the output.

    The layer is that of Lin et al. (ICLR 2025, arXiv 2503.02130).

    - Each key head mixes its key with that of the token before, `a k_before + (1 - a) k`, `a` the sigmoid of a number
      that it reads from the token; its value likewise, with a gate of its own. The first token of a document mixes
      with 0, and padding is passed over.
    - Queries and mixed keys have a root mean square norm of each head, with a weight for each number of each head.
    - The output of each head has such a norm too, and is multiplied by the sigmoid of a map of the token.

    No map has a bias. They start from normal weights, the weights of the norms from 1, as in the authors' code. With
    grouped keys, which the authors do not have, a shift belongs to a key head.
    """

    head_epsilon, output_epsilon = 1e-5, 1e-6

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        of_queries, of_keys = config.num_attention_heads * head_dim, num_key_heads * head_dim
        self.key_shift = nn.Parameter(torch.empty(num_key_heads, config.hidden_size))
        self.value_shift = nn.Parameter(torch.empty(num_key_heads, config.hidden_size))
        self.query_norm = nn.Parameter(torch.empty(of_queries))
        self.key_norm = nn.Parameter(torch.empty(of_keys))
        self.output_norm = nn.Parameter(torch.empty(of_queries))
        self.output_gate = nn.Parameter(torch.empty(of_queries, config.hidden_size))

    def draw(self, generator: torch.Generator, std: float) -> None:
        for parameter in (self.key_shift, self.value_shift, self.output_gate):
            init.normal_(parameter, std=std, generator=generator)
        for parameter in (self.query_norm, self.key_norm, self.output_norm):
            init.ones_(parameter)

    def mix(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        steps: IndexSteps,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        both = torch.cat([key, value], dim=1)
        both_heads, head_dim = both.shape[1], both.shape[3]
        shifts = torch.cat([self.key_shift, self.value_shift])
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            gates = F.linear(hidden_states.to(dtype), shifts.to(dtype)).sigmoid()  # (batch, length, 2 key heads)
        windows = last_inputs(both.transpose(1, 2).flatten(2), past, steps, kernel=2)
        before = windows[:, :, 0].unflatten(-1, (both_heads, head_dim)).transpose(1, 2)
        mixed = torch.lerp(both.to(dtype), before.to(dtype), gates.transpose(1, 2)[..., None])
        key, value = mixed.chunk(2, dim=1)
        query, key = (
            normed(heads.transpose(1, 2), weight, self.head_epsilon).transpose(1, 2).to(both.dtype)
            for heads, weight in ((query, self.query_norm), (key, self.key_norm))
        )
        return query, key, value.to(both.dtype), windows[:, :, 1]

    def finish(self, hidden_states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        gate = F.linear(hidden_states, self.output_gate).sigmoid().view_as(output)
        return normed(output, self.output_norm, self.output_epsilon).to(output.dtype) * gate


def normed(heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """`heads` divided by the root mean square of each head, times a weight for each number; in float32 at least.

    Args:
        heads (`torch.FloatTensor` of shape `(batch, length, heads, head_dim)`): what is normed.
        weight (`torch.FloatTensor` of shape `(heads * head_dim,)`): of each number of each head.
        epsilon: added to the mean square.
    """
    heads = heads.to(torch.promote_types(heads.dtype, torch.float32))
    scale = torch.rsqrt(heads.square().mean(-1, keepdim=True) + epsilon)
    return heads * scale * weight.to(heads.dtype).view(heads.shape[2:])
