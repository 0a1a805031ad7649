"""What a model reads: as much of the beginning of the document as fits, and the question behind it."""

import textwrap
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ....model.errors_bipe import InputError
from .tasks import ScrollsTask


LEAST_ROOM = 2
"""Tokens that bos and document need at least."""


def closing_ids(question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what stands between document and answer.

    It ends with a line break: the answer begins a line, and a segment of its own where line breaks end segments.
    """
    text = f"\n\nQuestion: {question}\nAnswer:\n" if question else "\n\nSummary:\n"
    return plain_ids(text, tokenizer)


def plain_ids(text: str | Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list:
    """Token ids of a text, or of each of several. Names of special tokens in it are read as the text that they are."""
    # verbose=False: no word on the length of documents, which are cut later.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def room_for_document(closing: list[int], question: str, max_length: int, answer_length: int) -> int:
    """Tokens that are left to bos and document. Raises `ValueError` where that is no text at all."""
    room = max_length - len(closing) - answer_length
    if room < LEAST_ROOM:
        asked = f" of the question {textwrap.shorten(question, 80)!r}" if question else ""
        raise InputError(
            f"max_length: {max_length} leaves no room for a document beside the {len(closing)} tokens{asked} and the"
            f" {answer_length} of an answer (answer_length)"
        )
    return room


def encode_prompts(
    inputs: Sequence[str],
    task: ScrollsTask,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    answer_lengths: Sequence[int],
) -> tuple[list[list[int]], list[bool]]:
    """The token ids of prompts that leave room for an answer.

    Only the document is cut, at its end. Document, question and answer are tokenized apart and their ids joined, so
    that all of the question is there and the prompt has the same tokens whether an answer follows or not. Of 8192
    tokens the answers of `SCROLLS_TASKS` leave 7991 to the document and the question about it, behind bos.

    Args:
        inputs: as in the column `input`.
        task: whose inputs they are.
        tokenizer: of the model; the prompt begins with bos where it puts one before a text.
        max_length: of prompt and answer together, in tokens.
        answer_lengths: tokens to leave free behind each prompt.

    Returns:
        The prompts, and whether each lost a part of its document.

    Raises:
        ValueError: an input is not as the task has them, or question and answer leave no room.
    """
    parts = [task.split_input(text) for text in inputs]
    # Many questions in a row ask about one document, which may have hundreds of thousands of tokens.
    documents = list(dict.fromkeys(document for _, document in parts))
    encoded = zip(documents, plain_ids(documents, tokenizer), strict=True)
    document_ids = {document: ids[: max_length + 1] for document, ids in encoded}
    first = tokenizer("a")["input_ids"][:1]
    bos = first if first == [tokenizer.bos_token_id] else []
    prompts, is_cut = [], []
    for (question, document), answer_length in zip(parts, answer_lengths, strict=True):
        closing = closing_ids(question, tokenizer)
        room = room_for_document(closing, question, max_length, answer_length) - len(bos)
        prompts.append(bos + document_ids[document][:room] + closing)
        is_cut.append(len(document_ids[document]) > room)
    return prompts, is_cut
