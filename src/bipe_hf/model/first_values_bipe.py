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
        """Draws the first values.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """
        init.normal_(self.weight, std=std if self.std is None else self.std, generator=generator)


class EncodingMap(nn.Module):
    """A linear map with bias that an encoding learns, from hidden states to some numbers for each token.

    It computes in float32 at least, under autocast too. It is no `nn.Linear`: quantization and adapters of all linear
    layers leave it alone.

    Args:
        hidden_size: numbers of a token that it reads.
        num_outputs: numbers that it makes of them.
    """

    def __init__(self, hidden_size: int, num_outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, hidden_size))
        self.bias = nn.Parameter(torch.empty(num_outputs))

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values: normal weights, biases 0.

        Args:
            generator: of the module.
            std: standard deviation of the weights.
        """
        init.normal_(self.weight, std=std, generator=generator)
        init.zeros_(self.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The numbers of each token, of shape `(batch, length, outputs)` in float32, of float64 in float64.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): of the tokens.
        """
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            return F.linear(hidden_states.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class PairMap(nn.Module):
    """A linear map with bias of the numbers that belong to a pair of tokens, and those of neighbouring keys.

    First values are those of a linear layer of PyTorch. It computes in the dtype that it gets, without autocast.

    Args:
        num_inputs: numbers of a pair that it reads.
        num_outputs: numbers of a pair that it makes of them.
        kernel: keys that one output sees.
    """

    def __init__(self, num_inputs: int, num_outputs: int, kernel: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, kernel))
        self.bias = nn.Parameter(torch.empty(num_outputs))

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values.

        Args:
            generator: of the module.
            std: standard deviation of the other weights, which says nothing here.
        """
        bound = self.weight[0].numel() ** -0.5
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """The numbers of each pair, of shape `(batch, outputs, queries, keys)` in the same dtype.

        No convolution of a library: on a GPU that would round float32 to 10 bits.

        Args:
            pairs (`torch.FloatTensor` of shape `(batch, inputs, queries, keys + kernel - 1)`): of the pairs.
        """
        kernel = self.weight.shape[-1]
        keys = pairs.shape[-1] - kernel + 1
        weight, bias = self.weight.to(pairs.dtype), self.bias.to(pairs.dtype)
        mapped = sum(weight[..., at] @ pairs[..., at : at + keys].flatten(2) for at in range(kernel))
        return mapped.unflatten(2, (-1, keys)) + bias[:, None, None]


def generator_for(name: str, device: torch.device) -> torch.Generator:
    """A generator for a module: the seed is that of torch, and no global state moves.

    The salt of `intra_encoding` is 0, so that its table starts as in version 0.1, with which results were committed.

    Args:
        name: of the module in the base model.
        device: of its parameters.
    """
    salt = zlib.crc32(name.encode()) ^ zlib.crc32(b"intra_encoding")
    return torch.Generator(device).manual_seed((torch.initial_seed() + 1 + salt) % 2**63)
