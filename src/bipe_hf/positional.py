"""The position encodings: intra encodings added to the input, inter encodings applied in attention.

An inter encoding is a module that is called once per forward with the segment ids and returns [`InterTerms`]: rotary
angles for queries and keys, bias columns, or both. The attention modules apply what they find there and know no
encoding by name. To add an encoding: write one class here, name it in `INTER_ENCODINGS`, add the name to the values
that the configuration accepts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init


class BiasColumns(NamedTuple):
    """Columns put in front of queries and keys, whose products add up to the bias of the attention logits."""

    query: torch.Tensor
    """Of shape `(batch, heads, length, columns)`."""
    key: torch.Tensor
    """Of shape `(batch, 1, length, columns)`: the same for all heads, so grouped-query attention shares it."""
    scaling: float
    """Factor that the attention kernel must put on the logits, columns included."""
    query_factor: float
    """Factor on the queries that makes up for the difference to the usual `head_dim**-0.5`; 1 where there is none."""


class InterTerms(NamedTuple):
    """What an inter encoding contributes to attention, computed once per forward and used by every layer."""

    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    """cos and sin, each of shape `(batch, length, rotary dimensions)`."""
    columns: BiasColumns | None = None
    query_scale: torch.Tensor | None = None
    """Factor on the queries, of shape `(batch, 1, length, 1)`."""


# ---------------------------------------------------------------------------------------------------------------------
# Intra encodings: P in h_t = E[w_t] + P[min(intra(t), max_segment_length - 1)]
# ---------------------------------------------------------------------------------------------------------------------


class LearnedIntraEncoding(nn.Embedding):
    """A trained vector for each intra position (the authors' choice)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config.max_segment_length, config.hidden_size)

    def forward(self, intra_positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`(batch, length)` intra positions to `(batch, length, hidden_size)`; later ones share the last row."""
        return super().forward(intra_positions.clamp(max=self.num_embeddings - 1)).to(dtype)


class SinusoidalIntraEncoding(nn.Module):
    """Sines in the first half of the dimensions, cosines in the second (Vaswani et al., 2017, section 3.5).

    Nothing is stored, so there is nothing to load or to cast: the angles are exact in float32 whatever the model's
    dtype.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.max_segment_length = config.max_segment_length
        self.hidden_size = config.hidden_size

    def forward(self, intra_positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`(batch, length)` intra positions to `(batch, length, hidden_size)`; later ones share the last row."""
        exponents = torch.arange(0, self.hidden_size, 2, device=intra_positions.device) / self.hidden_size
        positions = intra_positions.clamp(max=self.max_segment_length - 1)
        angles = positions[..., None].float() / 10000.0**exponents
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., : self.hidden_size].to(dtype)


INTRA_ENCODINGS: dict[str, Callable[[PreTrainedConfig], nn.Module | None]] = {
    "learned": LearnedIntraEncoding,
    "sinusoidal": SinusoidalIntraEncoding,
    "none": lambda config: None,
}


# ---------------------------------------------------------------------------------------------------------------------
# Inter encodings: relative encodings over segment ids
# ---------------------------------------------------------------------------------------------------------------------


class InterEncoding(nn.Module):
    """Base of all inter encodings, and NoPE itself: attention sees no position."""

    has_columns = False
    """Whether `forward` gives bias columns, so that keys and values are longer than `head_dim`."""

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__()
        self.log_scale_train_length = config.log_scale_train_length

    def reset_buffers(self) -> None:
        """Fills the buffers that no checkpoint holds, after the model was made on the meta device."""

    def forward(self, segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> InterTerms:
        """Turns segment ids into what attention needs.

        Args:
            segment_ids (`torch.LongTensor` of shape `(batch, length)`)
            hidden_states (`torch.Tensor` of shape `(batch, length, hidden_size)`): read for its dtype and device.
        """
        return InterTerms(query_scale=self.query_scale(segment_ids, hidden_states.dtype))

    def query_scale(self, segment_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """`log(seg + 1) / log(train length)`, the authors' `log_scale`; None where it is off."""
        if self.log_scale_train_length is None:
            return None
        scale = torch.log1p(segment_ids.clamp(min=0).float()) / math.log(self.log_scale_train_length)
        return scale[:, None, :, None].to(dtype)


class RotaryInterEncoding(InterEncoding):
    """RoPE over segment ids: the rotary module of the family, called with segments instead of tokens.

    Every `rope_parameters` type of transformers works; lengths in it (`original_max_position_embeddings`) and
    `max_position_embeddings` then count segments.
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)

    def forward(self, segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> InterTerms:
        terms = super().forward(segment_ids, hidden_states)
        return terms._replace(rotary=self.rotary_emb(hidden_states, position_ids=segment_ids))


class AlibiInterEncoding(InterEncoding):
    """ALiBi over segment ids (Press et al., ICLR 2022), exact in linear memory with any attention kernel.

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
    """

    has_columns = True

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.head_dim = head_dim
        self.scalings = (2.0 ** math.floor(math.log2(self.head_dim**-0.5)), self.head_dim**-0.5)
        self.slopes = [config.alibi_slope_scale * slope for slope in alibi_slopes(config.num_attention_heads)]
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

    def reset_buffers(self) -> None:
        for buffer, value in zip((self.slope_mantissas, self.slope_exponents), self.slope_integers(), strict=True):
            init.copy_(buffer, value)

    def forward(self, segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> InterTerms:
        dtype = kernel_dtype(hidden_states)
        steepest = max(self.slopes) / self.scalings[1]
        if dtype == torch.float16 and steepest > MAX_FLOAT16_SLOPE:
            raise ValueError(
                "alibi_slope_scale times sqrt(head_dim) is too large for float16: the steepest slope makes "
                f"{steepest:.0f}, at most {MAX_FLOAT16_SLOPE} fits. Use bfloat16 or float32."
            )
        row = 0 if dtype in (torch.float32, torch.float64) else 1
        query, key = alibi_columns(
            segment_ids, self.slope_mantissas[row], self.slope_exponents[row], dtype, self.head_dim
        )
        scaling = self.scalings[row]
        columns = BiasColumns(query, key, scaling, query_factor=self.head_dim**-0.5 / scaling)
        return super().forward(segment_ids, hidden_states)._replace(columns=columns)


INTER_ENCODINGS: dict[str, type[InterEncoding]] = {
    "rope": RotaryInterEncoding,
    "alibi": AlibiInterEncoding,
    "none": InterEncoding,
}


def alibi_slopes(num_heads: int) -> list[float]:
    """The slopes of Press et al.: a geometric sequence that ends at 2**-8.

    Where the number of heads is no power of two, those of the next lower power are followed by every other one of the
    next higher power.
    """
    lower_power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / lower_power) for head in range(lower_power)]
    return slopes + [2 ** (-8 * (head + 0.5) / lower_power) for head in range(num_heads - lower_power)]


# ---------------------------------------------------------------------------------------------------------------------
# Bias columns
# ---------------------------------------------------------------------------------------------------------------------

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
    """Columns of queries and keys whose product is `-slope (seg_i - seg_j)` (see [`AlibiInterEncoding`]).

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
