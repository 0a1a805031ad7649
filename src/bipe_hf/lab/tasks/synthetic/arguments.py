"""The settings of `bipe-hf synthetic`: its keys beyond those of the model and of `transformers.TrainingArguments`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

from transformers import TrainingArguments

from ....model.errors_bipe import InputError
from ...common.messages import check_counts, parsed_json
from ...common.settings import RunSettings
from ...training.arguments import ModelArguments, check_from_random_weights, reserved_from_random_weights
from .tasks import find_task


# Keys that are not the user's to set, and why.
RESERVED_KEYS = reserved_from_random_weights("synthetic", "the task's own", "output_dir")


@dataclass
class GeneratorArguments:
    """What is learnt, and on what it is measured."""

    task: str | None = field(
        default=None,
        metadata={
            "help": "arithmetic (expressions modulo 11, one operation a step) or chain (additions and subtractions"
            " modulo 11, one running total a step)"
        },
    )
    max_operators: int | None = field(
        default=None,
        metadata={"help": "operators in a training example at most: each number from 1 on is as frequent"},
    )
    test_operators: list | str | None = field(
        default=None,
        metadata={
            "help": "numbers of operators to measure the accuracy at, rising: [1,2,4]; also ones above max_operators"
            " (default: 1 to max_operators)"
        },
    )
    test_samples: int = field(
        default=500, metadata={"help": "examples measured at each number of operators (default: 500)"}
    )

    def __post_init__(self) -> None:
        self.test_operators = parsed_json("test_operators", self.test_operators)


@dataclass(frozen=True)
class SyntheticSettings(RunSettings):
    """The settings of a run on a generated task.

    Args:
        generator: what is learnt, and on what it is measured.
        model: what is trained.
    """

    generator: GeneratorArguments
    model: ModelArguments

    reserved_keys: ClassVar[dict[str, str]] = RESERVED_KEYS

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        settings = super().from_dict(values)
        generator, model = settings.generator, settings.model
        check_counts(vars(generator), ["max_operators"])
        if generator.max_operators is not None:
            if generator.test_operators is None:
                generator = replace(generator, test_operators=list(range(1, generator.max_operators + 1)))
            if model.encoding is not None:
                model = model.spelt_out(find_task(generator.task).longest(generator.max_operators))
        return replace(settings, generator=generator, model=model)


def check_arguments(
    generator_args: GeneratorArguments, model_args: ModelArguments, training_args: TrainingArguments
) -> None:
    """Refuses settings that make no sense or contradict each other, before any work."""
    find_task(generator_args.task)
    if generator_args.max_operators is None:
        raise InputError("give max_operators")
    check_counts(vars(generator_args), ["max_operators", "test_samples"])
    check_sizes("test_operators", generator_args.test_operators)
    check_from_random_weights(model_args, training_args)
    if training_args.max_steps < 1:
        raise InputError("give max_steps: examples are made without end")


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    """Refuses what is no list of rising numbers of operators."""
    if not isinstance(sizes, list | tuple) or not sizes or not all(type(size) is int for size in sizes):
        raise InputError(f"{name}: {sizes!r} is no list of numbers of operators such as [1,2,4]")
    if sizes[0] < 1:
        raise InputError(f"{name}: {sizes[0]} given, an example has at least 1 operator")
    for size, following in pairwise(sizes):
        if following <= size:
            raise InputError(f"{name}: {following} comes after {size}, give each number once, rising")
