r"""The tokens that end a segment, or a unit of a level inside it: presets that decide by text, and lists.

What a separator is must be decided token by token, since the model sees nothing else. The presets decide by the text
that a token stands for, from coarse to fine:

- `"turns"`: tokens of chat templates that end a turn, and the end-of-sequence token.
- `"paragraphs"`: the token holds two newlines with nothing but white space between them, a form feed or a paragraph
  separator.
- `"objects"`: the token holds a newline or a closing brace, as after an object of JSON.
- `"sentences"`: the token holds a newline, or a mark that ends a sentence. Dots, exclamation marks, question marks and
  ellipses also stand inside words, numbers and code, so they count only where closing quotes or brackets and then
  white space or the end of the token follow: `.`, `?!`, `...` and `."` do, `.com` and `3.14` do not. The marks of
  other scripts, such as the ideographic full stop or the danda, stand nowhere else and count anywhere in the token.
- `"lines"`: the token holds a newline (line feed, carriage return, next line, line or paragraph separator).
- `"clauses"`: as `"sentences"`, with commas, semicolons, colons, quotes and the tab besides.
- `"fields"`: the token holds a comma, a tab, a semicolon or a bar, or a newline.
- `"values"`: the token holds a comma or a colon, or a newline, as behind the keys and the values of JSON.
- `"words"`: the token holds white space. Where a tokenizer keeps the space in front of a word, the first token of the
  word is the last of the unit before.
- `"authors"`: ids 869 and 13 of the Llama tokenizer, a detached dot and the newline, as in the code that was released
  with the paper (He et al., ICML 2024, arXiv 2401.16421).

What a token cannot tell, no preset knows: the dot of `etc.`, of `1.` or of a method call counts as a full stop, an
apostrophe that is a token of its own as a quote, the semicolon that ends a Greek question as a semicolon. Scripts
without a sentence mark, such as Thai, break at newlines only. A mark that the vocabulary splits over several byte
tokens is ended by none of them, so it is no separator at all: small byte-level vocabularies lose most marks beyond
ASCII in this way. A blank line in two tokens ends no paragraph. Special tokens are separators of `"turns"` alone.

`"json"` stands for two levels, objects and the keys and values in them.
"""

import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import TokenizersBackend

from .errors_bipe import InputError
from .vocabulary_bipe import token_texts


# The sets below are written for a character class of `re`.
_NEWLINES = r"\n\r\x85\u2028\u2029"
_QUOTES = r"\"'\u2018-\u201f\xab\xbb\u2039\u203a\u300c-\u300f\u301d-\u301f\ufe41-\ufe44\uff02\uff07\uff62\uff63"
_CLOSING_BRACKETS = r")\]}\u3009\u300b\u3011\u3015\u3017\u3019\u301b\uff09\uff3d\uff5d"

# Marks that words, numbers and code contain as well: ASCII, the ellipsis and the other forms of the dot.
_SENTENCE_MARKS_ALSO_INSIDE_WORDS = r".!?\u2026\u2024\ufe52\uff0e"
# The rest of Unicode's Sentence_Terminal property in the Basic Multilingual Plane, with the Greek question mark, the
# Hebrew sof pasuq, the Tibetan shads and the vertical ellipsis.
_SENTENCE_MARKS = (
    r"\u037e\u0589\u05c3\u061d-\u061f\u06d4"  # Greek, Armenian, Hebrew, Arabic, Urdu
    r"\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e"  # Syriac, N'Ko, Samaritan
    r"\u0964\u0965\u0f0d\u0f0e\u104a\u104b\u17d4\u17d5"  # Devanagari and its neighbours, Tibetan, Burmese, Khmer
    r"\u1362\u1367\u1368\u166e\u1735\u1736"  # Ethiopic, Canadian syllabics, Philippine scripts
    r"\u1803\u1809\u1944\u1945\u1aa8-\u1aab"  # Mongolian, Limbu, Tai Tham
    r"\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"  # Balinese, Lepcha, Ol Chiki
    r"\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\u2e60\u2e61"  # double and historical marks
    r"\u3002\ufe12\ufe15\ufe16\ufe19\ufe56\ufe57\uff01\uff1f\uff61"  # Chinese and Japanese, all widths
    r"\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f"  # Lisu, Vai, Bamum, Phags-pa, Saurashtra, Kayah Li
    r"\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"  # Javanese, Cham, Meetei Mayek
)
_CLAUSE_MARKS_ALSO_INSIDE_WORDS = ",;:" + _QUOTES
_CLAUSE_MARKS = (
    r"\t\u0387\u055d\u060c\u061b\u0703-\u0709\u07f8"  # tab, Greek, Armenian, Arabic, Syriac, N'Ko
    r"\u1363-\u1366\u17d6\u1802\u1804\u1808"  # Ethiopic, Khmer, Mongolian
    r"\u3001\ufe10\ufe11\ufe13\ufe14\ufe50\ufe51\ufe54\ufe55\uff0c\uff1a\uff1b\uff64"  # Chinese and Japanese
    r"\ua4fe\ua60d\ua6f4-\ua6f6"  # Lisu, Vai, Bamum
)


