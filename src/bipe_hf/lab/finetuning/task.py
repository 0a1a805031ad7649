"""What a task is: columns to read, examples to make of them, a head, a loss and metrics."""

import reprlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict, Json, Value
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from ..data import load_rows
from .arguments import RowArguments, TaskArguments
from .labels import Labels


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


class Task:
    """One task on one data set. Every task is a subclass in a file of its own, named in `tasks.TASKS`.

    Args:
        task_args: keys of the task.
        row_args: keys of the data.
        rows: splits `train` and `validation`, with the columns `columns`; checked here.

    Raises:
        ValueError: rows that the task cannot use.
    """

    head: ClassVar[type]
    """Auto class of the model."""
    columns: ClassVar[tuple[str, ...]]
    keys: ClassVar[frozenset[str]] = frozenset({"columns"})
    """Keys that only some tasks read."""
    is_token_wise: ClassVar[bool] = False
    """Every token has a label: examples can be joined without padding."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Optional packages of the metrics."""
    best_metric: ClassVar[str]
    """What the best checkpoint has most of (of `loss`, least)."""
    cut: ClassVar[str] = ""
    """What happened to examples that are counted as cut."""

    labels: Labels | None = None
    loss: Callable | None = None
    """For `Trainer(compute_loss_func=...)`; None takes the loss of the model."""

    @classmethod
    def read(cls, task_args: TaskArguments, row_args: RowArguments) -> DatasetDict:
        """The splits `train` and `validation` of the data, with all their columns."""
        return load_rows(row_args.data, validation_fraction=row_args.validation_fraction)

    @classmethod
    def choose_columns(cls, available: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
        """The columns to read, by their names in the task, of those that the data has and those that were named."""
        return cls.columns

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        raise NotImplementedError

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that `compute_metrics` gives, and `loss`."""
        raise NotImplementedError

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        """Examples of a batch of rows: `input_ids`, labels, and `is_cut`, which is true where something is lost."""
        raise NotImplementedError

    def examples(
        self, rows: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[Dataset, int]:
        """Examples of a split, with what the model takes and nothing else, and how many of them are cut."""
        examples = rows.map(
            partial(self.encode, tokenizer=tokenizer, max_length=max_length),
            batched=True,
            remove_columns=rows.column_names,
            keep_in_memory=True,  # a cache file would go where the data lies
            desc=f"Tokenizing {split}",
        )
        if len(examples) == 0:
            raise InputError(f"the {split} split leaves no example")
        return examples.remove_columns("is_cut"), sum(examples["is_cut"])

    def collator(self, tokenizer: PreTrainedTokenizerBase, is_padding_free: bool) -> Callable:
        """Examples to a batch."""
        raise NotImplementedError

    def label_names(self, is_padding_free: bool) -> list[str] | None:
        """Parts of a batch that the metrics see as labels; None for those of the model."""
        return None

    def preprocess_logits(self, logits: Any, labels: Any) -> Any:
        """What is kept of the logits of a batch for the metrics."""
        return logits

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of a whole split, from what `preprocess_logits` kept."""
        raise NotImplementedError


def check_texts(rows: DatasetDict, column: str) -> None:
    """Refuses a column of anything but texts."""
    for split, part in rows.items():
        feature = part.features[column]
        if isinstance(feature, Json):  # of rows of several types
            check_rows(rows, column, lambda value: isinstance(value, str | None), "holds no text")
        if not (isinstance(feature, Json) or is_string(feature)):
            raise InputError(f"{column}: text is needed, the column of the {split} split holds {feature}")


def is_string(feature: Any) -> bool:
    """Whether a column of this type holds texts."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_text(value: str | None) -> bool:
    """Whether there is more than white space in it."""
    return value is not None and bool(value.strip())


def check_rows(rows: DatasetDict, column: str, is_good: Callable[[Any], bool], complaint: str) -> None:
    """Refuses a column where a value is not good, with its row."""
    for split, part in rows.items():
        for index, value in enumerate(part[column]):
            if not is_good(value):
                raise row_error(column, part, split, index, complaint)


def row_error(column: str, part: Dataset, split: str, index: int, complaint: str) -> InputError:
    """An error that shows the row: its number counts in the split, which is not that of a file split here."""
    return InputError(f"{column}: row {index} of the {split} split {complaint}: {shortened(part[index])}")


def shortened(value: Any) -> str:
    """`value` in one line, without the middle of its long parts."""
    return _SHORT.repr(value)


def token_losses(logits: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """Loss of each token of a causal language model, at the place of its label.

    Args:
        logits: of shape `(batch, length, vocabulary)`.
        labels: `(batch, length)`, -100 at tokens that do not count.

    Returns:
        float32 `(batch, length)`, nats, 0 at the first token and wherever the label is -100.
    """
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100
    )
    return torch.nn.functional.pad(losses, (1, 0))
