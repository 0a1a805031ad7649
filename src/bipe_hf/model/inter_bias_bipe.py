"""Inter encodings whose bias is no product of columns: a number for each pair of tokens and head."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .alibi_bipe import alibi_slopes
from .first_values_bipe import EncodingTable, PairMap
from .inter_base_bipe import InterEncoding


def distances(query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
    """The distance of each pair in segments, a `torch.LongTensor` of shape `(batch, length, keys)`, 0 to later keys.

    Args:
        query_ids (`torch.LongTensor` of shape `(batch, length)`): segment ids of the queries.
        key_ids (`torch.LongTensor` of shape `(batch, keys)`): segment ids of the keys.
    """
    return (query_ids[:, :, None] - key_ids[:, None, :]).clamp(min=0)


class BiasInterEncoding(InterEncoding):
    """Base of those with a bias that is no product of a query column with a key column.

    It takes memory for each pair of tokens and head, and an attention backend that adds it: `sdpa` (without its flash
    kernel), `flex_attention` or `eager`. All layers share it, as in T5.
    """

    has_bias = True

    def bias(self, query_ids: torch.Tensor, key_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The bias of the attention logits.

        Args:
            query_ids (`torch.LongTensor` of shape `(batch, length)`): segment ids of the new tokens.
            key_ids (`torch.LongTensor` of shape `(batch, past + length)`): those of all tokens.
            dtype: of the result.

        Returns:
            `torch.FloatTensor` of shape `(batch, heads, length, past + length)`; what stands at later tokens, padding
            and other documents is for the mask to hide.
        """
        return self.bias_of(distances(query_ids, key_ids)).to(dtype)

    def bias_of(self, distance: torch.Tensor) -> torch.Tensor:
        """The bias of each distance, of shape `(batch, heads, length, keys)`.

        Args:
            distance (`torch.LongTensor` of shape `(batch, length, keys)`): in segments, not negative.
        """
        raise NotImplementedError


class AlibiPairsInterEncoding(BiasInterEncoding):
    """The bias of [`AlibiInterEncoding`] as a number for each pair, for DAPE, which reads it."""

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module] | None, head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.slopes = [config.alibi_slope_scale * slope for slope in alibi_slopes(config.num_attention_heads)]

    def bias_of(self, distance: torch.Tensor) -> torch.Tensor:
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=distance.device)
        return -slopes[:, None, None] * distance[:, None]


class KerpleInterEncoding(BiasInterEncoding):
    """Kerple over segment ids, logarithmic variant: `-r1 log(1 + r2 distance)`, with r1 and r2 above 0 learnt for each
    head.

    Chi et al., NeurIPS 2022, arXiv 2205.09921, equation 4. What is learnt is the logarithm of r1 and r2, which keeps
    them above 0. They start in (0, 2) and (0, 1).
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module] | None, head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.log_r1 = nn.Parameter(torch.empty(config.num_attention_heads))
        self.log_r2 = nn.Parameter(torch.empty(config.num_attention_heads))

    def draw(self, generator: torch.Generator, std: float) -> None:
        for parameter, highest in ((self.log_r1, 2.0), (self.log_r2, 1.0)):
            first = torch.empty(parameter.shape, device=parameter.device, dtype=torch.float32)
            init.copy_(parameter, first.uniform_(0.01, highest, generator=generator).log())

    def bias_of(self, distance: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self.log_r1.dtype, torch.float32)
        r1, r2 = (parameter.to(dtype).exp()[:, None, None] for parameter in (self.log_r1, self.log_r2))
        return -r1 * torch.log1p(r2 * distance[:, None])


class T5InterEncoding(BiasInterEncoding):
    """The relative bias of T5 over segment ids: one learnt number for each head and bucket of distances.

    Raffel et al., JMLR 2020, section 2.1. 32 buckets: one for each distance below 16, then ever wider ones up to 128,
    the last for all that is beyond.
    """

    num_buckets, max_distance = 32, 128

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module] | None, head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.table = EncodingTable(self.num_buckets, config.num_attention_heads)

    def bias_of(self, distance: torch.Tensor) -> torch.Tensor:
        exact = self.num_buckets // 2
        share = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        wide = exact + (share * (self.num_buckets - exact)).long()
        buckets = torch.where(distance < exact, distance, wide.clamp(max=self.num_buckets - 1))
        return self.table(buckets).permute(0, 3, 1, 2)


class FireInterEncoding(BiasInterEncoding):
    """FIRE over segment ids: an MLP of the distance, as a share of how far the query has come.

    Li et al., ICLR 2024, arXiv 2310.04418, equation 4: `V2 relu(V1 r + c1) + c2`,
    `r = log(c n + 1) / log(c max(i, m L) + 1)`: n the distance, i the segment of the query, L `fire_length`, c and m
    learnt. The width of the MLP is `dape_width`.
    """

    first_c, first_m, epsilon = 0.1, 1.0, 1e-6

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module] | None, head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.length = config.fire_length
        self.c = nn.Parameter(torch.empty(1))
        self.m = nn.Parameter(torch.empty(1))
        self.first = PairMap(1, config.dape_width)
        self.second = PairMap(config.dape_width, config.num_attention_heads)

    def draw(self, generator: torch.Generator, std: float) -> None:
        init.constant_(self.c, self.first_c)
        init.constant_(self.m, self.first_m)

    def activation(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the MLP puts on its hidden layer: ReLU, as in the paper.

        Args:
            hidden (`torch.FloatTensor` of shape `(batch, width, length, keys)`): in float32 at least.
        """
        return F.relu(hidden)

    def bias(self, query_ids: torch.Tensor, key_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        own = torch.promote_types(self.c.dtype, torch.float32)
        c, threshold = self.c.to(own), (self.m.to(own) * self.length).abs()
        distance = distances(query_ids, key_ids)
        far = torch.maximum(query_ids.to(own), threshold)[:, :, None]
        with torch.autocast(query_ids.device.type, enabled=False):
            share = torch.log1p((c * distance).abs()) / (torch.log1p((c * far).abs()) + self.epsilon)
            return self.second(self.activation(self.first(share[:, None]))).to(dtype)


class LeakyFireInterEncoding(FireInterEncoding):
    """FIRE as DAPE has it (Zheng et al., NeurIPS 2024, arXiv 2405.14722), with a leaky activation."""

    def activation(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(hidden)
