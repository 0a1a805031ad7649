"""Intra encodings: the absolute encodings of the place in the innermost unit and of the indices of inner levels,

`h_t = E[w_t] + P[min(place(t), max_segment_length - 1)] + sum over l of T_l[min(index_l(t), max_inner_index - 1)]`

An intra encoding is a module that maps positions to vectors; P and every T_l are of the same class. To add one: write
a class here, name it in `INTRA_ENCODINGS`, add the name to the values that the configuration accepts.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

from .first_values_bipe import EncodingTable
from .segmentation_bipe import Segments


class LearnedIntraEncoding(EncodingTable):
    """A trained vector for each position (the choice of He et al., ICML 2024, arXiv 2401.16421).

    Args:
        config: of the model.
        rows: positions that it tells apart; later ones share the last row.
        level: which it encodes, from 0, the place in the innermost unit last.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, level: int):
        super().__init__(rows, config.hidden_size)
        self.std = config.intra_initializer_range

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The vector of each position, of shape `(batch, length, hidden_size)`.

        Args:
            positions (`torch.LongTensor` of shape `(batch, length)`): in tokens or units, not negative.
            dtype: of the result.
        """
        return super().forward(positions.clamp(max=self.num_embeddings - 1)).to(dtype)


class SinusoidalIntraEncoding(nn.Module):
    """Sines in the first half of the dimensions, cosines in the second (Vaswani et al., 2017, section 3.5).

    Nothing is stored, so there is nothing to load or to cast: the angles are exact in float32 whatever the model's
    dtype. With inner levels each has a part of the hidden dimensions to itself, all parts alike but for what remains,
    which the last has: equal waves of two levels could not be told apart in their sum.

    Args:
        config: of the model.
        rows: positions that it tells apart; later ones share the last row.
        level: which it encodes, from 0, the place in the innermost unit last.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, level: int):
        super().__init__()
        self.rows = rows
        num_levels = 1 + len(config.inner_separator_token_ids)
        part = config.hidden_size // num_levels
        self.begin = level * part
        self.behind = 0 if level == num_levels - 1 else config.hidden_size - self.begin - part
        self.dimensions = config.hidden_size - self.begin - self.behind

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The waves at each position, of shape `(batch, length, hidden_size)`.

        Args:
            positions (`torch.LongTensor` of shape `(batch, length)`): in tokens or units, not negative.
            dtype: of the result.
        """
        exponents = torch.arange(0, self.dimensions, 2, device=positions.device) / self.dimensions
        positions = positions.clamp(max=self.rows - 1)
        angles = positions[..., None].float() / 10000.0**exponents
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)[..., : self.dimensions].to(dtype)
        return nn.functional.pad(waves, (self.begin, self.behind)) if self.begin or self.behind else waves


INTRA_ENCODINGS: dict[str, Callable[[PreTrainedConfig, int, int], nn.Module | None]] = {
    "learned": LearnedIntraEncoding,
    "sinusoidal": SinusoidalIntraEncoding,
    "none": lambda config, rows, level: None,
}


def build_intra_encoding(config: PreTrainedConfig) -> nn.Module | None:
    """The encoding P of the place in the innermost unit; None where there is none."""
    level = len(config.inner_separator_token_ids)
    return INTRA_ENCODINGS[config.intra_encoding](config, config.max_segment_length, level)


def build_inner_encodings(config: PreTrainedConfig) -> nn.ModuleList:
    """The encodings T_l of every inner level, coarse to fine."""
    build, levels = INTRA_ENCODINGS[config.intra_encoding], len(config.inner_separator_token_ids)
    return nn.ModuleList([build(config, config.max_inner_index, level) for level in range(levels)])


def add_positions(
    hidden_states: torch.Tensor, segments: Segments, inner_encodings: nn.ModuleList, intra_encoding: nn.Module | None
) -> torch.Tensor:
    """The word embeddings plus the absolute encodings of all levels, which a device map may have put elsewhere.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): word embeddings.
        segments ([`Segments`]): positions of each token, entries of shape `(batch, length)`.
        inner_encodings: of [`build_inner_encodings`].
        intra_encoding: of [`build_intra_encoding`].

    Returns:
        `torch.FloatTensor` of the same shape and dtype.
    """
    for inner_encoding, indices in zip(inner_encodings, segments.inner_indices, strict=True):
        inner = inner_encoding(indices, hidden_states.dtype)
        hidden_states = hidden_states + inner.to(hidden_states.device)
    if intra_encoding is not None:
        intra = intra_encoding(segments.intra_positions, hidden_states.dtype)
        hidden_states = hidden_states + intra.to(hidden_states.device)
    return hidden_states
