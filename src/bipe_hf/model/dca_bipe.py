"""Dual Chunk Attention (An et al., ICML 2024, arXiv 2402.17463): RoPE whose distances stay those of training."""

import torch
from transformers import PreTrainedConfig

from .logits_bipe import LayerLogits, LogitsBlock, grouped_product
from .rotary_pairs_bipe import default_frequencies, rotary_dimensions, turned


class DcaLogits(LayerLogits):
    """Chooses between three logits for each pair of tokens, by how many chunks behind that of the query the key is.

    Dual Chunk Attention (An et al., ICML 2024, arXiv 2402.17463). Queries and keys come turned by their place in the
    chunk, which is right inside it: distances are those of RoPE. A query is turned further for the chunk before, where
    they are right for the first `dca_window + 1` places and then stay at `dca_chunk_size`, and for older ones, which
    all seem to be one chunk at the longest distance (section 3 of the paper). Places are those of tokens or of
    segments, counted in each document.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.longest, self.chunk = config.dca_distance_and_chunk
        self.theta = config.rope_parameters["rope_theta"]
        self.turning = rotary_dimensions(config, head_dim)

    def products(self, block: LogitsBlock) -> torch.Tensor:
        """The products of the distance that the pair seems to have."""
        place = block.query_ids % self.chunk
        to_before = (place + self.chunk).clamp(max=self.longest) - place
        to_older = min(2 * self.chunk - 1, self.longest) - place
        dtype = torch.promote_types(block.query.dtype, torch.float32)
        query, key = block.query.to(dtype) * block.scaling, block.key.to(dtype)
        frequencies = default_frequencies(self.theta, self.turning, key.device)
        with torch.autocast(query.device.type, enabled=False):
            queries = [query, *(turned(query, index, frequencies) for index in (to_before, to_older))]
            products = grouped_product(torch.cat(queries, dim=2), key.transpose(2, 3))
        own, before, older = products.unflatten(2, (3, -1)).unbind(2)
        behind = (block.query_ids // self.chunk)[:, None, :, None] - (block.key_ids // self.chunk)[:, None, None]
        return torch.where(behind == 0, own, torch.where(behind == 1, before, older))
