"""Extractive question answering: where in a context the answer stands."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn.functional import cross_entropy
from transformers import AutoModelForQuestionAnswering, EvalPrediction, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ...model.errors_bipe import InputError
from .arguments import RowArguments, TaskArguments
from .collation import padded_right
from .task import Task, check_rows, check_texts, is_text, row_error, shortened


DEFAULT_STRIDE = 128
CANDIDATES = 20
"""Best starts and best ends of a window that are tried with each other."""
LONGEST_ANSWER = 30
"""Tokens."""


class QuestionAnswering(Task):
    """`question`, `context` and `answers` as in SQuAD: `{"text": [...], "answer_start": [...]}` with characters of the
    context, empty lists where it holds no answer.

    The question stands before the context, which a causal model must have read it for. A long context becomes several
    windows that share `stride` tokens. Where a window does not hold the answer, start and end are its first token.
    """

    head = AutoModelForQuestionAnswering
    columns = ("question", "context", "answers")
    keys = frozenset({"columns", "stride"})
    requires = ("torchmetrics",)
    best_metric = "f1"

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        for column in ("question", "context"):
            check_texts(rows, column)
            check_rows(rows, column, is_text, "is blank")
        check_rows(
            rows,
            "answers",
            _is_answers,
            "is no mapping of text and answer_start to lists of one length, of texts that are not empty and whole"
            " numbers from 0 on, as in SQuAD; two empty lists say that there is no answer",
        )
        for split, part in rows.items():
            for index, row in enumerate(part):
                answers = row["answers"]
                for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                    if row["context"][start : start + len(text)] != text:
                        raise row_error(
                            "answers", part, split, index, f"has no {text!r} at character {start} of its context"
                        )
        self.stride = DEFAULT_STRIDE if row_args.stride is None else row_args.stride
        self.rows = rows["validation"]
        self.loss = span_loss
        self.may_be_empty = any(not answers["text"] for part in rows.values() for answers in part["answers"])

    @property
    def metrics(self) -> list[str]:
        return ["loss", "exact_match", "f1"]

    def examples(
        self, rows: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[Dataset, int]:
        windows = rows.map(
            partial(encode_windows, tokenizer=tokenizer, max_length=max_length, stride=self.stride, split=split),
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            keep_in_memory=True,
            desc=f"Tokenizing {split}",
        )
        if split == "validation":
            self.windows = windows.select_columns(["row", "offsets"])
        return windows.remove_columns(["row", "offsets"]), 0

    def collator(self, tokenizer: PreTrainedTokenizerBase, is_padding_free: bool) -> Callable:
        return padded_right(tokenizer)

    def label_names(self, is_padding_free: bool) -> list[str] | None:
        return ["labels"]  # not those of the model, whose loss takes padding for possible answers

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`exact_match` and `f1` of SQuAD, in percent, as everywhere."""
        from torchmetrics.functional.text import squad

        answers = best_answers(
            list(self.rows["context"]),
            self.windows["row"],
            self.windows["offsets"],
            *prediction.predictions,
            may_be_empty=self.may_be_empty,
        )
        predicted = [{"prediction_text": text, "id": str(row)} for row, text in enumerate(answers)]
        truth = [
            {"answers": each if each["text"] else {"text": [""], "answer_start": [0]}, "id": str(row)}
            for row, each in enumerate(self.rows["answers"])
        ]
        return {name: score.item() for name, score in squad(predicted, truth).items()}


def _is_answers(answers) -> bool:
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
        return False
    texts, starts = answers["text"], answers["answer_start"]
    return (
        isinstance(texts, list)
        and isinstance(starts, list)
        and len(texts) == len(starts)
        and all(isinstance(text, str) and text for text in texts)
        and all(isinstance(start, int) and start >= 0 for start in starts)
    )


