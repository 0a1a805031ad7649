"""Prompts of passkey retrieval: a number hidden in a text that says nothing of it.

The sentences are those of Mohtashami and Jaggi, "Random-Access Infinite Context Length for Transformers" (NeurIPS
2023, arXiv 2305.16300), with line breaks between the parts:

    There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you
    about the important information there.
    The grass is green. The sky is blue. ...
    The pass key is 71432. Remember it. 71432 is the pass key.
    The sun is yellow. Here we go. ...
    What is the pass key? The pass key is

Two things differ: keys have five digits (theirs one to five), so that all are as hard, and the text ends between
sentences or words, where theirs is cut after so many characters.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from transformers import PreTrainedTokenizerBase

from ....model.errors_bipe import InputError
from ...common.generation import encode_prompt


TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them."
    " I will quiz you about the important information there."
)
SENTENCES = (
    "The grass is green. ",
    "The sky is blue. ",
    "The sun is yellow. ",
    "Here we go. ",
    "There and back again. ",
)
KEY = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"


@dataclass(frozen=True)
class Filler:
    """What the key is hidden in.

    The text goes on from the last piece to the first.

    Args:
        pieces: of text, each with the white space behind it, taken in their order.
        starts_anywhere: whether the text of a prompt starts at a random piece, not at the first.
    """

    pieces: Sequence[str]
    starts_anywhere: bool


CLASSIC_FILLER = Filler(SENTENCES, starts_anywhere=False)


def words_filler(texts: Iterable[str], enough: int) -> Filler:
    """The words of texts, a blank line between two of them.

    Args:
        texts: read until there are enough.
        enough: words.
    """
    words: list[str] = []
    for text in texts:
        words += re.findall(r"\S+\s*", text.strip() + "\n\n")
        if len(words) >= enough:
            break
    return Filler(words[:enough], starts_anywhere=True)


@dataclass(frozen=True)
class Prompt:
    """A prompt with what is hidden in it.

    Args:
        text: of the prompt.
        input_ids: its token ids.
        key: the number.
    """

    text: str
    input_ids: list[int]
    key: str


def write_prompt(filler: Sequence[str], key: str, depth: float) -> str:
    """The prompt with the key in its place.

    Args:
        filler: pieces of text.
        key: the number.
        depth: share of the pieces that stand before the key, rounded half up.
    """
    split = int(depth * len(filler) + 0.5)
    before, after = "".join(filler[:split]).strip(), "".join(filler[split:]).strip()
    return "\n".join(part for part in (TASK, before, KEY.format(key=key), after, QUESTION) if part)


def make_prompt(
    tokenizer: PreTrainedTokenizerBase, filler: Filler, length: int, depth: float, sample: int, seed: int
) -> Prompt:
    """A prompt of at most `length` tokens: with one more piece of filler it would be longer.

    Key and text depend on all arguments but the tokenizer, and on nothing else. [`check_length`] says whether there is
    room for a piece.

    Args:
        tokenizer: of the model.
        filler: what the key is hidden in.
        length: in tokens.
        depth: share of the pieces that stand before the key.
        sample: index of the prompt.
        seed: of key and text.
    """
    key, start = _draw(filler, length, depth, sample, seed)

    def text(pieces: int) -> str:
        taken = [filler.pieces[at % len(filler.pieces)] for at in range(start, start + pieces)]
        return write_prompt(taken, key, depth)

    @cache
    def tokens(pieces: int) -> list[int]:
        return encode_prompt(tokenizer, text(pieces))

    too_many = 2
    while len(tokens(too_many)) <= length:
        too_many *= 2
    fitting = bisect_right(range(too_many + 1), length, too_many // 2, key=lambda pieces: len(tokens(pieces))) - 1
    return Prompt(text(fitting), tokens(fitting), key)


def check_length(
    tokenizer: PreTrainedTokenizerBase, filler: Filler, length: int, depths: Sequence[float], samples: int, seed: int
) -> None:
    """Raises `ValueError` unless prompts of this length have room for text, and the filler enough of it.

    Args:
        tokenizer: of the model.
        filler: what the keys are hidden in.
        length: in tokens.
        depths: shares of the pieces that stand before the key.
        samples: prompts at each depth.
        seed: of keys and text.
    """
    for depth in depths:
        for sample in range(samples):
            key, start = _draw(filler, length, depth, sample, seed)
            piece = filler.pieces[start]
            shortest = len(encode_prompt(tokenizer, write_prompt([piece], key, depth)))
            if shortest > length:
                word = f"a word of the data (up to white space: {piece[:40]!r})"
                raise InputError(
                    f"lengths: {length} tokens are too few: task, key and question with"
                    f" {word if filler.starts_anywhere else 'a sentence'} take {shortest}"
                )
    if filler.starts_anywhere and len(filler.pieces) < length:
        available = len(encode_prompt(tokenizer, "".join(filler.pieces)))
        if available < length:
            raise InputError(f"lengths: {length} tokens are more than the text has ({available})")


def _draw(filler: Filler, length: int, depth: float, sample: int, seed: int) -> tuple[str, int]:
    """The key, and the piece of filler that comes first."""
    draw = random.Random(f"{seed} {length} {depth} {sample}")
    key = str(draw.randrange(10_000, 100_000))
    return key, draw.randrange(len(filler.pieces)) if filler.starts_anywhere else 0
