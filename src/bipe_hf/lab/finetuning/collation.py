"""From examples to batches."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning


def padded_labels(tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Pads `input_ids` and `labels` (with -100) on the tokenizer's side, and whatever else the tokenizer pads."""
    return DataCollatorForTokenClassification(tokenizer)


def padded_right(tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Pads for what is read at one place: the right side, so that the places of answers in the example still hold."""

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return pad_without_fast_tokenizer_warning(tokenizer, examples, padding_side="right", return_tensors="pt")

    return collate


def joined(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Joins examples in one row without padding.

    `position_ids` restart with each example, from which the model knows that no token sees another example and that
    segments count anew. transformers' `DataCollatorWithFlattening` would drop the label of every first token, which
    only a causal language model never predicts; here it is the labels of the examples that say so.

    Args:
        examples: `input_ids` and `labels`, aligned.

    Returns:
        `input_ids`, `labels` and `position_ids`, each a `torch.LongTensor` of shape `(1, tokens of all examples)`.
    """
    return {
        "input_ids": torch.tensor([list(chain.from_iterable(each["input_ids"] for each in examples))]),
        "labels": torch.tensor([list(chain.from_iterable(each["labels"] for each in examples))]),
        "position_ids": torch.tensor([list(chain.from_iterable(range(len(each["input_ids"])) for each in examples))]),
    }
