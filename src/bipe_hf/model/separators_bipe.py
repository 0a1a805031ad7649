r"""The tokens that end a segment, or a unit of a level inside it: presets that decide by text, and lists.

What a separator is must be decided token by token, since the model sees nothing else. The presets decide by the text
that a token stands for (`marks_bipe` has the marks), from coarse to fine:

- `"turns"`: special tokens that end a turn of a chat template or a document, and the end-of-sequence token.
- `"paragraphs"`: the token holds two newlines with nothing but white space between them, a form feed or a paragraph
  separator.
- `"objects"`: the token holds a newline or a closing brace, as after an object of JSON.
- `"sentences"`: the token holds a newline, or a mark that ends a sentence. Dots, exclamation marks, question marks and
  ellipses also stand inside words, numbers and code, so they count only where closing quotes, brackets or markup and
  then white space or the end of the token follow: `.`, `?!`, `...`, `."` and `.**` do, `.com` does not. Behind a dot a
  link or a tag may begin, as in `.[` and `.<`. The marks of other scripts, such as the ideographic full stop or the
  danda, stand nowhere else and count anywhere in the token.
- `"lines"`: the token holds a newline: line feed, carriage return, vertical tab, form feed, next line, line or
  paragraph separator.
- `"clauses"`: as `"sentences"`, with commas, semicolons, colons, quotes and the tab besides.
- `"fields"`: the token holds a comma, a tab, a semicolon or a bar, or a newline.
- `"values"`: the token holds a comma or a colon, or a newline, as behind the keys and the values of JSON.
- `"words"`: the token holds white space. Where a tokenizer keeps the space in front of a word, the first token of the
  word is the last of the unit before.
- `"authors"`: ids 869 and 13 of the Llama tokenizer, a detached dot and the newline, as in the code that was released
  with the paper (He et al., ICML 2024, arXiv 2401.16421).

The separators of `"turns"` are among those of every preset but `"authors"`: what one speaker or document leaves open
does not run on into the next. No other special token is one.

A list holds names of presets, token ids and texts of tokens together: `["sentences", "<|im_end|>", 13]`. A name with a
minus takes the separators of that preset away: `["sentences", "-turns"]` ends no segment at the end of a turn.

What a token cannot tell, no preset knows. Where the digits behind a dot are tokens of their own, as in most
vocabularies, the dot of `3.14` counts as a full stop, and so does that of `etc.`, of `1.` or of a method call; an
apostrophe that is a token of its own counts as a quote, the semicolon that ends a Greek question as a semicolon.
Underscores that close emphasis are taken for the beginning of a name. Scripts without a sentence mark, such as Thai,
break at newlines only. A blank line in two tokens ends no paragraph. A mark that the vocabulary splits over several
byte tokens is ended by the last of them where no other character has it, else by none: most vocabularies lose marks of
some scripts in this way, and a warning names languages that lose the mark that ends their sentences.

`"json"` stands for two levels, objects and the keys and values in them.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from transformers import TokenizersBackend

from .errors_bipe import InputError, did_you_mean
from .marks_bipe import PRESET_PATTERNS
from .split_marks_bipe import languages, split_marks
from .vocabulary_bipe import token_texts


AUTHORS_TOKENS = {869: "\u2581.", 13: "<0x0A>"}
# Of chat templates: a token of "end", of "eot" and the like, or one that ends a text,
_ENDS_TURN = re.compile(
    r"[<\[].*(?:(?<![a-z])(?:end|eo[a-z]|return|call)(?![a-z])|endoftext).*[>\]]|</s>|\[/INST\]", re.IGNORECASE
)
# not the end of a header, of what the model thinks, or of a picture, a tool call or a gap to fill.
_ENDS_SOMETHING_ELSE = re.compile(
    r"header|role|think|channel|prompt|meta|tool|function|code|fim|box|quad|ref|image|vision|video|audio|speech",
    re.IGNORECASE,
)
PRESETS = ("turns", *PRESET_PATTERNS, "authors")
LEVELS = {"json": ("objects", "values")}
"""Presets that stand for several levels."""

Separators = str | Sequence[int | str]


class Level(NamedTuple):
    """The separators of segments, or of the units of a level inside them."""

    separators: str | list[int | str]
    """The preset or the list that they were chosen by."""
    token_ids: list[int]
    """The separators, sorted."""
    is_empty: bool
    """Whether there are none, but for those of `"turns"` that another preset brings along."""
    without_any: list[str]
    """Presets that found nothing in the vocabulary, but for the separators of `"turns"`."""
    lost: list[str]
    """Languages with a mark of sentences that ends nothing, because the vocabulary splits it."""


def find_levels(tokenizer: TokenizersBackend, levels: str | Sequence[Separators]) -> list[Level]:
    """The separators of each level, coarse to fine; a preset of several levels becomes as many.

    Args:
        tokenizer: not changed.
        levels: as [`BipeTokenizer.from_tokenizer`] takes them.

    Raises:
        ValueError: for what [`BipeTokenizer.from_tokenizer`] does not accept.
    """
    if isinstance(levels, str) and levels in LEVELS:
        levels = [levels]
    if not isinstance(levels, (list, tuple)) or not levels:
        raise InputError(
            f"levels: {levels!r} is not accepted; give a list of separators, coarse to fine, each one of"
            f" {', '.join(map(repr, (*PRESETS, *LEVELS)))}, or a list of presets, token ids and strings."
        )
    vocabulary = _Vocabulary(tokenizer, "levels")
    spelt_out = [
        part for level in levels for part in (LEVELS.get(level, (level,)) if isinstance(level, str) else (level,))
    ]
    return [vocabulary.level(separators) for separators in spelt_out]


def find_separators(tokenizer: TokenizersBackend, separators: Separators) -> Level:
    """The separators of segments alone.

    Args:
        tokenizer: not changed.
        separators: as [`BipeTokenizer.from_tokenizer`] takes them.

    Raises:
        ValueError: for what [`BipeTokenizer.from_tokenizer`] does not accept.
    """
    return _Vocabulary(tokenizer, "separators").level(separators)


class _Vocabulary:
    """Finds separators in the vocabulary of a tokenizer."""

    def __init__(self, tokenizer: TokenizersBackend, key: str) -> None:
        self.tokenizer = tokenizer
        self.key = key  # what messages call the argument
        self.backend = tokenizer.backend_tokenizer

    @cached_property
    def texts(self) -> dict[int, str]:
        return token_texts(self.backend)

    @cached_property
    def special(self) -> set[int]:
        added = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return added | set(self.tokenizer.all_special_ids)

    @cached_property
    def turns(self) -> set[int]:
        """Ends of turns and of documents."""
        added = {token_id: token.content for token_id, token in self.tokenizer.added_tokens_decoder.items()}
        ends = {
            token_id
            for token_id, text in added.items()
            if _ENDS_TURN.fullmatch(text) and not _ENDS_SOMETHING_ELSE.search(text)
        }
        return ends | ({self.tokenizer.eos_token_id} - {None})

    def level(self, separators: Separators) -> Level:
        if isinstance(separators, str):
            if separators not in PRESETS:
                several = " `levels` takes it." if separators in LEVELS else ""
                raise InputError(
                    f"{self.key}: {separators!r} is not accepted; give one of {', '.join(map(repr, PRESETS))}, or a"
                    f" list of presets, token ids and strings{did_you_mean(separators, PRESETS)}.{several}"
                )
            items = [separators]
        elif isinstance(separators, (list, tuple)):
            items = separators = list(separators)
        else:
            raise InputError(
                f"{self.key}: {separators!r} is not accepted; give one of {', '.join(map(repr, PRESETS))}, or a list"
                " of presets, token ids and strings."
            )
        found, taken_away, without_any, lost = set(), set(), [], []
        for item in items:
            if isinstance(item, str) and item in PRESETS:
                token_ids, split = self._preset(item)
                found |= token_ids
                lost += [name for name in split if name not in lost]
                if not token_ids - (set() if item == "turns" else self.turns):
                    without_any.append(item)
            elif isinstance(item, str) and item.removeprefix("-") in PRESETS:
                taken_away |= self._preset(item.removeprefix("-"))[0]
            else:
                found.add(self._token(item))
        found -= taken_away
        is_empty = not found - (set() if "turns" in items else self.turns)
        return Level(separators, sorted(found), is_empty, without_any, lost)

    def _preset(self, name: str) -> tuple[set[int], list[str]]:
        """Its separators, and the languages whose mark of sentences is none of them."""
        if name == "turns":
            return self.turns, []
        if name == "authors":
            found = {token_id: self.backend.id_to_token(token_id) for token_id in AUTHORS_TOKENS}
            if found != AUTHORS_TOKENS:
                raise InputError(
                    f"{self.key}: 'authors' needs the Llama tokenizer, with tokens {AUTHORS_TOKENS}; this vocabulary"
                    f" has {found}."
                )
            return set(AUTHORS_TOKENS), []
        pattern = PRESET_PATTERNS[name]
        last_bytes, marks = split_marks(self.backend, self.texts, pattern)
        found = {token_id for token_id, text in self.texts.items() if pattern.search(text)} | set(last_bytes)
        return found - self.special | self.turns, languages(marks)

    def _token(self, item: int | str) -> int:
        """Id of a token in a list."""
        if isinstance(item, str):
            if item in LEVELS:
                raise InputError(
                    f"{self.key}: {item!r} stands for several levels, and an item of a list for one: `levels` takes it"
                    " by itself. If the token is meant, give its id."
                )
            token_id = self.backend.token_to_id(item)
            if token_id is not None:
                return token_id
            token_ids = sorted(token_id for token_id, text in self.texts.items() if text == item)
            if len(token_ids) != 1:
                raise InputError(
                    f"{self.key}: {item!r} is not one token of the vocabulary, and no preset; ids with this text:"
                    f" {token_ids or None}{did_you_mean(item, PRESETS)} (docs/levels.md has the presets)."
                )
            return token_ids[0]
        if isinstance(item, bool) or not isinstance(item, int):
            raise InputError(f"{self.key}: {item!r} is neither an int (a token id) nor a str.")
        if item < 0 or self.backend.id_to_token(item) is None:
            raise InputError(
                f"{self.key}: token id {item} is out of range; the vocabulary has {self.backend.get_vocab_size()}"
                " tokens."
            )
        return item
