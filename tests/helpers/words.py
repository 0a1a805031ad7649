"""A small vocabulary for made-up texts."""

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
