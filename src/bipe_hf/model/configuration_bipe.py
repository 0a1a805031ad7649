"""The configuration fields of BiPE, once, and the configuration class of each family."""

import copy
import inspect
import math
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from .encodings_bipe import (
    FINISHED_LOGITS,
    WITH_ADDED_ROTATION,
    WITH_TOKEN_PAIRS,
    encoding_fields,
    encoding_label,
    encoding_levels,
    token_fields,
    turns_with_token,
)
from .errors_bipe import InputError, did_you_mean
from .travel_bipe import auto_map, check_code, write_code
from .version_bipe import __version__


logger = logging.get_logger(__name__)

INTER_ENCODINGS = (
    *("rope", "xpos", "alibi", "hybrid", "hirope", "dca", "axes", "kerple", "t5", "fire"),
    *("fox", "fox_pro", "cable", "cable_kernel", "selective_rope", "tape", "path", "cope", "dape", "dape_v2", "none"),
)
INTRA_ENCODINGS = ("learned", "sinusoidal", "none")
SEGMENTATIONS = ("separators", "fixed", "tokens", "document")
SLOW_PAIRS = ("none", "segments")
FOX_GATES = ("full", "bias_only", "fixed")
ADDED_ROTATIONS = ("none", "rope", "fast")
CABLE_KINDS = ("weighted", "unweighted", "released")
SELECTIVE_ROPE_ACTIVATIONS = ("none", "silu")
SELECTIVE_ROPE_GATES = ("none", "sigmoid")
PATH_GATES = ("none", "fox")
DCA_MSCALES = ("none", "log")
STATIC_ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds of RoPE that are frequencies and nothing else, the same at every length."""
COPE_GATES = ("keys", "values", "own_keys")
COPE_TERMS = ("scaled", "unscaled")
DAPE_BIASES = ("alibi", "kerple", "fire")
LAYER_KINDS = ("inter", "rope", "local", "none")

# What transformers keeps in a configuration without declaring it.
UNDECLARED = ("_name_or_path", "auto_map", "custom_pipelines", "quantization_config", "tokenizer_class")


class FixedList(list):
    """A list that cannot change in place: nothing would notice."""

    def __reduce__(self) -> tuple:
        return type(self), (list(self),)  # a copy is not made item by item

    def _refuse(self, *args: Any, **kwargs: Any) -> None:
        raise InputError(f"{self.name} cannot be changed in place: assign a new list before a model is built")

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse


class TokenIds(FixedList):
    """Sorted token ids, each once."""

    name = "separator_token_ids"

    def __init__(self, token_ids: Iterable[int] = ()):
        super().__init__(sorted(set(token_ids)))


class InnerLevels(FixedList):
    """The token ids of each inner level."""

    name = "inner_separator_token_ids"

    def __init__(self, levels: Iterable[Iterable[int]] = ()):
        super().__init__(map(TokenIds, levels))


class LayerPattern(FixedList):
    """The kind of each layer."""

    name = "layer_encodings"


# Fields that hold token ids, and what keeps them.
TOKEN_IDS = {"separator_token_ids": TokenIds, "inner_separator_token_ids": InnerLevels}
LISTS = TOKEN_IDS | {"layer_encodings": LayerPattern}


def _field(default: Any, text: str, *, choices: tuple[str, ...] | None = None, read_by: dict | None = None) -> Any:
    """A field of a configuration that users set, with all that is said of it anywhere.

    Args:
        text: what it is, in a line, as `help`: documentation and command line show it.
        choices: the values that it may have; None where they are no list.
        read_by: other fields and their values; where another one has none of them, nothing reads this field.
    """
    return field(default=default, metadata={"help": text, "choices": choices, "read_by": read_by or {}})


@strict
class BipeConfigMixin(PreTrainedConfig):
    """Fields that a BiPE configuration has beyond its parent's; [`own_fields`] lists them.

    Once a model was built from a configuration these fields are read-only, but for copies of it. `bipe_hf_version` is
    the version of this package that saved it, set by `save_pretrained`.

    Raises:
        ValueError: if a field has a value that is not accepted, the message says which are; if something given is a
            field of neither BiPE nor transformers; if a field is set after a model was built.
    """

    inter_encoding: str = _field(
        "rope",
        "relative encoding over segments (see the classes of `inter_bipe`); kerple, t5 and fire have a bias for"
        " each pair of tokens: their memory grows with the square of the length, and flash attention cannot compute"
        " them; cope, dape, hirope, dca, path and cable_kernel change the logits of blocks of queries, on sdpa and"
        " eager",
        choices=INTER_ENCODINGS,
    )
    intra_encoding: str = _field(
        "learned",
        "absolute encoding of the place inside a segment, added to the word embedding",
        choices=INTRA_ENCODINGS,
    )
    segmentation: str = _field(
        "separators",
        "what a segment is: separators (a run of tokens up to a separator: BiPE), fixed (so many tokens), tokens (each"
        " token: the plain inter encoding), document (the whole text: a plain absolute encoding)",
        choices=SEGMENTATIONS,
    )
    separator_token_ids: list[int] | None = _field(
        None,
        "tokens that end a segment; `BipeTokenizer.separator_token_ids` has them",
        read_by={"segmentation": ("separators",)},
    )
    max_segment_length: int = _field(
        1024,
        "rows of the intra table, in tokens; later tokens of a longer segment share the last row",
        read_by={"intra_encoding": ("learned", "sinusoidal")},
    )
    inner_separator_token_ids: list[list[int]] | None = _field(
        None,
        "for each level inside a segment, coarse to fine, the tokens that end its units, as fields of a row;"
        " `BipeTokenizer.inner_separator_token_ids` has them",
        read_by={
            "segmentation": ("separators", "fixed", "document"),
            "intra_encoding": ("learned", "sinusoidal"),
        },
    )
    max_inner_index: int = _field(
        64,
        "rows of the table of each inner level, in units; later ones of a longer parent share the last row",
        read_by={"intra_encoding": ("learned", "sinusoidal")},
    )
    intra_initializer_range: float | int | None = _field(
        None,
        "standard deviation of the first values of the learned intra table, 0: it starts at zero; by default"
        " initializer_range, as the authors have it",
        read_by={"intra_encoding": ("learned",)},
    )
    alibi_slope_scale: float | int = _field(
        96.0,
        "factor on the ALiBi slopes of Press et al.: 96 over segments in the paper, 1 for plain ALiBi",
        read_by={"inter_encoding": ("alibi", "dape", "dape_v2")},
    )
    log_scale_train_length: int | None = _field(
        None,
        "the authors' log_scale: queries are multiplied by log(segment + 1) / log(this)",
    )
    logn_train_length: int | None = _field(
        None,
        "queries are multiplied by max(1, log(position + 1) / log(this)), positions in tokens (Chiang and Cholak, ACL"
        " 2022)",
    )
    token_share: float | int = _field(
        0.0,
        "share of the token index in the index that rotary pairs (of a hybrid: slow ones that turn with segments) turn"
        " with; 0: that of the segment alone (BiPE), 1: that of the token alone, as in stock models, from which a"
        " schedule of continued pretraining leads to segments",
        read_by={"inter_encoding": ("rope", "xpos", "hybrid")},
    )
    fixed_segment_length: int | None = _field(
        None,
        "tokens in a segment",
        read_by={"segmentation": ("fixed",)},
    )
    hybrid_max_period: float | int | None = _field(
        None,
        "rotary pairs of at most this wavelength, in tokens, turn with the token; half of the train length keeps those"
        " that have seen two whole turns",
        read_by={"inter_encoding": (*WITH_TOKEN_PAIRS, *WITH_ADDED_ROTATION)},
    )
    hirope_window: int = _field(
        512,
        "tokens, the query's own included, that a query of HiRoPE sees as RoPE does; 1: there is no window",
        read_by={"inter_encoding": ("hirope",)},
    )
    dca_train_length: int | None = _field(
        None,
        "how long a text was in training, in tokens or, where segments are longer, in segments, of which"
        " `bipe-hf segments` counts those of a block; DCA leaves no pair farther apart",
        read_by={"inter_encoding": ("dca",)},
    )
    dca_chunk_size: int | None = _field(
        None,
        "longest distance of DCA, in tokens or segments; by default three quarters of dca_train_length",
        read_by={"inter_encoding": ("dca",)},
    )
    dca_window: int | None = _field(
        None,
        "by how much a chunk of DCA is shorter than that distance: the first tokens or segments of a chunk, this many"
        " and one more, see the chunk before it at the right distance; by default an eighth of dca_train_length",
        read_by={"inter_encoding": ("dca",)},
    )
    dca_mscale: str = _field(
        "none",
        "factor on logits of DCA, log: one that grows with the logarithm of what a query sees beyond dca_train_length",
        choices=DCA_MSCALES,
        read_by={"inter_encoding": ("dca",)},
    )
    hybrid_slow_pairs: str = _field(
        "none",
        "what the other rotary pairs turn with, none: they do not turn",
        choices=SLOW_PAIRS,
        read_by={"inter_encoding": ("hybrid",)},
    )
    hybrid_alibi_scale: float | int = _field(
        4.0,
        "factor on the slopes of the ALiBi over segments, 0: there is none; with as many as a segment has tokens in"
        " the mean, and power 1, the bias falls about as fast as that of plain ALiBi",
        read_by={"inter_encoding": ("hybrid", "axes")},
    )
    hybrid_alibi_power: float | int = _field(
        1.0,
        "exponent put on the slopes of Press et al. before that factor, from 0 (all heads alike) to 1 (as in ALiBi)",
        read_by={"inter_encoding": ("hybrid", "axes")},
    )
    added_rotation: str = _field(
        "none",
        "how queries and keys turn besides, rope: all rotary pairs with the segment (over tokens, with the token),"
        " fast: those up to hybrid_max_period with the token",
        choices=ADDED_ROTATIONS,
        read_by={"inter_encoding": WITH_ADDED_ROTATION},
    )
    fox_gate: str = _field(
        "full",
        "forget gates of FoX: full (of each token, learnt), bias_only (one number a head, learnt), fixed (not learnt)",
        choices=FOX_GATES,
        read_by={"inter_encoding": ("fox", "fox_pro")},
    )
    fox_min_time: float | int = _field(
        2.0,
        "decay time of the first head, in tokens or segments, from which the gates of bias_only start and which those"
        " of fixed keep: as slopes of ALiBi 1 / this; from 2 to 256 those of eight heads are the ones of Press et al.",
        read_by={"inter_encoding": ("fox", "fox_pro"), "fox_gate": ("bias_only", "fixed")},
    )
    fox_max_time: float | int = _field(
        256.0,
        "decay time of the last head; those between are spaced evenly in their logarithm",
        read_by={"inter_encoding": ("fox", "fox_pro"), "fox_gate": ("bias_only", "fixed")},
    )
    cable_kind: str = _field(
        "weighted",
        "decrements of CABLE: weighted (relu, times a learnt weight of the query: version 3 of the paper), unweighted"
        " (without that weight), released (softplus, no weight: version 1 and the authors' code)",
        choices=CABLE_KINDS,
        read_by={"inter_encoding": ("cable", "cable_kernel")},
    )
    selective_rope_rank: int = _field(
        16,
        "rank of the map from which Selective RoPE has the steps of its angles",
        read_by={"inter_encoding": ("selective_rope",)},
    )
    selective_rope_kernel: int = _field(
        4,
        "tokens that the convolution of those steps sees, the token itself included",
        read_by={"inter_encoding": ("selective_rope",)},
    )
    selective_rope_theta: float | int = _field(
        500000.0,
        "base of the frequencies that those steps are multiplied by, in the place of rope_theta",
        read_by={"inter_encoding": ("selective_rope",)},
    )
    selective_rope_activation: str = _field(
        "none",
        "what a step goes through behind the convolution",
        choices=SELECTIVE_ROPE_ACTIVATIONS,
        read_by={"inter_encoding": ("selective_rope",)},
    )
    selective_rope_gate: str = _field(
        "none",
        "what a step is multiplied by, sigmoid: that of a number that each head reads from the token; the paper's best"
        " models have this and the activation",
        choices=SELECTIVE_ROPE_GATES,
        read_by={"inter_encoding": ("selective_rope",)},
    )
    tape_channels: int | None = _field(
        None,
        "channels of the update of TAPE behind an MLP; by default four for each head",
        read_by={"inter_encoding": ("tape",)},
    )
    path_gates: str = _field(
        "none",
        "fox: PaTH has forget gates as well, the logarithms of which are divided as its products are (PaTH-FoX)",
        choices=PATH_GATES,
        read_by={"inter_encoding": ("path",)},
    )
    cope_positions: int = _field(
        64,
        "rows of the table of CoPE in each layer; what lies farther, as its gates count, shares the last row",
        read_by={"inter_encoding": ("cope",)},
    )
    cope_gates: str = _field(
        "keys",
        "what the gates of CoPE are products of queries with: keys, values (val-gates), own_keys (keys of a map of"
        " their own, which the cache keeps: sep-keys)",
        choices=COPE_GATES,
        read_by={"inter_encoding": ("cope",)},
    )
    cope_term: str = _field(
        "scaled",
        "the products of queries and rows of that table: scaled (divided as those with keys: the authors' code),"
        " unscaled (the listing in the paper)",
        choices=COPE_TERMS,
        read_by={"inter_encoding": ("cope",)},
    )
    dape_bias: str = _field(
        "kerple",
        "bias that DAPE adapts, one of each layer; alibi has the slopes of alibi_slope_scale",
        choices=DAPE_BIASES,
        read_by={"inter_encoding": ("dape", "dape_v2")},
    )
    dape_width: int = _field(
        32,
        "width of the MLP of DAPE over the heads, and of that of FIRE",
        read_by={"inter_encoding": ("dape", "dape_v2", "fire")},
    )
    dape_kernel: int = _field(
        3,
        "neighbouring keys that a convolution of DAPE V2 sees, an odd number",
        read_by={"inter_encoding": ("dape_v2",)},
    )
    fire_length: int = _field(
        512,
        "how far a query has come, in tokens or segments, before FIRE takes distances as shares of it; a learnt factor"
        " moves it",
        read_by={"inter_encoding": ("dape", "dape_v2", "fire")},
    )
    layer_encodings: list[str] | None = _field(
        None,
        "what each layer sees of positions, a pattern that starts anew behind its last entry: inter (the inter"
        " encoding), rope (RoPE over tokens), local (the same within local_window tokens), none (no position); by"
        " default inter in all of them",
        choices=LAYER_KINDS,
    )
    local_window: int | None = _field(
        None,
        "tokens, the query's own included, that a query of a local layer attends to",
        read_by={"layer_encodings": ("local",)},
    )
    sepllm_neighbors: int | None = _field(
        None,
        "tokens that a token sees behind it, itself counted, besides separators and the first ones of its document:"
        " the attention of SepLLM, with any encoding that adds to logits pair by pair; by default it sees all",
        read_by={"segmentation": ("separators",)},
    )
    sepllm_initial_tokens: int = _field(
        3,
        "tokens at the start of each document that all others see where sepllm_neighbors is set",
        read_by={"segmentation": ("separators",)},
    )
    bipe_hf_version: str | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        stage = self.__dict__.get("_stage")
        if stage is not None and name not in self.__dict__ and not hasattr(type(self), name):
            self._refuse_if_close(name)
        if name in LISTS:
            value = LISTS[name](value or ())
        if stage == "built" and name in own_fields() and value != self.__dict__[name]:
            raise InputError(
                f"{name} of a configuration that a model was built from cannot change, the model would not follow:"
                " change a copy (copy.deepcopy) and build from that"
            )
        super().__setattr__(name, value)

    def hold_fields(self) -> None:
        """Makes the fields of BiPE read-only: a model was built from them, and only a copy is free again."""
        self.__dict__["_stage"] = "built"

    def move_fields(self, values: Mapping[str, Any]) -> None:
        """Sets fields although a model was built from them: for the model itself, which follows.

        Raises:
            ValueError: for a value that is not accepted; then nothing is set.
        """
        moved = copy.deepcopy(self)
        for name, value in values.items():
            setattr(moved, name, value)
        moved.check_values()
        self.__dict__.update(values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stage": "made"}

    def _remove_keys_not_serialized(self, d: dict[str, Any]) -> None:
        super()._remove_keys_not_serialized(d)
        d.pop("_stage", None)
        for name in LISTS:
            if name in d:
                d[name] = [list(each) if isinstance(each, list) else each for each in d[name]]

    def __post_init__(self, keep_unknown: bool = False, **kwargs):
        super().__post_init__(**kwargs)
        # What names its type was saved, perhaps by another version: there an unknown field does no harm.
        if not (keep_unknown or "model_type" in kwargs):
            self._refuse_unknown(kwargs)
        self.validate_bipe_fields()  # here as well, so that construction raises a plain ValueError
        if self.segmentation == "separators" and not self.separator_token_ids:
            logger.warning_once(
                "segmentation is 'separators' but separator_token_ids is empty: every sequence is one segment, so the "
                "inter encoding has nothing to tell apart. Pass separator_token_ids=tokenizer.separator_token_ids, "
                "or say segmentation='document' if this is meant."
            )
        self.__dict__["_stage"] = "made"

    def _refuse_unknown(self, given: Iterable[str]) -> None:
        """Raises `ValueError` for what is no field, here or in transformers: it would change nothing.

        transformers takes out of `given` what it knows, old names too, and makes plain attributes of the rest.
        """
        for name in given:
            if name in self.__dict__ and name not in UNDECLARED and not hasattr(type(self), name):
                self._refuse_if_close(name)
                raise InputError(f"{name}: {type(self).__name__} has no such field")

    @classmethod
    def _refuse_if_close(cls, name: str) -> None:
        """Raises `ValueError` for what is close to a field, and none."""
        if name == "separators":
            raise InputError(
                "separators: they belong to the tokenizer, BipeTokenizer.from_tokenizer(tokenizer, separators=...),"
                " whose separator_token_ids a configuration takes"
            )
        if get_close_matches(name, own_fields(), n=1, cutoff=0.8):
            raise InputError(f"{name}: {cls.__name__} has no such field{did_you_mean(name, own_fields())}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self | tuple[Self, dict[str, Any]]:
        """As transformers does: what is no field in a `config.json`, which may be older or newer, does no harm.

        Given `rope_parameters` keep the base, the share of a head that turns and the type, unless they name them.

        Raises:
            ValueError: if one of `kwargs` is no field but close to one of BiPE. Others, which may be meant for a model
                or a tokenizer, are left to the caller, as in transformers. Also if `kwargs` ask for separators, and
                there are none.
        """
        wants_unused = kwargs.pop("return_unused_kwargs", False)
        given = {**config_dict, "keep_unknown": True}
        if isinstance(kwargs.get("rope_parameters"), dict):
            saved, _ = super().from_dict(given, return_unused_kwargs=True)
            kwargs["rope_parameters"] = replaced_rope_parameters(saved, kwargs["rope_parameters"])
        config, unused = super().from_dict(given, return_unused_kwargs=True, **kwargs)
        for name in unused:
            cls._refuse_if_close(name)
        config.validate_bipe_fields()  # with what `kwargs` have set
        is_new = kwargs.get("segmentation") == "separators" != config_dict.get("segmentation", "separators")
        if is_new and not config.separator_token_ids and "separator_token_ids" not in kwargs:
            raise InputError(
                "segmentation: 'separators' needs separator_token_ids, which the saved model has none of: give"
                " separator_token_ids=tokenizer.separator_token_ids along"
            )
        return (config, unused) if wants_unused else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Self:
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def validate_bipe_fields(self):
        """Validates the values of the BiPE fields, as a part of what `@strict` does.

        Raises:
            ValueError: as [`check_values`] and [`check_vocabulary`].
        """
        self.check_values()
        self.check_vocabulary(self.vocab_size)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises `ValueError` for separators that a vocabulary of that size, in tokens, does not have."""
        levels = {"separator_token_ids": self.separator_token_ids}
        levels |= {
            f"inner_separator_token_ids[{at}]": level for at, level in enumerate(self.inner_separator_token_ids)
        }
        for name, token_ids in levels.items():
            outside = [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]
            if outside:
                more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
                raise InputError(
                    f"{name} must lie in the vocabulary, from 0 to {vocab_size - 1}, got {outside[:5]}{more}"
                )

    def check_values(self) -> None:
        """Raises `ValueError` for a value that no model has, whatever its vocabulary."""
        for name, own in own_fields().items():
            accepted = own.metadata["choices"]
            if accepted is not None:
                self._check_choice(name, accepted)
        if self.max_segment_length < 1:
            raise InputError(f"max_segment_length must be at least 1 token, got {self.max_segment_length}")
        if self.max_inner_index < 1:
            raise InputError(f"max_inner_index must be at least 1 unit, got {self.max_inner_index}")
        if self.inner_separator_token_ids:
            self._validate_inner_levels()
        if self.intra_initializer_range is not None and not 0 <= self.intra_initializer_range < math.inf:
            raise InputError(
                "intra_initializer_range must be None or a standard deviation from 0 on, got "
                f"{self.intra_initializer_range}"
            )
        if not 1e-6 <= self.alibi_slope_scale <= 1e6:
            raise InputError(f"alibi_slope_scale must lie between 1e-6 and 1e6, got {self.alibi_slope_scale}")
        for name in ("log_scale_train_length", "logn_train_length"):
            if getattr(self, name) is not None and getattr(self, name) < 2:
                raise InputError(
                    f"{name} must be None or at least 2 (its logarithm divides the queries), got {getattr(self, name)}"
                )
        if self.segmentation == "fixed" and (self.fixed_segment_length is None or self.fixed_segment_length < 1):
            raise InputError(
                f"segmentation 'fixed' needs fixed_segment_length, at least 1 token, got {self.fixed_segment_length}"
            )
        if self.sepllm_neighbors is not None and self.sepllm_neighbors < 1:
            raise InputError(f"sepllm_neighbors must be None or at least 1 token, got {self.sepllm_neighbors}")
        if self.sepllm_neighbors is not None and self.inter_encoding in FINISHED_LOGITS:
            raise InputError(f"sepllm_neighbors does not go with {why_no_sepllm(self.inter_encoding)}")
        if self.sepllm_initial_tokens < 0:
            raise InputError(f"sepllm_initial_tokens must be 0 or more tokens, got {self.sepllm_initial_tokens}")
        if self.sepllm_neighbors is not None and self.segmentation != "separators":
            raise InputError(
                "sepllm_neighbors needs segmentation 'separators', whose separator_token_ids all tokens see, got"
                f" {self.segmentation!r}. RoPE over tokens with separators is inter_encoding='rope', token_share=1.0,"
                " intra_encoding='none'"
            )
        if not 0 <= self.token_share <= 1:
            raise InputError(f"token_share must lie between 0 and 1, got {self.token_share}")
        if not 0 < self.fox_min_time <= self.fox_max_time < math.inf:
            raise InputError(
                "fox_min_time and fox_max_time must be above 0, the second at least the first, got "
                f"{self.fox_min_time} and {self.fox_max_time}"
            )
        at_least = {"cope_positions": 2, "dape_width": 1, "dape_kernel": 1, "fire_length": 1}
        at_least |= {"selective_rope_rank": 1, "selective_rope_kernel": 1, "hirope_window": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.tape_channels is not None and self.tape_channels < 1:
            raise InputError(f"tape_channels must be None or at least 1, got {self.tape_channels}")
        if self.dape_kernel % 2 == 0:
            raise InputError(f"dape_kernel must be odd, as many keys on either side, got {self.dape_kernel}")
        if not 1 <= self.selective_rope_theta < math.inf:
            raise InputError(f"selective_rope_theta must be at least 1, got {self.selective_rope_theta}")
        if self.inter_encoding == "selective_rope" and self.rope_parameters["rope_type"] != "default":
            raise InputError(
                "rope_parameters of inter_encoding 'selective_rope' must have rope_type 'default': its angles are"
                f" learnt, got {self.rope_parameters['rope_type']!r}"
            )
        if self.layer_encodings:
            self._validate_layers()
        if self.inter_encoding == "dca":
            self._validate_dca()
        if turns_with_token(self):
            self._validate_token_pairs()
        if self.inter_encoding == "hybrid":
            self._validate_hybrid()
        if self.inter_encoding == "axes":
            self._validate_axes()

    def _check_choice(self, name: str, accepted: tuple[str, ...]) -> None:
        """Raises `ValueError` where a field, or an entry of one that is a list, is none of those."""
        value = getattr(self, name)
        is_list = isinstance(value, list)
        for each in value if is_list else [value]:
            if each not in accepted:
                must_be = "a list of" if is_list else "one of"
                raise InputError(f"{name} must be {must_be} {', '.join(accepted)}, got {each!r}")

    def _validate_inner_levels(self):
        for at, level in enumerate(self.inner_separator_token_ids):
            if not level:
                raise InputError(f"inner_separator_token_ids[{at}] is empty: nothing would end a unit of that level")
        reason = why_unread("inner_separator_token_ids", vars(self))
        if reason is not None:
            raise InputError(f"inner_separator_token_ids must be empty here: {reason}")

    def _validate_layers(self):
        pattern = self.layer_encodings
        if "inter" not in pattern or len(pattern) > self.num_hidden_layers:
            raise InputError(
                "layer_encodings must have the inter encoding in it ('inter') and at most as many entries as there"
                f" are layers, {self.num_hidden_layers}, got {list(pattern)}"
            )
        if "local" in pattern and (self.local_window is None or self.local_window < 1):
            raise InputError(f"layer_encodings 'local' needs local_window, at least 1 token, got {self.local_window}")

    def _validate_token_pairs(self):
        """What all with rotary pairs of the token have alike."""
        name = f"inter_encoding {self.inter_encoding!r}"
        if self.inter_encoding not in WITH_TOKEN_PAIRS:
            name += f" with added_rotation {self.added_rotation!r}"
        if self.hybrid_max_period is None or not self.hybrid_max_period > 0:
            raise InputError(
                f"{name} needs hybrid_max_period, a number of tokens above 0 such as half of the train length, got"
                f" {self.hybrid_max_period}"
            )
        if self.hybrid_alibi_scale != 0 and not 1e-6 <= self.hybrid_alibi_scale <= 1e6:
            raise InputError(
                f"hybrid_alibi_scale must be 0 or lie between 1e-6 and 1e6, got {self.hybrid_alibi_scale}"
            )
        if not 0 <= self.hybrid_alibi_power <= 1:
            raise InputError(f"hybrid_alibi_power must lie between 0 and 1, got {self.hybrid_alibi_power}")
        accepted = ("default",) if self.inter_encoding == "hirope" else STATIC_ROPE_TYPES
        if self.rope_parameters["rope_type"] not in accepted:
            raise InputError(
                f"rope_parameters of {name} must have rope_type {' or '.join(accepted)}, got"
                f" {self.rope_parameters['rope_type']!r}"
            )

    def _validate_dca(self):
        if self.dca_train_length is None or self.dca_train_length < 2:
            unit = "tokens" if self.segmentation == "tokens" else "segments (bipe-hf segments counts those of a block)"
            raise InputError(
                f"inter_encoding 'dca' needs dca_train_length, at least 2 {unit}: how long a text was in training, got"
                f" {self.dca_train_length}"
            )
        size, chunk = self.dca_distance_and_chunk
        if not 1 <= size <= self.dca_train_length:
            raise InputError(
                f"dca_chunk_size must lie between 1 and dca_train_length ({self.dca_train_length}), got {size}"
            )
        if not 1 <= chunk <= size:
            raise InputError(f"dca_window must lie between 0 and {size - 1}, below dca_chunk_size, got {size - chunk}")
        if self.rope_parameters["rope_type"] != "default":
            raise InputError(
                "rope_parameters of inter_encoding 'dca' must have rope_type 'default': its distances are those of"
                f" training and need no scaling, got {self.rope_parameters['rope_type']!r}"
            )

    def _validate_hybrid(self):
        if self.token_share != 0 and self.hybrid_slow_pairs == "none":
            raise InputError(
                f"token_share is {self.token_share}, but hybrid_slow_pairs is 'none': no pair turns with that index."
                " Set hybrid_slow_pairs='segments'"
            )

    def _validate_axes(self):
        if self.segmentation == "tokens" or self.intra_encoding == "none":
            raise InputError(
                "inter_encoding 'axes' turns with the indices inside segments: it needs a segmentation other than"
                " 'tokens', and an intra_encoding, whose tables say where the indices end"
            )
        if self.hybrid_alibi_scale == 0:
            raise InputError("inter_encoding 'axes' tells segments apart by ALiBi alone: hybrid_alibi_scale is not 0")

    @classmethod
    def for_encoding(
        cls,
        name: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        train_length: int | None = None,
        **fields: Any,
    ) -> Self:
        """The configuration of a positional encoding, with explicit fields.

        `BipeLlamaConfig.for_encoding("bipe_rope", tokenizer=tokenizer, train_length=1024, hidden_size=768, ...)`

        - `"rope"`, `"xpos"`, `"alibi"`, `"kerple"`, `"t5"`, `"fire"`, `"nope"`: over tokens, as their papers have
          them.
        - `"fox"`, `"fox_rope"`, `"fox_pro"`, `"cable"`, `"cable_kernel"`: biases over tokens that every layer learns,
          as their papers have them; the second turns queries and keys as well, the third changes the layer too.
        - `"hirope"`, over segments of 128 tokens as its paper has plain text, and `"bipe_hirope"`: rotary pairs of a
          wavelength up to `train_length` (`hybrid_max_period`) turn with the token, the others with the segment, and
          within a window (`hirope_window`) all with the token.
        - `"rnope"`: RoPE over tokens and no position, by turns of layers; `"rnope_local"`: the same with a window of
          a quarter of `train_length` (`local_window`) where there is RoPE. `"bipe_rope_local"`, `"bipe_alibi_local"`:
          such local layers and layers with BiPE, by turns.
        - `"dca"`: RoPE over tokens in chunks, whose distances stay within `train_length` (`dca_train_length`);
          `"bipe_dca"` over segments, whose `dca_train_length`, in segments, must be given.
        - `"selective_rope"`: rotary angles over tokens that every layer learns, as its paper has them.
        - `"tape"`: rotary angles over tokens that every layer changes, as its paper has them.
        - `"path"`, `"path_fox"`: products over tokens of factors that every layer learns, as their paper has them, the
          second with forget gates.
        - `"cope"`, `"dape"`, `"dape_v2"`: functions of the logits over tokens that every layer learns, as their papers
          have them.
        - `"fox_fast"`, `"cable_fast"`, `"cope_fast"`, `"dape_fast"` and the same over segments (`"bipe_fox_fast"`,
          ...): rotary pairs of a wavelength up to half of `train_length` turn with the token besides, as in a hybrid.
        - `"sinusoidal"`, `"learned"`: absolute over the document, whose `max_segment_length` is `train_length`.
        - `"bipe_rope"`, `"bipe_alibi"`, ...: that encoding over segments, which end at separators, with a learned
          table of the places in a segment; ALiBi with the paper's factor of 96.
        - `"bipe_levels"`: BiPE-RoPE with inner levels, a learned table for each; `"bipe_levels_hybrid"` with the inter
          encoding of a hybrid instead; `"bipe_levels_axes"` with rotary pairs that turn with the indices inside a
          segment, those of a wavelength up to half of `train_length` with the token, and the ALiBi of a hybrid.
        - `"hybrid"` over tokens and `"bipe_hybrid"` over segments, which end with clauses: rotary pairs of a
          wavelength up to half of `train_length` (`hybrid_max_period`) turn with the token, the others not at all
          (`hybrid_slow_pairs="none"`); `hybrid_alibi_scale=2.0` and `hybrid_alibi_power=0.5`; no intra encoding.

        Args:
            name (`str`): as above; all are in `encodings_bipe`.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
                Gives `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id` and, where segments end at
                separators, `separator_token_ids` and `inner_separator_token_ids`: those of a [`BipeTokenizer`], else
                those that [`BipeTokenizer.from_tokenizer`] finds, of clauses for a hybrid, of lines and their fields
                for an encoding with inner levels and of sentences for the others.
            train_length (`int`, *optional*):
                Tokens in a training block: `max_position_embeddings`, and what is said above.
            fields: any field of the configuration. They win over all that is derived.

        Returns:
            The configuration, of the class that this is called on.

        Raises:
            ValueError: if there is no such encoding; if it needs a train length or separators and none are given; or
                for what the configuration refuses.
        """
        fields = encoding_fields(name, train_length, **fields)
        levels = None
        if fields["segmentation"] == "separators" and "separator_token_ids" not in fields:
            levels = encoding_levels(name) or ("sentences",)
        if tokenizer is None and levels is not None:
            raise InputError(f"encoding {name!r} ends segments at separators: give tokenizer or separator_token_ids")
        is_given = "inner_separator_token_ids" in fields
        if tokenizer is not None:
            fields = token_fields(tokenizer, levels) | fields
        has_inner, wants_inner = bool(fields.get("inner_separator_token_ids")), len(encoding_levels(name)) > 1
        if has_inner != wants_inner and not is_given:
            wanted = f"levels={list(encoding_levels(name))}" if wants_inner else "separators=..."
            raise InputError(
                f"encoding {name!r} has {'' if wants_inner else 'no '}inner levels, the tokenizer"
                f" {'none' if wants_inner else 'has'}: give inner_separator_token_ids, or wrap it again"
                f" (BipeTokenizer.from_tokenizer(tokenizer, {wanted}))"
            )
        return cls(**fields)

    @property
    def dca_distance_and_chunk(self) -> tuple[int, int]:
        """The longest distance of DCA and the length of its chunks, in tokens or segments."""
        size, window = self.dca_chunk_size, self.dca_window
        size = self.dca_train_length * 3 // 4 if size is None else size
        return size, size - (self.dca_train_length // 8 if window is None else window)

    @property
    def encoding_label(self) -> str:
        """What the field calls this positional encoding: `"BiPE-RoPE"`, `"ALiBi"`, `"learned APE"`, ..."""
        return encoding_label(self)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """As transformers does, with the code that loads the model where this package is not installed.

        The files stand beside `config.json`, whose `auto_map` names them for `trust_remote_code=True`. A configuration
        class defined elsewhere is left to `register_for_auto_class`.

        Raises:
            FileExistsError: if a file of the folder has the name of one of ours and is somebody else's.
        """
        if type(self).__module__ == __name__:
            check_code(Path(save_directory))
            write_code(Path(save_directory))
            self.bipe_hf_version = __version__
            self.auto_map = auto_map(self)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


class FieldTypeError(InputError, StrictDataclassFieldValidationError):
    """A field of BiPE was given a value of another type, as one line."""

    def __init__(self, message: str):
        Exception.__init__(self, message)


def _with_plain_errors(config_class: type[BipeConfigMixin]) -> type[BipeConfigMixin]:
    """A strict class, whose fields of BiPE refuse another type by [`FieldTypeError`]."""
    strict_setattr = config_class.__setattr__

    def plain_setattr(self: BipeConfigMixin, name: str, value: Any) -> None:
        try:
            strict_setattr(self, name, value)
        except StrictDataclassFieldValidationError:
            own = own_fields().get(name)
            if own is None:
                raise
            wanted = inspect.formatannotation(own.type)
            raise FieldTypeError(f"{name} must be of type {wanted}, got {value!r}") from None

    config_class.__setattr__ = plain_setattr
    return config_class


def replaced_rope_parameters(config: PreTrainedConfig, given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the base, the share of a head that turns and the type of `config`, unless it names them.

    transformers takes given `rope_parameters` for the whole mapping and fills it with defaults.

    Args:
        config: whose `rope_parameters` are replaced.
        given: the new `rope_parameters`.
    """
    own = config.to_dict().get("rope_parameters") or {}
    kept = {key: own[key] for key in ("rope_theta", "partial_rotary_factor", "rope_type") if key in own}
    return kept | given


def why_no_sepllm(inter_encoding: str) -> str:
    """What is said of an encoding that SepLLM's mask and cache do not go with."""
    return (
        f"inter_encoding {inter_encoding!r}, which changes finished logits, some by what stands beside a key. Use one"
        " with angles, columns or a bias (docs/caches.md)"
    )


def own_fields() -> dict[str, Field]:
    """The fields of BiPE that users set, by name; each with type, default and metadata as `_field` takes them."""
    return {each.name: each for each in fields(BipeConfigMixin) if "read_by" in each.metadata}


def why_unread(name: str, given: Mapping[str, Any]) -> str | None:
    """Why nothing reads a field of a configuration, None where something does.

    Args:
        name: of the field, one of [`own_fields`].
        given: all fields of the configuration, by name.
    """
    own = own_fields()
    for reader, values in own[name].metadata["read_by"].items():
        value = given.get(reader, own[reader].default)
        if not set(values) & set(value if isinstance(value, list) else [value]):
            return f"only {reader} {' or '.join(values)} reads it"
    return None


def _documentation() -> str:
    """The section of a docstring that says what the fields are."""
    lines = ["Args:"]
    for name, own in own_fields().items():
        default = "" if own.default is None else f", defaults to `{own.default!r}`"
        lines.append(f"    {name} (`{inspect.formatannotation(own.type)}`, *optional*{default}):")
        text, choices, read_by = (own.metadata[key] for key in ("help", "choices", "read_by"))
        text = f"{text[0].upper()}{text[1:]}."
        text += f" One of {', '.join(choices)}." if choices else ""
        text += "".join(f" For {reader} {' or '.join(values)}." for reader, values in read_by.items())
        lines += textwrap.wrap(text, 111, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


@_with_plain_errors
@strict
class BipeLlamaConfig(BipeConfigMixin, LlamaConfig):
    __doc__ = f"""Configuration of a Llama model with bilevel positional encoding.

All fields of [`~transformers.LlamaConfig`], and those below. With `inter_encoding="rope"`, lengths in
`rope_parameters` and `max_position_embeddings` count segments where the rotary scaling reads them.

{_documentation()}
"""

    model_type = "bipe_llama"

    def check_values(self) -> None:
        super().check_values()
        if self.inter_encoding == "tape" and self.num_key_value_heads != self.num_attention_heads:
            raise InputError(
                "inter_encoding 'tape' has angles for each query head, which only a key head of its own can have:"
                f" num_key_value_heads must be num_attention_heads, {self.num_attention_heads}, got"
                f" {self.num_key_value_heads}"
            )


@_with_plain_errors
@strict
class BipeGPTNeoXConfig(BipeConfigMixin, GPTNeoXConfig):
    __doc__ = f"""Configuration of a GPT-NeoX model with bilevel positional encoding.

All fields of [`~transformers.GPTNeoXConfig`], and those below. With `inter_encoding="rope"`, lengths in
`rope_parameters` and `max_position_embeddings` count segments where the rotary scaling reads them.

{_documentation()}
"""

    model_type = "bipe_gpt_neox"
