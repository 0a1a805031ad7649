"""Documents as token ids, cut into blocks of the train length."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value

from ...model.errors_bipe import InputError


def make_blocks(
    tokenized: Dataset | IterableDataset, length: int, *, document_boundaries: Literal["keep", "ignore"] = "ignore"
) -> Dataset | IterableDataset:
    """Joins documents in their order and cuts them into blocks of `length` tokens; the rest at the end is dropped.

    Args:
        tokenized: with the column `input_ids`, as [`tokenize_documents`] returns it.
        length (`int`): tokens per block, at least 2.
        document_boundaries (*optional*, defaults to `"ignore"`):
            `"ignore"`: a document runs into the next one, with the end-of-text token between them, as the authors
            of BiPE do; `"keep"`: `position_ids` restart at 0 where a document starts, so that the model sees each
            alone. A document that goes on in the next block starts there at 0, too.

    Returns:
        Blocks with the column `input_ids`, and with `"keep"` also `position_ids`: int32 lists of `length`.

    Raises:
        ValueError: a bad argument, or fewer tokens than one block (for a stream: when it is read to its end).
    """
    if length < 2:
        raise InputError(f"length must be at least 2 tokens per block, not {length}")
    if document_boundaries not in ("keep", "ignore"):
        raise InputError(f'document_boundaries must be "keep" or "ignore", not "{document_boundaries}"')
    keep = document_boundaries == "keep"
    features = Features({name: List(Value("int32")) for name in ("input_ids", "position_ids")[: 1 + keep]})
    tokenized = tokenized.select_columns("input_ids")
    if isinstance(tokenized, IterableDataset):
        arguments = {"tokenized": tokenized, "length": length, "keep": keep}
        return IterableDataset.from_generator(_stream_blocks, features=features, gen_kwargs=arguments)
    blocks = tokenized.with_format("arrow").map(
        _Cutter(length, keep),
        batched=True,
        batch_size=100,  # a document may be a whole book
        remove_columns="input_ids",
        features=features,
        desc=f"Cutting blocks of {length} tokens",
    )
    if len(blocks) == 0:
        raise _too_short(sum(len(row["input_ids"]) for row in tokenized), length)
    return blocks.with_format(None)


def _too_short(num_tokens: int, length: int) -> InputError:
    return InputError(f"the documents hold {num_tokens} tokens, fewer than one block of length {length}")


def _stream_blocks(tokenized: IterableDataset, length: int, keep: bool) -> Iterator[dict[str, list[int]]]:
    cutter = _Cutter(length, keep)
    found = False
    for row in tokenized:
        document = pa.array([row["input_ids"]], pa.list_(pa.int32()))
        for block in cutter(pa.table({"input_ids": document})).to_pylist():
            found = True
            yield block
    if not found:
        raise _too_short(len(cutter.ids), length)


class _Cutter:
    """Cuts batch after batch of documents, keeping what does not fill a block for the next batch.

    Each pass over the data needs a cutter of its own, called on the batches in order.
    """

    def __init__(self, length: int, keep: bool):
        self.length = length
        self.keep = keep
        self.ids = np.empty(0, np.int32)
        self.starts = np.empty(0, bool)  # True at the first token of a document

    def __call__(self, batch: pa.Table) -> pa.Table:
        documents = batch["input_ids"]
        ids = pc.list_flatten(documents).to_numpy()
        sizes = pc.list_value_length(documents).to_numpy()
        starts = np.zeros(len(ids), bool)
        starts[(np.cumsum(sizes) - sizes)[sizes > 0]] = True

        ids = np.concatenate([self.ids, ids], dtype=np.int32)
        starts = np.concatenate([self.starts, starts])
        end = len(ids) // self.length * self.length
        self.ids, self.starts = ids[end:], starts[end:]
        columns = {"input_ids": ids[:end]}
        if self.keep:
            columns["position_ids"] = _positions(starts[:end].reshape(-1, self.length)).ravel()
        offsets = np.arange(0, end + 1, self.length, dtype=np.int32)
        return pa.table({name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()})


def _positions(starts: np.ndarray) -> np.ndarray:
    """Distance of each token from its document's start, or its block's; bool `(blocks, length)` to int32."""
    index = np.arange(starts.shape[1], dtype=np.int32)
    return index - np.maximum.accumulate(np.where(starts, index, 0), axis=1, dtype=np.int32)
