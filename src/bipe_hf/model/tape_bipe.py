"""TAPE (Zhu et al., ICML 2025, arXiv 2501.00712): rotary angles are a state of the tokens that every layer updates."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init


class TapeUpdates(nn.Module):
    """What a layer does to the rotary state of its tokens: a number for each head, pair and half, cos and then sin.

    TAPE (Zhu et al., ICML 2025, arXiv 2501.00712). Queries and keys turn by the state that enters the layer. Then

        E_h <- E_h + s_h (A E)_h                                          A: the weights of attention
        E_h <- E_h + sum over p of down_hp silu(X m)_p sum over g of up_pg E_g      m: what the MLP adds

    s_h is the sum of row h of the matrix `attended`, as in the authors' code; by the paper the matrix mixes heads. No
    map has a bias. `attended` and `up` start from 0, which is RoPE, the others from normal weights. State and updates
    are of float32 at least, under autocast too.

    Args:
        config: of the model; `tape_channels` is the number of channels p, by default four for each head.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        heads = config.num_attention_heads
        width = 4 * heads if config.tape_channels is None else config.tape_channels
        self.attended = nn.Parameter(torch.empty(heads, heads))
        self.up = nn.Parameter(torch.empty(width, heads))
        self.gate = nn.Parameter(torch.empty(width, config.hidden_size))
        self.down = nn.Parameter(torch.empty(heads, width))

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """
        for parameter in (self.attended, self.up):
            init.zeros_(parameter)
        for parameter in (self.gate, self.down):
            init.normal_(parameter, std=std, generator=generator)

    def after_attention(self, state: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The state and a share of the mean of those attended to, of the shape of the state.

        Args:
            state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`): in front of the layer.
            attended (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`):
                Mean under the weights.
        """
        with torch.autocast(state.device.type, enabled=False):
            return state + self.attended.to(state.dtype).sum(-1)[:, None] * attended.to(state.dtype)

    def after_mlp(self, state: torch.Tensor, mlp_output: torch.Tensor) -> torch.Tensor:
        """The state mixed across heads, as the output of the MLP says, of the shape of the state.

        The two maps and the gates between are multiplied first, heads x heads for each token, which is less than
        `width` channels of the size of a head.

        Args:
            state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`): behind attention.
            mlp_output (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what the MLP adds.
        """
        dtype = state.dtype
        with torch.autocast(state.device.type, enabled=False):
            gates = F.silu(F.linear(mlp_output.to(dtype), self.gate.to(dtype)))
            mixing = (self.down.to(dtype) * gates[..., None, :]) @ self.up.to(dtype)
            return state + mixing @ state


def first_state(cos: torch.Tensor, sin: torch.Tensor, num_heads: int) -> torch.Tensor:
    """The state of angles that all heads have, of shape `(batch, length, heads, rotary dimensions)`.

    Their halves are equal, and no update makes them differ: the state has one of each.

    Args:
        cos (`torch.FloatTensor` of shape `(batch, length, rotary dimensions)`): of the angles.
        sin (`torch.FloatTensor` of shape `(batch, length, rotary dimensions)`): of the angles.
        num_heads: of queries.
    """
    half = cos.shape[-1] // 2
    return torch.cat([cos[..., :half], sin[..., :half]], dim=-1)[:, :, None].expand(-1, -1, num_heads, -1)


def angles_of(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines of a state, each of shape `(batch, heads, length, rotary dimensions)`.

    Args:
        state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`): of a layer.
    """
    cos, sin = state.transpose(1, 2).chunk(2, dim=-1)
    return torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