def span_loss(
    outputs: ModelOutput, labels: torch.LongTensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of the cross entropies of start and end, for `Trainer(compute_loss_func=...)`: the sum over the windows of
    a batch, divided by the number of all windows between two optimizer steps, or of those of the batch.

    Args:
        outputs: `start_logits` and `end_logits` of shape `(windows, length)`, padded on the right.
        labels: `(windows, 3)`: start, end and number of tokens. Padding is no possible answer.
        num_items_in_batch: as Trainer counts it: all numbers in the labels of the windows.
    """
    start, end, tokens = labels.unbind(dim=1)
    is_padding = torch.arange(outputs.start_logits.shape[1], device=labels.device) >= tokens[:, None]
    total = sum(
        cross_entropy(logits.float().masked_fill(is_padding, -torch.inf), place, reduction="sum")
        for logits, place in ((outputs.start_logits, start), (outputs.end_logits, end))
    )
    windows = len(labels) if num_items_in_batch is None else num_items_in_batch / labels.shape[1]
    return total / 2 / windows


def encode_windows(
    batch: dict[str, list],
    rows: list[int],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    split: str,
) -> dict[str, list]:
    """Windows of the contexts of `batch`, each behind its question.

    Returns:
        For each window `input_ids`, `labels` (first and last token of the answer, number of tokens), `row` (of
        `rows`), and `offsets`: start and end of each token in the context, both -1 outside of it.
    """
    questions = [question.strip() for question in batch["question"]]
    for question, ids in zip(questions, tokenizer(questions, add_special_tokens=False)["input_ids"], strict=True):
        room = max_length - len(ids) - tokenizer.num_special_tokens_to_add(pair=True)
        if room <= stride:
            raise InputError(
                f"max_length: {max_length} leaves {room} tokens of the context beside the question"
                f" {shortened(question)} of the {split} split; more than the {stride} of stride are needed"
            )
    encoded = tokenizer(
        questions,
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = {"input_ids": encoded["input_ids"], "labels": [], "row": [], "offsets": []}
    for window, example in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = [
            list(span) if sequence == 1 else [-1, -1]
            for span, sequence in zip(encoded["offset_mapping"][window], encoded.sequence_ids(window), strict=True)
        ]
        start, end = answer_tokens(offsets, batch["answers"][example])
        windows["labels"].append([start, end, len(offsets)])
        windows["row"].append(rows[example])
        windows["offsets"].append(offsets)
    return windows


def answer_tokens(offsets: list[list[int]], answers: dict[str, list]) -> tuple[int, int]:
    """First and last token of the first answer; twice 0 where the window does not hold all of it."""
    context = [token for token, (start, _) in enumerate(offsets) if start >= 0]
    if not answers["text"] or not context:
        return 0, 0
    first, last = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
    if first < offsets[context[0]][0] or last > offsets[context[-1]][1]:
        return 0, 0
    start = next(token for token in context if offsets[token][1] > first)
    end = next(token for token in reversed(context) if offsets[token][0] < last)
    return start, end


def best_answers(
    contexts: list[str],
    rows: list[int],
    offsets: list[list[list[int]]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    *,
    may_be_empty: bool,
) -> list[str]:
    """The text with the highest sum of start and end logit over all windows of each context.

    Args:
        contexts: texts.
        rows: the context of each window.
        offsets: of each window, as from `encode_windows`.
        start_logits, end_logits: of shape `(windows, at least the tokens of each)`.
        may_be_empty: answer with `""` where every window scores its first token, which stands for no answer, higher
            than its best text.
    """
    texts, scores, empty_scores = [""] * len(contexts), [-np.inf] * len(contexts), [np.inf] * len(contexts)
    for row, spans, starts, ends in zip(rows, offsets, start_logits, end_logits, strict=True):
        empty_scores[row] = min(empty_scores[row], starts[0] + ends[0])
        in_context = [token for token, (start, _) in enumerate(spans) if start >= 0]
        for start in sorted(in_context, key=lambda token: -starts[token])[:CANDIDATES]:
            for end in sorted(in_context, key=lambda token: -ends[token])[:CANDIDATES]:
                if start <= end < start + LONGEST_ANSWER and starts[start] + ends[end] > scores[row]:
                    scores[row] = starts[start] + ends[end]
                    texts[row] = contexts[row][spans[start][0] : spans[end][1]].strip()
    if may_be_empty:
        texts = ["" if empty > score else text for text, score, empty in zip(texts, scores, empty_scores, strict=True)]
    return texts
