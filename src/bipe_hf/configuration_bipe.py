"""The configuration fields of BiPE, once, and the configuration class of each family."""

import os
import shutil
from pathlib import Path

from huggingface_hub.dataclasses import strict
from transformers import GPTNeoXConfig, LlamaConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from .version import __version__


logger = logging.get_logger(__name__)

INTER_ENCODINGS = ("rope", "alibi", "none")
INTRA_ENCODINGS = ("learned", "sinusoidal", "none")
SEGMENTATIONS = ("separators", "tokens", "document")

HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
TOKENIZER_MODULE = "tokenization_bipe"


@strict
class BipeConfigMixin(PreTrainedConfig):
    """Fields that a BiPE configuration has beyond its parent's.

    Args:
        inter_encoding (`str`, *optional*, defaults to `"rope"`):
            Relative encoding over segment ids: `"rope"`, `"alibi"` or `"none"`.
        intra_encoding (`str`, *optional*, defaults to `"learned"`):
            Absolute encoding of the position inside a segment, added to the word embedding: `"learned"`,
            `"sinusoidal"` or `"none"`.
        segmentation (`str`, *optional*, defaults to `"separators"`):
            What a segment is: `"separators"` (a run of tokens up to a separator), `"tokens"` (each token its own,
            which makes the plain encoding of `inter_encoding`) or `"document"` (all one, which makes a plain absolute
            encoding).
        separator_token_ids (`list[int]`, *optional*, defaults to `[]`):
            Tokens that end a segment, for `segmentation="separators"`. `BipeTokenizer.separator_token_ids` has them.
        max_segment_length (`int`, *optional*, defaults to 1024):
            Rows of the intra table, in tokens. Later positions of a longer segment share the last row.
        alibi_slope_scale (`float`, *optional*, defaults to 96.0):
            Factor on the ALiBi slopes of Press et al. The paper takes 96 over segments; plain ALiBi is 1.0.
        log_scale_train_length (`int`, *optional*):
            Turns on the authors' `log_scale`: queries are multiplied by `log(seg + 1) / log(log_scale_train_length)`.
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
    alibi_slope_scale: float | int = 96.0
    log_scale_train_length: int | None = None
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
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if self.max_segment_length < 1:
            raise ValueError(f"max_segment_length must be at least 1 token, got {self.max_segment_length}")
        if not 1e-6 <= self.alibi_slope_scale <= 1e6:
            raise ValueError(f"alibi_slope_scale must lie between 1e-6 and 1e6, got {self.alibi_slope_scale}")
        if self.log_scale_train_length is not None and self.log_scale_train_length < 2:
            raise ValueError(
                "log_scale_train_length must be None or at least 2 (its logarithm divides the queries), "
                f"got {self.log_scale_train_length}"
            )
        outside = [token_id for token_id in self.separator_token_ids if not 0 <= token_id < self.vocab_size]
        if outside:
            raise ValueError(
                f"separator_token_ids must lie in the vocabulary, from 0 to {self.vocab_size - 1}, got {outside}"
            )

    @property
    def encoding_label(self) -> str:
        """What the field calls this positional encoding: `"BiPE-RoPE"`, `"ALiBi"`, `"learned APE"`, ..."""
        inter = {"rope": "RoPE", "alibi": "ALiBi"}.get(self.inter_encoding, self.inter_encoding)
        if self.segmentation == "tokens":  # every intra position is 0: the intra encoding says nothing
            return "NoPE" if self.inter_encoding == "none" else inter
        ape = {"learned": "learned APE", "sinusoidal": "sinusoidal APE", "none": "NoPE"}[self.intra_encoding]
        if self.segmentation == "document":  # every segment index is 0: the inter encoding says nothing
            return ape
        if self.inter_encoding == "none":
            return f"{ape} in segments"
        if self.intra_encoding == "none":
            return f"{inter} over segments"
        return f"BiPE-{inter}" if self.intra_encoding == "learned" else f"BiPE-{inter} ({self.intra_encoding})"

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """As transformers does, with the code that loads the model where this package is not installed.

        The files stand beside `config.json`, whose `auto_map` names them for `trust_remote_code=True`. A configuration
        class defined elsewhere is left to `register_for_auto_class`.
        """
        if type(self).__module__ == __name__:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.bipe_hf_version = __version__
            self.auto_map = self._save_code(Path(save_directory))
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _save_code(self, folder: Path) -> dict[str, str | list[str | None]]:
        """Copies the modules of the model and its tokenizer, and returns what the Auto classes find in them.

        A configuration that was itself loaded from a folder with code may stand there alone: then it knows no more.
        """
        prefix, modelling = type(self).__name__.removesuffix("Config"), f"modeling_{self.model_type}"
        auto_maps = {
            Path(__file__).stem: {"AutoConfig": type(self).__name__},
            modelling: {"AutoModel": f"{prefix}Model"} | {f"AutoModel{head}": prefix + head for head in HEADS},
        }
        if self.segmentation == "separators":  # other models have a plain tokenizer
            auto_maps[TOKENIZER_MODULE] = {"AutoTokenizer": "BipeTokenizer"}
        found = {}
        for module, classes in auto_maps.items():
            file = Path(__file__).with_name(f"{module}.py")
            if not file.is_file():
                continue
            for each in {file, *map(Path, get_relative_import_files(file))}:
                if each.resolve() != (folder / each.name).resolve():
                    shutil.copyfile(each, folder / each.name)
            found |= {auto_class: f"{module}.{name}" for auto_class, name in classes.items()}
        if "AutoTokenizer" in found:  # a pair: without and with the `tokenizers` library
            found["AutoTokenizer"] = [None, found["AutoTokenizer"]]
        return found


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
