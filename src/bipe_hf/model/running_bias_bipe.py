"""Biases `g_i (S_i - S_j)` from running sums that a layer learns: FoX, CABLE. As columns, in linear memory."""

from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .alibi_bipe import BiasColumns, is_16_bit, kernel_dtype, kernel_scalings
from .index_steps_bipe import IndexSteps
from .inter_terms_bipe import InterTerms
from .layer_encoding_bipe import LayerEncoding


class RunningBiasEncoding(LayerEncoding):
    """Base of encodings that add `g_i (S_i - S_j)` to the logits, `S` a running sum of what each token brings.

    Over tokens (`segmentation="tokens"`) the sum that stands between key j and query i takes in tokens `j + 1 .. i`,
    as FoX and CABLE have it. Over segments it takes in those of `j .. i - 1` that end a segment: a separator closes
    its own segment, so that the bias is 0 inside one. Where given segment ids go up by more than 1 the token counts as
    often.

    The state of a token is `S`, over segments also what the token would bring if it ended its segment: in float64, so
    that it does not depend on how a cache was filled. Padding adds nothing. A packed document goes on with the sum of
    the one before it, which no token of another document sees.
    """

    def __init__(self, config: PreTrainedConfig, head_dim: int, num_key_heads: int):
        super().__init__(config, head_dim, num_key_heads)
        self.takes_in_query = config.segmentation == "tokens"

    def brought(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What each token adds to the sum, and the weight g of each query, None where all are 1.

        Both are of shape `(batch, length, heads)`, in float32 or float64.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters, after the norm.
        """
        raise NotImplementedError

    def terms(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        terms: InterTerms,
        past: torch.Tensor | None,
    ) -> tuple[InterTerms, torch.Tensor]:
        brought, weights = self.brought(hidden_states)
        sums, states = running_sums(brought, terms.steps, past, takes_in_query=self.takes_in_query)
        columns = running_columns(sums, weights, query, key)
        return terms._replace(columns=columns), states


def running_sums(
    brought: torch.Tensor, steps: IndexSteps, past: torch.Tensor | None, *, takes_in_query: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`S` of every token, and the state after it.

    Args:
        brought (`torch.FloatTensor` of shape `(batch, length, heads)`): what each token adds.
        steps ([`IndexSteps`]): of the segment index.
        past (`torch.FloatTensor` of shape `(batch, 1, heads or 2 heads)`, *optional*): the state before.
        takes_in_query: whether a token adds to its own sum, or to that of the tokens after it.

    Returns:
        Two float64 tensors, of shapes `(batch, length, heads)` and `(batch, length, heads or 2 heads)`.
    """
    num_heads = brought.shape[-1]
    added = brought = brought.double()
    if not takes_in_query:
        first = torch.zeros_like(brought[:, :1]) if past is None else past[..., num_heads:]
        if steps.latest is not None:  # at padding, that of the last token before it
            places = steps.latest[..., None].expand(-1, -1, num_heads)
            brought = torch.cat([first, brought], dim=1).gather(1, places)
        added = torch.cat([first, brought], dim=1)[:, :-1]
    sums = (steps.size[..., None] * added).cumsum(dim=1)
    if past is not None:
        sums = sums + past[..., :num_heads]
    return sums, sums if takes_in_query else torch.cat([sums, brought], dim=-1)


class Layout(NamedTuple):
    """How the numbers of a dtype are written in parts whose products it holds exactly."""

    sum_parts: tuple[int, ...]
    """Significant bits of each part of a sum, whose weight is 1."""
    weight_parts: tuple[int, ...]
    """Of a weight."""
    weighted_sum_parts: tuple[int, ...]
    """Of a sum that a weight multiplies: with those of a weight they fit the 24 bits in which a kernel adds up."""
    product_parts: tuple[int, ...]
    """Of a sum times its own weight."""
    exponent: int = 0
    """Power of two by which sums are divided and what stands against them multiplied, where large ones would leave
    the range."""


LAYOUTS = {
    torch.float64: Layout((53,), (53,), (53,), (53,)),
    torch.float32: Layout((24, 24), (12, 12), (12, 12, 12), (24, 24)),
    torch.bfloat16: Layout((8, 8, 8), (8,), (8, 8, 8), (8, 8, 8, 8)),
    torch.float16: Layout((11, 11, 11), (11,), (11, 11, 11), (11, 11, 11, 11), exponent=8),
}


def running_columns(
    sums: torch.Tensor, weights: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
) -> BiasColumns:
    """The columns of queries and keys whose product is `g_i (S_i - S_j)`.

    As in [`AlibiBias`] they stand in front of the head, and go from the most to the least significant, so that for
    near keys what the query and the key bring has cancelled before anything small is added. Three things differ, since
    here the numbers are learnt and not whole:

    - Each number is written in parts: the first bits of it, the first bits of what is left, and so on. The sum of
      three of 8 bits is as good as one of 24, where a single bfloat16 would be off by 16 at 8192 tokens.
    - `g_i S_i` is the same for all keys, so softmax does not see it. It is there to cancel, in the sum and in the
      gradient: without it that of g would be as large as S, times what a 16-bit kernel rounds away.
    - Each query head has its own sums. The keys of a group carry the columns of all its heads, and a query has its
      weight in those of its head, 0 elsewhere.

    The first part of a number carries its whole gradient.

    Args:
        sums (`torch.DoubleTensor` of shape `(batch, length, heads)`): `S` of each token.
        weights (`torch.FloatTensor` of shape `(batch, length, heads)`, *optional*): 1 by default.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): read for its shape and dtype.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): read for its shape.
    """
    dtype, head_dim = kernel_dtype(query), query.shape[-1]
    layout = LAYOUTS[dtype]
    scaling = kernel_scalings(head_dim)[is_16_bit(dtype)]
    sums = sums.transpose(1, 2)[..., None] / scaling  # (batch, heads, length, 1)
    if weights is None:
        sum_parts = parts(sums, layout.sum_parts)
        weight_parts, weight_bits = [torch.ones_like(sums)], (0,)
        own_parts, own_bits, sum_bits = sum_parts, layout.sum_parts, layout.sum_parts
    else:
        weight_bits, sum_bits, own_bits = layout.weight_parts, layout.weighted_sum_parts, layout.product_parts
        weight_parts = parts(weights.double().transpose(1, 2)[..., None], weight_bits)
        sum_parts = parts(sums, sum_bits)
        own_parts = parts(sum(weight_parts) * sum(sum_parts), own_bits)

    # (bits before it, query column, key column), the key's of all heads
    power = 2.0**layout.exponent
    one = torch.full_like(sums, power)
    columns = [(place * own_bits[0], 0, part / power, one) for place, part in enumerate(own_parts)]
    for at, weight in enumerate(weight_parts):
        for place, part in enumerate(sum_parts):
            columns.append((at * weight_bits[0] + place * sum_bits[0], 1, -power * weight, part / power))
    columns.sort(key=lambda column: column[:2])
    group = query.shape[1] // key.shape[1]
    heads = torch.arange(sums.shape[1], device=sums.device) % group
    is_own = F.one_hot(heads, group)[:, None]  # (heads, 1, group)
    query_columns, key_columns = [], []
    for _, is_pair, query_column, key_column in columns:
        query_columns.append(query_column * is_own if is_pair else query_column)
        of_group = key_column.unflatten(1, (-1, group))  # (batch, key heads, group, length, 1)
        key_columns.append(of_group.squeeze(-1).transpose(2, 3) if is_pair else of_group[:, :, 0])
    query_side = torch.cat(query_columns, dim=-1)
    key_side = torch.cat(key_columns, dim=-1)
    filling = -(head_dim + query_side.shape[-1]) % 8
    return BiasColumns(
        F.pad(query_side, (0, filling)).to(dtype),
        F.pad(key_side, (0, filling)).to(dtype),
        scaling,
        query_factor=head_dim**-0.5 / scaling,
    )


def parts(numbers: torch.Tensor, bits: tuple[int, ...]) -> list[torch.Tensor]:
    """The numbers as sums of parts with so many significant bits; the first carries the gradient.

    Args:
        numbers (`torch.DoubleTensor` of shape `(...)`): what is written so.
        bits: significant bits of each part.

    Returns:
        A tensor of the same shape and dtype for each part.
    """
    left, found = numbers.detach(), []
    for significant in bits:
        found.append(leading_bits(left, significant))
        left = left - found[-1]
    return [found[0] + (numbers - numbers.detach()), *found[1:]]


def leading_bits(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """The numbers rounded to so many significant bits.

    What is added lies so high that the sum has no room for the others. It is a power of two times the number, so that
    it is exact, also where a compiler fuses it with the sum; a cast to 16 bits and back it may leave out.

    Args:
        numbers (`torch.DoubleTensor` of shape `(...)`): what is rounded.
        bits: significant bits, at most 53.
    """
    far = numbers * 2.0 ** (53 - bits)
    return (numbers + far) - far if bits < 53 else numbers
