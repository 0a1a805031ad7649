"""The positional encodings by the name that the field has for each, as fields of a configuration.

Encodings over tokens and over the document are those that BiPE is compared with; the rest works over segments. To add
an encoding is to add one entry to `ENCODINGS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .errors_bipe import InputError, did_you_mean
from .tokenization_bipe import BipeTokenizer


class Encoding(NamedTuple):
    """One name of the field."""

    label: str
    """As it is written in tables and figures."""
    fields: dict[str, Any]
    """Fields of the configuration."""
    from_train_length: dict[str, Callable[[int], Any]] = {}
    """Fields that follow from the train length, in tokens: it must be given for such an encoding, or they."""
    levels: tuple[str, ...] = ()
    """The preset of separators that it is meant for at each level, coarse to fine; none where segments do not end at
    separators."""


def _over_tokens(label: str, inter_encoding: str, **fields: Any) -> Encoding:
    """A plain relative encoding: every token is its own segment."""
    return Encoding(
        label, {"inter_encoding": inter_encoding, "intra_encoding": "none", "segmentation": "tokens", **fields}
    )


def _over_document(label: str, intra_encoding: str) -> Encoding:
    """A plain absolute encoding: the document is one segment."""
    return Encoding(
        label,
        {"inter_encoding": "none", "intra_encoding": intra_encoding, "segmentation": "document"},
        {"max_segment_length": lambda train_length: train_length},
    )


def _bilevel(label: str, inter_encoding: str, **fields: Any) -> Encoding:
    """BiPE as its paper has it: a relative encoding over segments and a learnt table of places in them."""
    return Encoding(
        label,
        {"inter_encoding": inter_encoding, "intra_encoding": "learned", "segmentation": "separators", **fields},
        levels=("sentences",),
    )


def _with_levels(encoding: Encoding, label: str) -> Encoding:
    """With inner levels, which a learnt table for each tells apart."""
    fields = encoding.fields | {"intra_encoding": "learned"}
    return encoding._replace(label=label, fields=fields, levels=("lines", "fields"))


# The longest wavelength of which training has seen two whole turns.
_MAX_PERIOD = {"hybrid_max_period": lambda train_length: train_length / 2}


def _hybrid(label: str, segmentation: str, *levels: str) -> Encoding:
    """Rotary pairs of a wavelength up to half of the train length, which have seen two whole turns in training, turn
    with the token and the others do not; the bias falls by up to 1 for each segment and has slopes that lie closer
    together than those of ALiBi.
    """
    return Encoding(
        label,
        {
            "inter_encoding": "hybrid",
            "hybrid_slow_pairs": "none",
            "hybrid_alibi_scale": 2.0,
            "hybrid_alibi_power": 0.5,
            "intra_encoding": "none",
            "segmentation": segmentation,
        },
        _MAX_PERIOD,
        levels,
    )


def _axes() -> Encoding:
    """Rotary pairs dealt to the indices inside a segment and, up to the wavelength of a hybrid, to the token."""
    fields = {"hybrid_alibi_scale": 2.0, "hybrid_alibi_power": 0.5}
    return _bilevel("BiPE-axes", "axes", **fields)._replace(from_train_length=_MAX_PERIOD)


def _hirope(encoding: Encoding) -> Encoding:
    """Rotary pairs of a wavelength up to the train length, which have seen a whole turn, turn with the token."""
    return encoding._replace(from_train_length={"hybrid_max_period": lambda train_length: train_length})


def _every_other(encoding: Encoding, label: str, kind: str) -> Encoding:
    """Layers of that kind and layers with the inter encoding by turns; a window is a quarter of the train length."""
    from_train_length = {"local_window": lambda train_length: train_length // 4} if kind == "local" else {}
    return encoding._replace(
        label=label, fields=encoding.fields | {"layer_encodings": [kind, "inter"]}, from_train_length=from_train_length
    )


def _with_fast_pairs(encoding: Encoding) -> Encoding:
    """The same, and rotary pairs that turn with the token as in a hybrid."""
    fields = encoding.fields | {"added_rotation": "fast"}
    return encoding._replace(label=f"{encoding.label} with fast pairs", fields=fields, from_train_length=_MAX_PERIOD)


# Inter encodings of which fast rotary pairs turn with the token, wherever segments end.
WITH_TOKEN_PAIRS = ("hybrid", "hirope", "axes")
# Those whose angles `rope_parameters` may scale.
WITH_SCALED_ANGLES = ("rope", "xpos", *WITH_TOKEN_PAIRS)
# Those that have no angles of their own, to which some can be added.
WITH_ADDED_ROTATION = ("fox", "fox_pro", "cable", "cable_kernel", "cope", "dape", "dape_v2")
# Those that change the logits of a layer when they are finished.
FINISHED_LOGITS = ("hirope", "dca", "cable_kernel", "path", "cope", "dape", "dape_v2")


def turns_with_token(config: PreTrainedConfig) -> bool:
    """Whether fast rotary pairs of a configuration turn with the token, wherever segments end."""
    is_added = config.inter_encoding in WITH_ADDED_ROTATION and config.added_rotation == "fast"
    return is_added or config.inter_encoding in WITH_TOKEN_PAIRS


ENCODINGS = {
    "rope": _over_tokens("RoPE", "rope"),
    "xpos": _over_tokens("xPos", "xpos"),
    "alibi": _over_tokens("ALiBi", "alibi", alibi_slope_scale=1.0),
    "kerple": _over_tokens("Kerple", "kerple"),
    "t5": _over_tokens("T5 bias", "t5"),
    "fire": _over_tokens("FIRE", "fire"),
    "fox": _over_tokens("FoX", "fox"),
    "fox_rope": _over_tokens("FoX with RoPE", "fox", added_rotation="rope"),
    "fox_pro": _over_tokens("FoX (Pro)", "fox_pro"),
    "cable": _over_tokens("CABLE", "cable"),
    "cable_kernel": _over_tokens("CABLE with kernel", "cable_kernel"),
    "selective_rope": _over_tokens("Selective RoPE", "selective_rope"),
    "tape": _over_tokens("TAPE", "tape"),
    "path": _over_tokens("PaTH", "path"),
    "path_fox": _over_tokens("PaTH-FoX", "path", path_gates="fox"),
    "cope": _over_tokens("CoPE", "cope"),
    "dape": _over_tokens("DAPE", "dape", alibi_slope_scale=1.0),
    "dape_v2": _over_tokens("DAPE V2", "dape_v2", alibi_slope_scale=1.0),
    "nope": _over_tokens("NoPE", "none"),
    "rnope": _every_other(_over_tokens("NoPE", "none"), "NoPE and RoPE layers", "rope"),
    "rnope_local": _every_other(_over_tokens("NoPE", "none"), "NoPE and local layers", "local"),
    "hybrid": _hybrid("hybrid", "tokens"),
    "hirope": _hirope(
        Encoding(
            "HiRoPE over segments",
            {
                "inter_encoding": "hirope",
                "intra_encoding": "none",
                "segmentation": "fixed",
                "fixed_segment_length": 128,
            },
        )
    ),
    "dca": _over_tokens("DCA", "dca")._replace(
        from_train_length={"dca_train_length": lambda train_length: train_length}
    ),
    "sinusoidal": _over_document("sinusoidal APE", "sinusoidal"),
    "learned": _over_document("learned APE", "learned"),
    "bipe_rope": _bilevel("BiPE-RoPE", "rope"),
    "bipe_xpos": _bilevel("BiPE-xPos", "xpos"),
    "bipe_alibi": _bilevel("BiPE-ALiBi", "alibi", alibi_slope_scale=96.0),
    "bipe_kerple": _bilevel("BiPE-Kerple", "kerple"),
    "bipe_t5": _bilevel("BiPE-T5 bias", "t5"),
    "bipe_fire": _bilevel("BiPE-FIRE", "fire"),
    "bipe_fox": _bilevel("BiPE-FoX", "fox"),
    "bipe_fox_pro": _bilevel("BiPE-FoX (Pro)", "fox_pro"),
    "bipe_cable": _bilevel("BiPE-CABLE", "cable"),
    "bipe_cable_kernel": _bilevel("BiPE-CABLE with kernel", "cable_kernel"),
    "bipe_selective_rope": _bilevel("BiPE-Selective RoPE", "selective_rope"),
    "bipe_tape": _bilevel("BiPE-TAPE", "tape"),
    "bipe_path": _bilevel("BiPE-PaTH", "path"),
    "bipe_cope": _bilevel("BiPE-CoPE", "cope"),
    "bipe_dape": _bilevel("BiPE-DAPE", "dape"),
    "bipe_dape_v2": _bilevel("BiPE-DAPE V2", "dape_v2"),
    "bipe_hirope": _hirope(_bilevel("BiPE-HiRoPE", "hirope")),
    "bipe_dca": _bilevel("BiPE-DCA", "dca"),
    "bipe_nope": _bilevel("learned APE in segments", "none"),
    "bipe_hybrid": _hybrid("hybrid over segments", "separators", "clauses"),
    "bipe_rope_local": _every_other(_bilevel("BiPE-RoPE", "rope"), "BiPE-RoPE and local layers", "local"),
    "bipe_alibi_local": _every_other(
        _bilevel("BiPE-ALiBi", "alibi", alibi_slope_scale=96.0), "BiPE-ALiBi and local layers", "local"
    ),
    "bipe_levels": _with_levels(_bilevel("BiPE-RoPE", "rope"), "BiPE-RoPE with levels"),
    "bipe_levels_hybrid": _with_levels(_hybrid("hybrid", "separators"), "BiPE-hybrid with levels"),
    "bipe_levels_axes": _with_levels(_axes(), "BiPE-axes with levels"),
}
ENCODINGS |= {
    f"{name}_fast": _with_fast_pairs(ENCODINGS[name])
    for each in ("fox", "cable", "cope", "dape")
    for name in (each, f"bipe_{each}")
}
ENCODING_NAMES = tuple(ENCODINGS)

# A field that changes what an inter encoding is called, unless it is "none".
_NAMED_BY = {"path": "path_gates"}


def _option(inter_encoding: str, fields: Mapping[str, Any]) -> str:
    return fields.get(_NAMED_BY.get(inter_encoding), "none")


# What relative encodings are called where they stand alone.
_INTER_LABELS = {
    (encoding.fields["inter_encoding"], _option(encoding.fields["inter_encoding"], encoding.fields)): encoding.label
    for encoding in ENCODINGS.values()
    if encoding.fields["segmentation"] == "tokens"
    and not {"layer_encodings", "added_rotation"} & encoding.fields.keys()
} | {("axes", "none"): "axes", ("hirope", "none"): "HiRoPE"}  # which are no encoding over tokens
_ROTATION_LABELS = {"none": "", "rope": " with RoPE", "fast": " with fast pairs"}


def encoding_fields(name: str, train_length: int | None = None, **fields: Any) -> dict[str, Any]:
    """The configuration fields of an encoding.

    Args:
        name: one of `ENCODING_NAMES`.
        train_length (`int`, *optional*):
            Tokens in a training block: `max_position_embeddings`, the rows of an absolute encoding over the document
            (`max_segment_length`) and twice the longest wavelength of a hybrid that turns (`hybrid_max_period`).
        fields: further fields. They win over those of the encoding.

    Raises:
        ValueError: if there is no such encoding, if fields follow from the train length and neither it nor they are
            given, or if it is no positive number of tokens.
    """
    encoding = _find(name)
    if train_length is None:
        missing = encoding.from_train_length.keys() - fields.keys()
        if missing:
            raise InputError(f"encoding {name!r} needs train_length, from which {', '.join(missing)} follows")
        return encoding.fields | fields
    if not isinstance(train_length, int) or train_length < 1:
        raise InputError(f"train_length must be a number of tokens from 1 on, got {train_length!r}")
    derived = {field: derive(train_length) for field, derive in encoding.from_train_length.items()}
    return encoding.fields | {"max_position_embeddings": train_length} | derived | fields


def encoding_levels(name: str) -> tuple[str, ...]:
    """The preset of separators that an encoding is meant for at each level, coarse to fine.

    There is none where its segments do not end at separators. Raises `ValueError` where there is no such encoding.
    """
    return _find(name).levels


def token_fields(tokenizer: PreTrainedTokenizerBase, levels: Sequence[str] | None = None) -> dict[str, Any]:
    """The configuration fields that a tokenizer decides.

    Args:
        tokenizer: of the model. Must be a fast one where separators are asked for.
        levels: presets that find them where the tokenizer is no [`BipeTokenizer`]; None where none are needed.

    Raises:
        ValueError: if it is no tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"tokenizer must be one of transformers, loaded, got {type(tokenizer).__name__}")
    fields = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if levels is not None:
        if not isinstance(tokenizer, BipeTokenizer):
            tokenizer = BipeTokenizer.from_tokenizer(tokenizer, levels=levels)
        fields["separator_token_ids"] = tokenizer.separator_token_ids
        fields["inner_separator_token_ids"] = tokenizer.inner_separator_token_ids
    return fields


