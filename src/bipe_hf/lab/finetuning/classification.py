"""Classification of whole texts."""

from collections import Counter
from collections.abc import Callable

import torch
from datasets import DatasetDict
from transformers import AutoModelForSequenceClassification, EvalPrediction, PreTrainedTokenizerBase

from .arguments import RowArguments, TaskArguments
from .collation import padded_right
from .labels import classification_loss, find_labels, weigh_labels
from .task import Task, check_rows, check_texts, is_text


class Classification(Task):
    """`text` and `label` (names, strings or whole numbers). A text longer than `max_length` loses its end."""

    head = AutoModelForSequenceClassification
    columns = ("text", "label")
    keys = frozenset({"columns", "class_weights"})
    requires = ("sklearn",)
    best_metric = "f1"
    cut = "longer than max_length: the end of the text was cut"

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        check_texts(rows, "text")
        check_rows(rows, "text", is_text, "is blank")
        check_rows(rows, "label", lambda label: label is not None, "is missing")
        values = [value for part in rows.values() for value in part["label"]]
        self.labels = find_labels("label", rows["train"].features["label"], values)
        counts = Counter(self.labels.ids[value] for value in rows["train"]["label"])
        self.loss = classification_loss(weigh_labels(task_args.class_weights, self.labels, counts))

    @property
    def metrics(self) -> list[str]:
        return ["loss", "accuracy", "f1", *(f"f1_{name}" for name in self.labels.names)]

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=max_length)
        return {
            "input_ids": encoded["input_ids"],
            "labels": [self.labels.ids[value] for value in batch["label"]],
            "is_cut": [bool(encoding.overflowing) for encoding in encoded.encodings],
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase, is_padding_free: bool) -> Callable:
        return padded_right(tokenizer)

    def preprocess_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=-1)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`accuracy`, `f1` (the mean over the labels that occur) and `f1_<label>`, all in [0, 1]."""
        return label_metrics(prediction.label_ids, prediction.predictions, self.labels.names)


def label_metrics(truth, predicted, names: list[str]) -> dict[str, float]:
    """Accuracy and F1 of label ids."""
    from sklearn.metrics import accuracy_score, f1_score

    each = f1_score(truth, predicted, labels=range(len(names)), average=None, zero_division=0)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    } | {f"f1_{name}": float(score) for name, score in zip(names, each, strict=True)}
