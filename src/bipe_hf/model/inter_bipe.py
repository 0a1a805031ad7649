"""Inter encodings: relative encodings over segment ids, applied in attention.

An inter encoding is a module that is called once per forward with the positions of all tokens and returns
[`InterTerms`]: rotary angles for queries and keys, bias columns, factors, or several of them. The attention modules
apply what they find there and know no encoding by name. To add an encoding: write one class here, name it in
`INTER_ENCODINGS`, add the name to the values that the configuration accepts.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import is_tracing

from .alibi_bipe import AlibiBias, kernel_dtype, num_columns
from .cable_bipe import CableDecrements
from .cable_kernel_bipe import CableKernelLogits
from .cope_bipe import CopeLogits
from .dape_bipe import DapeLogits, DapeV2Logits
from .dca_bipe import DcaLogits
from .errors_bipe import InputError
from .fox_bipe import ForgetGate
from .fox_pro_bipe import ProMixing
from .hirope_bipe import HiropeLogits
from .inter_base_bipe import InterEncoding
from .inter_bias_bipe import FireInterEncoding, KerpleInterEncoding, T5InterEncoding
from .inter_terms_bipe import InterTerms
from .path_bipe import PathLogits
from .rotary_pairs_bipe import frequencies_of, is_fast
from .segmentation_bipe import Segments
from .selective_rope_bipe import SelectiveAngles
from .tape_bipe import TapeUpdates, first_state


def rotary_index(segments: Segments, token_share: float) -> torch.Tensor:
    """The index that rotary pairs turn with, of shape `(batch, length)`.

    `token_share * token + (1 - token_share) * segment`, in float32, which holds token indices exactly up to 2**24;
    with a share of 0 or 1 one of the two as it is. A real number is as good as a whole one: a pair turns by an angle.

    Args:
        segments ([`Segments`]): positions of each token, entries of shape `(batch, length)`.
        token_share: from 0 to 1.
    """
    if token_share == 0:
        return segments.segment_ids
    if token_share == 1:
        return segments.token_positions
    return torch.lerp(segments.segment_ids.float(), segments.token_positions.float(), token_share)


class RotaryInterEncoding(InterEncoding):
    """RoPE over segment ids: the rotary module of the family, called with segments instead of tokens.

    With a learnt intra encoding it is BiPE-RoPE (He et al., ICML 2024, arXiv 2401.16421), over tokens RoPE (Su et al.
    2021). Every `rope_parameters` type of transformers works; lengths in it (`original_max_position_embeddings`) and
    `max_position_embeddings` then count segments. `token_share` mixes the token index in (see [`rotary_index`]).
    """

    moving_fields = ("token_share",)

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)
        self.token_share = config.token_share

    def follow(self, config: PreTrainedConfig) -> None:
        self.token_share = config.token_share

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        terms = super().forward(segments, hidden_states)
        index = rotary_index(segments, self.token_share)
        return terms._replace(rotary=self.rotary_emb(hidden_states, position_ids=index))


class XposInterEncoding(RotaryInterEncoding):
    """xPos over segment ids (Sun et al., ACL 2023, arXiv 2212.10554, section 2.2): RoPE with decay.

    Pair i of d dimensions that turn is multiplied by `zeta_i ** (seg / 512)` in queries and by its inverse in keys,
    `zeta_i = (2 i / d + 0.4) / 1.4`, so that a logit falls with the distance, most in the fast pairs. The two factors
    grow apart with the index itself, which float32 and bfloat16 bear up to `MAX_XPOS_INDEX`. The decay follows
    segments whatever `token_share` is.
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.head_dim = head_dim

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        """The terms with a decay.

        Raises:
            ValueError: for float16, and for a segment index above `MAX_XPOS_INDEX` (not checked in a traced graph).
        """
        index = segments.segment_ids
        if kernel_dtype(hidden_states) == torch.float16:
            raise InputError("inter_encoding='xpos' leaves the range of float16: use bfloat16 or float32")
        if not is_tracing() and index.max() > MAX_XPOS_INDEX:
            raise InputError(
                f"inter_encoding='xpos' holds up to segment index {MAX_XPOS_INDEX}, where its factors leave the range "
                f"of float32, got {int(index.max())}: give fewer segments, or use inter_encoding='rope'"
            )
        terms = super().forward(segments, hidden_states)
        turning = terms.rotary[0].shape[-1]
        pairs = torch.arange(0, turning, 2, device=index.device, dtype=torch.float32)
        log_zeta = torch.log((pairs + 0.4 * turning) / (1.4 * turning)).repeat(2)  # both halves hold the same pairs
        exponent = log_zeta * (index.clamp(min=0).float()[:, None, :, None] / 512)
        exponent = nn.functional.pad(exponent, (0, self.head_dim - turning))  # the rest of the head does not turn
        query_scale, key_scale = exponent.exp(), (-exponent).exp()
        if terms.query_scale is not None:
            query_scale = query_scale * terms.query_scale
        dtype = hidden_states.dtype
        return terms._replace(query_scale=query_scale.to(dtype), key_scale=key_scale.to(dtype))


