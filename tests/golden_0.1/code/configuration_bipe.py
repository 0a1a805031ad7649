"""The configuration fields of BiPE, once, and the configuration class of each family."""

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import GPTNeoXConfig, LlamaConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from .version import __version__


if TYPE_CHECKING:
    # Never run: transformers carries the files that a module names along with it, so every copy of this one, beside a
    # checkpoint or in the cache of remote code, has the whole model and its tokenizer beside it.
    from .modeling_bipe_gpt_neox import BipeGPTNeoXModel  # noqa: F401
    from .modeling_bipe_llama import BipeLlamaModel  # noqa: F401
    from .tokenization_bipe import BipeTokenizer  # noqa: F401

logger = logging.get_logger(__name__)

INTER_ENCODINGS = ("rope", "xpos", "alibi", "hybrid", "kerple", "t5", "none")
INTRA_ENCODINGS = ("learned", "sinusoidal", "none")
SEGMENTATIONS = ("separators", "fixed", "tokens", "document")
SLOW_PAIRS = ("none", "segments")

_INTER_LABELS = {"rope": "RoPE", "xpos": "xPos", "alibi": "ALiBi", "kerple": "Kerple", "t5": "T5 bias"}

HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


@strict
class BipeConfigMixin(PreTrainedConfig):
    """Fields that a BiPE configuration has beyond its parent's.

    Args:
        inter_encoding (`str`, *optional*, defaults to `"rope"`):
            Relative encoding over segment ids: `"rope"`, `"xpos"`, `"alibi"`, `"hybrid"`, `"kerple"`, `"t5"` or
            `"none"` (see the classes of `positional.py`). `"kerple"` and `"t5"` have a bias for each pair of tokens:
            their memory grows with the square of the length, and flash attention cannot compute them.
        intra_encoding (`str`, *optional*, defaults to `"learned"`):
            Absolute encoding of the position inside a segment, added to the word embedding: `"learned"`,
            `"sinusoidal"` or `"none"`.
        segmentation (`str`, *optional*, defaults to `"separators"`):
            What a segment is: `"separators"` (a run of tokens up to a separator), `"fixed"` (each
            `fixed_segment_length` tokens), `"tokens"` (each token its own, which makes the plain encoding of
            `inter_encoding`) or `"document"` (all one, which makes a plain absolute encoding).
        separator_token_ids (`list[int]`, *optional*, defaults to `[]`):
            Tokens that end a segment, for `segmentation="separators"`. `BipeTokenizer.separator_token_ids` has them.
        fixed_segment_length (`int`, *optional*):
            Tokens in a segment, for `segmentation="fixed"`.
        max_segment_length (`int`, *optional*, defaults to 1024):
            Rows of the intra table, in tokens. Later positions of a longer segment share the last row.
        intra_initializer_range (`float`, *optional*):
            Standard deviation of the first values of the learned intra table; by default `initializer_range`, as the
            authors have it. With 0 the table starts at zero.
        alibi_slope_scale (`float`, *optional*, defaults to 96.0):
            Factor on the ALiBi slopes of Press et al. The paper takes 96 over segments; plain ALiBi is 1.0.
        log_scale_train_length (`int`, *optional*):
            Turns on the authors' `log_scale`: queries are multiplied by `log(seg + 1) / log(log_scale_train_length)`.
        logn_train_length (`int`, *optional*):
            Multiplies queries by `max(1, log(position + 1) / log(logn_train_length))`, positions in tokens (Chiang and
            Cholak, ACL 2022).
        hybrid_max_period (`float`, *optional*):
            For `inter_encoding="hybrid"`, which needs it: rotary pairs that turn once in so many tokens or fewer turn
            with the token index. Half of the train length keeps those that have seen two whole turns.
        hybrid_slow_pairs (`str`, *optional*, defaults to `"none"`):
            What the other pairs turn with: `"segments"`, or `"none"` where they do not turn.
        hybrid_alibi_scale (`float`, *optional*, defaults to 4.0):
            Factor on the slopes of the ALiBi over segments of a hybrid; 0 leaves it out. With as many as a segment has
            tokens in the mean, and power 1, the bias falls about as fast as that of plain ALiBi.
        hybrid_alibi_power (`float`, *optional*, defaults to 1.0):
            Exponent put on the slopes of Press et al. before that factor, from 0 to 1: below 1 those of the heads lie
            closer together, with 0 every head has the slope `hybrid_alibi_scale`.
        bipe_hf_version (`str`, *optional*):
            Version of this package that saved the configuration; set by `save_pretrained`.

    A model is built from these fields: set them before, not afterwards.

    Raises:
        ValueError: if a field has a value that is not accepted; the message says which are.
    """

    inter_encoding: str = "rope"
    intra_encoding: str = "learned"
    segmentation: str = "separators"
    separator_token_ids: list[int] | None = None
    max_segment_length: int = 1024
    intra_initializer_range: float | int | None = None
    alibi_slope_scale: float | int = 96.0
    log_scale_train_length: int | None = None
    logn_train_length: int | None = None
    fixed_segment_length: int | None = None
    hybrid_max_period: float | int | None = None
    hybrid_slow_pairs: str = "none"
    hybrid_alibi_scale: float | int = 4.0
    hybrid_alibi_power: float | int = 1.0
    bipe_hf_version: str | None = None

    def __post_init__(self, **kwargs):
        self.separator_token_ids = sorted(set(self.separator_token_ids or []))
        super().__post_init__(**kwargs)
        self.validate_bipe_fields()  # here as well, so that construction raises a plain ValueError
        if self.segmentation == "separators" and not self.separator_token_ids:
            logger.warning_once(
                "segmentation is 'separators' but separator_token_ids is empty: every sequence is one segment, so the "
                "inter encoding has nothing to tell apart. Pass separator_token_ids=tokenizer.separator_token_ids, "
                "or say segmentation='document' if this is meant."
            )

    def validate_bipe_fields(self):
        """Part of `@strict`-powered validation: the values of the BiPE fields."""
        for name, accepted in (
            ("inter_encoding", INTER_ENCODINGS),
            ("intra_encoding", INTRA_ENCODINGS),
            ("segmentation", SEGMENTATIONS),
            ("hybrid_slow_pairs", SLOW_PAIRS),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if self.max_segment_length < 1:
            raise ValueError(f"max_segment_length must be at least 1 token, got {self.max_segment_length}")
        if self.intra_initializer_range is not None and not 0 <= self.intra_initializer_range < math.inf:
            raise ValueError(
                "intra_initializer_range must be None or a standard deviation from 0 on, got "
                f"{self.intra_initializer_range}"
            )
        if not 1e-6 <= self.alibi_slope_scale <= 1e6:
            raise ValueError(f"alibi_slope_scale must lie between 1e-6 and 1e6, got {self.alibi_slope_scale}")
        for name in ("log_scale_train_length", "logn_train_length"):
            if getattr(self, name) is not None and getattr(self, name) < 2:
                raise ValueError(
                    f"{name} must be None or at least 2 (its logarithm divides the queries), got {getattr(self, name)}"
                )
        if self.segmentation == "fixed" and (self.fixed_segment_length is None or self.fixed_segment_length < 1):
            raise ValueError(
                f"segmentation 'fixed' needs fixed_segment_length, at least 1 token, got {self.fixed_segment_length}"
            )
        if self.inter_encoding == "hybrid":
            self._validate_hybrid()
        outside = [token_id for token_id in self.separator_token_ids if not 0 <= token_id < self.vocab_size]
        if outside:
            raise ValueError(
                f"separator_token_ids must lie in the vocabulary, from 0 to {self.vocab_size - 1}, got {outside}"
            )

    def _validate_hybrid(self):
        if self.hybrid_max_period is None or self.hybrid_max_period <= 0:
            raise ValueError(
                "inter_encoding 'hybrid' needs hybrid_max_period, a number of tokens above 0 such as half of the "
                f"train length, got {self.hybrid_max_period}"
            )
        if self.hybrid_alibi_scale != 0 and not 1e-6 <= self.hybrid_alibi_scale <= 1e6:
            raise ValueError(
                f"hybrid_alibi_scale must be 0 or lie between 1e-6 and 1e6, got {self.hybrid_alibi_scale}"
            )
        if not 0 <= self.hybrid_alibi_power <= 1:
            raise ValueError(f"hybrid_alibi_power must lie between 0 and 1, got {self.hybrid_alibi_power}")
        if self.rope_parameters["rope_type"] != "default":
            raise ValueError(
                "rope_parameters of inter_encoding 'hybrid' must have rope_type 'default': its fast pairs need no "
                f"scaling, got {self.rope_parameters['rope_type']!r}"
            )

    @property
    def encoding_label(self) -> str:
        """What the field calls this positional encoding: `"BiPE-RoPE"`, `"ALiBi"`, `"learned APE"`, ..."""
        inter = _INTER_LABELS.get(self.inter_encoding, self.inter_encoding)
        if self.segmentation == "tokens":  # every intra position is 0: the intra encoding says nothing
            return "NoPE" if self.inter_encoding == "none" else inter
        ape = {"learned": "learned APE", "sinusoidal": "sinusoidal APE", "none": "NoPE"}[self.intra_encoding]
        if self.segmentation == "document":  # every segment index is 0: the inter encoding says nothing,
            if self.inter_encoding != "hybrid":  # but for the pairs of a hybrid that turn with the token
                return ape
            return inter if self.intra_encoding == "none" else f"{inter} with {ape}"
        if self.inter_encoding == "none":
            return f"{ape} in segments"
        if self.intra_encoding == "none":
            return f"{inter} over segments"
        return f"BiPE-{inter}" if self.intra_encoding == "learned" else f"BiPE-{inter} ({self.intra_encoding})"

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """As transformers does, with the code that loads the model where this package is not installed.

        The files stand beside `config.json`, whose `auto_map` names them for `trust_remote_code=True`. A configuration
        class defined elsewhere is left to `register_for_auto_class`.

        Raises:
            FileExistsError: if a file of the folder has the name of one of ours and no checkpoint of ours is there.
        """
        if type(self).__module__ == __name__:
            _save_code(Path(save_directory))
            self.bipe_hf_version = __version__
            self.auto_map = self._own_auto_map()
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _own_auto_map(self) -> dict[str, str | list[str | None]]:
        prefix, modelling = type(self).__name__.removesuffix("Config"), f"modeling_{self.model_type}"
        auto_map = {
            "AutoConfig": f"{Path(__file__).stem}.{type(self).__name__}",
            "AutoModel": f"{modelling}.{prefix}Model",
        }
        auto_map |= {f"AutoModel{head}": f"{modelling}.{prefix}{head}" for head in HEADS}
        if self.segmentation == "separators":  # other models have a plain tokenizer
            auto_map["AutoTokenizer"] = [None, "tokenization_bipe.BipeTokenizer"]  # without and with `tokenizers`
        return auto_map


def _save_code(folder: Path) -> None:
    """Copies this file and every module that the model and its tokenizer need."""
    files = sorted({Path(__file__), *map(Path, get_relative_import_files(__file__))})
    copies = {file: folder / file.name for file in files if file.parent.resolve() != folder.resolve()}
    if not (folder / Path(__file__).name).exists():  # no checkpoint of ours yet: what is there is somebody's own
        for copy in copies.values():
            if copy.exists():
                raise FileExistsError(
                    f"save_directory {folder} holds a file {copy.name}, which the code of the model would replace: "
                    "choose another folder"
                )
    folder.mkdir(parents=True, exist_ok=True)
    for file, copy in copies.items():
        shutil.copyfile(file, copy)


def replaced_rope_parameters(config: PreTrainedConfig, given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the base and the share of a head that turns of `config`, unless it names them.

    transformers takes given `rope_parameters` for the whole mapping and fills it with defaults.
    """
    own = config.to_dict().get("rope_parameters") or {}
    kept = {key: own[key] for key in ("rope_theta", "partial_rotary_factor") if key in own}
    return kept | given


FIELDS_DOC = f"""{BipeConfigMixin.__doc__.partition("Args:")[2]}

    With `inter_encoding="rope"`, lengths in `rope_parameters` and `max_position_embeddings` count segments where the
    rotary scaling reads them.
    """


@strict
class BipeLlamaConfig(BipeConfigMixin, LlamaConfig):
    __doc__ = f"""Configuration of a Llama model with bilevel positional encoding.

    All fields of [`~transformers.LlamaConfig`], and:

    {FIELDS_DOC}"""

    model_type = "bipe_llama"


@strict
class BipeGPTNeoXConfig(BipeConfigMixin, GPTNeoXConfig):
    __doc__ = f"""Configuration of a GPT-NeoX model with bilevel positional encoding.

    All fields of [`~transformers.GPTNeoXConfig`], and:

    {FIELDS_DOC}"""

    model_type = "bipe_gpt_neox"
