"""Chains of additions and subtractions modulo 11, whose steps are equally hard at every length.

    5 ; + 3 ; - 7 ; + 2 = 5 ; + 3 8 ; - 7 1 ; + 2 3

The question is a number and a list of operations; the answer repeats it, with the running total behind each operation.
Every step is the same work, whether it is the tenth of ten or of a thousand: to find the operation whose turn it is,
to copy it, and to apply it to the total before it, the last number of the step before. What changes with the length is
only where the operation stands. Each operation is a segment, and so is each step: in a chain of m operations, the
operation of a step stands m + 1 segments before it.
"""

from itertools import accumulate
from random import Random

from .generator import EQUALS, MODULUS, Example, Generator


class Chain(Generator):
    """A first number and so many operations: numbers from 0 to 10 and signs, all drawn uniformly."""

    operations = "+-"
    step_separator = ";"
    segment_ends = (";", EQUALS)

    @classmethod
    def draw(cls, random: Random, operators: int) -> Example:
        first, *numbers = random.choices(range(MODULUS), k=operators + 1)
        signs = random.choices("+-", k=operators)
        changes = [number if sign == "+" else -number for sign, number in zip(signs, numbers, strict=True)]
        totals = list(accumulate(changes, initial=first))[1:]
        operations = [f"{sign} {number}" for sign, number in zip(signs, numbers, strict=True)]
        steps = [f"{each} {total % MODULUS}" for each, total in zip(operations, totals, strict=True)]
        return Example(" ; ".join([str(first), *operations]), (str(first), *steps))

    @classmethod
    def longest(cls, operators: int) -> int:
        return 2 + 3 * operators + 2 + 4 * operators  # two numbers, operations and steps, each with what ends it
