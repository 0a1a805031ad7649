"""CABLE, context-aware biases (Veisi et al., 2025, arXiv 2503.08067)."""

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .first_values_bipe import EncodingMap
from .running_bias_bipe import RunningBiasEncoding


class CableDecrements(RunningBiasEncoding):
    """The decrements of a layer: the bias falls by what each token between key and query brings.

    Kinds (`cable_kind`): `weighted`, version 3 of the paper (Veisi et al., 2025, arXiv 2503.08067, equations 2 to 7):
    decrements `relu(map(x_t))`, whose sum is multiplied by `softplus(weight_map(x_i))` of the query; `unweighted`, its
    CABLE_NW, without that weight; `released`, the layer of the authors' code and of version 1: decrements
    `softplus(map(x_t))`, no weight. Logits are scaled by `head_dim**-0.5` in all three.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.decrement = softplus if config.cable_kind == "released" else F.relu
        self.map = EncodingMap(config.hidden_size, self.num_heads)
        is_weighted = config.cable_kind == "weighted"
        self.weight_map = EncodingMap(config.hidden_size, self.num_heads) if is_weighted else None

    def brought(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = None if self.weight_map is None else softplus(self.weight_map(hidden_states))
        return -self.decrement(self.map(hidden_states)), weights


def softplus(numbers: torch.Tensor) -> torch.Tensor:
    """`log(1 + exp(numbers))`.

    The gradient of torch's own has other strides in a compiled step than it was compiled for.

    Args:
        numbers (`torch.FloatTensor` of shape `(...)`): anything real.
    """
    return -F.logsigmoid(-numbers)
