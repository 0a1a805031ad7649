"""Examples to train on and to measure on, made when they are asked for."""

import hashlib
from collections.abc import Sequence
from random import Random

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .generator import EQUALS, Example, Generator


def is_held_out(question: str) -> bool:
    """Whether a question is one to measure on, which no training sees, not even on the way to an answer.

    An eighth of all questions is, as their SHA-256 decides: whatever the seeds of two runs, what one trains on, no
    other is measured on. An example to train on that answers n questions on its way takes about `(8 / 7)**n` draws.
    """
    return hashlib.sha256(question.encode()).digest()[0] < 32


class Examples:
    """So many examples, the same ones for the same arguments, in any order that they are asked for.

    Args:
        task: what they are examples of.
        sizes: numbers of operators, each as likely as the others.
        count: of examples.
        held_out: those to measure on, not those to train on (see [`is_held_out`]).
        seed: of the draws.
    """

    def __init__(self, task: type[Generator], sizes: Sequence[int], count: int, *, held_out: bool, seed: int) -> None:
        self.task = task
        self.sizes = sizes
        self.count = count
        self.held_out = held_out
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = Random(f"{self.seed} {index}")
        operators = random.choice(self.sizes)
        while True:
            example = self.task.draw(random, operators)
            asked = (example.question,) if self.held_out else self.task.questions(example)
            if all(is_held_out(question) == self.held_out for question in asked):
                return example


class TokenizedExamples(Dataset):
    """Examples as a causal language model is trained on them.

    An item has `input_ids`, the question and its answer up to the end of the text, and `labels`, which are the same
    but for -100 on the question and the `=` behind it.
    """

    def __init__(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> None:
        self.examples = examples
        self.vocabulary = tokenizer.get_vocab()
        self.eos_token_id = tokenizer.eos_token_id

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        example = self.examples[index]
        question = [self.vocabulary[token] for token in prompt(example).split()]
        answer = [self.vocabulary[token] for token in answer_text(self.examples.task, example).split()]
        answer.append(self.eos_token_id)
        return {"input_ids": question + answer, "labels": [-100] * len(question) + answer}


def prompt(example: Example) -> str:
    """What the answer is written behind."""
    return f"{example.question} {EQUALS}"


def answer_text(task: type[Generator], example: Example) -> str:
    """The steps in a line."""
    return f" {task.step_separator} ".join(example.steps)
