"""The settings of `bipe-hf finetune`: its keys beyond those of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...model.errors_bipe import InputError
from ..common.messages import parsed_json
from ..common.settings import RunSettings


# Fields of TrainingArguments that are not the user's to set, and why.
RESERVED_KEYS = {
    "batch_eval_metrics": "metrics are those of the whole validation split, not of its batches",
    "dataloader_drop_last": "every row of the validation split is measured",
    "do_eval": "finetune always measures at the end",
    "do_predict": "finetune only trains and measures",
    "do_train": "finetune always trains",
    "eval_do_concat_batches": "metrics are those of the whole validation split, not of its batches",
    "hub_token": "settings are written to the run folder; log in with `hf auth login`",
    "label_names": "the task decides them",
    "label_smoothing_factor": "Trainer would smooth the validation loss, too, and none could be compared with it",
    "prediction_loss_only": "finetune always measures the metrics of the task",
    "remove_unused_columns": "examples hold what the model takes and nothing else",
    "resume_from_checkpoint": "finetune resumes from the last checkpoint in output_dir by itself",
    "save_only_model": "a run could not be resumed",
}


@dataclass
class TaskArguments:
    """What is trained, and for what."""

    task: str | None = field(
        default=None,
        metadata={
            "help": "causal_lm, instructions (loss on the answer only), classification (of whole texts),"
            " token_classification, question_answering (where in a text the answer stands) or scrolls (answers about"
            " long documents, in words)"
        },
    )
    scrolls_task: str | None = field(
        default=None,
        metadata={"help": "scrolls: gov_report, summ_screen_fd, qmsum, narrative_qa, qasper, quality or contract_nli"},
    )
    initial_model: str | None = field(
        default=None,
        metadata={"help": "folder or Hub name of the model to start from; its positional encoding is kept"},
    )
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of initial_model on the Hub (default: main)"}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "attention kernel: sdpa, eager, flex_attention, flash_attention_2"}
    )
    class_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": "weight of each label in the loss: balanced (the rarer, the heavier), or a mapping such as"
            ' {"spam": 5.0}, 1 where it names none; for classification and token_classification'
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "stop after this many measurements in a row without a better metric_for_best_model; needs"
            " load_best_model_at_end"
        },
    )

    def __post_init__(self) -> None:
        self.class_weights = parsed_json("class_weights", self.class_weights)
        if not isinstance(self.class_weights, dict | None) and self.class_weights != "balanced":
            raise InputError(f"class_weights: {self.class_weights!r} is neither balanced nor a mapping label: weight")


@dataclass
class RowArguments:
    """What it is trained on."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "rows to train on: a table (.jsonl, .csv, .tsv, .parquet, ...), a folder of tables, a data set on"
            " disk, or name or name:config on the Hugging Face Hub; for scrolls a folder of files"
            " <scrolls_task>/<split>.jsonl, or tau/scrolls on the Hub"
        },
    )
    columns: dict | str | None = field(
        default=None,
        metadata={
            "help": 'columns of the data by what the task calls them, where that differs: {"text": "review"}.'
            " Read are text (causal_lm), prompt and completion, or messages (instructions), text and label"
            " (classification), tokens and tags (token_classification), question, context and answers"
            " (question_answering)"
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "share of the rows held out, where the data has no validation split (default: 0.1)"},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "tokens per example at most (default: max_position_embeddings of the model)"},
    )
    collation: Literal["padded", "padding_free"] = field(
        default="padded",
        metadata={
            "help": "padded: rows of a batch are padded to the longest; padding_free: they are joined in one row,"
            " where no token sees another example, for causal_lm, instructions and token_classification, in one"
            " process. It pays with flash_attention_2; other kernels compare all tokens of the row (default: padded)"
        },
    )
    labelled_tokens: Literal["first", "last", "all"] | None = field(
        default=None,
        metadata={
            "help": "token_classification: which tokens of a word carry its tag. The last has seen the whole word; the"
            " pipeline of transformers reads the first (default: first)"
        },
    )
    stride: int | None = field(
        default=None,
        metadata={"help": "question_answering: tokens that two windows of a long context share (default: 128)"},
    )
    answer_length: int | None = field(
        default=None,
        metadata={
            "help": "scrolls: tokens of max_length that are kept for the answer; the document is cut to what they and"
            " the question leave (default: 200 for questions, 1000 for summaries)"
        },
    )

    def __post_init__(self) -> None:
        self.columns = parsed_json("columns", self.columns)
        if not isinstance(self.columns, dict | None):
            raise InputError(f'columns: {self.columns!r} is no mapping such as {{"text": "review"}}')


@dataclass(frozen=True)
class FinetuneSettings(RunSettings):
    """The settings of a fine-tuning run.

    Args:
        task: what is learnt, and from which model.
        rows: what it is learnt from.
    """

    task: TaskArguments
    rows: RowArguments

    reserved_keys: ClassVar[dict[str, str]] = RESERVED_KEYS
