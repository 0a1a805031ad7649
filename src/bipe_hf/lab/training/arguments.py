"""The settings of `bipe-hf pretrain`: its keys beyond those of `transformers.TrainingArguments`."""

import dataclasses
from collections.abc import Set
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, ClassVar, Literal, Self

from transformers import CONFIG_MAPPING, TrainingArguments
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...model.configuration_bipe import BipeConfigMixin, why_unread
from ...model.encodings_bipe import encoding_levels
from ...model.errors_bipe import InputError, did_you_mean
from ...model.separators_bipe import LEVELS, PRESETS
from ..common.encoding_options import ENCODING_HELP, encoding_options, option_fields, option_help, spelt_out
from ..common.messages import check_counts, parsed_json
from ..common.separators import check_levels, parsed_levels
from ..common.settings import RunSettings
from ..data import DEFAULT_CORPUS, SkippedIndices, StretchedIndices
from ..data.index_extension import check_extension
from .auto import AUTO, Choice
from .schedule import MOVING_FIELDS, check_schedule, first_values


DEFAULT_MODEL_TYPE = "bipe_llama"
MEASURED = "measured"

# Keys that extend the indices of training blocks, and what does it.
INDEX_EXTENSIONS = {"index_stretch": StretchedIndices, "index_skip": SkippedIndices}

# Fields of TrainingArguments that are not the user's to set, and why.
RESERVED_KEYS = {
    "do_eval": "pretrain always measures the validation loss at the end",
    "do_predict": "pretrain only trains and measures the validation loss",
    "do_train": "pretrain always trains",
    "hub_token": "settings are written to the run folder; log in with `hf auth login`",
    "label_names": "the labels are the tokens",
    "include_num_input_tokens_seen": "pretrain always counts the tokens",
    "label_smoothing_factor": "Trainer would smooth the validation loss, too, and none could be compared with it",
    "resume_from_checkpoint": "pretrain resumes from the last checkpoint in output_dir by itself",
    "save_only_model": "a run could not be resumed",
}


def reserved_from_random_weights(command: str, vocabulary: str, folder: str) -> dict[str, str]:
    """Keys that are not the user's to set where training starts from random weights, and why.

    Args:
        command: that trains.
        vocabulary: whose it is, in words.
        folder: what the command calls that of the run.
    """
    return {
        "do_eval": f"{command} always measures at the end",
        "do_predict": f"{command} only trains and measures",
        "do_train": f"{command} always trains",
        "encoding_schedule": "training starts from random weights, which nothing has to be led away from",
        "encoding_schedule_steps": "there is no encoding_schedule",
        "hub_token": "settings are written to the run folder; log in with `hf auth login`",
        "include_num_input_tokens_seen": f"{command} always counts the tokens",
        "initial_model": f"the vocabulary is {vocabulary}: training starts from random weights",
        "label_names": "the labels are the tokens",
        "label_smoothing_factor": "Trainer would smooth the validation loss, too, and none could be compared with it",
        "resume_from_checkpoint": f"{command} resumes from the last checkpoint in {folder} by itself",
        "revision": "there is no initial_model",
        "save_only_model": "a run could not be resumed",
    }


@dataclass
class StockArguments:
    """What is trained, of any model class. Fields left at `None` are not passed on, so the defaults of its own config
    hold."""

    model_type: str | None = field(
        default=None, metadata={"help": "model class, by its name in transformers (default: bipe_llama)"}
    )
    initial_model: str | None = field(
        default=None,
        metadata={
            "help": "continue from the weights of this saved model (folder or Hub name) instead of random ones; its"
            " type and sizes cannot be changed, its positional encoding can"
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of initial_model on the Hub (default: main)"}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "width of the hidden states"})
    intermediate_size: int | None = field(default=None, metadata={"help": "width inside the feed-forward layers"})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "number of layers"})
    num_attention_heads: int | None = field(default=None, metadata={"help": "attention heads per layer"})
    num_key_value_heads: int | None = field(
        default=None, metadata={"help": "key and value heads per layer (default: as many as attention heads)"}
    )
    rms_norm_eps: float | None = field(
        default=None, metadata={"help": "added to the variance in the normalisation layers"}
    )
    tie_word_embeddings: bool | None = field(
        default=None, metadata={"help": "true: input and output embeddings are one matrix"}
    )
    max_position_embeddings: int | None = field(
        default=None, metadata={"help": "length the config declares the model for (default: train_length)"}
    )
    rope_parameters: dict | str | None = field(
        default=None,
        metadata={
            "help": 'mapping with rope_theta and rope scaling, as in transformers: {"rope_type": "default",'
            ' "rope_theta": 10000.0}; with initial_model, its rope_theta and partial_rotary_factor stay unless given'
        },
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "attention kernel: sdpa, eager, flex_attention, flash_attention_2"}
    )


