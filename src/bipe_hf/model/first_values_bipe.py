"""First values of what an encoding learns, drawn apart from those of all other weights.

Models of one seed start from the same weights, whatever their encodings draw, so that they can be compared.
"""

import zlib

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


class EncodingTable(nn.Embedding):
    """A table that an encoding learns.

    `std` is the standard deviation of its first values; None for that of the other weights of the model.
    """

    std: float | None = None

    def reset_parameters(self) -> None:
        """Nothing: the constructor calls it, and a draw here would change all weights that are drawn after it."""

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values; `std` is that of the other weights."""
        init.normal_(self.weight, std=std if self.std is None else self.std, generator=generator)


class EncodingMap(nn.Module):
    """A linear map with bias that an encoding learns, from hidden states to a number for each head.

    It computes in float32 at least, under autocast too. It is no `nn.Linear`: quantization and adapters of all linear
    layers leave it alone.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, hidden_size))
        self.bias = nn.Parameter(torch.empty(num_heads))

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values: normal weights of that standard deviation, biases 0."""
        init.normal_(self.weight, std=std, generator=generator)
        init.zeros_(self.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, hidden_size)` to `(batch, length, heads)`, in float32, of float64 in float64."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            return F.linear(hidden_states.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


def generator_for(name: str, device: torch.device) -> torch.Generator:
    """A generator for the module of this name in the base model: the seed is that of torch, and no global state moves.

    The salt of `intra_encoding` is 0, so that its table starts as in version 0.1, with which results were committed.
    """
    salt = zlib.crc32(name.encode()) ^ zlib.crc32(b"intra_encoding")
    return torch.Generator(device).manual_seed((torch.initial_seed() + 1 + salt) % 2**63)
