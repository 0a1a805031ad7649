"""The generated tasks as the lm-evaluation-harness measures them: `bipe_arithmetic`, `bipe_chain`.

The questions and their scores are those of [`measure`], which needs no harness.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ....model.errors_bipe import InputError
from ...common.checkpoints import Checkpoint
from ...common.figures import line_looks
from ...common.lines import Line
from ...common.messages import check_counts
from ..results import TaskResult
from ..shipped import ShippedTask
from .accuracy import check_positions, score
from .arguments import check_sizes
from .examples import Examples, answer_text, prompt
from .generator import Example
from .picture import draw_accuracy
from .tasks import TASKS, find_task
from .tokenizer import make_tokenizer


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GeneratedSettings:
    """What is measured.

    Args:
        sizes: numbers of operators, rising.
        samples: questions at each of them.
        seed: of the questions: the same ones for every model.
    """

    sizes: list[int]
    samples: int = 500
    seed: int = 0


class GeneratedTask(ShippedTask):
    """The share of right answers and of right steps; a line for each model, in a band of one standard error."""

    settings_class = GeneratedSettings
    axes = {"operators": "sizes"}
    one_figure = True

    def prepare(self, settings: GeneratedSettings, candidates: Sequence[Checkpoint]) -> dict[str, Any]:
        check_sizes("sizes", settings.sizes)
        check_counts({"samples": settings.samples}, ["samples"])
        return asdict(settings)

    def check(self, settings: dict[str, Any], candidate: Checkpoint) -> None:
        generator = TASKS[self.name.removeprefix("bipe_")]
        if candidate.tokenizer.get_vocab() != make_tokenizer(generator).get_vocab():
            raise InputError(
                f"model {candidate.given}: its tokens are not those of {self.name}, which is for models of"
                " `bipe-hf synthetic` that were trained on it"
            )
        check_positions("sizes", settings["sizes"][-1], generator, candidate.config)

    def table(self, results: Sequence[TaskResult]) -> list[list[str]]:
        """Two rows for each model, a column for each number of operators."""
        sizes = sorted({result.part["operators"] for result in results})
        rows = [["model", f"{self.name}, by operators", *map(str, sizes)]]
        for model in dict.fromkeys(result.model for result in results):
            own = [result for result in results if result.model == model]
            for metric in ("accuracy", "steps_correct"):
                cells = {result.part["operators"]: f"{result.value:.1%}" for result in own if result.metric == metric}
                rows.append([f"{own[0].name} ({own[0].encoding})", metric, *(cells.get(size, "-") for size in sizes)])
        return rows

    def draw(self, results: Sequence[TaskResult]) -> "Figure":
        results = [result for result in results if result.metric == "accuracy"]
        sizes = sorted({result.part["operators"] for result in results})
        looks = line_looks(result.model for result in results)
        lines = []
        for model, look in looks.items():
            own = {result.part["operators"]: result for result in results if result.model == model}
            there = [own[size] for size in sizes if size in own]
            label = f"{there[0].name} ({there[0].encoding})"
            values = [100 * result.value for result in there]
            errors = [100 * (result.stderr or 0) for result in there]
            lines.append(Line(label, look, [result.part["operators"] for result in there], values, errors))
        return draw_accuracy(lines, sizes, self.name)


def documents(
    task: str,
    sizes: Sequence[int],
    samples: int = GeneratedSettings.samples,
    seed: int = GeneratedSettings.seed,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    pretrained: str | None = None,
    **others: Any,
) -> dict[str, datasets.Dataset]:
    """What the harness asks: questions that no training asks, in one split, `test`.

    Args:
        task: name of the generator.
        sizes, samples, seed: as in `GeneratedSettings`.
        tokenizer: or its folder or name; None takes that of `pretrained`.
        pretrained: folder or name of the model, as the harness hands it over.
        others: whatever else it hands over.
    """
    generator = find_task(task)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or pretrained)
    rows = []
    for size in sizes:
        examples = list(Examples(generator, [size], samples, held_out=True, seed=seed))
        answers = [answer_text(generator, example) for example in examples]
        longest = max(len(answer.split()) for answer in answers)
        rows += [
            {
                "task": task,
                "prompt": prompt(example),
                "answer": answer,
                "question": example.question,
                "steps": list(example.steps),
                "end": tokenizer.eos_token,
                "max_new_tokens": longest + 1,  # the end of the text
            }
            for example, answer in zip(examples, answers, strict=True)
        ]
    return {"test": datasets.Dataset.from_list(rows)}


def score_answer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Whether an answer is right, and its right steps of all; of a text whose tokens stand between spaces."""
    example = Example(doc["question"], tuple(doc["steps"]))
    found = score(results[0].split(), find_task(doc["task"]), example, doc["end"])
    return {"accuracy": float(found.is_right), "steps_correct": (found.right_steps, found.steps)}


def share(counts: Sequence[tuple[int, int]]) -> float:
    """Of all steps of the right answers, those that are right."""
    return sum(right for right, _ in counts) / sum(steps for _, steps in counts)
