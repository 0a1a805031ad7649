"""Saved models on tasks of the lm-evaluation-harness, its own and those of this package.

What is added to the harness: models and tasks are checked before work starts, every finished task, or part of one, is
written, several models stand in one table, and the tasks of this package are drawn.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...model.errors_bipe import InputError
from ..common.checkpoints import open_checkpoints, say_if_outdated
from ..common.devices import check_device, check_dtype
from ..common.extras import require
from ..common.figures import require_matplotlib, save_figure
from ..common.files import user_path
from ..common.results import check_output, describe_environment, moment
from .evaluation import TaskEvaluation
from .harness import check_candidate, find_tasks, load_tasks, measure, measure_part, result_rows
from .registry import SHIPPED, read_metadata


# How results of early versions were asked, which do not say so.
NO_TEMPLATE = {"apply_chat_template": False, "fewshot_as_multiturn": False, "system_instruction": None}


def evaluate_tasks(
    models: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    tasks_folder: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool = False,
    system_instruction: str | None = None,
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
    command: str = "bipe_hf.lab.tasks.run.evaluate_tasks",
) -> TaskEvaluation:
    """Measures every model on every task.

    Args:
        models: as in `evaluate`.
        tasks: names of tasks, groups and tags of the harness, patterns of names such as `mmlu_*`, and names of
            `SHIPPED`.
        tasks_folder: folder with task files (`.yaml`), whose tasks come beside those of the harness.
        metadata: settings of the tasks of this package, by name: the fields of `PasskeySettings` or
            `GeneratedSettings`. Each task takes those that it has.
        num_fewshot: solved examples in front of a question; None leaves it to the task. Like `max_length` and the next
            three, it is nothing for the tasks of this package.
        apply_chat_template: ask by the chat template of each model's tokenizer.
        fewshot_as_multiturn: with a chat template, solved examples are turns of their own.
        system_instruction: stands before every request, with a chat template as the turn of the system.
        limit: so many documents of each task, or of each part of one, from its first; None for all.
        max_length: tokens that a request may have, continuation included: what is longer loses its beginning. None
            takes `max_position_embeddings` of the model, which `bipe-hf pretrain` sets to the train length.
        revision: as in `evaluate`.
        batch_size: requests in a batch; it changes speed and memory, not results. None takes one, and for the tasks of
            this package as many as have 8192 tokens.
        device: as in `evaluate`.
        dtype: as in `evaluate`.
        attn_implementation: as in `evaluate`.
        output: JSON file, rewritten after each task, or part of a task, of each model, with tables beside it (`.md`)
            and the figures of the tasks of this package (`.png` and `.svg`); None writes nothing.
        overwrite: as in `evaluate`.
        resume: as in `evaluate`.
        command: as in `evaluate`.

    Returns:
        All results that `output` holds then, or that were measured.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before the first model is loaded.
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
    if fewshot_as_multiturn and not apply_chat_template:
        raise InputError("fewshot_as_multiturn: turns need apply_chat_template")
    tasks_folder = None if tasks_folder is None else user_path(tasks_folder)
    if tasks_folder is not None and not tasks_folder.is_dir():
        raise InputError(f"tasks_folder: {tasks_folder} is not a folder")
    check_dtype(dtype)
    target = check_device(device)
    require("lm_eval", "lm-eval", "tasks")
    candidates = open_checkpoints(models, revision)
    if output is not None:
        output = user_path(output)
        check_output(output, overwrite, resume)
    earlier = TaskEvaluation.load(output) if resume and output is not None and output.exists() else None

    from lm_eval.models.utils import resolve_max_length

    manager, requests = find_tasks(tasks, tasks_folder)
    settings = read_metadata(requests, metadata or {})
    shipped = [SHIPPED[name] for name in settings]
    others = [name for name in requests if name not in SHIPPED]
    asking = {
        "apply_chat_template": apply_chat_template,
        "fewshot_as_multiturn": fewshot_as_multiturn,
        "system_instruction": system_instruction,
    }
    for name, given in ({"num_fewshot": num_fewshot, "max_length": max_length} | asking).items():
        if given not in (None, False) and not others:
            raise InputError(f"{name}: {', '.join(settings)} has no use for it")
    if shipped and output is not None:
        require_matplotlib("output")
        for task in shipped:
            task.check_pictures(output, candidates, [] if earlier is None else earlier.results, overwrite)
    resolved = {task.name: task.prepare(settings[task.name], candidates) for task in shipped}
    evaluation = TaskEvaluation(
        created=moment(),
        command=command,
        environment=describe_environment(target, dtype),
        settings={
            "lm_eval": version("lm_eval"),
            "tasks_folder": None if tasks_folder is None else str(tasks_folder),
            "num_fewshot": num_fewshot,
            "limit": limit,
            "max_length": max_length,
            **asking,
            # without what its parts are: there may come more of them
            "metadata": {
                task.name: {key: value for key, value in resolved[task.name].items() if key not in task.axes.values()}
                for task in shipped
            },
        },
        results=[],
    )
    if earlier is not None:
        there, now = NO_TEMPLATE | earlier.settings, evaluation.settings
        of_tasks = there.get("metadata", {})  # version 0.1 wrote none
        kept = {name: of_tasks.get(name, own) for name, own in now["metadata"].items()}
        if there | {"metadata": kept} != now or earlier.environment["dtype"] != dtype:
            raise InputError(f"resume: {output} holds results with other settings (--overwrite replaces it)")
        now["metadata"] = of_tasks | now["metadata"]
        for candidate in candidates:
            own = [row.model_fingerprint for row in earlier.results if row.model == candidate.given]
            say_if_outdated(output, candidate, own)
        fingerprints = {candidate.given: candidate.fingerprint for candidate in candidates}
        evaluation.results = [  # without those of weights that have changed since
            row
            for row in earlier.results
            if fingerprints.get(row.model, row.model_fingerprint) == row.model_fingerprint
        ]

    loaded = load_tasks(manager, others)
    max_lengths = [max_length or resolve_max_length(each.config, each.tokenizer) for each in candidates]
    for candidate, longest in zip(candidates, max_lengths, strict=True):
        if others:
            check_candidate(candidate, longest, loaded, apply_chat_template)
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
                    measured = measure_part(candidate, model, name, asked, part, limit, batch_size)
                else:
                    measured = measure(
                        candidate, model, name, manager, num_fewshot, limit, longest, batch_size or 1, **asking
                    )
                seconds = time.perf_counter() - start
                cut_to = None if name in SHIPPED else longest
                evaluation.results += result_rows(candidate, name, part, measured, cut_to, seconds)
                if output is not None:
                    evaluation.save(output)
            del model  # before the next one is loaded
        if output is not None:
            for task in shipped:
                own = [row for row in evaluation.results if row.request == task.name]
                drawn = own if task.one_figure else [row for row in own if row.model == candidate.given]
                save_figure(task.draw(drawn), task.picture(output, candidate.name))
    return evaluation
