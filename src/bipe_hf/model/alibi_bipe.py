"""ALiBi over any index (Press et al., ICLR 2022), exact in linear memory with any attention kernel."""

import math
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init

from .errors_bipe import InputError


class BiasColumns(NamedTuple):
    """Columns put in front of queries and keys, whose products add up to the bias of the attention logits.

    They are low-rank factors of that bias, which is never made as a matrix.
    """

    query: torch.Tensor
    """`torch.FloatTensor` of shape `(batch, heads, length, columns)`."""
    key: torch.Tensor
    """`torch.FloatTensor` of shape `(batch, 1, length, columns)`, the same for all heads, or
    `(batch, key heads, length, columns)`."""
    scaling: float
    """Factor that the attention kernel must put on the logits, columns included."""
    query_factor: float
    """Factor on the queries that makes up for the difference to the usual `head_dim**-0.5`; 1 where there is none."""


class AlibiBias(nn.Module):
    """The bias of ALiBi (Press et al., ICLR 2022) of every head as columns of queries and keys.

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
        self.scalings = kernel_scalings(head_dim)
        self.unscaled_slopes = [slope**slope_power for slope in alibi_slopes(num_heads)]
        self.slopes = [slope_scale * slope for slope in self.unscaled_slopes]
        # Integers, because a cast of the model to 16 bits casts every float buffer.
        self.exponents = {}
        for dtype in DIGITS:
            layout, self.exponents[dtype] = self.layout(dtype)
            self.register_buffer(self._name(dtype), layout, persistent=False)

    @staticmethod
    def _name(dtype: torch.dtype) -> str:
        return f"layout_{str(dtype).removeprefix('torch.')}"

    @torch.no_grad()
    def set_scale(self, slope_scale: float) -> None:
        """Puts another factor on the slopes of a model that is in use."""
        self.slopes = [slope_scale * slope for slope in self.unscaled_slopes]
        for dtype in DIGITS:
            layout, self.exponents[dtype] = self.layout(dtype)
            self.get_buffer(self._name(dtype)).copy_(layout)

    def layout(self, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
        """The table and the exponent by which columns of a dtype come out of segment ids (see [`alibi_columns`]).

        The slopes that are multiplied are those for the scale that the kernel of the dtype puts on.

        Returns:
            A `torch.LongTensor` of shape `(7, heads + 1, 1, columns)` and an exponent, as [`column_layout`] gives
            them.
        """
        scaling = self.scalings[is_16_bit(dtype)]
        return column_layout([slope / scaling for slope in self.slopes], dtype, self.head_dim)

    def fill_buffers(self) -> None:
        """Fills the buffers that no checkpoint holds, after the model was made on the meta device."""
        for dtype in DIGITS:
            init.copy_(self.get_buffer(self._name(dtype)), self.layout(dtype)[0])

    def forward(self, segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> BiasColumns:
        """The columns of queries and keys, in the dtype that attention computes in.

        Args:
            segment_ids (`torch.LongTensor` of shape `(batch, length)`): negative ones (padding) count as 0.
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): read for its dtype and device.

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
        layout, exponent = self.get_buffer(self._name(dtype)), self.exponents[dtype]
        query, key = alibi_columns(segment_ids, layout, exponent, dtype)
        scaling = self.scalings[is_16_bit(dtype)]
        return BiasColumns(query, key, scaling, query_factor=self.head_dim**-0.5 / scaling)


