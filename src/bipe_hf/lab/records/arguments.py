"""The settings of `bipe-hf records train`: keys beyond those of the model and of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from transformers import TrainingArguments

from ...model.errors_bipe import InputError, InputNotFoundError
from ..common.encoding_options import ENCODING_HELP
from ..common.files import user_path
from ..common.messages import check_counts
from ..common.separators import parsed_levels
from ..common.settings import RunSettings
from ..common.yaml_file import read_yaml
from ..training.arguments import ModelArguments, check_from_random_weights, reserved_from_random_weights
from .reading import Given


# What holds where a file of settings and flags say nothing: a small model, minutes on a CPU. `configs/records.yaml`
# has the same with a comment on each.
DEFAULTS = {
    "encoding": "bipe_levels",
    "max_segment_length": 64,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "vocab_size": 1024,
    "train_length": 512,
    "validation_fraction": 0.1,
    "max_steps": 500,
    "tokens_per_step": 4096,
    "per_device_eval_batch_size": 64,
    "optim": "adamw_torch",
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "use_cpu": True,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "save_steps": 50,
    "logging_steps": 10,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "early_stopping_patience": 4,
    "seed": 42,
}
RESERVED_KEYS = reserved_from_random_weights("records", "that of the records", "the run folder")
ORDERS = ("any", "file")


@dataclass
class RecordArguments:
    """How records are read and learnt. What is `None` is guessed from the files, and said."""

    kind: str | None = field(default=None, metadata={"help": "table, json or log (default: guessed, and said)"})
    delimiter: str | None = field(
        default=None, metadata={"help": "between the fields of a table (default: guessed, and said)"}
    )
    quote: str | None = field(
        default=None, metadata={"help": "around a field that holds a delimiter, or none (default: guessed)"}
    )
    header: bool | None = field(
        default=None,
        metadata={"help": "true: the first row of a table names its columns; false: it is data (default: guessed)"},
    )
    text_encoding: str | None = field(
        default=None,
        metadata={"help": "such as utf-8, utf-16 or latin-1 (default: by its mark, else utf-8, else latin-1)"},
    )
    levels: list | str | None = field(
        default=None,
        metadata={
            "help": "coarse to fine: lines, and in tables fields, in JSON values; presets of `pretrain` may follow:"
            " lines,fields,words (default: all that the kind has)"
        },
    )
    order: str | None = field(
        default=None,
        metadata={
            "help": "any: each row is learnt alone; file: a row sees those before it (default: file for a log, else"
            " any)"
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "share of the rows held out: drawn by chance, of each file the last ones with order file"
            " (default: 0.1)"
        },
    )
    vocab_size: int = field(
        default=1024, metadata={"help": "tokens of the byte-level BPE that is trained on the rows (default: 1024)"}
    )
    train_length: int = field(
        default=512,
        metadata={"help": "tokens in a training example; what a row has beyond that is not learnt (default: 512)"},
    )
    tokens_per_step: int = field(
        default=4096,
        metadata={
            "help": "tokens of an optimizer step, about: it has 8 to 64 examples, unless per_device_train_batch_size"
            " says how many (default: 4096)"
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "stop after this many measurements in a row without a lower loss; needs load_best_model_at_end"
        },
    )

    def __post_init__(self) -> None:
        self.levels = parsed_levels("levels", self.levels)

    @property
    def given(self) -> Given:
        """What is said of the files."""
        delimiter = "\t" if self.delimiter == "\\t" else self.delimiter  # as it is typed
        return Given(self.kind, delimiter, self.quote, self.header, self.text_encoding)


@dataclass
class RecordModelArguments(ModelArguments):
    """What is trained on records."""

    encoding: str | None = field(default=None, metadata={"help": ENCODING_HELP})


@dataclass(frozen=True)
class RecordSettings(RunSettings):
    """The settings of a training on records.

    Args:
        records: how they are read and learnt.
        model: what is trained.
    """

    records: RecordArguments
    model: RecordModelArguments

    reserved_keys: ClassVar[dict[str, str]] = RESERVED_KEYS
    defaults: ClassVar[dict[str, Any]] = DEFAULTS

    @classmethod
    def read(cls, config: str | Path | None, overrides: list[str], output_dir: str | Path) -> Self:
        """The `DEFAULTS` with the settings of a YAML file, where one is given, and flags on top.

        Args:
            config: as in [`RunSettings.read`]; None for no file.
            overrides: as in [`RunSettings.read`].
            output_dir: folder of the run, whatever the file says.

        Raises:
            FileNotFoundError: no such file.
            ValueError: as [`RunSettings.read`] does.
        """
        if config is not None and not user_path(config).is_file():
            raise InputNotFoundError(f"config: there is no file {config}")
        values = DEFAULTS | ({} if config is None else read_yaml(user_path(config)))
        return cls.parse(values, overrides, str(config), None).with_training(output_dir=str(user_path(output_dir)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        settings = super().from_dict(values)
        return replace(settings, model=settings.model.spelt_out(settings.records.train_length))


def check_arguments(records: RecordArguments, model: ModelArguments, training: TrainingArguments) -> None:
    """Refuses settings that make no sense or contradict each other, before any work."""
    check_counts(vars(records), ["vocab_size", "tokens_per_step", "early_stopping_patience"])
    if not 0 < records.validation_fraction < 1:
        raise InputError(
            f"validation_fraction: {records.validation_fraction} given, it must lie between 0 and 1, both excluded"
        )
    if records.train_length < 2:
        raise InputError(f"train_length: {records.train_length} given, at least 2 tokens are needed")
    if records.order not in (None, *ORDERS):
        raise InputError(f"order: {records.order!r} given, one of {', '.join(ORDERS)} is accepted")
    if records.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise InputError("early_stopping_patience: give load_best_model_at_end and an eval_strategy too")
    check_from_random_weights(model, training)
