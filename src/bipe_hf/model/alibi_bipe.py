"""ALiBi over any index (Press et al., ICLR 2022), exact in linear memory with any attention kernel."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .errors_bipe import InputError


class BiasColumns(NamedTuple):
    """Columns put in front of queries and keys, whose products add up to the bias of the attention logits: low-rank
    factors of that bias, which is never made as a matrix.
    """

    query: torch.Tensor
    """Of shape `(batch, heads, length, columns)`."""
    key: torch.Tensor
    """Of shape `(batch, 1, length, columns)`: the same for all heads, so grouped-query attention shares it."""
    scaling: float
    """Factor that the attention kernel must put on the logits, columns included."""
    query_factor: float
    """Factor on the queries that makes up for the difference to the usual `head_dim**-0.5`; 1 where there is none."""


class AlibiBias(nn.Module):
    """The bias of every head as columns of queries and keys.

    The bias `-r (seg_i - seg_j)` of a head with slope r is the product of columns `r` and `-r seg_i` of the query with
    columns `seg_j` and `1` of the key. Three things keep it as exact as a bias that is computed apart:

    - **Digits.** `r seg` can be large while the difference is small, so rounding it would be felt. Slopes and segment
      ids are therefore written in digits of base `2**bits`, each of which the dtype holds exactly, as the kernel's
      float32 sum holds each product of two. Columns go from the most to the least significant, so that for near
      segments every partial sum is exact too.
    - **Columns first.** The kernel sums a dot product from its first to its last dimension. In front, the columns have
      cancelled before the first product of the head is added; at the end they would swallow its last bits.
    - **A power of two as the kernel's scale.** Some float32 kernels scale the query before the product, which rounds
      the digits unless the scale is a power of two. The rest of the usual scale goes to the query. Kernels for 16 bits
      scale the float32 logits, and rounding a 16-bit query would cost more than it brings, so they get the usual
      scale.

    Zeros fill the columns up until the head dimension is a multiple of 8, which flash kernels ask for. Segment ids are
    exact below 2**22 (about 4 million segments), in bfloat16 and float64 below 2**24, in float16 below 2**21.

    Args:
        num_heads: number of attention heads.
        head_dim: dimension of a head without the columns.
        slope_scale: factor on the slopes.
        scale_name: the field of the configuration that `slope_scale` comes from, for messages.
        slope_power: exponent put on the slopes of Press et al. ([`alibi_slopes`]) before `slope_scale`: below 1 those
            of the heads lie closer together, with 0 they are all 1.
    """

    def __init__(self, num_heads: int, head_dim: int, slope_scale: float, scale_name: str, slope_power: float = 1.0):
        super().__init__()
        self.head_dim = head_dim
        self.scale_name = scale_name
        self.scalings = (2.0 ** math.floor(math.log2(self.head_dim**-0.5)), self.head_dim**-0.5)
        self.slopes = [slope_scale * slope**slope_power for slope in alibi_slopes(num_heads)]
        # Integers, because a cast of the model to 16 bits casts every float buffer.
        mantissas, exponents = self.slope_integers()
        self.slope_mantissas = nn.Buffer(mantissas, persistent=False)
        self.slope_exponents = nn.Buffer(exponents, persistent=False)

    def slope_integers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Slopes as `mantissa * 2**exponent`, mantissas of `MANTISSA_BITS` bits; each of shape `(2, heads, 1)`.

        The first row divides the slopes by a power of two, the second by `head_dim**-0.5`, as the kernel multiplies by
        it.
        """
        rows = [[slope / scaling for slope in self.slopes] for scaling in self.scalings]
        fractions = torch.tensor([[math.frexp(slope)[0] for slope in row] for row in rows], dtype=torch.float64)
        exponents = torch.tensor([[math.frexp(slope)[1] for slope in row] for row in rows])
        return (fractions * 2**MANTISSA_BITS).round().long()[..., None], (exponents - MANTISSA_BITS)[..., None]

    def fill_buffers(self) -> None:
        """Fills the buffers that no checkpoint holds, after the model was made on the meta device."""
        for buffer, value in zip((self.slope_mantissas, self.slope_exponents), self.slope_integers(), strict=True):
            init.copy_(buffer, value)

    def forward(self, segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> BiasColumns:
        """Columns for `(batch, length)` segment ids, in the dtype that attention computes in.

        Raises:
            ValueError: if the slopes leave the range of float16 and attention computes in it.
        """
        dtype = kernel_dtype(hidden_states)
        steepest = max(self.slopes) / self.scalings[1]
        if dtype == torch.float16 and steepest > MAX_FLOAT16_SLOPE:
            raise InputError(
                f"{self.scale_name} times sqrt(head_dim) is too large for float16: the steepest slope makes "
                f"{steepest:.0f}, at most {MAX_FLOAT16_SLOPE} fits. Use bfloat16 or float32."
            )
        row = 0 if dtype in (torch.float32, torch.float64) else 1
        query, key = alibi_columns(
            segment_ids, self.slope_mantissas[row], self.slope_exponents[row], dtype, self.head_dim
        )
        scaling = self.scalings[row]
        return BiasColumns(query, key, scaling, query_factor=self.head_dim**-0.5 / scaling)


def alibi_slopes(num_heads: int) -> list[float]:
    """The slopes of Press et al.: a geometric sequence that ends at 2**-8.

    Where the number of heads is no power of two, those of the next lower power are followed by every other one of the
    next higher power.
    """
    lower_power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / lower_power) for head in range(lower_power)]
    return slopes + [2 ** (-8 * (head + 0.5) / lower_power) for head in range(num_heads - lower_power)]


