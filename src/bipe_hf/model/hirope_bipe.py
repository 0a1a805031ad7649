"""The window of HiRoPE (Zhang, Li, Zhang and Jin, ACL 2024, arXiv 2403.19115)."""

import math

import torch
from transformers import PreTrainedConfig

from .logits_bipe import LayerLogits, LogitsBlock, grouped_product


class HiropeLogits(LayerLogits):
    """Chooses between two logits for each pair of tokens, by whether the key stands in the window of the query.

    Queries and keys come turned as in a hybrid: fast pairs by the token, slow ones by the segment. Less than
    `hirope_window` W tokens away slow pairs turn by the distance in tokens, which is plain RoPE; farther by that in
    segments plus W - 1 (section 3.2 of the paper). Distances are counted among the tokens that a query sees.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.window, self.max_period = config.hirope_window, config.hybrid_max_period
        self.theta = config.rope_parameters["rope_theta"]
        self.turning = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        key_tokens = block.is_visible.any(dim=2).long().cumsum(-1)[:, 0]  # (batch or 1, keys)
        seen = block.is_visible[:, 0] * key_tokens[:, None]
        query_tokens = seen.amax(-1)
        distance = query_tokens[:, :, None] - key_tokens[:, None]
        query, key = block.query.to(logits.dtype), block.key.to(logits.dtype)
        far_query = self.turned(query, torch.full_like(block.query_ids, self.window - 1))
        near_query = self.turned(query, query_tokens - block.query_ids)
        near_key = self.turned(key, key_tokens - block.key_ids)
        near, far = (
            grouped_product(*pair) * block.scaling
            for pair in ((near_query, near_key.transpose(2, 3)), (far_query, key.transpose(2, 3)))
        )
        return torch.where((distance < self.window)[:, None], near, far)

    def turned(self, heads: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Slow pairs of `(batch, heads, length, head_dim)` turned further by an index of shape `(batch, length)`."""
        pairs = torch.arange(0, self.turning, 2, device=heads.device).float() / self.turning
        frequencies = 1.0 / self.theta**pairs  # as transformers has them
        is_slow = 2 * math.pi / frequencies.double() > self.max_period
        angles = index[:, None, :, None].to(heads.dtype) * (frequencies * is_slow).to(heads.dtype)
        cos, sin = angles.cos(), angles.sin()
        half = self.turning // 2
        first, second, rest = heads.split([half, half, heads.shape[-1] - self.turning], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