@dataclass
class ModelArguments(make_dataclass("EncodingArguments", option_fields(), bases=(StockArguments,))):
    """What is trained: of any model class, and the positional encoding of ours."""

    encoding: str | None = field(
        default=None, metadata={"help": f"{ENCODING_HELP}; or {AUTO}: the one that suits the text, which is said"}
    )
    encoding_schedule: dict | str | None = field(
        default=None,
        metadata={
            "help": "fields of the encoding that move in a straight line while it trains, each from its first value to"
            f" its last, among {', '.join(MOVING_FIELDS)}: " + '{"token_share": [1.0, 0.0]} leads a model from stock'
            " weights to segments"
        },
    )
    encoding_schedule_steps: int | None = field(
        default=None,
        metadata={"help": "steps that encoding_schedule takes (default: the first half of the training)"},
    )
    alibi_slope_scale: float | str | None = field(
        default=None,
        metadata={
            "help": f"{option_help(encoding_options()['alibi_slope_scale'])}; or {MEASURED}: the mean number of tokens"
            " in a segment of the training blocks (up to 1,000 of them)"
        },
    )

    def __post_init__(self) -> None:
        if self.encoding is not None and self.has_foreign_encoding():
            raise InputError(f"encoding: {self.encoding!r} given, but a model of type {self.model_type} has its own")
        self.rope_parameters = parsed_json("rope_parameters", self.rope_parameters)
        if not isinstance(self.rope_parameters, dict | None):
            raise InputError(
                f'rope_parameters: {self.rope_parameters!r} is no mapping such as {{"rope_theta": 10000.0}}'
            )
        rope_type, known = (self.rope_parameters or {}).get("rope_type", "default"), ("default", *ROPE_INIT_FUNCTIONS)
        if rope_type not in known:
            raise InputError(f"rope_parameters: rope_type {rope_type!r} given, one of {', '.join(known)} is accepted")
        self.encoding_schedule = parsed_json("encoding_schedule", self.encoding_schedule)
        if self.encoding_schedule is not None:
            check_schedule(self.encoding_schedule)
            for name in self.encoding_schedule.keys() & {k for k, v in vars(self).items() if v is not None}:
                raise InputError(f"{name}: encoding_schedule sets it, from its first value on; leave it out")
        elif self.encoding_schedule_steps is not None:
            raise InputError("encoding_schedule_steps: there is no encoding_schedule that would take them")
        if self.alibi_slope_scale not in (None, MEASURED):
            try:
                self.alibi_slope_scale = float(self.alibi_slope_scale)
            except ValueError as error:
                raise InputError(
                    f"alibi_slope_scale: {self.alibi_slope_scale!r} is neither a number nor {MEASURED}"
                ) from error

    def config_fields(self) -> dict[str, Any]:
        """The fields that were given and belong into the model's config."""
        elsewhere = {"model_type", "initial_model", "revision", "attn_implementation", "encoding"}
        elsewhere |= {"encoding_schedule", "encoding_schedule_steps"}
        fields = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and k not in elsewhere}
        return fields | first_values(self.encoding_schedule or {})

    def has_foreign_encoding(self) -> bool:
        """Whether `model_type` names a model that is none of ours."""
        model_type = self.model_type or DEFAULT_MODEL_TYPE
        return model_type in CONFIG_MAPPING and not issubclass(CONFIG_MAPPING[model_type], BipeConfigMixin)

    def spelt_out(self, train_length: int) -> Self:
        """The same with the fields of `encoding` in its place. Raises `ValueError` where there is no such encoding."""
        if self.encoding is None:
            return self
        given = {name: vars(self)[name] for name in encoding_options() if vars(self)[name] is not None}
        return replace(self, encoding=None, **spelt_out(self.encoding, train_length, given))


