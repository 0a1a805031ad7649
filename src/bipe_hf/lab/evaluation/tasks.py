"""Tasks of EleutherAI's lm-evaluation-harness, scored by its own code on saved models.

The harness knows nothing of BiPE: its `hf` model gets a model and a tokenizer, and hands over token ids from which the
model derives the segments. What is added here: folders and tasks are checked before work starts, every finished task
is written, and several models stand in one table.
"""

import datetime
import difflib
import importlib.util
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint, encoding_label, open_checkpoints
from ..common.devices import check_device, check_dtype
from ..common.messages import first_line, install_hint
from ..common.results import check_output, describe_environment, read_results, write_results
from ..common.tables import aligned, markdown, plain_number


FORMAT = "bipe-hf tasks 1"


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task, for one model.

    `request` is the name that was asked for, `task` the task that the number belongs to: they differ for the members
    of a group. `filter` is what the harness did to an answer before scoring it. `stderr` is None where the harness
    gives none, `samples` (documents scored) and `num_fewshot` where `task` is a group. `max_length` is the number of
    tokens of context and continuation that the harness left to a request. `seconds` is wall time of the request.
    """

    model: str
    name: str
    encoding: str
    train_length: int | None
    request: str
    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    samples: int | None
    num_fewshot: int | None
    max_length: int
    seconds: float
    model_fingerprint: str


@dataclass
class TaskEvaluation:
    """Results with what is needed to repeat them; `save` and `load` keep it as JSON."""

    created: str
    command: str
    environment: dict
    settings: dict
    results: list[TaskResult]

    def save(self, path: Path) -> None:
        """Write the JSON file and its table (suffix `.md`), each replaced as a whole or not at all."""
        summary = f"`{self.command}`: lm-evaluation-harness {self.settings['lm_eval']}, measured {self.created}"
        write_results(path, FORMAT, self, f"{summary}\n\n{markdown(_table(self.results))}\n")

    @classmethod
    def load(cls, path: str | Path) -> "TaskEvaluation":
        """Read what `save` wrote; raises as `read_results` does."""
        return read_results(path, FORMAT, cls, TaskResult)


def task_table(results: Sequence[TaskResult]) -> str:
    """Aligned plain text: a row for each metric of each task, a column for each model."""
    return aligned(_table(results))


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


def _find_tasks(tasks: Sequence[str], folder: str | Path | None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names that patterns such as `mmlu_*` stand for."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if folder is None else str(folder))
    requests = []
    for task in tasks:
        found = manager.match_tasks([task])
        if not found:
            near = difflib.get_close_matches(task, manager.all_tasks)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
            where = "" if folder is None else f" or in {folder}"
            raise InputError(f"tasks: there is no task {task!r} in the lm-evaluation-harness{where}; {hint}")
        requests += [name for name in found if name not in requests]
    return manager, requests


def _load_tasks(manager: Any, requests: Sequence[str]) -> list[Any]:
    """Every task of every request, its data included: what cannot be loaded or run shows before a model is loaded."""
    loaded = []
    for request in requests:
        try:
            loaded += manager.load([request])["tasks"].values()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(f"tasks: {request} cannot be loaded ({first_line(error)})") from error
    for task in loaded:
        if task.config.unsafe_code:
            raise InputError(
                f"tasks: {task.config.task} runs code that a model writes; that takes the harness's own command, "
                "`lm_eval run --confirm_run_unsafe_code`"
            )
    return loaded


def _check_candidate(candidate: Checkpoint, max_length: int, tasks: Sequence[Any]) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    if candidate.tokenizer.eos_token_id is None:
        raise InputError(f"model {candidate.given}: its tokenizer has no end-of-text token, which the harness needs")
    for task in tasks:
        if task.OUTPUT_TYPE == "generate_until":
            generated = normalize_gen_kwargs(task.config.generation_kwargs)["max_gen_toks"]
            if generated >= max_length:
                raise InputError(
                    f"max_length: {task.config.task} generates up to {generated} tokens, which leaves no room for its "
                    f"prompt in the {max_length} tokens of {candidate.given}; give a greater one"
                )


def _rows(
    candidate: Checkpoint, request: str, measured: dict[str, Any], max_length: int, seconds: float
) -> list[TaskResult]:
    """One row for each `metric,filter` of what `lm_eval.simple_evaluate` returns."""
    rows = []
    for task, metrics in measured["results"].items():
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            if not math.isfinite(value):
                raise InputError(
                    f"model {candidate.given}: {metric} of {task} is {value}; a dtype with more range may help"
                )
            stderr = metrics.get(f"{metric}_stderr,{filtered}", "N/A")
            is_group = task not in measured["n-samples"]
            rows.append(
                TaskResult(
                    model=candidate.given,
                    name=candidate.name,
                    encoding=encoding_label(candidate.config),
                    train_length=None if candidate.training is None else candidate.training.train_length,
                    request=request,
                    task=task,
                    metric=metric,
                    filter=filtered,
                    value=float(value),
                    stderr=None if stderr == "N/A" else float(stderr),
                    samples=None if is_group else measured["n-samples"][task]["effective"],
                    num_fewshot=None if is_group else measured["n-shot"][task],
                    max_length=max_length,
                    seconds=seconds,
                    model_fingerprint=candidate.fingerprint,
                )
            )
    return rows


def evaluate_tasks(
    models: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    tasks_folder: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "bipe_hf.lab.evaluation.evaluate_tasks",
) -> TaskEvaluation:
    """Measure every model on every task of the lm-evaluation-harness.

    Args:
        models, revision: as in `evaluate`.
        tasks: names of tasks, groups and tags, or patterns of names such as `mmlu_*`.
        tasks_folder: folder with task files (`.yaml`), whose tasks come beside those of the harness.
        num_fewshot: solved examples in front of a question; None leaves it to the task.
        limit: so many documents of each task, from its first; None for all.
        max_length: tokens that a request may have, continuation included: what is longer loses its beginning. None
            takes `max_position_embeddings` of the model, which `bipe-hf pretrain` sets to the train length.
        batch_size: requests in a batch; it changes speed and memory, not results.
        device, dtype, attn_implementation, output, overwrite, resume, command: as in `evaluate`; `output` is
            rewritten after each task of each model.

    Raises `ValueError`, `FileNotFoundError` or `FileExistsError` for bad arguments before the first model is loaded.
    """
    if not tasks:
        raise InputError("tasks: give at least one task")
    for name, number, least in (
        ("num_fewshot", num_fewshot, 0),
        ("limit", limit, 1),
        ("max_length", max_length, 2),
        ("batch_size", batch_size, 1),
    ):
        if number is not None and number < least:
            raise InputError(f"{name}: {number} is less than {least}")
    if tasks_folder is not None and not Path(tasks_folder).is_dir():
        raise InputError(f"tasks_folder: {tasks_folder} is not a folder")
    check_dtype(dtype)
    target = check_device(device)
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(f"tasks need the lm-evaluation-harness, which is not installed; {install_hint('lm-eval')}")
    candidates = open_checkpoints(models, revision)
    if output is not None:
        output = Path(output)
        check_output(output, overwrite, resume)
    evaluation = TaskEvaluation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        environment=describe_environment(target, dtype),
        settings={
            "lm_eval": version("lm_eval"),
            "tasks_folder": None if tasks_folder is None else str(tasks_folder),
            "num_fewshot": num_fewshot,
            "limit": limit,
            "max_length": max_length,
        },
        results=[],
    )
    if resume and output is not None and output.exists():
        earlier = TaskEvaluation.load(output)
        if earlier.settings != evaluation.settings or earlier.environment["dtype"] != dtype:
            raise InputError(f"resume: {output} holds results with other settings (--overwrite replaces it)")
        evaluation.results = earlier.results

    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import resolve_max_length

    manager, requests = _find_tasks(tasks, tasks_folder)
    loaded = _load_tasks(manager, requests)
    max_lengths = [max_length or resolve_max_length(each.config, each.tokenizer) for each in candidates]
    for candidate, longest in zip(candidates, max_lengths, strict=True):
        _check_candidate(candidate, longest, loaded)

    for candidate, longest in zip(candidates, max_lengths, strict=True):
        finished = {(row.model, row.request, row.model_fingerprint) for row in evaluation.results}
        missing = [name for name in requests if (candidate.given, name, candidate.fingerprint) not in finished]
        if not missing:
            continue
        model = candidate.load(target, dtype, attn_implementation)
        harness_model = HFLM(
            pretrained=model, tokenizer=candidate.tokenizer, batch_size=batch_size, max_length=longest
        )
        for request in missing:
            start = time.perf_counter()
            measured = lm_eval.simple_evaluate(
                harness_model,
                tasks=[request],
                task_manager=manager,
                num_fewshot=num_fewshot,
                limit=limit,
                log_samples=False,
            )
            rows = _rows(candidate, request, measured, longest, time.perf_counter() - start)
            kept = [row for row in evaluation.results if (row.model, row.request) != (candidate.given, request)]
            evaluation.results = [*kept, *rows]
            if output is not None:
                evaluation.save(output)
        del model, harness_model  # before the next one is loaded
    return evaluation
