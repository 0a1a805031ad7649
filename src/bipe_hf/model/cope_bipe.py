"""CoPE, contextual position encoding (Golovneva, Wang, Weston and Sukhbaatar 2024, arXiv 2405.18719)."""

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .first_values_bipe import EncodingMap, EncodingTable
from .index_steps_bipe import IndexSteps
from .logits_bipe import LayerLogits, LogitsBlock, grouped_product


NO_SEGMENT = 2**40  # above all that there are


class PositionTable(EncodingTable):
    """The positions of CoPE, which start at 0."""

    std = 0.0


class CopeLogits(LayerLogits):
    """The positions that a query counts by what it reads: a gate of each key says whether the key counts.

    CoPE (Golovneva et al., 2024, arXiv 2405.18719): `p_ij` is the sum of the gates
    `g_it = sigmoid(q_i . k_t / sqrt(d))` from key j to the query i itself, at most `cope_positions - 1` (section 4 of
    the paper); the logit gains `q_i . e(p_ij)`, a row of a table or the mean of two by how near they are. Over
    segments (unless `segmentation="tokens"`) only tokens that end a segment count, from the key up to the one before
    the query: with open gates `p_ij` is the distance in segments. Where given segment ids go up by more than 1 a gate
    counts as often.

    Gates come from the keys, from the values (`cope_gates="values"`, val-gates of the paper) or from keys of their own
    (`"own_keys"`, sep-keys), which the cache keeps. `cope_term` says whether `q . e` is scaled like `q . k`, as in the
    authors' code, or not, as in the paper's listing. Heads share the table, layers have one each.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.counts_tokens = config.segmentation == "tokens"
        self.gates, self.is_scaled = config.cope_gates, config.cope_term == "scaled"
        self.num_key_heads = num_key_heads
        self.table = PositionTable(config.cope_positions, head_dim)
        self.key_map = EncodingMap(config.hidden_size, num_key_heads * head_dim) if self.gates == "own_keys" else None

    def own_keys(
        self, hidden_states: torch.Tensor, steps: IndexSteps, past: torch.Tensor | None
    ) -> torch.Tensor | None:
        return None if self.key_map is None else self.key_map(hidden_states)

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        positions = self.positions(logits, block)
        query = block.query.to(logits.dtype)
        by_row = query @ self.table.weight.to(logits.dtype).T  # (batch, heads, queries, positions)
        if self.is_scaled:
            by_row = by_row * block.scaling
        floor = positions.detach().floor()
        share = positions - floor
        low, high = (by_row.gather(-1, place.long()) for place in (floor, positions.detach().ceil()))
        return logits + torch.lerp(low, high, share)

    def positions(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        """`p_ij` of all pairs, of the shape and dtype of the logits.

        Args:
            logits (`torch.FloatTensor` of shape `(batch, heads, queries, keys)`): products of queries and keys.
            block ([`LogitsBlock`]): what stands behind them.
        """
        if self.gates == "keys":
            of_gates = logits
        else:
            keys = block.value
            if self.gates == "own_keys":
                keys = block.own_keys.unflatten(-1, (self.num_key_heads, -1)).transpose(1, 2)
            query, keys = block.query.to(logits.dtype), keys.to(logits.dtype)
            of_gates = grouped_product(query, keys.transpose(2, 3)) * block.scaling
        counted = of_gates.sigmoid() * self.counts(block).to(logits.dtype)
        sums = counted.flip(-1).cumsum(-1).flip(-1)
        return sums.clamp(max=self.table.num_embeddings - 1)

    def counts(self, block: LogitsBlock) -> torch.Tensor:
        """How often the gate of each key counts for each query: 0 where it does not see the key.

        Over segments it is the way from the key's segment to that of the next key that the query sees, wherever
        padding stands; behind the last, which is the query, there is none.

        Returns:
            Bool or long tensor of shape `(batch or 1, 1, queries, keys)`.
        """
        if self.counts_tokens:
            return block.is_visible
        ids = block.key_ids[:, None, None, :]
        seen = F.pad(torch.where(block.is_visible, ids, NO_SEGMENT), (0, 1), value=NO_SEGMENT)
        following = seen.flip(-1).cummin(-1)[0].flip(-1)[..., 1:]
        return torch.where(block.is_visible & (following != NO_SEGMENT), following - ids, 0)
