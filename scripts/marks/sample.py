"""The text on which separators are counted, with the characters at which its units end.

`sample.txt` is written for this: prose in many scripts, Markdown and code. In it a double bar stands behind each mark
that ends a sentence, and a broken bar behind one that ends a clause; neither is part of the text. Where the units of
other presets end is known from the characters alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


SENTENCE, CLAUSE = "\u2016", "\u00a6"
TABLE = 'town,mayor,"notes, if any"\tsize\nA;B|C,"D, E",1\n,,\n'
JSON = '{"town": "A", "size": [1, 2], "mayor": {"name": "B"}}\n{"town": "C"}\n'
LINE_ENDS = "a\nb\r\nc\rd\ve\ff\x85g\u2028h\u2029i\n\nj\n \nk\r\n\r\nl"
# Sections of `sample.txt` whose clauses are marked.
WITH_CLAUSES = ("English", "Chinese")


@dataclass(frozen=True)
class Part:
    """A text, and for presets the spans of characters in it that end a unit each: `(first, one after the last)`."""

    name: str
    text: str
    ends: Mapping[str, list[tuple[int, int]]]


def read_sample() -> list[Part]:
    """All parts."""
    sections = re.split(r"^=== (.+)\n", Path(__file__).with_name("sample.txt").read_text(encoding="utf-8"), flags=re.M)
    parts = [_prose(name, text) for name, text in zip(sections[1::2], sections[2::2], strict=True)]
    return [
        *parts,
        Part("a table", TABLE, {"fields": _spans(r"[,;|\t\n]", TABLE)}),
        Part("JSON", JSON, {"values": _spans(r"[,:\n]", JSON), "objects": _spans(r"[}\n]", JSON)}),
        Part(
            "line ends",
            LINE_ENDS,
            {
                "lines": _spans(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", LINE_ENDS),
                "paragraphs": _spans(r"\f|\u2029|\n\n|\n \n|\r\n\r\n", LINE_ENDS),
            },
        ),
    ]


def _prose(name: str, marked: str) -> Part:
    text, sentences, clauses = "", [], []
    for character in marked.strip():
        if character == SENTENCE:
            sentences.append((len(text) - 1, len(text)))
        elif character == CLAUSE:
            clauses.append((len(text) - 1, len(text)))
        else:
            text += character
    ends = {"sentences": sentences}
    if name in WITH_CLAUSES:
        ends["clauses"] = sorted(sentences + clauses)
    if name == "English":
        ends["words"] = _spans(r"\s+", text)
    return Part(name, text, ends)


def _spans(pattern: str, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)]
