"""What a generator makes: questions of any size, each with one right answer that is written in steps."""

from random import Random
from typing import ClassVar, NamedTuple


MODULUS = 11
"""Numbers are the integers modulo this prime, one token each."""

EQUALS = "="
"""Stands between the question and the answer."""


class Example(NamedTuple):
    """A question and the steps of its answer, tokens with spaces between them. The last token is the result."""

    question: str
    steps: tuple[str, ...]


class Generator:
    """Makes the examples of one task. Every one is a subclass in a file of its own, named in `tasks.TASKS`."""

    operations: ClassVar[str]
    """The signs in its questions, brackets included."""
    step_separator: ClassVar[str]
    """Stands between two steps of an answer."""
    segment_ends: ClassVar[tuple[str, ...]]
    """Tokens that end a segment, for models that segment by separators."""

    @classmethod
    def draw(cls, random: Random, operators: int) -> Example:
        """A random example with so many operators, at least 1."""
        raise NotImplementedError

    @classmethod
    def questions(cls, example: Example) -> tuple[str, ...]:
        """Every question that the example answers on its way, its own first."""
        return (example.question,)

    @classmethod
    def longest(cls, operators: int) -> int:
        """Tokens of the longest example with so many operators, the end of the text included."""
        raise NotImplementedError
