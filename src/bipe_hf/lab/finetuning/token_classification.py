"""Classification of words: named entities, parts of speech."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, chain

import numpy as np
import torch
from datasets import DatasetDict, LargeList, List
from transformers import AutoModelForTokenClassification, EvalPrediction, PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from .arguments import RowArguments, TaskArguments
from .classification import label_metrics
from .collation import joined, padded_labels
from .labels import classification_loss, find_labels, label_losses, weigh_labels
from .task import Task, check_rows, row_error


_ENTITY_TAG = re.compile(r"O|[BIES]-.+")


class TokenClassification(Task):
    """`tokens` (words) and `tags`, one for each word.

    Words are joined with spaces and tokenized as text, as they will be when the model is used, whatever the tokenizer
    makes of spaces. `labelled_tokens` says which tokens of a word carry its tag; the others have no label.
    """

    head = AutoModelForTokenClassification
    columns = ("tokens", "tags")
    keys = frozenset({"columns", "class_weights", "labelled_tokens"})
    is_token_wise = True
    requires = ("sklearn", "seqeval")
    best_metric = "f1"
    cut = "have words without a token (beyond max_length, or blank), which are neither learnt nor scored"

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        for column in self.columns:
            for split, part in rows.items():
                if not isinstance(part.features[column], List | LargeList):
                    raise InputError(
                        f"{column}: a list for each row is needed, the column of the {split} split holds"
                        f" {part.features[column]}"
                    )
            check_rows(rows, column, lambda row: bool(row) and None not in row, "is empty or has a gap")
        for split, part in rows.items():
            for index, (words, tags) in enumerate(zip(part["tokens"], part["tags"], strict=True)):
                if len(words) != len(tags):
                    raise row_error("tags", part, split, index, f"has {len(tags)} tags for {len(words)} words")
                for word in words:
                    if not isinstance(word, str):
                        raise row_error("tokens", part, split, index, f"holds {word!r}, which is no word")
        values = chain.from_iterable(chain.from_iterable(part["tags"] for part in rows.values()))
        self.labels = find_labels("tags", rows["train"].features["tags"].feature, values)
        self.labelled = row_args.labelled_tokens or "first"
        counts = Counter(self.labels.ids[tag] for tag in chain.from_iterable(rows["train"]["tags"]))
        self.weights = weigh_labels(task_args.class_weights, self.labels, counts)
        self.loss = classification_loss(self.weights)
        self.has_entities = all(_ENTITY_TAG.fullmatch(name) for name in self.labels.names)

    @property
    def metrics(self) -> list[str]:
        if self.has_entities:
            return ["loss", "accuracy", "precision", "recall", "f1"]
        return ["loss", "accuracy", "f1", *(f"f1_{name}" for name in self.labels.names)]

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        examples = {"input_ids": [], "labels": [], "is_cut": []}
        texts = [" ".join(words) for words in batch["tokens"]]
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
        for words, tags, ids, offsets in zip(
            batch["tokens"], batch["tags"], encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            places = places_of_words(words, offsets)
            labels = [-100] * len(ids)
            for tag, tokens in zip(tags, places, strict=True):
                chosen = {"first": tokens[:1], "last": tokens[-1:], "all": tokens}[self.labelled]
                for token in chosen:
                    labels[token] = self.labels.ids[tag]
            examples["input_ids"].append(ids)
            examples["labels"].append(labels)
            examples["is_cut"].append(not all(places))
        return examples

    def collator(self, tokenizer: PreTrainedTokenizerBase, is_padding_free: bool) -> Callable:
        return joined if is_padding_free else padded_labels(tokenizer)

    def label_names(self, is_padding_free: bool) -> list[str] | None:
        return ["labels", "position_ids"] if is_padding_free else None  # the metrics must see where examples start

    def preprocess_logits(self, logits: torch.Tensor, labels) -> tuple[torch.Tensor, torch.Tensor]:
        labels = labels[0] if isinstance(labels, tuple) else labels
        return logits.argmax(dim=-1), label_losses(logits, labels, self.weights)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`loss`, the mean over all tokens with a label (Trainer's own is one over batches); `accuracy` and `f1` in
        [0, 1]: of whole entities (seqeval, with `precision` and `recall`) where the tags are of the form `O`, `B-x`,
        `I-x`; else of tags, with `f1_<tag>`."""
        labels, (predicted, losses) = prediction.label_ids, prediction.predictions
        if isinstance(labels, tuple):
            labels, positions = labels
            starts = positions == 0
        else:
            starts = np.zeros_like(labels, dtype=bool)
            starts[:, 0] = True
        is_labelled = labels != -100
        loss = {"loss": float(losses[is_labelled].mean(dtype="float64"))}
        if not self.has_entities:
            return loss | label_metrics(labels[is_labelled], predicted[is_labelled], self.labels.names)
        from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

        example = np.cumsum(starts)[is_labelled.flatten()]
        borders = np.flatnonzero(np.diff(example)) + 1
        names = np.array(self.labels.names)
        truth, predicted = (
            [part.tolist() for part in np.split(names[ids[is_labelled]], borders)] for ids in (labels, predicted)
        )
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        return (
            loss
            | {"accuracy": float(accuracy_score(truth, predicted))}
            | {name: float(score(truth, predicted, zero_division=0)) for name, score in scores.items()}
        )


def places_of_words(words: list[str], offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Which tokens stand for which word.

    Args:
        words: as joined with single spaces.
        offsets: of each token in that text, start and end; equal for a token that stands for no text.

    Returns:
        For each word, the indices of the tokens that share a character with it.
    """
    ends = accumulate(words, lambda end, word: end + 1 + len(word), initial=-1)
    spans = [(end - len(word), end) for word, end in zip(words, list(ends)[1:], strict=True)]
    places = [[] for _ in words]
    word = 0
    for token, (start, end) in enumerate(offsets):
        while word < len(words) and spans[word][1] <= start:
            word += 1
        reached = word
        while reached < len(words) and start < end and spans[reached][0] < end:
            if spans[reached][0] < spans[reached][1]:
                places[reached].append(token)
            reached += 1
    return places