def encoding_name(label: str) -> str | None:
    """The name of the encoding whose label it is; None for one that has no name."""
    return next((name for name, encoding in ENCODINGS.items() if encoding.label == label), None)


_LAYER_LABELS = {"rope": "RoPE", "local": "local", "none": "NoPE"}


def encoding_label(config: PreTrainedConfig) -> str:
    """What the field calls the encoding of a configuration, whether or not it has a name here."""
    pattern = config.layer_encodings
    others = [name for kind, name in _LAYER_LABELS.items() if kind in pattern]
    label = _inter_label(config) + (f" and {' and '.join(others)} layers" if others else "")
    if len(pattern) > len(set(pattern)):
        label += f" ({', '.join(pattern)})"
    if config.inter_encoding in WITH_SCALED_ANGLES and config.rope_parameters["rope_type"] != "default":
        label += f" with {config.rope_parameters['rope_type']} scaling"
    return label if config.sepllm_neighbors is None else f"{label} with SepLLM's mask"


def _inter_label(config: PreTrainedConfig) -> str:
    """That of the layers that have the inter encoding."""
    rotation = config.added_rotation if config.inter_encoding in WITH_ADDED_ROTATION else "none"
    inter = _INTER_LABELS[config.inter_encoding, _option(config.inter_encoding, vars(config))]
    inter += _ROTATION_LABELS[rotation]
    if config.segmentation == "tokens":  # every intra position is 0: the intra encoding says nothing
        return inter
    ape = {"learned": "learned APE", "sinusoidal": "sinusoidal APE", "none": "NoPE"}[config.intra_encoding]
    if config.inner_separator_token_ids:
        ape += " with levels"
    if config.segmentation == "document":  # every segment index is 0: the inter encoding says nothing,
        if not turns_with_token(config):  # but for pairs that turn otherwise
            return ape
        return inter if config.intra_encoding == "none" else f"{inter} with {ape}"
    if config.inter_encoding == "none":
        return f"{ape} in segments"
    if config.intra_encoding == "none":
        return f"{inter} over segments"
    levels = " with levels" if config.inner_separator_token_ids else ""
    intra = "" if config.intra_encoding == "learned" else f" ({config.intra_encoding})"
    return f"BiPE-{inter}{levels}{intra}"


def _find(name: str) -> Encoding:
    if not isinstance(name, str) or name not in ENCODINGS:
        hint = did_you_mean(name, ENCODINGS) if isinstance(name, str) else ""
        raise InputError(f"encoding: {name!r} is none{hint} (accepted: {', '.join(ENCODINGS)})")
    return ENCODINGS[name]
