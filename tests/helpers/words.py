"""A small vocabulary for made-up texts, and a folder of such texts."""

import random
from pathlib import Path


WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "ran",
    "over",
    "that",
    "hill",
    "while",
    "rain",
    "fell",
]


def write_corpus(folder: Path, files: int, lines: int = 24) -> Path:
    """Writes text files of so many sentences, a line each, always the same; returns the folder."""
    draw = random.Random(0)
    for number in range(files):
        sentences = [" ".join(draw.choices(WORDS, k=draw.randint(2, 8))) + "." for _ in range(lines)]
        (folder / f"{number}.txt").write_text("\n".join(sentences))
    return folder
