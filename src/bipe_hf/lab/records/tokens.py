"""Records as token ids: a tokenizer whose separators stand alone, and rows side by side in windows."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data import train_tokenizer
from .form import Form, Row


# Rows that the tokenizer gets at a time.
ROWS_AT_ONCE = 1000


class Field(NamedTuple):
    """A field of a row, or a word of a log, with the token ids of its text and of the separator that ends it."""

    column: str
    text: str
    ids: list[int]


def fit_record_tokenizer(lines: Iterable[str], form: Form, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of these lines in which each separator of `form` and each digit is a token of its own.

    A separator therefore never hides in another token. With single digits the place in the field is that of the digit,
    and a number that was never seen costs no more than others.
    """
    return train_tokenizer(lines, vocab_size, alone=rf"[{re.escape(form.separators)}]|\p{{N}}")


def encode_rows(rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Field]]:
    """The fields of each row. Since separators stand alone, the ids of the whole line are those of its fields."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        parts = [form.parts(row) for row in rows[start : start + ROWS_AT_ONCE]]
        encoded = iter(encode([text for row in parts for _, text in row], tokenizer))
        for row in parts:
            yield [Field(column, text, next(encoded)) for column, text in row]


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts; names of special tokens in them are text."""
    settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(list(texts), **settings)["input_ids"] if texts else []


def row_ids(fields: Iterable[Field]) -> list[int]:
    """The token ids of a row."""
    return list(chain.from_iterable(field.ids for field in fields))


def latest_ids(past: Sequence[list[int]], length: int) -> list[int]:
    """The token ids of the last of some rows, as many whole ones as fit in `length` tokens."""
    ids: list[int] = []
    for row in reversed(past):
        if len(ids) + len(row) > length:
            break
        ids = row + ids
    return ids


class Window(NamedTuple):
    """Rows that a model sees together: `first` to `stop`, of which those from `new` on were in no window before."""

    first: int
    new: int
    stop: int


def windows(sizes: Sequence[int], length: int, carried: int = 0) -> Iterator[Window]:
    """Whole rows side by side in windows of up to `length` tokens; a longer row has one of its own.

    Args:
        sizes: tokens of each row.
        length: of a window.
        carried: tokens of a window that rows of the one before may fill, so that its first new row has a past.
    """
    new = 0
    while new < len(sizes):
        first, used = new, 0
        while first > 0 and used + sizes[first - 1] <= carried:
            first -= 1
            used += sizes[first]
        stop = new
        while stop < len(sizes) and (stop == new or used + sizes[stop] <= length):
            used += sizes[stop]
            stop += 1
        yield Window(first, new, stop)
        new = stop