@dataclass
class DataArguments:
    """What it is trained on."""

    data: str = field(
        default=DEFAULT_CORPUS,
        metadata={
            "help": "text to train on: python (documentation and sources of the running Python), a text file, a folder"
            " of text files, a data set on disk, or name or name:config on the Hugging Face Hub (default: python)"
        },
    )
    text_column: str = field(default="text", metadata={"help": "column that holds the text (default: text)"})
    validation_fraction: float = field(
        default=0.05,
        metadata={"help": "share of the documents held out, where the data has no validation split (default: 0.05)"},
    )
    max_validation_blocks: int | None = field(
        default=None, metadata={"help": "measure the validation loss on this many blocks only (default: all)"}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the data while training, for what does not fit on the disk; needs max_steps, tokenizer"
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub name of a tokenizer (default: that of initial_model, or a new byte-level BPE)"
        },
    )
    vocab_size: int | None = field(
        default=None, metadata={"help": "tokens of the new BPE; a given tokenizer must have exactly as many"}
    )
    separators: list | str | None = field(
        default=None,
        metadata={
            "help": "tokens that end a segment: sentences, lines, clauses or another preset, or a list of presets,"
            " token ids and strings, in which -turns ends no segment at the end of a turn (default: those of"
            " initial_model where it has any, or sentences)"
        },
    )
    levels: list | str | None = field(
        default=None,
        metadata={
            "help": "instead of separators: those of segments and of each level inside them, coarse to fine, such as"
            f" [lines, fields], each as separators takes it; presets are {', '.join((*PRESETS, *LEVELS))}"
        },
    )
    train_length: int = field(default=1024, metadata={"help": "tokens per training block (default: 1024)"})
    document_boundaries: Literal["keep", "ignore"] = field(
        default="ignore",
        metadata={
            "help": "keep: no token sees or predicts across the border of two documents in a block; ignore: documents"
            " are simply joined, as the authors of BiPE do (default: ignore)"
        },
    )
    index_stretch: float | None = field(
        default=None,
        metadata={
            "help": "multiply the segment indices of each training block by a random factor between 1 and this, so"
            " that the model gets to know those of longer texts (default: as they are)"
        },
    )
    index_skip: float | None = field(
        default=None,
        metadata={
            "help": "instead, skip a random number of segment indices at a random place in each training block, up to"
            " this times as many indices (PoSE)"
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "processes that tokenize (default: as many as pay off)"}
    )

    def __post_init__(self) -> None:
        self.separators = parsed_json("separators", self.separators)
        self.levels = parsed_levels("levels", self.levels)
        if self.separators is not None and self.levels is not None:
            raise InputError("separators and levels: the first of the levels are the separators; give levels alone")
        if self.train_length < 2:
            raise InputError(
                f"train_length: {self.train_length} tokens leave nothing to predict, at least 2 are needed"
            )


@dataclass(frozen=True)
class PretrainSettings(RunSettings):
    """The settings of a pretraining run.

    Args:
        model: what is trained.
        data: what it is trained on.
    """

    model: ModelArguments
    data: DataArguments

    reserved_keys: ClassVar[dict[str, str]] = RESERVED_KEYS

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return super().from_dict(values).spelt_out()

    def chosen(self, choice: Choice) -> Self:
        """The same with what was chosen for the text in the place of `auto`; what is given besides wins."""
        model, data = replace(self.model, encoding=choice.encoding), self.data
        if choice.levels and data.separators is None and data.levels is None:
            data = replace(data, levels=list(choice.levels))
        return replace(self, model=model, data=data).spelt_out()

    def spelt_out(self) -> Self:
        """The same with the fields of `encoding` in its place, and the separators that it is meant for where none are
        given.

        `auto` waits for the text. Raises `ValueError` for separators where the encoding has levels.
        """
        encoding, data = self.model.encoding, self.data
        if encoding in (None, AUTO):
            return self
        model = self.model.spelt_out(data.train_length)
        levels = encoding_levels(encoding)
        check_levels(encoding, data.separators, data.levels)
        if model.segmentation == "separators" and data.separators is None and data.levels is None:
            one_level = len(levels) < 2
            data = replace(data, **({"separators": (*levels, None)[0]} if one_level else {"levels": list(levels)}))
        return replace(self, model=model, data=data)


