"""EleutherAI's lm-evaluation-harness: finding tasks, measuring them by its code, reading what it returns.

The harness knows nothing of BiPE: its `hf` model gets a model and a tokenizer, and hands over token ids from which the
model derives the segments. The tasks of this package (`SHIPPED`) are asked by [`GreedyModel`].
"""

import difflib
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint, encoding_label
from ..common.messages import first_line
from .registry import SHIPPED
from .results import TaskResult
from .shipped import FOLDER


def find_tasks(tasks: Sequence[str], folder: str | Path | None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names that patterns such as `mmlu_*` stand for.

    Args:
        tasks: names and patterns.
        folder: with files of further tasks.

    Raises:
        InputError: there is no such task.
    """
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


def load_tasks(manager: Any, requests: Sequence[str]) -> list[Any]:
    """Every task of every request, its data included: what cannot be loaded or run shows before a model is loaded.

    Args:
        manager: of [`find_tasks`].
        requests: names of [`find_tasks`].

    Raises:
        InputError: a task cannot be loaded, or runs code that a model writes.
    """
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


def check_candidate(
    candidate: Checkpoint, max_length: int, tasks: Sequence[Any], apply_chat_template: bool = False
) -> None:
    """Checks that a model can be asked these tasks.

    Args:
        candidate: the model.
        max_length: tokens that a request may have.
        tasks: of [`load_tasks`].
        apply_chat_template: ask by the chat template.

    Raises:
        InputError: its tokenizer lacks an end-of-text token or a chat template, or an answer leaves no room for its
            prompt.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    if candidate.tokenizer.eos_token_id is None:
        raise InputError(f"model {candidate.given}: its tokenizer has no end-of-text token, which the harness needs")
    if apply_chat_template and candidate.tokenizer.chat_template is None:
        raise InputError(f"apply_chat_template: the tokenizer of {candidate.given} has no chat template")
    for task in tasks:
        if task.OUTPUT_TYPE == "generate_until":
            generated = normalize_gen_kwargs(task.config.generation_kwargs)["max_gen_toks"]
            if generated >= max_length:
                raise InputError(
                    f"max_length: {task.config.task} generates up to {generated} tokens, which leaves no room for its "
                    f"prompt in the {max_length} tokens of {candidate.given}; give a greater one"
                )


def measure(
    candidate: Checkpoint,
    model: PreTrainedModel,
    name: str,
    manager: Any,
    num_fewshot: int | None,
    limit: int | None,
    max_length: int,
    batch_size: int,
    **asking: Any,
) -> dict[str, Any]:
    """What the harness finds on a task, group or tag, asking by its own model.

    Args:
        candidate: the model as it was opened.
        model: its weights.
        name: of the task.
        manager: of [`find_tasks`].
        num_fewshot: solved examples in front of a question; None leaves it to the task.
        limit: so many documents of the task; None for all.
        max_length: tokens that a request may have.
        batch_size: requests in a batch.
        asking: further arguments of `lm_eval.simple_evaluate`, which say how.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    return lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=candidate.tokenizer, batch_size=batch_size, max_length=max_length),
        tasks=[name],
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=False,
        **asking,
    )


def measure_part(
    candidate: Checkpoint,
    model: PreTrainedModel,
    name: str,
    metadata: dict[str, Any],
    part: dict[str, float],
    limit: int | None,
    batch_size: int | None,
) -> dict[str, Any]:
    """What the harness finds on a part of a task of this package.

    Args:
        candidate: the model as it was opened.
        model: its weights.
        name: of the task.
        metadata: settings of the part, as [`ShippedTask.metadata`] gives them.
        part: what it is measured at.
        limit: so many documents of the part; None for all.
        batch_size: prompts in a batch; None takes as many as have `BATCH_TOKENS`.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    from .greedy import GreedyModel

    metadata = metadata | {"tokenizer": candidate.tokenizer}
    manager = TaskManager(include_path=FOLDER, include_defaults=False, metadata=metadata)
    log = logging.getLogger("lm_eval.api.task")  # which says with each part that there is something like metadata
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        loaded = manager.load([name])
    finally:
        log.setLevel(level)
    title = f"{candidate.name} {name} {' '.join(f'{key} {value:g}' for key, value in part.items())}"
    # Not by `simple_evaluate`, which asks a dozen programs about the machine each time.
    return lm_eval.evaluate(
        GreedyModel(model, candidate.tokenizer, batch_size, title),
        loaded,
        limit=limit,
        log_samples=False,
    )


def result_rows(
    candidate: Checkpoint,
    request: str,
    part: dict[str, float],
    measured: dict[str, Any],
    max_length: int | None,
    seconds: float,
) -> list[TaskResult]:
    """One row for each `metric,filter` of what the harness returns.

    Args:
        candidate: the model.
        request: name that was asked for.
        part: of a task of this package; empty for the others.
        measured: what the harness returns.
        max_length: tokens that a request could have; None where nothing is cut.
        seconds: wall time.

    Raises:
        InputError: a number is not finite.
    """
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
                    part=part,
                )
            )
    return rows
