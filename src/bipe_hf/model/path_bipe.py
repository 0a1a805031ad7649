"""PaTH attention (Yang et al., 2025, arXiv 2505.16381)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .errors_bipe import check_has_all_heads
from .first_values_bipe import EncodingMap
from .index_steps_bipe import IndexSteps
from .last_inputs_bipe import last_inputs, low_rank_convolution
from .logits_bipe import LayerLogits, LogitsBlock
from .running_bias_bipe import running_sums


KEYS_IN_A_CHUNK = 64


class PathLogits(LayerLogits):
    """The factors `I - beta_t w_t w_t^T` of the tokens between a key and a query, which the layer reads of each token.

    PaTH (Yang et al., 2025, arXiv 2505.16381): `logit_ij = q_i . H_i ... H_{j+1} k_j / sqrt(d)`,
    `H_t = I - beta_t w_t w_t^T` (section 3): the key goes first through the factor of the token behind it, last
    through that of the query. `w` is a unit vector of each key head, the SiLU of a map of rank `rank` and a
    convolution over `kernel` tokens; `beta` lies between 0 and 2. Over segments (unless `segmentation="tokens"`) the
    factors are those of tokens that end a segment, from the key up to the one before the query: nothing changes inside
    a segment. However far given segment ids go up, a factor acts once.

    With `path_gates="fox"` (PaTH-FoX) the logarithms of forget gates between key and query are added, before the
    division by `sqrt(d)` as in the authors' code.

    Keys stay as they are in the cache, with the factors beside them. Logits are exact, without a loop over tokens: a
    block of queries goes back through the keys in chunks, the factors of a chunk by one triangular system (the UT
    transform of the paper, section 3.3, with queries in the place of keys).
    """

    reads_steps = True
    rank, kernel, epsilon = 32, 3, 1e-6

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.takes_in_query = config.segmentation == "tokens"
        self.num_key_heads, self.head_dim = num_key_heads, head_dim
        num_vectors = num_key_heads * head_dim
        self.down = nn.Parameter(torch.empty(self.rank, config.hidden_size))
        self.up = nn.Parameter(torch.empty(num_vectors, self.rank))
        self.taps = nn.Parameter(torch.empty(num_vectors, self.kernel))
        self.strength = EncodingMap(config.hidden_size, num_key_heads)
        is_gated = config.path_gates == "fox"
        self.gate = EncodingMap(config.hidden_size, config.num_attention_heads) if is_gated else None
        self.num_factors = num_vectors + num_key_heads
        self.num_gates = config.num_attention_heads if is_gated else 0

    def draw(self, generator: torch.Generator, std: float) -> None:
        for parameter in (self.down, self.up, self.taps):
            init.normal_(parameter, std=std, generator=generator)

    def own_keys(self, hidden_states: torch.Tensor, steps: IndexSteps, past: torch.Tensor | None) -> torch.Tensor:
        """What [`PathLogits.placed`] gives, and what the convolution of later tokens needs."""
        past_placed = past_inputs = None
        if past is not None:
            num_inputs = (self.kernel - 1) * self.rank
            past_placed, past_inputs = past.split([past.shape[-1] - num_inputs, num_inputs], dim=-1)
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            weights = self.down, self.up, self.taps
            vectors, inputs = low_rank_convolution(hidden_states.to(dtype), *weights, past_inputs, steps)
        vectors = F.silu(vectors).unflatten(-1, (self.num_key_heads, -1))
        vectors = vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + self.epsilon)
        strengths = 2 * self.strength(hidden_states).sigmoid()
        log_gates = None if self.gate is None else F.logsigmoid(self.gate(hidden_states))
        placed = self.placed(vectors, strengths, log_gates, steps, past_placed)
        return torch.cat([placed, inputs.to(placed.dtype)], dim=-1)

    def placed(
        self,
        vectors: torch.Tensor,
        strengths: torch.Tensor,
        log_gates: torch.Tensor | None,
        steps: IndexSteps,
        past: torch.Tensor | None,
    ) -> torch.Tensor:
        """Where each factor stands: what acts between the token before and this one.

        Args:
            vectors (`torch.FloatTensor` of shape `(batch, length, key heads, head_dim)`): of length 1.
            strengths (`torch.FloatTensor` of shape `(batch, length, key heads)`): from 0 to 2.
            log_gates (`torch.FloatTensor` of shape `(batch, length, heads)`, *optional*): logarithms of forget gates.
            steps ([`IndexSteps`]): of the segment index.
            past (`torch.FloatTensor` of shape `(batch, 1, numbers)`, *optional*): the result before.

        Returns:
            Of shape `(batch, length, numbers)`: vectors, strengths and sums of the gates that the logits read; over
            segments then those that the token would bring if it ended its segment. In float64 with gates.
        """
        own = torch.cat([vectors.flatten(2), strengths], dim=-1)
        past_factors = past_sums = None
        if past is not None:
            num_factors = self.num_factors * (1 if self.takes_in_query else 2)
            past_factors, past_sums = past.split([num_factors, past.shape[-1] - num_factors], dim=-1)
            past_factors = past_factors[..., -self.num_factors :]
        if self.takes_in_query:
            vectors, kept = vectors.flatten(2), []
        else:
            windows = last_inputs(own, past_factors, steps, kernel=2)
            vectors, strengths = windows[:, :, 0].split(
                [self.num_factors - self.num_key_heads, self.num_key_heads], -1
            )
            kept = [windows[:, :, 1]]
        strengths = strengths * (steps.size > 0)[..., None]
        placed = [vectors, strengths, *kept]
        if log_gates is not None:
            placed.append(running_sums(log_gates, steps, past_sums, takes_in_query=self.takes_in_query)[1])
        return torch.cat(placed, dim=-1)

    def split(self, factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The vectors, `(batch, length, key heads * head_dim)`, and the strengths, `(batch, length, key heads)`.

        Args:
            factors (`torch.FloatTensor` of shape `(batch, length, key heads * (head_dim + 1))`): both in a row.
        """
        return factors.split([self.num_factors - self.num_key_heads, self.num_key_heads], dim=-1)

    def products(self, block: LogitsBlock) -> torch.Tensor:
        """The products through the factors. Raises `ValueError` for another number of key heads than the configuration
        has.
        """
        key_heads, keys = block.key.shape[1:3]
        check_has_all_heads("PaTH has factors of", self.num_key_heads, key_heads, "key heads")
        dtype = torch.promote_types(block.query.dtype, torch.float32)
        factors = block.own_keys[..., : self.num_factors].to(dtype)
        vectors, strengths = self.split(factors)
        vectors, strengths = vectors.unflatten(-1, (key_heads, -1)).transpose(1, 2), strengths.transpose(1, 2)
        query = block.query.to(dtype).unflatten(1, (key_heads, -1))  # (batch, key heads, group, queries, head_dim)
        group, key = query.shape[2], block.key.to(dtype)
        query = query.flatten(2, 3)
        acts = block.is_visible.long().flip(-1).cummax(-1)[0].flip(-1)  # the factors up to that of the query
        acts = acts.to(dtype).repeat(1, 1, group, 1)
        # a traced graph serves every length, of which no number of chunks is known
        is_whole = torch.jit.is_tracing() or torch.compiler.is_exporting()
        starts = (0,) if is_whole else range(0, keys, KEYS_IN_A_CHUNK)
        found = []
        with torch.autocast(query.device.type, enabled=False):
            for start in reversed(starts):
                place = slice(None) if is_whole else slice(start, start + KEYS_IN_A_CHUNK)
                w, k, beta = vectors[:, :, place], key[:, :, place], strengths[:, :, place]
                between = (w @ w.transpose(2, 3)).tril(-1) * beta[..., None]
                seen = query @ w.transpose(2, 3) * acts[..., place]
                # the diagonal, which is 1, is not read
                share = torch.linalg.solve_triangular(between, seen, upper=False, left=False, unitriangular=True)
                share = share * beta[:, :, None]
                found.insert(0, query @ k.transpose(2, 3) - share @ (w @ k.transpose(2, 3)).tril(-1))
                query = query - share @ w
        products = torch.cat(found, dim=-1).unflatten(2, (group, -1)).flatten(1, 2)
        return products * block.scaling

    def forward(self, logits: torch.Tensor, block: LogitsBlock) -> torch.Tensor:
        if self.gate is None:
            return logits
        first = self.num_factors * (1 if self.takes_in_query else 2)
        query, key = (
            own[..., first : first + self.num_gates].transpose(1, 2) for own in (block.own_queries, block.own_keys)
        )
        return logits + block.scaling * (query[..., :, None] - key[..., None, :]).to(logits.dtype)
