"""Rotary pairs: how many there are, and which are fast."""

import math

import torch
from transformers import PreTrainedConfig


def rotary_dimensions(config: PreTrainedConfig, head_dim: int) -> int:
    """How many dimensions of a head turn: all in Llama, a part of them in GPT-NeoX."""
    return int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))


def is_fast(frequencies: torch.Tensor, max_period: float) -> torch.Tensor:
    """Whether a pair has a wavelength of at most `max_period` tokens, for `(pairs,)` frequencies in radians."""
    return 2 * math.pi / frequencies.double() <= max_period