def alibi_slopes(num_heads: int) -> list[float]:
    """The slopes of Press et al. for `num_heads` heads: a geometric sequence that ends at 2**-8.

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


class Column(NamedTuple):
    """One column of one head, in integers: `(digit * factor + fixed) * 2**exponent`.

    The digit is one of the product of a number with the segment, `(segment * number >> shift) & mask`.

    Args:
        number: what the segment is multiplied by.
        carried: what the digits below those of `number` multiply, since a product in float64 does not fit 64 bits.
        shift: bits of the product below the digit.
        mask: bits of the digit; -1 takes all that is left.
        factor: of the digit.
        fixed: what is added.
        exponent: power of two on both.
    """

    number: int = 0
    carried: int = 0
    shift: int = 0
    mask: int = 0
    factor: int = 0
    fixed: int = 0
    exponent: int = 0


def column_layout(slopes: list[float], dtype: torch.dtype, head_dim: int) -> tuple[torch.Tensor, int]:
    """The columns of queries and keys for the bias `-slope (seg_i - seg_j)` of each slope (see [`AlibiBias`]).

    Args:
        slopes: one for each head, for the scale of the kernel.
        dtype: what the attention kernel computes in.
        head_dim: dimension of a head without the columns.

    Returns:
        A `torch.LongTensor` of shape `(7, heads + 1, 1, columns)`, the keys as the last head, and an exponent. Along
        the first dimension: number, carried, shift, mask, factor, minus fixed, and a power of two. Factor and fixed
        part are to be divided by that power and multiplied by `2**exponent`.
    """
    heads = [_query_columns(slope, *DIGITS[dtype]) for slope in slopes] + [_key_columns(*DIGITS[dtype])]
    filling = num_columns(head_dim, dtype) - len(heads[0])
    heads = [[*columns, *[Column()] * filling] for columns in heads]
    # Both sides of the division fit 62 bits: the exponents of a model lie close enough.
    exponent = 40 + min(column.exponent for columns in heads for column in columns if column.factor or column.fixed)

    def row(column: Column) -> list[int]:
        up = max(column.exponent - exponent, 0)
        power = 1 << max(exponent - column.exponent, 0) if column.factor or column.fixed else 1
        return [*column[:4], column.factor << up, -column.fixed << up, power]

    rows = [[row(column) for column in columns] for columns in heads]
    return torch.tensor(rows).permute(2, 0, 1)[:, :, None].contiguous(), exponent


def num_columns(head_dim: int, dtype: torch.dtype) -> int:
    """How many columns stand in front of each head, zeros that fill them up included.

    Args:
        head_dim: dimension of a head without the columns.
        dtype: what the attention kernel computes in.
    """
    digits = len(_key_columns(*DIGITS[dtype]))
    return digits + -(head_dim + digits) % 8


def _places(slope_digits: int, segment_digits: int) -> list[tuple[int, list[int]]]:
    """Every place of the product from the most significant on, with the places of the slope's digits that a digit of
    the segment brings there."""
    return [
        (place, [low for low in range(slope_digits) if 0 <= place - low < segment_digits])
        for place in range(slope_digits + segment_digits - 1, -1, -1)
    ]


def _query_columns(slope: float, bits: int, slope_digits: int, segment_digits: int) -> list[Column]:
    """Digits of the slope for those of the key's segment, and digits of slope times own segment, negative."""
    fraction, exponent = math.frexp(slope)
    surplus = MANTISSA_BITS - bits * slope_digits
    # slope = mantissa * 2**exponent, with as many bits as there are digits for
    mantissa = (round(fraction * 2**MANTISSA_BITS) + (1 << surplus >> 1)) >> surplus
    exponent += surplus - MANTISSA_BITS
    digits = _digits(mantissa, bits, slope_digits)
    columns = []
    for place, slope_places in _places(slope_digits, segment_digits):
        for low in slope_places:
            key_exponent = min(bits * (place - low), MAX_KEY_EXPONENT_WITH_DIGIT)
            columns.append(Column(mantissa, fixed=digits[low], exponent=exponent + bits * place - key_exponent))
        is_top = place == slope_digits + segment_digits - 1
        number, carried, shift = mantissa, 0, bits * place
        if bits * (slope_digits + segment_digits) > 62:  # the upper digit of two, and what the lower one carries
            number, carried = (digits[1], digits[0]) if place else (digits[0], 0)
            shift -= bits if place else 0
        mask = -1 if is_top else (1 << bits) - 1  # the top digit takes what is left
        place_exponent = exponent + bits * place - min(bits * place, MAX_KEY_EXPONENT_ALONE)
        columns.append(Column(number, carried, shift, mask, factor=-1, exponent=place_exponent))
    return columns


def _key_columns(bits: int, slope_digits: int, segment_digits: int) -> list[Column]:
    """Digits of the segment for those of the query's slope, and ones for the query's products."""
    columns = []
    for place, slope_places in _places(slope_digits, segment_digits):
        for low in slope_places:
            shift = bits * (place - low)
            mask = -1 if place - low == segment_digits - 1 else (1 << bits) - 1
            exponent = min(shift, MAX_KEY_EXPONENT_WITH_DIGIT)
            columns.append(Column(1, shift=shift, mask=mask, factor=1, exponent=exponent))
        columns.append(Column(1, fixed=1, exponent=min(bits * place, MAX_KEY_EXPONENT_ALONE)))
    return columns


def _digits(value: int, bits: int, count: int) -> list[int]:
    """Digits of base `2**bits`, least significant first; the last takes what is left."""
    lower = [value >> (bits * place) & ((1 << bits) - 1) for place in range(count - 1)]
    return [*lower, value >> (bits * (count - 1))]


def alibi_columns(
    segment_ids: torch.Tensor, layout: torch.Tensor, exponent: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of queries and keys whose product is `-slope (seg_i - seg_j)` (see [`AlibiBias`]).

    A handful of operations for all columns of all heads at once: a step of decoding feels each.

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch, length)`): negative ones (padding) count as 0.
        layout (`torch.LongTensor` of shape `(7, heads + 1, 1, columns)`): from [`column_layout`] for the same dtype.
        exponent: from [`column_layout`] too.
        dtype: what the attention kernel computes in.

    Returns:
        Two tensors of `dtype`, of shapes `(batch, heads, length, columns)` and `(batch, 1, length, columns)`.
    """
    segments = segment_ids.clamp(min=0)[:, None, :, None]
    if dtype == torch.float64:
        carried = torch.bitwise_right_shift(segments * layout[1], DIGITS[dtype][0])
        products = segments * layout[0] + carried
    else:
        products = segments * layout[0, ..., :1]  # all columns of a head have one number
    digits = torch.bitwise_and(torch.bitwise_right_shift(products, layout[2]), layout[3])  # ONNX knows no `>>`
    # float32 holds every digit, and multiplies it by powers of two without rounding.
    factors, fixed = (layout[4:6].float() / layout[6].float()).unbind(0)
    power = 2.0**exponent
    columns = torch.addcmul(fixed * -power, digits.float(), factors * power).to(dtype)
    return columns[:, :-1], columns[:, -1:]  # of (batch, heads + 1, length, columns)


def kernel_scalings(head_dim: int) -> tuple[float, float]:
    """The factor that a kernel must put on logits with columns, in 32 and 64 bits and in 16 (see [`AlibiBias`])."""
    return 2.0 ** math.floor(math.log2(head_dim**-0.5)), head_dim**-0.5


def is_16_bit(dtype: torch.dtype) -> bool:
    """Whether kernels of the dtype scale float32 logits, not the query."""
    return dtype in (torch.float16, torch.bfloat16)


def kernel_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """The dtype in which attention computes: autocast's where it is on, else that of the hidden states.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(...)`): read for dtype and device.
    """
    device_type = hidden_states.device.type
    if torch.is_autocast_enabled(device_type) and hidden_states.dtype != torch.float64:  # which autocast leaves alone
        return torch.get_autocast_dtype(device_type)
    return hidden_states.dtype
