"""The text that is scored, as each model's own tokenizer divides it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint
from ..data import tokenize_documents


@dataclass(frozen=True)
class Text:
    """The stream of token ids (long, `(tokens,)`) and what `Result` says of it.

    `document_ends` (long, `(documents,)`) has the index in the stream behind the last token of each document.
    """

    ids: Tensor
    document_ends: Tensor
    documents: int
    bytes_per_token: float
    sha256: str

    def units(self, unit_tokens: int) -> Tensor:
        """The unit of each token (long, `(tokens,)`, rising from 0).

        A unit is a document. One of more than `unit_tokens` tokens has a unit for every so many of them, from its
        beginning; the last one has what is left. The last document may be cut by the end of the stream.
        """
        lengths = self.document_ends.diff(prepend=torch.tensor([0]))
        parts = (lengths + unit_tokens - 1) // unit_tokens
        in_document = torch.arange(len(self.ids)) - (self.document_ends - lengths).repeat_interleave(lengths)
        return (parts.cumsum(0) - parts).repeat_interleave(lengths) + in_document // unit_tokens


def read_text(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, multiple: int, max_tokens: int | None
) -> Text:
    """The stream of token ids; its length is a multiple of `multiple`."""
    limit = math.inf if max_tokens is None else max_tokens // multiple * multiple
    ids, ends, num_bytes = [], [0], [0]
    for document in tokenize_documents(documents, tokenizer):
        ids.append(torch.tensor(document["input_ids"], dtype=torch.long))
        ends.append(ends[-1] + len(document["input_ids"]))
        num_bytes.append(num_bytes[-1] + document["num_bytes"])
        if ends[-1] >= limit:
            break
    tokens = min(limit, ends[-1] // multiple * multiple)
    if tokens == 0:
        raise InputError(
            f"the text has {ends[-1]} tokens, too few for one block of {multiple} "
            "(the longest length, or the least common multiple where not all lengths divide it)"
        )
    reached = next(at for at, end in enumerate(ends) if end >= tokens)
    stream = torch.cat(ids)[:tokens]
    sha256 = hashlib.sha256(stream.numpy().tobytes()).hexdigest()
    document_ends = torch.tensor(ends[1 : reached + 1]).clamp(max=tokens)
    return Text(stream, document_ends, reached, num_bytes[reached] / ends[reached], sha256)


def read_texts(
    documents: Dataset | IterableDataset,
    checkpoints: Sequence[Checkpoint],
    multiple: int,
    max_tokens: int | None,
    source: str,
) -> list[Text]:
    """Each checkpoint's text; the documents are tokenized once for all checkpoints with the same tokenizer."""
    texts = {}
    for checkpoint in checkpoints:
        key = tokenizer_key(checkpoint.tokenizer)
        if key not in texts:
            try:
                texts[key] = read_text(documents, checkpoint.tokenizer, multiple, max_tokens)
            except InputError as error:
                raise InputError(f"{source}, tokenizer of {checkpoint.given}: {error}") from error
    return [texts[tokenizer_key(checkpoint.tokenizer)] for checkpoint in checkpoints]


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers that give the same ids; of a slow one, equal only to itself."""
    if not tokenizer.is_fast:
        return str(id(tokenizer))
    return tokenizer.backend_tokenizer.to_str() + str(tokenizer.eos_token)
