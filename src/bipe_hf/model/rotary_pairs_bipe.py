"""Rotary pairs: how many there are, how fast they turn, and turning them."""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def rotary_dimensions(config: PreTrainedConfig, head_dim: int) -> int:
    """How many dimensions of a head turn: all in Llama, a part of them in GPT-NeoX."""
    return int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))


def is_fast(frequencies: torch.Tensor, max_period: float) -> torch.Tensor:
    """Whether a pair has a wavelength of at most `max_period` tokens, for `(pairs,)` frequencies in radians."""
    return 2 * math.pi / frequencies.double() <= max_period


def frequencies_of(rotary_emb: nn.Module) -> torch.Tensor:
    """Of each pair in radians, of shape `(pairs,)`, as a rotary module of transformers makes them; its buffer may have
    been rounded by a cast of the model.
    """
    kind = rotary_emb.rope_type
    make = rotary_emb.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    return make(rotary_emb.config)[0]


def default_frequencies(theta: float, turning: int, device: torch.device) -> torch.Tensor:
    """Of each pair in radians, of shape `(pairs,)`, as transformers has them for `turning` dimensions.

    They are made when they are read: a cast of the model would round a buffer.
    """
    return 1.0 / theta ** (torch.arange(0, turning, 2, device=device).float() / turning)


def turned(heads: torch.Tensor, index: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Pairs of `(batch, heads, length, head_dim)` turned further by an index of shape `(batch, length)`."""
    angles = index[:, None, :, None].to(heads.dtype) * frequencies.to(heads.dtype)
    cos, sin = angles.cos(), angles.sin()
    half = len(frequencies)
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
