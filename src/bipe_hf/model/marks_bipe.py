r"""Marks of a text that end a sentence, a line, a clause and so on: a pattern for each preset that decides by text."""

import re
from collections.abc import Mapping


# The sets below are written for a character class of `re`. Line ends are those of Unicode's newline guidelines.
_NEWLINES = r"\n\v\f\r\x85\u2028\u2029"
_QUOTES = r"\"'\u2018-\u201f\xab\xbb\u2039\u203a\u300c-\u300f\u301d-\u301f\ufe41-\ufe44\uff02\uff07\uff62\uff63"
_CLOSING_BRACKETS = r")\]}\u3009\u300b\u3011\u3015\u3017\u3019\u301b\uff09\uff3d\uff5d"

# Marks that words, numbers and code contain as well: ASCII, the ellipsis and the other forms of the dot.
_DOTS = r".\u2026\u2024\ufe52\uff0e"
_SENTENCE_MARKS_ALSO_INSIDE_WORDS = "!?" + _DOTS
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


# Behind a mark: what closes a quotation or a bracket, and emphasis, struck text or code in Markdown. No underscore,
# which in code opens a name.
_CLOSING = rf"(?:[{_QUOTES}{_CLOSING_BRACKETS}*]|(?<!!)~|~~)*"
_CLOSING_AND_CODE = rf"(?:[{_QUOTES}{_CLOSING_BRACKETS}*`]|(?<!!)~|~~)*"
# And then: white space, the end of the token, a closing tag, or the address of a link.
_GAP = r"(?:\s|\Z|</|(?<=\])\()"

_SENTENCE_END = (
    rf"[{_NEWLINES}{_SENTENCE_MARKS}]|[{_SENTENCE_MARKS_ALSO_INSIDE_WORDS}]{_CLOSING_AND_CODE}{_GAP}"
    # A link, a footnote or a tag may follow on a full stop, not on marks that open an image, a comment or a condition.
    rf"|[{_DOTS}]{_CLOSING_AND_CODE}[\[<]"
)

# A line break in one or two characters, whole: the second of "\r\n" is no line of its own.
_LINE_BREAK = rf"(?>\r\n|[{_NEWLINES}])"

PRESET_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "paragraphs": re.compile(rf"{_LINE_BREAK}[ \t]*{_LINE_BREAK}|[\f\u2029]"),
    "objects": re.compile(rf"[}}{_NEWLINES}]"),
    "sentences": re.compile(_SENTENCE_END),
    "lines": re.compile(rf"[{_NEWLINES}]"),
    # No code behind a mark here: the backtick behind a colon opens it.
    "clauses": re.compile(rf"{_SENTENCE_END}|[{_CLAUSE_MARKS}]|[{_CLAUSE_MARKS_ALSO_INSIDE_WORDS}]{_CLOSING}{_GAP}"),
    "fields": re.compile(rf"[,\t;|{_NEWLINES}]"),
    "values": re.compile(rf"[,:{_NEWLINES}]"),
    "words": re.compile(r"\s"),
}
"""What the text of a token holds that is a separator of each preset that decides by text."""

SENTENCE_ENDS: Mapping[str, str] = {
    "Amharic": "\u1362",
    "Arabic": "\u061f",
    "Armenian": "\u0589",
    "Burmese": "\u104b",
    "Chinese and Japanese": "\u3002",
    "Hindi": "\u0964",
    "Khmer": "\u17d4",
    "Tibetan": "\u0f0d",
    "Urdu": "\u06d4",
}
"""The full stop of languages that have one of their own, and the question mark of Arabic."""