def check_arguments(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Refuses settings that make no sense or contradict each other, before any work."""
    check_model(model_args)
    check_counts(vars(data_args), ["max_validation_blocks"])
    check_training(training_args)
    check_metric(training_args)
    if model_args.encoding_schedule is not None:
        check_counts(vars(model_args), ["encoding_schedule_steps"])
        if 0 < training_args.max_steps < (model_args.encoding_schedule_steps or 1):
            raise InputError(
                f"encoding_schedule_steps: {model_args.encoding_schedule_steps} given, the training has"
                f" {training_args.max_steps}"
            )
        if training_args.load_best_model_at_end:
            raise InputError("load_best_model_at_end: the best of encoding_schedule's models is the least moved one")
        if training_args.torch_compile:
            raise InputError("torch_compile: with encoding_schedule it would compile anew in every step")
    if data_args.tokenizer is None and model_args.initial_model is None:
        if data_args.vocab_size is None:
            raise InputError("give vocab_size (a new tokenizer of that size is trained on the data) or tokenizer")
        if data_args.streaming:
            raise InputError("streaming: give a tokenizer, training one would read all of the stream first")
    for key in INDEX_EXTENSIONS:
        if vars(data_args)[key] is not None:
            check_extension(key, vars(data_args)[key])
    if data_args.index_stretch is not None and data_args.index_skip is not None:
        raise InputError("index_stretch and index_skip: give one of them")
    if data_args.streaming and training_args.max_steps < 1:
        raise InputError("streaming: give max_steps, a stream does not say how long it is")


def check_model(model_args: ModelArguments) -> None:
    """Refuses sizes and types that no model has, or that the initial model decides."""
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    settings = vars(model_args)
    check_counts(settings, [*sizes, "max_position_embeddings"])
    heads, key_heads = model_args.num_attention_heads, model_args.num_key_value_heads
    if heads is not None and key_heads is not None and heads % key_heads:
        raise InputError(
            f"num_key_value_heads: {key_heads} given, a divisor of num_attention_heads ({heads}) is accepted"
        )
    if model_args.initial_model is None:
        model_type = model_args.model_type or DEFAULT_MODEL_TYPE
        if model_type not in CONFIG_MAPPING:
            hint = did_you_mean(model_type, CONFIG_MAPPING)
            raise InputError(f"model_type: {model_type!r} is not known to transformers{hint}")
        if model_args.revision is not None:
            raise InputError(f"revision: {model_args.revision!r} given, but no initial_model to have it")
    else:
        decided = ["model_type", *sizes, "rms_norm_eps", "tie_word_embeddings"]
        if model_args.intra_encoding not in ("learned", "sinusoidal"):  # else `build_config` looks at the table
            decided.append("max_segment_length")
        for key in decided:
            if settings[key] is not None:
                raise InputError(
                    f"{key}: the weights of initial_model {model_args.initial_model} decide it; leave it out (null,"
                    " where a file that yours extends has it)"
                )


def check_from_random_weights(model_args: ModelArguments, training_args: TrainingArguments) -> None:
    """Refuses settings of the model and the Trainer with which nothing can be trained from random weights."""
    check_model(model_args)
    if model_args.alibi_slope_scale == MEASURED:
        raise InputError(f"alibi_slope_scale: give a number, {MEASURED} needs a text to train on")
    check_training(training_args)
    check_metric(training_args)


def check_flags(model_args: ModelArguments, flagged: Set[str]) -> None:
    """Refuses fields of the positional encoding that were given as flags and that nothing of a new model reads.

    What stands in a file is not refused: models that differ share it. What an initial model has, or the encoding that
    suits a text, is not known here.
    """
    if model_args.initial_model is not None or model_args.has_foreign_encoding() or model_args.encoding == AUTO:
        return
    fields = model_args.config_fields()
    for name in sorted(flagged & encoding_options().keys()):
        reason = why_unread(name, fields)
        if reason is not None:
            raise InputError(f"{name}: {fields[name]!r} given, but {reason}")


def check_training(training_args: TrainingArguments) -> None:
    """Refuses settings of the Trainer with which no step can be done."""
    batch = ["per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"]
    check_counts(vars(training_args), batch)
    if not 0 <= training_args.seed < 2**32:
        raise InputError(f"seed: {training_args.seed} given, 0 to {2**32 - 1} is accepted")
    for key in ("learning_rate", "weight_decay", "adam_epsilon"):
        if not vars(training_args)[key] >= 0:
            raise InputError(f"{key}: {vars(training_args)[key]:g} given, 0 or more is accepted")
    for key in ("adam_beta1", "adam_beta2"):
        if not 0 <= vars(training_args)[key] < 1:
            raise InputError(f"{key}: {vars(training_args)[key]:g} given, from 0 to below 1 is accepted")
    if training_args.max_steps == 0 or (training_args.max_steps < 0 and training_args.num_train_epochs <= 0):
        raise InputError("no training step is left to do: give max_steps or num_train_epochs above 0")


def check_metric(training_args: TrainingArguments) -> None:
    """Refuses another measure of the best checkpoint than the loss, where there is no other."""
    metric = training_args.metric_for_best_model
    if metric not in (None, "loss", "eval_loss"):
        raise InputError(f"metric_for_best_model: {metric!r} given, only loss is measured")
