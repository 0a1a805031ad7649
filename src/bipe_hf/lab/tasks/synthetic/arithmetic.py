"""Arithmetic modulo 11, one operation a step: Feng et al. 2023 (arXiv 2305.15408), as BiPE uses it.

    ( 7 + 5 ) * 3 = 1 * 3 = 3

Each step is the whole expression with one operation done, the leftmost of those between two numbers that the order of
operations allows; so an expression has one right answer, and a model learns mainly to copy what does not change. Steps
end at `=`, and so do segments: a token stands in the next step about where it stood in this one.
"""

from math import comb
from random import Random

from .generator import EQUALS, MODULUS, Example, Generator


_PRECEDENCE = {"+": 0, "-": 0, "*": 1, "/": 1}

# A number, or an operator with its two sides.
_Expression = int | tuple[str, "_Expression", "_Expression"]


class Arithmetic(Generator):
    """Expressions with + - * / and brackets where they are needed.

    The shape is drawn uniformly from all binary trees with so many operators and the numbers from 0 to 10, then each
    operator, from the innermost out, from the four; from the other three where its right side is 0, by which nothing
    can be divided.
    """

    operations = "+-*/()"
    step_separator = EQUALS
    segment_ends = (EQUALS,)

    @classmethod
    def draw(cls, random: Random, operators: int) -> Example:
        expression, _ = _draw(random, operators)
        question, *steps = (_text(each) for each in _reductions(expression))
        return Example(question, tuple(steps))

    @classmethod
    def questions(cls, example: Example) -> tuple[str, ...]:
        return (example.question, *example.steps[:-1])  # each step is an expression, solved by those behind it

    @classmethod
    def longest(cls, operators: int) -> int:
        # n operators: n + 1 numbers and a pair of brackets for each operator but the outermost.
        return sum(4 * n - 1 for n in range(1, operators + 1)) + 1 + operators + 1


def _draw(random: Random, operators: int) -> tuple[_Expression, int]:
    """A random expression and its value."""
    if operators == 0:
        number = random.randrange(MODULUS)
        return number, number
    # As many trees have `left` operators on the left side as there are pairs of a left and a right tree.
    pairs = [_trees(left) * _trees(operators - 1 - left) for left in range(operators)]
    (on_the_left,) = random.choices(range(operators), pairs)
    left, left_value = _draw(random, on_the_left)
    right, right_value = _draw(random, operators - 1 - on_the_left)
    operator = random.choice("+-*/" if right_value else "+-*")
    return (operator, left, right), _apply(operator, left_value, right_value)


def _trees(operators: int) -> int:
    """Binary trees with so many inner nodes: a Catalan number."""
    return comb(2 * operators, operators) // (operators + 1)


def _apply(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return (left + right) % MODULUS
        case "-":
            return (left - right) % MODULUS
        case "*":
            return left * right % MODULUS
        case "/":
            return left * pow(right, -1, MODULUS) % MODULUS


def _reductions(expression: _Expression) -> list[_Expression]:
    """The expression, then after each operation what is left of it."""
    reductions = [expression]
    while not isinstance(reductions[-1], int):
        reductions.append(_reduce(reductions[-1]))
    return reductions


def _reduce(expression: _Expression) -> _Expression:
    operator, left, right = expression
    if not isinstance(left, int):
        return operator, _reduce(left), right
    if not isinstance(right, int):
        return operator, left, _reduce(right)
    return _apply(operator, left, right)


def _text(expression: _Expression) -> str:
    """With brackets where the order of operations or, on the right, the order of reading would be another."""
    if isinstance(expression, int):
        return str(expression)
    operator, left, right = expression
    left_text, right_text = _text(left), _text(right)
    if not isinstance(left, int) and _PRECEDENCE[left[0]] < _PRECEDENCE[operator]:
        left_text = f"( {left_text} )"
    if not isinstance(right, int) and _PRECEDENCE[right[0]] <= _PRECEDENCE[operator]:
        right_text = f"( {right_text} )"
    return f"{left_text} {operator} {right_text}"