def _pattern(anywhere: str, before_space: str) -> re.Pattern[str]:
    """Matches a text with a character of `anywhere`, or with one of `before_space` that a word cannot go on after."""
    return re.compile(rf"[{anywhere}]|[{before_space}][{_QUOTES}{_CLOSING_BRACKETS}]*(?:\s|\Z)")


# A line break in one or two characters, whole: the second of "\r\n" is no line of its own.
_LINE_BREAK = rf"(?>\r\n|[{_NEWLINES}])"

_PRESET_PATTERNS = {
    "paragraphs": re.compile(rf"{_LINE_BREAK}[ \t]*{_LINE_BREAK}|[\f\u2029]"),
    "objects": re.compile(rf"[}}{_NEWLINES}]"),
    "sentences": _pattern(_NEWLINES + _SENTENCE_MARKS, _SENTENCE_MARKS_ALSO_INSIDE_WORDS),
    "lines": re.compile(rf"[{_NEWLINES}]"),
    "clauses": _pattern(
        _NEWLINES + _SENTENCE_MARKS + _CLAUSE_MARKS,
        _SENTENCE_MARKS_ALSO_INSIDE_WORDS + _CLAUSE_MARKS_ALSO_INSIDE_WORDS,
    ),
    "fields": re.compile(rf"[,\t;|{_NEWLINES}]"),
    "values": re.compile(rf"[,:{_NEWLINES}]"),
    "words": re.compile(r"\s"),
}
_AUTHORS_TOKENS = {869: "\u2581.", 13: "<0x0A>"}
# Of chat templates: a token of "end", of "eot" and the like, or one that ends a text; not the end of a header.
_ENDS_TURN = re.compile(
    r"(?!.*(?:header|role|think))(?:.*(?<![a-z])(?:end|eot|eom|eos|return|call)(?![a-z])|.*endoftext|</s>|\[/INST\])",
    re.IGNORECASE,
)
PRESETS = ("turns", *_PRESET_PATTERNS, "authors")
LEVELS = {"json": ("objects", "values")}
"""Presets that stand for several levels."""


def find_levels(
    tokenizer: TokenizersBackend, levels: Sequence[str | Sequence[int | str]]
) -> tuple[list[str | Sequence[int | str]], list[list[int]]]:
    """The levels with every preset of several in place of its name, and the ids of the separators of each.

    Raises:
        ValueError: for what [`BipeTokenizer.from_tokenizer`] does not accept.
    """
    if not isinstance(levels, (list, tuple)) or not levels:
        raise InputError(
            f"levels: {levels!r} is not accepted; give a list of separators, coarse to fine, each one of"
            f" {', '.join(map(repr, (*PRESETS, *LEVELS)))}, or a list of token ids and strings."
        )
    spelt_out = [
        part for level in levels for part in (LEVELS.get(level, (level,)) if isinstance(level, str) else (level,))
    ]
    return spelt_out, [find_separators(tokenizer, level) for level in spelt_out]


def find_separators(tokenizer: TokenizersBackend, separators: str | Sequence[int | str]) -> list[int]:
    """Ids of the separators; raises `ValueError` for what [`BipeTokenizer.from_tokenizer`] does not accept."""
    backend = tokenizer.backend_tokenizer
    if isinstance(separators, (list, tuple)):
        return [_find_token(backend, item) for item in separators]
    if separators == "authors":
        found = {token_id: backend.id_to_token(token_id) for token_id in _AUTHORS_TOKENS}
        if found != _AUTHORS_TOKENS:
            raise InputError(
                f"separators: 'authors' needs the Llama tokenizer, with tokens {_AUTHORS_TOKENS}; this vocabulary has"
                f" {found}."
            )
        return list(_AUTHORS_TOKENS)
    if not isinstance(separators, str) or separators not in PRESETS:
        several = " `levels` takes it." if separators in LEVELS else ""
        raise InputError(
            f"separators: {separators!r} is not accepted; give one of {', '.join(map(repr, PRESETS))}, or a list"
            f" of token ids and strings.{several}"
        )
    if separators == "turns":
        added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        ends = {token_id for token_id, text in added.items() if _ENDS_TURN.match(text)}
        return sorted(ends | ({tokenizer.eos_token_id} - {None}))
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    return [
        token_id
        for token_id, text in token_texts(backend).items()
        if _PRESET_PATTERNS[separators].search(text) and token_id not in special
    ]


def _find_token(backend: Tokenizer, item: int | str) -> int:
    """Id of one entry of an explicit list."""
    if isinstance(item, str):
        token_id = backend.token_to_id(item)
        if token_id is not None:
            return token_id
        token_ids = sorted(token_id for token_id, text in token_texts(backend).items() if text == item)
        if len(token_ids) != 1:
            raise InputError(
                f"separators: {item!r} is not one token of the vocabulary; ids with this text: {token_ids or None}."
            )
        return token_ids[0]
    if isinstance(item, bool) or not isinstance(item, int):
        raise InputError(f"separators: {item!r} is neither an int (a token id) nor a str.")
    if item < 0 or backend.id_to_token(item) is None:
        raise InputError(
            f"separators: token id {item} is out of range; the vocabulary has {backend.get_vocab_size()} tokens."
        )
    return item
