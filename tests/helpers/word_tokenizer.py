"""A tokenizer for the tiny models of tiny.py: one word for each of their ids."""

import random

from tiny import TINY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bipe_hf import BipeTokenizer


EOS = TINY["vocab_size"] - 1


def make_word_tokenizer() -> BipeTokenizer:
    """Words `w00`, `w01`, ..., none part of another, and an end-of-text token with the last id; no padding token."""
    vocabulary = {**{f"w{at:02}": at for at in range(EOS)}, "<end>": EOS}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w00"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    return BipeTokenizer.from_tokenizer(tokenizer, TINY["separator_token_ids"])


def random_words(count: int, seed: int) -> str:
    return " ".join(f"w{at:02}" for at in random.Random(seed).choices(range(EOS), k=count))


def segment_ids(ids: list[int]) -> list[int]:
    """Separators strictly before each token, counted one by one."""
    return [sum(earlier in TINY["separator_token_ids"] for earlier in ids[:at]) for at in range(len(ids))]
