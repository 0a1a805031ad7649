"""A tokenizer for documents, and documents as token ids."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.fingerprint import Hasher
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...model.errors_bipe import InputError


END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"

# Bytes of text that a tokenizer is trained on: more hardly changes a vocabulary of this kind, but the time.
TRAINING_BYTES = 32_000_000

# What the merges of the tokenizer never cross: words with the space before them, numbers, punctuation, line breaks,
# other space. A separator of segments (a line break, a full stop) can therefore never be part of a word's token.
_PIECES = (
    r" ?[\p{L}\p{M}_]+"
    r"| ?\p{N}+"
    r"| ?[^\s\p{L}\p{M}\p{N}_]+"
    r"|[\r\n]+"
    r"|[^\S\r\n]+(?!\S)"  # space before a word is left for the word
    r"|[^\S\r\n]+"
)

_TOKENIZED = Features({"input_ids": List(Value("int32")), "num_bytes": Value("int64")})
_DOCUMENTS_PER_BATCH = 16  # a document may be a whole book
_BYTES_PER_PROCESS = 8_000_000  # less is done sooner than another process has started


def train_tokenizer(documents: Iterable[str], vocab_size: int, *, alone: str | None = None) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on the first 32 MB (`TRAINING_BYTES`) of the documents.

    Any text can be encoded and decoded without loss. Line breaks and punctuation are tokens of their own: a token with
    a line break holds nothing else, and punctuation is joined with other punctuation or a space before it only.

    Args:
        documents: texts (`str`), read until there are enough.
        vocab_size (`int`): number of tokens with the two special ones; fewer if the documents have no more to merge.
        alone (`str`, *optional*): regular expression of what is never part of a longer token besides.

    Returns:
        A tokenizer with `<|endoftext|>` (id 0) as `bos_token` and `eos_token`, and `<|pad|>` (id 1) as `pad_token`.

    Raises:
        ValueError: `vocab_size` is below 258 (256 bytes and the special tokens), or there is no text.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special_tokens = [END_OF_TEXT, PADDING]
    smallest = len(alphabet) + len(special_tokens)
    if vocab_size < smallest:
        raise InputError(
            f"vocab_size must be at least {smallest} (256 bytes and two special tokens), not {vocab_size}"
        )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), behavior="isolated") for each in (alone, _PIECES) if each),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=alphabet,
        show_progress=not datasets.are_progress_bars_disabled(),
    )
    tokenizer.train_from_iterator(_first_bytes(documents, TRAINING_BYTES), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PADDING
    )


def _first_bytes(documents: Iterable[str], limit: int) -> Iterator[str]:
    seen = 0
    for text in documents:
        data = text.encode()[: limit - seen]
        yield data.decode(errors="ignore")  # the cut may go through a character
        seen += len(data)
        if seen >= limit:
            return
    if not seen:
        raise InputError("there is no text to train a tokenizer on")


def cached_tokenizer(
    documents: Dataset | IterableDataset, vocab_size: int, cache_dir: str | Path | None = None
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer on documents in random order (seed 0), or loads it if that was done before.

    A stream cannot be recognised: its tokenizer is trained each time, on its first documents.

    Args:
        documents: with the column `text`.
        vocab_size (`int`): see [`train_tokenizer`].
        cache_dir (*optional*): where tokenizers are kept, by default `bipe_hf` in the cache of `datasets`.

    Returns:
        The tokenizer that [`train_tokenizer`] returns.
    """
    if isinstance(documents, IterableDataset):
        return train_tokenizer((row["text"] for row in documents), vocab_size)
    cache_dir = Path(cache_dir if cache_dir is not None else Path(datasets.config.HF_DATASETS_CACHE, "bipe_hf"))
    folder = cache_dir / f"tokenizer-{Hasher.hash((documents._fingerprint, vocab_size, TRAINING_BYTES, _PIECES))}"
    if not folder.exists():
        tokenizer = train_tokenizer((row["text"] for row in documents.shuffle(seed=0)), vocab_size)
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as temporary:
            whole = Path(temporary, "tokenizer")
            tokenizer.save_pretrained(whole)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another process was faster, with the same tokenizer
                    raise
    return PreTrainedTokenizerFast.from_pretrained(folder)


def tokenize_documents(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, *, num_proc: int | None = None
) -> Dataset | IterableDataset:
    """Turns each document into token ids that end with the tokenizer's `eos_token`.

    Names of special tokens in a text are read as the text that they are. No other special tokens are added.

    Args:
        documents: with the column `text`.
        tokenizer: any tokenizer with an `eos_token`.
        num_proc (`int`, *optional*): processes; by default as many as pay off. A stream is tokenized in its reader's.

    Returns:
        Documents with the columns `input_ids` (int32 list) and `num_bytes` (int, the text's length in UTF-8).

    Raises:
        ValueError: the tokenizer has no `eos_token`.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which must end each document")
    documents = documents.select_columns("text")
    arguments = {
        "batched": True,
        "batch_size": _DOCUMENTS_PER_BATCH,
        "remove_columns": "text",
        "features": _TOKENIZED,
        "fn_kwargs": {"tokenizer": tokenizer},
    }
    if isinstance(documents, IterableDataset):
        return documents.map(_tokenize, **arguments)
    if num_proc is None:
        # A split is a selection of rows from one table.
        num_bytes = documents.data.nbytes * len(documents) // max(1, documents.data.num_rows)
        num_proc = max(1, min(os.cpu_count() or 1, len(documents), num_bytes // _BYTES_PER_PROCESS))
    return documents.map(_tokenize, num_proc=num_proc if num_proc > 1 else None, desc="Tokenizing", **arguments)


def _tokenize(batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list]:
    # verbose=False: a document may be longer than the model's context, as blocks are cut later.
    encoded = tokenizer(
        batch["text"],
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return {
        "input_ids": [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]],
        "num_bytes": [len(text.encode()) for text in batch["text"]],
    }