MAX_XPOS_INDEX = 2**15


class AlibiInterEncoding(InterEncoding):
    """ALiBi over segment ids (Press et al., ICLR 2022), exact in any dtype (see [`AlibiBias`]).

    With a learnt intra encoding and `alibi_slope_scale` 96 it is BiPE-ALiBi (He et al., ICML 2024, arXiv 2401.16421).
    """

    has_columns = True

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.alibi = AlibiBias(config.num_attention_heads, head_dim, config.alibi_slope_scale, "alibi_slope_scale")

    @classmethod
    def num_columns(cls, config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
        return num_columns(head_dim, dtype)

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        columns = self.alibi(segments.segment_ids, hidden_states)
        return super().forward(segments, hidden_states)._replace(columns=columns)


def hybrid_alibi(config: PreTrainedConfig, head_dim: int) -> AlibiBias:
    """The ALiBi of a hybrid, with its slopes.

    Args:
        config: of the model; `hybrid_alibi_scale` and `hybrid_alibi_power` are read.
        head_dim: of queries and keys, without columns.
    """
    scale, power = config.hybrid_alibi_scale, config.hybrid_alibi_power
    return AlibiBias(config.num_attention_heads, head_dim, scale, "hybrid_alibi_scale", slope_power=power)


def fast_dimensions(rotary_emb: nn.Module, max_period: float) -> torch.Tensor:
    """Which rotary dimensions turn with the token index, a `torch.BoolTensor` of shape `(rotary dimensions,)`.

    Args:
        rotary_emb: of the family.
        max_period: longest wavelength, in tokens, of those that do.
    """
    return is_fast(frequencies_of(rotary_emb), max_period).repeat(2)


class HybridInterEncoding(InterEncoding):
    """Fast rotary pairs turn with the token index, slow ones with the segment index or not at all, with ALiBi over
    segments.

    After HiRoPE (Zhang et al., ACL 2024, arXiv 2403.19115), which splits the rotary dimensions between two levels of
    position. A pair is fast if its wavelength is at most `hybrid_max_period` tokens: those pairs have seen whole turns
    in training, so no token index brings an angle that is new to them. `token_share` mixes the token index into that
    of the slow pairs (see [`rotary_index`]). `hybrid_alibi_power` can bring the slopes of ALiBi closer together.
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)
        self.max_period = config.hybrid_max_period
        self.slow_pairs_turn = config.hybrid_slow_pairs == "segments"
        self.token_share = config.token_share
        self.alibi = None
        if config.hybrid_alibi_scale > 0:
            self.alibi = hybrid_alibi(config, head_dim)
        # A buffer of its own, because a cast of the model to 16 bits rounds the frequencies.
        self.is_fast = nn.Buffer(self.fast_dimensions(), persistent=False)

    @classmethod
    def num_columns(cls, config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
        return num_columns(head_dim, dtype) if config.hybrid_alibi_scale > 0 else 0

    @property
    def has_columns(self) -> bool:
        return self.alibi is not None

    @property
    def moving_fields(self) -> tuple[str, ...]:
        share = ("token_share",) if self.slow_pairs_turn else ()
        return share if self.alibi is None else (*share, "hybrid_alibi_scale")

    def follow(self, config: PreTrainedConfig) -> None:
        self.token_share = config.token_share
        if self.alibi is not None:
            self.alibi.set_scale(config.hybrid_alibi_scale)

    def fast_dimensions(self) -> torch.Tensor:
        """Which rotary dimensions turn with the token index, a `torch.BoolTensor` of shape `(rotary dimensions,)`."""
        return fast_dimensions(self.rotary_emb, self.max_period)

    def fill_buffers(self) -> None:
        init.copy_(self.is_fast, self.fast_dimensions())

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        cos, sin = self.rotary_emb(hidden_states, position_ids=segments.token_positions)
        if self.slow_pairs_turn:
            index = rotary_index(segments, self.token_share)
            slow_cos, slow_sin = self.rotary_emb(hidden_states, position_ids=index)
        else:
            slow_cos, slow_sin = cos.new_ones(()), sin.new_zeros(())
        rotary = torch.where(self.is_fast, cos, slow_cos), torch.where(self.is_fast, sin, slow_sin)
        columns = None if self.alibi is None else self.alibi(segments.segment_ids, hidden_states)
        return super().forward(segments, hidden_states)._replace(rotary=rotary, columns=columns)


class HiropeInterEncoding(HybridInterEncoding):
    """HiRoPE: a hybrid without bias whose slow pairs turn with segments, and a window of plain RoPE (see
    [`HiropeLogits`]).
    """

    logits_class = HiropeLogits
    moving_fields = ()

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.slow_pairs_turn, self.token_share, self.alibi = True, 0.0, None

    @classmethod
    def num_columns(cls, config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
        return 0

    def follow(self, config: PreTrainedConfig) -> None:
        """Nothing: no field moves."""


class DcaInterEncoding(InterEncoding):
    """Dual Chunk Attention: rotary pairs turn with the place in a chunk of tokens or segments (see [`DcaLogits`]).

    With `dca_mscale="log"` logits are multiplied by `(0.05 ln(n / dca_train_length) + 1) ** 2` once n, the tokens or
    segments up to the query, are more than in training. The authors' code takes the n of the whole input, and leaves
    cached keys with the factor of their time; here the factor is the query's own, so that no step changes another.
    """

    logits_class = DcaLogits

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)
        _, self.chunk = config.dca_distance_and_chunk
        self.mscale_length = config.dca_train_length if config.dca_mscale == "log" else None

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        rotary = self.rotary_emb(hidden_states, position_ids=segments.segment_ids % self.chunk)
        return super().forward(segments, hidden_states)._replace(rotary=rotary)

    def turn(self, new: Segments, old: Segments, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        change = new.segment_ids % self.chunk - old.segment_ids % self.chunk
        return self.rotary_emb(hidden_states, position_ids=change)

    def query_scale(self, segments: Segments, dtype: torch.dtype) -> torch.Tensor | None:
        scale = super().query_scale(segments, dtype)
        if self.mscale_length is None:
            return scale
        longer = ((segments.segment_ids + 1).float() / self.mscale_length).clamp(min=1.0)
        mscale = (0.05 * longer.log() + 1).square()[:, None, :, None].to(dtype)
        return mscale if scale is None else scale * mscale


class AxesInterEncoding(InterEncoding):
    """Rotary pairs turn with the indices inside a segment and with the token, with ALiBi over segments.

    After the RoPE of images (Heo et al., ECCV 2024, arXiv 2403.13298), which deals the pairs to the axes of the image:
    here they go in turn to the index of each inner level, coarse to fine, to the place in the innermost unit, and to
    the token. No text, however long, brings an angle that training cannot have seen: an index inside a segment ends
    where its table in the intra encoding ends, and the pairs of the token turn where their wavelength is at most
    `hybrid_max_period`, as in a hybrid, else not at all. Segments have ALiBi, with the slopes of a hybrid.
    """

    has_columns = True

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)
        self.max_period = config.hybrid_max_period
        self.last_inner, self.last_place = config.max_inner_index - 1, config.max_segment_length - 1
        self.num_inner = len(config.inner_separator_token_ids)
        self.alibi = hybrid_alibi(config, head_dim)
        self.axes = nn.Buffer(self.axis_of_dimensions(), persistent=False)

    @classmethod
    def num_columns(cls, config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
        return num_columns(head_dim, dtype)

    def axis_of_dimensions(self) -> torch.Tensor:
        """The axis that each rotary dimension turns with, -1 for none; a `torch.LongTensor` of shape
        `(rotary dimensions,)`.
        """
        frequencies = frequencies_of(self.rotary_emb)
        of_token = self.num_inner + 1
        axes = torch.arange(len(frequencies), device=frequencies.device) % (of_token + 1)
        return axes.masked_fill((axes == of_token) & ~is_fast(frequencies, self.max_period), -1).repeat(2)

    def fill_buffers(self) -> None:
        init.copy_(self.axes, self.axis_of_dimensions())

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        indices = [index.clamp(max=self.last_inner) for index in segments.inner_indices]
        indices += [segments.intra_positions.clamp(max=self.last_place), segments.token_positions]
        cos, sin = hidden_states.new_ones(()), hidden_states.new_zeros(())
        for axis, index in enumerate(indices):
            is_axis = self.axes == axis
            of_axis = self.rotary_emb(hidden_states, position_ids=index)
            cos, sin = (torch.where(is_axis, new, old) for new, old in zip(of_axis, (cos, sin), strict=True))
        columns = self.alibi(segments.segment_ids, hidden_states)
        return super().forward(segments, hidden_states)._replace(rotary=(cos, sin), columns=columns)


class TurnedInterEncoding(InterEncoding):
    """Base of those without angles of their own, to which `added_rotation` adds some.

    `rope` turns all pairs with the segment, `fast` those of a wavelength up to `hybrid_max_period` with the token, as
    in a hybrid.
    """

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        if config.added_rotation != "none":
            self.rotary_emb = rotary_class(config)
        self.max_period = config.hybrid_max_period
        has_fast = config.added_rotation == "fast"
        self.is_fast = nn.Buffer(self.fast_dimensions(), persistent=False) if has_fast else None

    def fast_dimensions(self) -> torch.Tensor:
        """Which rotary dimensions turn with the token index, a `torch.BoolTensor` of shape `(rotary dimensions,)`."""
        return fast_dimensions(self.rotary_emb, self.max_period)

    def fill_buffers(self) -> None:
        if self.is_fast is not None:
            init.copy_(self.is_fast, self.fast_dimensions())

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        terms = super().forward(segments, hidden_states)
        if self.rotary_emb is None:
            return terms
        if self.is_fast is None:
            return terms._replace(rotary=self.rotary_emb(hidden_states, position_ids=segments.segment_ids))
        cos, sin = self.rotary_emb(hidden_states, position_ids=segments.token_positions)
        return terms._replace(rotary=(torch.where(self.is_fast, cos, 1.0), torch.where(self.is_fast, sin, 0.0)))


class FoxInterEncoding(TurnedInterEncoding):
    """FoX: forget gates in every layer (see [`ForgetGate`])."""

    has_columns = True
    layer_class = ForgetGate


class FoxProInterEncoding(FoxInterEncoding):
    """FoX (Pro): the same in a layer that mixes tokens, has norms and a gate of its output (see [`ProMixing`])."""

    mixing_class = ProMixing


class CableInterEncoding(TurnedInterEncoding):
    """CABLE: learnt decrements in every layer (see [`CableDecrements`])."""

    has_columns = True
    layer_class = CableDecrements


class CableKernelInterEncoding(TurnedInterEncoding):
    """Kernel CABLE: the logarithm of those decrements (see [`CableKernelLogits`])."""

    logits_class = CableKernelLogits


class SelectiveRopeInterEncoding(InterEncoding):
    """Selective RoPE: angles that every layer learns (see [`SelectiveAngles`])."""

    layer_class = SelectiveAngles


class TapeInterEncoding(InterEncoding):
    """TAPE: rotary angles over segments, which every layer changes (see [`TapeUpdates`])."""

    updates_class = TapeUpdates

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__(config, rotary_class, head_dim)
        self.rotary_emb = rotary_class(config)
        self.num_heads = config.num_attention_heads

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        exact = hidden_states.new_empty((), dtype=torch.promote_types(hidden_states.dtype, torch.float32))
        state = first_state(*self.rotary_emb(exact, position_ids=segments.segment_ids), self.num_heads)
        return super().forward(segments, hidden_states)._replace(rotary_state=state)


class PathInterEncoding(InterEncoding):
    """PaTH: keys that every token behind them changes (see [`PathLogits`])."""

    logits_class = PathLogits


class CopeInterEncoding(TurnedInterEncoding):
    """CoPE: positions that every layer counts (see [`CopeLogits`])."""

    logits_class = CopeLogits


class DapeInterEncoding(TurnedInterEncoding):
    """DAPE: every layer adapts a bias to the logits (see [`DapeLogits`])."""

    logits_class = DapeLogits


class DapeV2InterEncoding(TurnedInterEncoding):
    """DAPE V2: the same with neighbouring keys (see [`DapeV2Logits`])."""

    logits_class = DapeV2Logits
    needs_whole_documents = True


INTER_ENCODINGS: dict[str, type[InterEncoding]] = {
    "rope": RotaryInterEncoding,
    "xpos": XposInterEncoding,
    "alibi": AlibiInterEncoding,
    "hybrid": HybridInterEncoding,
    "hirope": HiropeInterEncoding,
    "dca": DcaInterEncoding,
    "axes": AxesInterEncoding,
    "kerple": KerpleInterEncoding,
    "t5": T5InterEncoding,
    "fire": FireInterEncoding,
    "fox": FoxInterEncoding,
    "fox_pro": FoxProInterEncoding,
    "cable": CableInterEncoding,
    "cable_kernel": CableKernelInterEncoding,
    "selective_rope": SelectiveRopeInterEncoding,
    "tape": TapeInterEncoding,
    "path": PathInterEncoding,
    "cope": CopeInterEncoding,
    "dape": DapeInterEncoding,
    "dape_v2": DapeV2InterEncoding,
    "none": InterEncoding,
}
