"""Selective RoPE (ICLR 2026, arXiv 2511.17388): rotary angles that every layer learns."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .first_values_bipe import EncodingMap
from .index_steps_bipe import IndexSteps
from .inter_terms_bipe import InterTerms
from .last_inputs_bipe import low_rank_convolution
from .layer_encoding_bipe import LayerEncoding
from .rotary_pairs_bipe import rotary_dimensions
from .running_bias_bipe import running_sums


class SelectiveAngles(LayerEncoding):
    """The angles of a layer: each pair of each key head turns by the sum of learnt steps, times its frequency.

    Selective RoPE (ICLR 2026, arXiv 2511.17388). The step of a token is a map of rank `selective_rope_rank` of its
    hidden states, each head's share of them divided by its length, then a convolution over the last
    `selective_rope_kernel` tokens, for each pair apart. Pair i of the d dimensions that turn has the frequency
    `selective_rope_theta ** (-2 i / d)`. Where the fields say so a step goes through SiLU and is multiplied by a
    sigmoid that the head reads from the token, as in the authors' best models.

    Over tokens (`segmentation="tokens"`) the steps between key j and query i are those of tokens `j + 1 .. i`: with
    steps of 1 it is RoPE. Over segments they are those of tokens `j .. i - 1` that end a segment, and it is BiPE-RoPE;
    the convolution sees all tokens. Where given segment ids go up by more than 1 a step counts as often.

    The state of a token is the sum of the steps up to it, over segments also the step that it would bring if it ended
    its segment, in float64 as other running sums; and what the convolution of later tokens needs. Padding takes no
    part in either. A packed document has a convolution of its own and goes on with the sum of the one before it, which
    no token of another document sees.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.takes_in_query = config.segmentation == "tokens"
        self.num_key_heads, self.theta = num_key_heads, config.selective_rope_theta
        self.turning = rotary_dimensions(config, head_dim)
        self.kernel, self.is_activated = config.selective_rope_kernel, config.selective_rope_activation == "silu"
        rank, num_steps = config.selective_rope_rank, num_key_heads * (self.turning // 2)
        self.down = nn.Parameter(torch.empty(rank, config.hidden_size))
        self.up = nn.Parameter(torch.empty(num_steps, rank))
        self.taps = nn.Parameter(torch.empty(num_steps, self.kernel))
        is_gated = config.selective_rope_gate == "sigmoid"
        self.gate = EncodingMap(config.hidden_size, num_key_heads) if is_gated else None

    def draw(self, generator: torch.Generator, std: float) -> None:
        for parameter in (self.down, self.up, self.taps):
            init.normal_(parameter, std=std, generator=generator)

    def terms(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        terms: InterTerms,
        past: torch.Tensor | None,
    ) -> tuple[InterTerms, torch.Tensor]:
        past_sums = past_inputs = None
        if past is not None:
            num_inputs = (self.kernel - 1) * len(self.down)
            past_sums, past_inputs = past.split([past.shape[-1] - num_inputs, num_inputs], dim=-1)
        steps, inputs = self.steps(hidden_states, past_inputs, terms.steps)
        sums, states = running_sums(steps, terms.steps, past_sums, takes_in_query=self.takes_in_query)
        states = torch.cat([states, inputs.double()], dim=-1)
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        return terms._replace(head_rotary=self.rotary(sums, dtype)), states

    def steps(
        self, hidden_states: torch.Tensor, past_inputs: torch.Tensor | None, index_steps: IndexSteps
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step of every token, and what the convolution needs of the last tokens up to it.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
            past_inputs (`torch.FloatTensor` of shape `(batch, 1, (kernel - 1) * rank)`, *optional*):
                The latter, before.
            index_steps ([`IndexSteps`]): say what is padding and where documents start.

        Returns:
            Two tensors, of shapes `(batch, length, key heads * pairs)` and `(batch, length, (kernel - 1) * rank)`, in
            float32, of float64 in float64.
        """
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            by_head = hidden_states.to(dtype).unflatten(-1, (self.num_heads, -1))
            normed = (by_head * torch.rsqrt(by_head.square().sum(-1, keepdim=True) + 1e-6)).flatten(2)
            steps, inputs = low_rank_convolution(normed, self.down, self.up, self.taps, past_inputs, index_steps)
        if self.is_activated:
            steps = F.silu(steps)
        if self.gate is not None:
            of_heads = self.gate(normed).sigmoid()
            steps = (steps.unflatten(-1, (self.num_key_heads, -1)) * of_heads[..., None]).flatten(2)
        return steps, inputs

    def rotary(self, sums: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The cosines and sines of the sums of steps, as [`InterTerms`] has them for each head.

        Whole turns are taken off in float64: no angle is too large for the digits of float32.

        Args:
            sums (`torch.DoubleTensor` of shape `(batch, length, key heads * pairs)`): of the steps up to each token.
            dtype: of the result.

        Returns:
            Each of shape `(batch, key heads, length, rotary dimensions)`.
        """
        pairs = torch.arange(0, self.turning, 2, dtype=torch.float64, device=sums.device)
        turns_of_step = self.theta ** (-pairs / self.turning) / (2 * math.pi)
        turns = sums.unflatten(-1, (self.num_key_heads, -1)).transpose(1, 2) * turns_of_step
        angles = (2 * math.pi * (turns - turns.detach().round())).to(dtype)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()
