"""Tasks of EleutherAI's lm-evaluation-harness, its own and those of this package, scored by its code on saved models.

The harness knows nothing of BiPE: its `hf` model gets a model and a tokenizer, and hands over token ids from which the
model derives the segments. What is added here: folders and tasks are checked before work starts, every finished task
is written, and several models stand in one table. The tasks that come with this package (`SHIPPED`) are asked by
[`GreedyModel`], measured and written part by part, and drawn.
"""

import dataclasses
import datetime
import difflib
import importlib.util
import logging
import math
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...model.errors_bipe import InputError, InputExistsError
from ..common.checkpoints import Checkpoint, encoding_label, open_checkpoints
from ..common.devices import check_device, check_dtype
from ..common.figures import pictures, require_matplotlib, save_figure
from ..common.mappings import read_mapping
from ..common.messages import first_line, install_hint
from ..common.results import check_output, describe_environment, in_words, read_results, write_results
from ..common.tables import aligned, markdown, plain_number
from .passkey.task import Passkey
from .results import TaskResult
from .shipped import FOLDER, ShippedTask
from .synthetic.task import GeneratedTask


FORMAT = "bipe-hf tasks 1"
SHIPPED: dict[str, ShippedTask] = {
    task.name: task
    for task in (Passkey("bipe_passkey"), GeneratedTask("bipe_arithmetic"), GeneratedTask("bipe_chain"))
}
"""The tasks of this package, by the names that their files give them. Those of the harness differ from all of them."""


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
        harness = f"lm-evaluation-harness {self.settings['lm_eval']}"
        summary = f"`{self.command}`: {harness}, measured {self.created} with {in_words(self.environment)}"
        for name, settings in self.settings.get("metadata", {}).items():
            summary += f"\n\n{name}: {', '.join(f'{key} {value}' for key, value in settings.items())}"
        write_results(path, FORMAT, self, "\n\n".join([summary, *map(markdown, _tables(self.results))]) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "TaskEvaluation":
        """Read what `save` wrote; raises as `read_results` does."""
        return read_results(path, FORMAT, cls, TaskResult)


def task_table(results: Sequence[TaskResult]) -> str:
    """Aligned plain text: a row for each metric of each task, a column for each model; then what `SHIPPED` has."""
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


def _find_tasks(tasks: Sequence[str], folder: str | Path | None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names that patterns such as `mmlu_*` stand for."""
    from lm_eval.tasks import TaskManager

    if all(task in SHIPPED for task in tasks):  # the harness takes seconds to read the files of its own
        manager = TaskManager(include_path=FOLDER, include_defaults=False)
    else:
        manager = TaskManager(include_path=[FOLDER] if folder is None else [folder, FOLDER])
    requests = []
    for task in tasks:
        found = manager.match_tasks([task])
        ours = f"bipe_{task}"
        if not found:
            near = [ours] if ours in SHIPPED else difflib.get_close_matches(task, manager.all_tasks)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
            where = "" if folder is None else f" or in {folder}"
            raise InputError(f"tasks: there is no task {task!r} in the lm-evaluation-harness{where}; {hint}")
        if ours in SHIPPED:
            warnings.warn(f"{task} is that of the lm-evaluation-harness, not {ours} of this package", stacklevel=3)
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
    candidate: Checkpoint,
    request: str,
    measured: dict[str, Any],
    seconds: float,
    max_length: int | None = None,
    part: dict[str, float] | None = None,
) -> list[TaskResult]:
    """One row for each `metric,filter` of what the harness returns."""
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
                    part=part or {},
                )
            )
    return rows


def _read_metadata(requests: Sequence[str], metadata: dict[str, Any]) -> dict[str, Any]:
    """The settings of each task of this package that is asked for, of the class that the task says."""
    asked = {name: SHIPPED[name].settings_class for name in requests if name in SHIPPED}
    known = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in asked.items()}
    every = sorted(set().union(*known.values()))
    for key in metadata:
        if key not in every:
            reads = f"{', '.join(asked)} read {', '.join(every)}" if asked else f"only {', '.join(SHIPPED)} read it"
            raise InputError(f"metadata: unknown key {key!r}; {reads}")
    return {
        name: read_mapping(
            f"metadata of {name}", kind, {key: value for key, value in metadata.items() if key in known[name]}
        )
        for name, kind in asked.items()
    }


def _picture(task: ShippedTask, output: Path, model_name: str) -> Path:
    """The PNG file of a task's figure of the model with this name; the SVG file goes beside it."""
    parts = [output.stem, task.name.removeprefix("bipe_")]
    if not task.one_figure:
        parts.append(re.sub(r"[^A-Za-z0-9._]+", "-", model_name))
    return output.with_name("-".join(parts) + ".png")


def _check_pictures(
    output: Path,
    tasks: Sequence[ShippedTask],
    candidates: Sequence[Checkpoint],
    earlier: Sequence[TaskResult],
    overwrite: bool,
) -> None:
    """Refuses figures that would replace anything but those of `earlier` results of the same model."""
    owners = {_picture(SHIPPED[row.request], output, row.name): row.model for row in earlier if row.request in SHIPPED}
    for task in tasks:
        for candidate in candidates:
            picture = _picture(task, output, candidate.name)
            for file in pictures(picture):
                if file.exists() and picture not in owners and not overwrite:
                    raise InputExistsError(f"output: {file} exists (--overwrite replaces it)")
            owner = owners.setdefault(picture, candidate.given)
            if owner != candidate.given and not task.one_figure:
                raise InputError(
                    f"models: the figures of {owner} and {candidate.given} would share the file {picture} (measure"
                    " them into two outputs)"
                )


def evaluate_tasks(
    models: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    tasks_folder: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "bipe_hf.lab.tasks.harness.evaluate_tasks",
) -> TaskEvaluation:
    """Measure every model on every task.

    Args:
        models, revision: as in `evaluate`.
        tasks: names of tasks, groups and tags of the harness, patterns of names such as `mmlu_*`, and names of
            `SHIPPED`.
        tasks_folder: folder with task files (`.yaml`), whose tasks come beside those of the harness.
        metadata: settings of the tasks of this package, by name: the fields of `PasskeySettings` or
            `GeneratedSettings`. Each task takes those that it has.
        num_fewshot: solved examples in front of a question; None leaves it to the task. Of no account for the tasks
            of this package, as is `max_length`.
        limit: so many documents of each task, or of each part of one, from its first; None for all.
        max_length: tokens that a request may have, continuation included: what is longer loses its beginning. None
            takes `max_position_embeddings` of the model, which `bipe-hf pretrain` sets to the train length.
        batch_size: requests in a batch; it changes speed and memory, not results. None takes one, and for the tasks
            of this package as many as have 8192 tokens.
        device, dtype, attn_implementation, overwrite, resume, command: as in `evaluate`.
        output: JSON file, rewritten after each task, or part of a task, of each model, with tables beside it (`.md`)
            and the figures of the tasks of this package (`.png` and `.svg`); None writes nothing.

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
    earlier = TaskEvaluation.load(output) if resume and output is not None and output.exists() else None

    from lm_eval.models.utils import resolve_max_length

    manager, requests = _find_tasks(tasks, tasks_folder)
    settings = _read_metadata(requests, metadata or {})
    shipped = [SHIPPED[name] for name in settings]
    if shipped and output is not None:
        require_matplotlib("output")
        _check_pictures(output, shipped, candidates, [] if earlier is None else earlier.results, overwrite)
    resolved = {task.name: task.prepare(settings[task.name], candidates) for task in shipped}
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
            # without what its parts are: there may come more of them
            "metadata": {
                task.name: {key: value for key, value in resolved[task.name].items() if key not in task.axes.values()}
                for task in shipped
            },
        },
        results=[],
    )
    if earlier is not None:
        there, now = earlier.settings, evaluation.settings
        of_tasks = there.get("metadata", {})  # version 0.1 wrote none
        kept = {name: of_tasks.get(name, own) for name, own in now["metadata"].items()}
        if there | {"metadata": kept} != now or earlier.environment["dtype"] != dtype:
            raise InputError(f"resume: {output} holds results with other settings (--overwrite replaces it)")
        now["metadata"] = of_tasks | now["metadata"]
        fingerprints = {candidate.given: candidate.fingerprint for candidate in candidates}
        evaluation.results = [  # without those of weights that have changed since
            row
            for row in earlier.results
            if fingerprints.get(row.model, row.model_fingerprint) == row.model_fingerprint
        ]

    others = [name for name in requests if name not in SHIPPED]
    loaded = _load_tasks(manager, others)
    max_lengths = [max_length or resolve_max_length(each.config, each.tokenizer) for each in candidates]
    for candidate, longest in zip(candidates, max_lengths, strict=True):
        if others:
            _check_candidate(candidate, longest, loaded)
        for task in shipped:
            task.check(resolved[task.name], candidate)

    for candidate, longest in zip(candidates, max_lengths, strict=True):
        finished = [(row.request, row.part) for row in evaluation.results if row.model == candidate.given]
        missing = [
            (name, part)
            for name in requests
            for part in (SHIPPED[name].parts(settings[name]) if name in SHIPPED else [{}])
            if (name, part) not in finished
        ]
        if missing:
            model = candidate.load(target, dtype, attn_implementation)
            for name, part in missing:
                start = time.perf_counter()
                if name in SHIPPED:
                    asked = SHIPPED[name].metadata(resolved[name], part)
                    measured = _measure_part(candidate, model, name, asked, part, limit, batch_size)
                    evaluation.results += _rows(candidate, name, measured, time.perf_counter() - start, part=part)
                else:
                    measured = _measure(candidate, model, name, manager, num_fewshot, limit, longest, batch_size or 1)
                    evaluation.results += _rows(candidate, name, measured, time.perf_counter() - start, longest)
                if output is not None:
                    evaluation.save(output)
            del model  # before the next one is loaded
        if output is not None:
            for task in shipped:
                own = [row for row in evaluation.results if row.request == task.name]
                drawn = own if task.one_figure else [row for row in own if row.model == candidate.given]
                save_figure(task.draw(drawn), _picture(task, output, candidate.name))
    return evaluation


def _measure(
    candidate: Checkpoint,
    model: PreTrainedModel,
    name: str,
    manager: Any,
    num_fewshot: int | None,
    limit: int | None,
    max_length: int,
    batch_size: int,
) -> dict[str, Any]:
    """What the harness finds on a task, group or tag, asking by its own model."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    return lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=candidate.tokenizer, batch_size=batch_size, max_length=max_length),
        tasks=[name],
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=False,
    )


def _measure_part(
    candidate: Checkpoint,
    model: PreTrainedModel,
    name: str,
    metadata: dict[str, Any],
    part: dict[str, float],
    limit: int | None,
    batch_size: int | None,
) -> dict[str, Any]:
    """What the harness finds on a part of a task of this package."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from .greedy import GreedyModel

    # It would say with each part that there is something like metadata.
    logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)
    metadata = metadata | {"tokenizer": candidate.tokenizer}
    manager = TaskManager(include_path=FOLDER, include_defaults=False, metadata=metadata)
    title = f"{candidate.name} {name} {' '.join(f'{key} {value:g}' for key, value in part.items())}"
    # Not by `simple_evaluate`, which asks a dozen programs about the machine each time.
    return lm_eval.evaluate(
        GreedyModel(model, candidate.tokenizer, batch_size, title),
        manager.load([name]),
        limit=limit,
        log_samples=False,
    )