MANTISSA_BITS = 48

# dtype: (bits of a digit, digits of a slope, digits of a segment id). A digit fits the significand of the dtype, and a
# product of two with one bit to spare fits that of the sum: 24 bits, 53 in float64.
DIGITS = {
    torch.float64: (24, 2, 1),
    torch.float32: (11, 2, 2),
    torch.float16: (11, 2, 2),
    torch.bfloat16: (8, 1, 3),
}
# Part of a column's power of two goes to the key, so that neither side leaves the range of float16.
MAX_KEY_EXPONENT_WITH_DIGIT, MAX_KEY_EXPONENT_ALONE = 5, 15
# Beyond this the largest column of a query, `slope * 2**6`, does.
MAX_FLOAT16_SLOPE = 1023


def alibi_columns(
    segment_ids: torch.Tensor,
    slope_mantissas: torch.Tensor,
    slope_exponents: torch.Tensor,
    dtype: torch.dtype,
    head_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of queries and keys whose product is `-slope (seg_i - seg_j)` (see [`AlibiBias`]).

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch, length)`): negative ones (padding) count as 0.
        slope_mantissas, slope_exponents (`torch.LongTensor` of shape `(heads, 1)`)
        dtype: what the attention kernel computes in.
        head_dim: dimension of a head without the columns.

    Returns:
        Two tensors of `dtype`, of shapes `(batch, heads, length, columns)` and `(batch, 1, length, columns)`.
    """
    bits, slope_digits, segment_digits = DIGITS[dtype]
    segments = segment_ids.clamp(min=0)[:, None]  # (batch, 1, length)

    # slope = mantissa * 2**exponent, now with as many bits as there are digits for
    surplus = MANTISSA_BITS - bits * slope_digits
    mantissas = (slope_mantissas + (1 << surplus >> 1)) >> surplus
    unit = power_of_two(slope_exponents + surplus)
    slope_digits_ = _digits(mantissas, bits, slope_digits)
    # float32 holds every digit, and multiplies it by powers of two without rounding
    slope_parts = [digit * unit for digit in slope_digits_]
    product_parts = [
        digit * -unit for digit in _digits_of_product(slope_digits_, segments, bits, segment_digits)
    ]  # (batch, heads, length)
    segment_parts = [digit.float() for digit in _digits(segments, bits, segment_digits)]
    one = torch.ones_like(segment_parts[0])

    columns: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(query_part: torch.Tensor, key_part: torch.Tensor, place: int, key_exponent: int) -> None:
        columns.append((query_part * 2.0 ** (bits * place - key_exponent), key_part * 2.0**key_exponent))

    top = slope_digits + segment_digits - 1
    for place in range(top, -1, -1):
        for slope_place in range(slope_digits):
            segment_place = place - slope_place
            if 0 <= segment_place < segment_digits:
                key_exponent = min(bits * segment_place, MAX_KEY_EXPONENT_WITH_DIGIT)
                add(slope_parts[slope_place], segment_parts[segment_place], place, key_exponent)
        add(product_parts[place], one, place, min(bits * place, MAX_KEY_EXPONENT_ALONE))

    batch, _, length = segments.shape
    heads = mantissas.shape[0]
    query = torch.stack([query.expand(batch, heads, length) for query, _ in columns], dim=-1)
    key = torch.stack([key for _, key in columns], dim=-1)
    filling = -(head_dim + len(columns)) % 8
    return F.pad(query, (0, filling)).to(dtype), F.pad(key, (0, filling)).to(dtype)


def kernel_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """The dtype in which attention computes: autocast's where it is on, else that of the hidden states."""
    device_type = hidden_states.device.type
    if torch.is_autocast_enabled(device_type) and hidden_states.dtype != torch.float64:  # which autocast leaves alone
        return torch.get_autocast_dtype(device_type)
    return hidden_states.dtype


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """`2.0**exponents` in float32, exact (`pow` is not, on every device): the exponent bits are written directly."""
    return ((exponents + 127) << 23).to(torch.int32).view(torch.float32)


def _digits(values: torch.Tensor, bits: int, count: int) -> list[torch.Tensor]:
    """Digits of base `2**bits`, least significant first; the last takes what is left."""
    lower = [values >> (bits * place) & ((1 << bits) - 1) for place in range(count - 1)]
    return [*lower, values >> (bits * (count - 1))]


def _digits_of_product(
    slope_parts: list[torch.Tensor], segments: torch.Tensor, bits: int, segment_digits: int
) -> list[torch.Tensor]:
    """Digits of `slope * segment`, multiplied digit by digit so that 64 bits suffice."""
    digits = []
    carry = torch.zeros_like(segments)
    for part in slope_parts:
        carry = carry + part * segments
        digits.append(carry & ((1 << bits) - 1))
        carry = carry >> bits
    return digits + _digits(carry, bits, segment_digits)
