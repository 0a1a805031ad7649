"""The window of HiRoPE (Zhang, Li, Zhang and Jin, ACL 2024, arXiv 2403.19115)."""

import torch
from transformers import PreTrainedConfig

from .logits_bipe import LayerLogits, LogitsBlock, grouped_product
from .rotary_pairs_bipe import default_frequencies, is_fast, rotary_dimensions, turned


class HiropeLogits(LayerLogits):
    """Chooses between two logits for each pair of tokens, by whether the key stands in the window of the query.

    HiRoPE (Zhang et al., ACL 2024, arXiv 2403.19115). Queries and keys come turned as in a hybrid: fast pairs by the
    token, slow ones by the segment. Less than `hirope_window` W tokens away slow pairs turn by the distance in tokens,
    which is plain RoPE; farther by that in segments plus W - 1 (section 3.2 of the paper). Distances are counted among
    the tokens that a query sees.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.window, self.max_period = config.hirope_window, config.hybrid_max_period
        self.theta = config.rope_parameters["rope_theta"]
        self.turning = rotary_dimensions(config, head_dim)

    def products(self, block: LogitsBlock) -> torch.Tensor:
        """The products of a pair that stands in the window, or out of it."""
        key_tokens = block.is_visible.any(dim=2).long().cumsum(-1)[:, 0]  # (batch or 1, keys)
        seen = block.is_visible[:, 0] * key_tokens[:, None]
        query_tokens = seen.amax(-1)
        distance = query_tokens[:, :, None] - key_tokens[:, None]
        dtype = torch.promote_types(block.query.dtype, torch.float32)
        query, key, frequencies = block.query.to(dtype), block.key.to(dtype), self.slow_frequencies(block.key.device)
        with torch.autocast(query.device.type, enabled=False):
            far_query = turned(query, torch.full_like(block.query_ids, self.window - 1), frequencies)
            near_query = turned(query, query_tokens - block.query_ids, frequencies)
            near_key = turned(key, key_tokens - block.key_ids, frequencies)
            near, far = (
                grouped_product(*pair) * block.scaling
                for pair in ((near_query, near_key.transpose(2, 3)), (far_query, key.transpose(2, 3)))
            )
        return torch.where((distance < self.window)[:, None], near, far)

    def slow_frequencies(self, device: torch.device) -> torch.Tensor:
        """The frequency of each pair in radians, 0 of those that are fast; a float32 tensor of shape `(pairs,)`."""
        frequencies = default_frequencies(self.theta, self.turning, device)
        return frequencies * ~is_fast(frequencies, self.max_period)
