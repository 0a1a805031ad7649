r"""Marks that a vocabulary splits over several byte tokens, none of which holds the mark.

The last of these tokens ends what the mark ends where it can be told apart: where no other character has it. Most
vocabularies share it with other characters, and then no token ends anything: [`split_marks`] says for which marks.
"""

import copy
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from .marks_bipe import SENTENCE_ENDS


# Characters that a mark is told apart from: those of the first two planes, which hold the scripts in use and emoji.
_CHARACTERS = range(0x80, 0x20000)


def split_marks(backend: Tokenizer, texts: Mapping[int, str], pattern: re.Pattern[str]) -> tuple[list[int], list[str]]:
    """What becomes of the marks of a pattern that are several tokens, none of which holds a whole character.

    Args:
        backend: of the tokenizer; not changed.
        texts: the text of each token by its id, as `token_texts` returns them.
        pattern: of a preset.

    Returns:
        Ids of last tokens that no other character has, and the marks without one.
    """
    parts = {token_id for token_id, text in texts.items() if set(text) == {"\ufffd"}}
    if not parts:
        return [], []
    backend = _unlimited(backend)
    marks = _marks(pattern)
    encoded = {mark: backend.encode(mark, add_special_tokens=False).ids for mark in marks}
    split = {mark: ids for mark, ids in encoded.items() if len(ids) > 1 and ids[-1] in parts}
    told_apart: dict[int, bool] = {}
    for mark, ids in split.items():
        if ids[-1] not in told_apart:
            told_apart[ids[-1]] = not _has_another(backend, ids[-1], mark, pattern)
    found = sorted(token_id for token_id, is_alone in told_apart.items() if is_alone)
    return found, [mark for mark, ids in split.items() if not told_apart[ids[-1]]]


def languages(marks: Sequence[str]) -> list[str]:
    """The languages with their full stop, or the like, among the marks, each with its code point."""
    return [f"{name} (U+{ord(mark):04X})" for name, mark in SENTENCE_ENDS.items() if mark in marks]


def _unlimited(backend: Tokenizer) -> Tokenizer:
    """One that neither cuts nor pads."""
    if backend.truncation is None and backend.padding is None:
        return backend
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _has_another(backend: Tokenizer, token_id: int, mark: str, pattern: re.Pattern[str]) -> bool:
    """Whether a character that is no mark has the last token of `mark`."""
    return any(  # soon, in most vocabularies
        token_id in backend.encode(each, add_special_tokens=False).ids
        for each in _sharing_byte(mark.encode()[-1])
        if not pattern.fullmatch(each)
    )


@lru_cache(maxsize=32)
def _marks(pattern: re.Pattern[str]) -> list[str]:
    """Characters of the Basic Multilingual Plane beyond ASCII that are a mark alone."""
    return [chr(code) for code in range(0x80, 0xD800) if pattern.fullmatch(chr(code))] + [
        chr(code) for code in range(0xE000, 0x10000) if pattern.fullmatch(chr(code))
    ]


@lru_cache(maxsize=1)
def _assigned() -> np.ndarray:
    """Code points of `_CHARACTERS` that stand for a character, in an order that mixes scripts."""
    codes = [code for code in _CHARACTERS if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    return np.random.default_rng(0).permutation(codes)


@lru_cache(maxsize=64)
def _sharing_byte(byte: int) -> list[str]:
    """Characters whose UTF-8 has this continuation byte."""
    codes = _assigned()
    bits = byte & 0x3F
    first, second, third = (codes >> shift & 0x3F == bits for shift in (0, 6, 12))
    shared = first | (second & (codes >= 0x800)) | (third & (codes >= 0x10000))
    return list(map(chr, codes[shared].tolist()))
