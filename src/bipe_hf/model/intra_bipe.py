"""Intra encodings: P in `h_t = E[w_t] + P[min(intra(t), max_segment_length - 1)]`.

An intra encoding is a module that maps intra positions to vectors. To add one: write a class here, name it in
`INTRA_ENCODINGS`, add the name to the values that the configuration accepts.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

from .first_values_bipe import EncodingTable


class LearnedIntraEncoding(EncodingTable):
    """A trained vector for each intra position (the authors' choice)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config.max_segment_length, config.hidden_size)
        self.std = config.intra_initializer_range

    def forward(self, intra_positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`(batch, length)` intra positions to `(batch, length, hidden_size)`; later ones share the last row."""
        return super().forward(intra_positions.clamp(max=self.num_embeddings - 1)).to(dtype)


class SinusoidalIntraEncoding(nn.Module):
    """Sines in the first half of the dimensions, cosines in the second (Vaswani et al., 2017, section 3.5).

    Nothing is stored, so there is nothing to load or to cast: the angles are exact in float32 whatever the model's
    dtype.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.max_segment_length = config.max_segment_length
        self.hidden_size = config.hidden_size

    def forward(self, intra_positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`(batch, length)` intra positions to `(batch, length, hidden_size)`; later ones share the last row."""
        exponents = torch.arange(0, self.hidden_size, 2, device=intra_positions.device) / self.hidden_size
        positions = intra_positions.clamp(max=self.max_segment_length - 1)
        angles = positions[..., None].float() / 10000.0**exponents
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., : self.hidden_size].to(dtype)


INTRA_ENCODINGS: dict[str, Callable[[PreTrainedConfig], nn.Module | None]] = {
    "learned": LearnedIntraEncoding,
    "sinusoidal": SinusoidalIntraEncoding,
    "none": lambda config: None,
}
