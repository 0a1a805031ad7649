"""Separators that a vocabulary hides: marks that share a token, and marks that no token holds.

A mark of a level is a place in a text where a unit of the level ends if a token ends there: a newline of `lines`, a
comma of `fields`. Those of a preset are where its pattern matches, in a text as in the text of a token. Those of a
list of separators are the texts of its tokens. Marks of `paragraphs` or of `words` that follow on each other are one,
since several blank lines or spaces in a row end one paragraph or word, and `\\r\\n` is one line break.

A token ends one unit of a level, whatever it holds. So each mark of a text ends a unit of its own, or shares a token
with another mark, or stands in a token that is no separator (of a list), or in no single token.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...model.marks_bipe import PRESET_PATTERNS
from ...model.vocabulary_bipe import token_texts
from .inputs import Level, TextSegmentation


# Tokens that a report lists.
LISTED = 10
# Presets whose marks are one where they follow on each other.
_RUNS = ("paragraphs", "words")


@dataclass(frozen=True)
class LevelMarks:
    """The marks of one level in a text, and what became of them."""

    unit: str
    marks: int
    """In the text."""
    separators: int
    """Tokens that end a unit of this level."""
    sharing: int
    """Marks that share one of these tokens with another mark of this level, those beyond the first."""
    elsewhere: int
    """Marks in tokens that are no separators of this level."""
    difference: int
    """Marks of the text less those of its tokens. Above 0: marks that no single token holds, because the tokenizer
    splits or drops them. Below 0: marks of tokens that the text around them takes back, as that of the dot in 3.14, or
    that are one in the text, as two spaces in two tokens."""


@dataclass(frozen=True)
class HidingToken:
    """A token in which a mark ends nothing of its own."""

    token_id: int
    text: str
    marks: int
    """Distinct ones, of all levels."""
    unit: str | None
    """What it ends at the coarsest level that it is a separator of; None where it is none."""
    times: int
    """How often the text has it."""


@dataclass(frozen=True)
class HiddenSeparators:
    """What a vocabulary hides of the separators of a text.

    `vocabulary` counts tokens that are no special ones. `several_*` are tokens that hold more than one mark, of one
    level or of several, `not_separators_*` tokens that hold one and end nothing; in the vocabulary and in the text.
    `tokens` are the most frequent ones of both kinds in the text, at most `LISTED`.
    """

    levels: list[LevelMarks]
    vocabulary: int
    several_in_vocabulary: int
    several_in_text: int
    not_separators_in_vocabulary: int
    not_separators_in_text: int
    tokens: list[HidingToken]


class Marks:
    """Finds the marks of a level in a text, in which a line break is one character."""

    def __init__(self, level: Level, texts: Mapping[int, str]) -> None:
        """
        Args:
            level: one that ends at separators.
            texts: of the tokens of the vocabulary, by id, as `token_texts` returns them. A model may have more ids.
        """
        preset = level.separators if isinstance(level.separators, str) else None
        if preset not in PRESET_PATTERNS:  # a list, or a preset that is one
            held = {one_line_break(texts.get(token_id, "")) for token_id in level.token_ids}
            whole = sorted((text for text in held if text and "\ufffd" not in text), key=len, reverse=True)
            self.pattern = re.compile("|".join(map(re.escape, whole)) or r"(?!)")
        elif preset in _RUNS:
            self.pattern = re.compile(f"(?:{PRESET_PATTERNS[preset].pattern})+")
        else:
            # A mark may match with the next one, as the full stop does that a newline follows: each has its own place.
            self.pattern = re.compile(f"(?={PRESET_PATTERNS[preset].pattern})")

    def places(self, text: str) -> list[tuple[int, int]]:
        """First character of each mark, and the one after its last."""
        return [(match.start(), max(match.end(), match.start() + 1)) for match in self.pattern.finditer(text)]

    def count(self, text: str) -> int:
        return sum(1 for _ in self.pattern.finditer(text))


def one_line_break(text: str) -> str:
    r"""The text with `\n` for `\r\n`."""
    return text.replace("\r\n", "\n")


def distinct_marks(places: Iterable[Sequence[tuple[int, int]]]) -> int:
    """How many separators the marks of all levels in a token would be, had each a token of its own.

    Args:
        places: those of each level. One that a mark of another level lies inside is not counted beside it.
    """
    shortest_first = sorted((each for level in places for each in level), key=lambda place: place[1] - place[0])
    found: list[int] = []
    for start, end in shortest_first:
        if not any(start <= other < end for other in found):
            found.append(start)
    return len(found)


def hidden_separators(
    ids: np.ndarray, documents: Iterable[Mapping[str, str]], segmentation: TextSegmentation
) -> HiddenSeparators:
    """Compares the marks of a text with the separators that are found in it.

    Args:
        ids (`numpy.ndarray` of shape `(tokens,)`): of all documents, each closed by the end-of-text token.
        documents: with `text`.
        segmentation: as `open_segmentation` returns it, with levels.
    """
    tokenizer = segmentation.tokenizer
    levels = [level for level in segmentation.levels if level.separators is not None]
    texts = token_texts(tokenizer.backend_tokenizer)
    marks = [Marks(level, texts) for level in levels]
    counts, num_documents = np.zeros(len(levels), dtype=np.int64), 0
    for document in tqdm(
        documents, desc="Counting marks", unit="document", disable=datasets.are_progress_bars_disabled()
    ):
        text = one_line_break(document["text"])
        counts += [each.count(text) for each in marks]
        num_documents += 1

    times = np.bincount(ids, minlength=max(*texts, segmentation.config.vocab_size - 1) + 1)
    times[tokenizer.eos_token_id] -= num_documents  # the text has none of them
    special = _special_ids(tokenizer)
    places = {
        token_id: [each.places(one_line_break(text)) for each in marks]
        for token_id, text in texts.items()
        if token_id not in special
    }
    is_separator = [set(level.token_ids) for level in levels]
    hiding: list[HidingToken] = []
    for token_id, of_levels in places.items():
        held = distinct_marks(of_levels)
        ends = next((level.unit for level, found in zip(levels, is_separator, strict=True) if token_id in found), None)
        if held > 1 or (held == 1 and ends is None):
            hiding.append(HidingToken(token_id, texts[token_id], held, ends, int(times[token_id])))
    several = [token for token in hiding if token.marks > 1]
    not_separators = [token for token in hiding if token.unit is None]
    in_text = sorted((token for token in hiding if token.times), key=lambda token: (-token.times, token.token_id))
    return HiddenSeparators(
        levels=[
            _of_level(level, int(count), times, {token_id: len(found[at]) for token_id, found in places.items()})
            for at, (level, count) in enumerate(zip(levels, counts, strict=True))
        ],
        vocabulary=len(places),
        several_in_vocabulary=len(several),
        several_in_text=sum(token.times for token in several),
        not_separators_in_vocabulary=len(not_separators),
        not_separators_in_text=sum(token.times for token in not_separators),
        tokens=in_text[:LISTED],
    )


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """What no text is split into: names of special tokens in it are text."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _of_level(level: Level, marks: int, times: np.ndarray, held: Mapping[int, int]) -> LevelMarks:
    """
    Args:
        marks: in the text.
        times: how often the text has each token.
        held: marks of this level in each token.
    """
    separators = set(level.token_ids)
    in_tokens = {token_id: int(times[token_id]) * count for token_id, count in held.items() if count}
    elsewhere = sum(count for token_id, count in in_tokens.items() if token_id not in separators)
    first_ones = sum(int(times[token_id]) for token_id in in_tokens if token_id in separators)
    in_all = sum(in_tokens.values())
    return LevelMarks(
        unit=level.unit,
        marks=marks,
        separators=int(times[list(separators)].sum()),
        sharing=in_all - elsewhere - first_ones,
        elsewhere=elsewhere,
        difference=marks - in_all,
    )
