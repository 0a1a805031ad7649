"""Rotary pairs: how many there are, how fast they turn, and turning them."""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def rotary_dimensions(config: PreTrainedConfig, head_dim: int) -> int:
    """How many dimensions of a head turn: all in Llama, a part of them in GPT-NeoX.

    Args:
        config: of the model.
        head_dim: of queries and keys, without columns.
    """
    return int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))


def is_fast(frequencies: torch.Tensor, max_period: float) -> torch.Tensor:
    """Whether a pair has a wavelength of at most `max_period` tokens, a `torch.BoolTensor` of shape `(pairs,)`.

    Args:
        frequencies (`torch.FloatTensor` of shape `(pairs,)`): in radians per token.
        max_period: in tokens.
    """
    return 2 * math.pi / frequencies.double() <= max_period


def frequencies_of(rotary_emb: nn.Module) -> torch.Tensor:
    """The frequency of each pair in radians, a `torch.FloatTensor` of shape `(pairs,)`.

    It is made anew, as the module makes it: a cast of the model rounds the buffer.

    Args:
        rotary_emb: a rotary module of transformers.
    """
    kind = rotary_emb.rope_type
    make = rotary_emb.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    return make(rotary_emb.config)[0]


def default_frequencies(theta: float, turning: int, device: torch.device) -> torch.Tensor:
    """The frequency of each pair in radians per token, a float32 tensor of shape `(pairs,)`, as transformers has them.

    They are made when they are read: a cast of the model would round a buffer.

    Args:
        theta: base of the frequencies (`rope_theta`).
        turning: how many dimensions turn.
        device: of the result.
    """
    return 1.0 / theta ** (torch.arange(0, turning, 2, device=device).float() / turning)


def turned(heads: torch.Tensor, index: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """The heads with each pair turned further, in the same shape and dtype.

    Args:
        heads (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): queries or keys.
        index (`torch.LongTensor` of shape `(batch, length)`): in tokens or segments.
        frequencies (`torch.FloatTensor` of shape `(pairs,)`): in radians; dimensions behind those of the pairs stay.
    """
    angles = index[:, None, :, None].to(heads.dtype) * frequencies.to(heads.dtype)
    cos, sin = angles.cos(), angles.sin()
    half = len(frequencies)
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
