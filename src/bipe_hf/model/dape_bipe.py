"""DAPE, data-adaptive positional encoding (Zheng et al., NeurIPS 2024, arXiv 2405.14722), and DAPE V2 (Zheng et al.,
ACL 2025, arXiv 2410.04798).
"""

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .errors_bipe import check_has_all_heads
from .first_values_bipe import PairMap
from .inter_bias_bipe import AlibiPairsInterEncoding, KerpleInterEncoding, LeakyFireInterEncoding
from .logits_bipe import LayerLogits, LogitsBlock


BIASES = {"alibi": AlibiPairsInterEncoding, "kerple": KerpleInterEncoding, "fire": LeakyFireInterEncoding}


class DapeLogits(LayerLogits):
    """An MLP sees the logits and the biases of all heads for a pair of tokens, and what it gives is added to both.

    DAPE (Zheng et al., NeurIPS 2024, arXiv 2405.14722): `a + b + V2 leaky(V1 [a; b] + c1) + c2`, a the products of
    queries and keys, b the bias `dape_bias` by the distance in segments, which every layer learns for itself. With
    `dape_bias="alibi"` nothing of b is learnt.
    """

    kernel = 1
    """How many neighbouring keys a layer of the MLP sees."""

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.num_heads = config.num_attention_heads
        self.bias = BIASES[config.dape_bias](config, None, head_dim)
        self.first = PairMap(2 * self.num_heads, config.dape_width, self.kernel)
        self.second = PairMap(config.dape_width, self.num_heads, self.kernel)

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        """Adds what the MLP gives. Raises `ValueError` for another number of heads than the configuration has."""
        check_has_all_heads("DAPE mixes the logits of", self.num_heads, logits.shape[1])
        bias = self.bias.bias(block.query_ids, block.key_ids, logits.dtype)
        both = torch.cat([logits, bias.expand_as(logits)], dim=1)
        return logits + bias + self.mixed(both, block.is_visible)

    def mixed(self, both: torch.Tensor, is_visible: torch.Tensor) -> torch.Tensor:
        """What the MLP gives, of shape `(batch, heads, queries, keys)` in the same dtype.

        Args:
            both (`torch.FloatTensor` of shape `(batch, 2 heads, queries, keys)`): logits and biases.
            is_visible (`torch.BoolTensor` of shape `(batch or 1, 1, queries, keys)`):
                The keys that a query attends to.
        """
        return self.second(F.leaky_relu(self.first(both)))


class DapeV2Logits(DapeLogits):
    """DAPE with convolutions over `dape_kernel` neighbouring keys.

    DAPE V2 (Zheng et al., ACL 2025, arXiv 2410.04798). Where the authors leave the edge open there is one rule: keys
    that a query does not see are 0, as many zeros as it takes stand behind it, and before the first key that it sees
    there is nothing, in either convolution. So a step from a cache, a padded row and a packed document are what one
    forward of the document alone is. Padding between the tokens of a document would be a neighbour: the model refuses
    it.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        self.kernel = config.dape_kernel
        super().__init__(config, head_dim, num_key_heads)

    def mixed(self, both: torch.Tensor, is_visible: torch.Tensor) -> torch.Tensor:
        reach = self.kernel // 2
        hidden = self.first(F.pad(both.masked_fill(~is_visible, 0), (reach, 2 * reach)))
        # from the first key that the query sees on
        exists = F.pad(is_visible, (0, reach)).long().cummax(-1)[0]
        hidden = F.leaky_relu(hidden) * exists
        return self.second(F.pad(hidden, (reach, 0)))
