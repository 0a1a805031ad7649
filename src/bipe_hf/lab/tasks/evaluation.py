"""What was measured, as files and tables have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.results import in_words, read_results, write_results
from ..common.tables import aligned, markdown, plain_number
from .registry import SHIPPED
from .results import TaskResult


FORMAT = "bipe-hf tasks 1"


@dataclass
class TaskEvaluation:
    """Results with what is needed to repeat them; `save` and `load` keep it as JSON.

    Args:
        created: when, in ISO 8601.
        command: that measured.
        environment: what `describe_environment` found.
        settings: how the tasks were asked.
        results: one for each metric of each task and model.
    """

    created: str
    command: str
    environment: dict
    settings: dict
    results: list[TaskResult]

    def save(self, path: Path) -> None:
        """Writes the JSON file and its table (suffix `.md`), each replaced as a whole or not at all."""
        harness = f"lm-evaluation-harness {self.settings['lm_eval']}"
        summary = f"`{self.command}`: {harness}, measured {self.created} with {in_words(self.environment)}"
        for name, settings in self.settings.get("metadata", {}).items():
            summary += f"\n\n{name}: {', '.join(f'{key} {value}' for key, value in settings.items())}"
        write_results(path, FORMAT, self, lambda: "\n\n".join([summary, *map(markdown, _tables(self.results))]) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "TaskEvaluation":
        """The evaluation that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds anything else.
        """
        return read_results(path, FORMAT, cls, TaskResult)


def task_table(results: Sequence[TaskResult]) -> str:
    """A row for each metric of each task, a column for each model, as aligned plain text; then what `SHIPPED` has."""
    return "\n\n".join(map(aligned, _tables(results)))


def _tables(results: Sequence[TaskResult]) -> list[list[list[str]]]:
    plain = [result for result in results if result.request not in SHIPPED]
    own = {name: [result for result in results if result.request == name] for name in SHIPPED}
    return ([_table(plain)] if plain else []) + [SHIPPED[name].table(rows) for name, rows in own.items() if rows]


def _table(results: Sequence[TaskResult]) -> list[list[str]]:
    models = dict.fromkeys((result.model, f"{result.name} ({result.encoding})") for result in results)
    cells: dict[tuple, dict] = {}
    for result in results:
        filtered = "" if result.filter == "none" else f" ({result.filter})"
        key = (result.task, result.metric + filtered, result.num_fewshot)
        stderr = "" if result.stderr is None else f" ± {result.stderr:.4f}"
        value = f"{result.value:.4f}" if abs(result.value) < 1000 else plain_number(result.value)
        cells.setdefault(key, {})[result.model] = value + stderr
    rows = [
        [task, metric, "-" if shots is None else str(shots), *(of_model.get(model, "-") for model, _ in models)]
        for (task, metric, shots), of_model in cells.items()
    ]
    return [["task", "metric", "few-shot", *(title for _, title in models)], *rows]
