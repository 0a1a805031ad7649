"""FoX, the Forgetting Transformer (Lin, Nikishin, He and Courville, ICLR 2025, arXiv 2503.02130)."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .first_values_bipe import EncodingMap
from .running_bias_bipe import RunningBiasEncoding


class ForgetGate(RunningBiasEncoding):
    """The forget gate of a layer: the bias is the sum of the logarithms of the gates between key and query.

    FoX (Lin et al., ICLR 2025, arXiv 2503.02130): `f_t = sigmoid(map(x_t))`, and the bias `sum of log f_t` (section
    3). Kinds of gate (`fox_gate`), as in the authors' ablation: `full`, which reads the token; `bias_only`, one learnt
    number for each head; `fixed`, the same and not learnt. The last two start from decay times T, evenly spaced in
    their logarithm from `fox_min_time` to `fox_max_time` over the heads: `log f = -1 / T`, which is ALiBi with slopes
    `1 / T`.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.min_time, self.max_time = config.fox_min_time, config.fox_max_time
        self.map = EncodingMap(config.hidden_size, self.num_heads) if config.fox_gate == "full" else None
        self.bias = nn.Parameter(torch.empty(self.num_heads)) if config.fox_gate == "bias_only" else None

    def decay_times(self, device: torch.device) -> torch.Tensor:
        """The decay time of each head, in tokens or segments: a float64 tensor of shape `(heads,)`.

        It is made anew each time: a cast of the model would round a buffer.
        """
        ends = math.log(self.min_time), math.log(self.max_time)
        return torch.linspace(*ends, self.num_heads, dtype=torch.float64, device=device).exp()

    def draw(self, generator: torch.Generator, std: float) -> None:
        if self.bias is not None:
            init.copy_(self.bias, -torch.log(torch.expm1(1 / self.decay_times(self.bias.device))))

    def brought(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        if self.map is not None:
            return F.logsigmoid(self.map(hidden_states)), None
        if self.bias is not None:
            log_gates = F.logsigmoid(self.bias.to(torch.promote_types(self.bias.dtype, torch.float32)))
        else:
            log_gates = -1 / self.decay_times(hidden_states.device)
        return log_gates.expand(*hidden_states.shape[:2], -1), None
