"""How much of a task a model can do: answers written by greedy generation, compared with the right ones."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ....model.errors_bipe import InputError, InputNotFoundError
from ...common.checkpoints import is_bipe, open_folder
from ...common.devices import check_device
from ...common.files import user_path
from ...common.generation import write_greedily
from ...common.messages import check_counts
from ...common.run_folder import RunFiles, read_stored_settings
from .arguments import check_sizes
from .examples import Examples, answer_text, prompt
from .generator import Example, Generator
from .tasks import find_task


FILES = RunFiles("synthetic.yaml", "synthetic.json")


class Score(NamedTuple):
    """Of one answer."""

    is_right: bool
    """It has ended, and its last step is the right one, which has the result."""
    right_steps: int
    """Steps that are, each in its place, those of the right answer."""
    steps: int
    """Of the right answer."""


def measure(
    folder: str | Path,
    sizes: Sequence[int],
    *,
    samples: int = 500,
    seed: int = 0,
    batch_size: int = 100,
    device: str | torch.device | None = None,
) -> list[dict[str, Any]]:
    """The accuracy of a model of `train` at several numbers of operators, on questions that no training asks.

    The model writes its answers greedily, in left-padded batches, up to the length of the longest right one.

    Args:
        folder: of a run of `bipe-hf synthetic`, finished or not, with model and tokenizer.
        sizes: numbers of operators, rising.
        samples: questions at each of them. Where the task has fewer, as with one operator, some come twice.
        seed: of the questions: the same ones for every model.
        batch_size: answers written at a time.
        device: a torch device; None takes the accelerator where there is one.

    Returns:
        A row for each size: `size`, `accuracy` (share of answers that end, and with the
        step that has the right result), `steps_correct`
        (share of the steps of all right answers that the model wrote, each in its place) and `samples`.

    Raises:
        ValueError: sizes that do not rise from 1 on or need more positions than the model has, a count below 1, a
            model or settings that cannot be read.
        FileNotFoundError: the folder is no run of `bipe-hf synthetic`, or has no model.
    """
    check_sizes("sizes", sizes)
    check_counts({"samples": samples, "batch_size": batch_size}, ["samples", "batch_size"])
    target = check_device(device)
    task = _task_of(user_path(folder))
    candidate = open_folder(folder)
    check_positions("sizes", sizes[-1], task, candidate.config)
    model = candidate.load(target, dtype="auto", attention=None)
    rows = []
    for size in sizes:
        examples = list(Examples(task, [size], samples, held_out=True, seed=seed))
        longest = max(len(answer_text(task, example).split()) for example in examples)
        scores = []
        for start in tqdm(range(0, samples, batch_size), desc=f"{size} operators", leave=False, disable=None):
            scores += _scores(model, candidate.tokenizer, task, examples[start : start + batch_size], longest)
        rows.append(
            {
                "size": size,
                "accuracy": sum(score.is_right for score in scores) / samples,
                "steps_correct": sum(score.right_steps for score in scores) / sum(score.steps for score in scores),
                "samples": samples,
            }
        )
    return rows


def check_positions(name: str, size: int, task: type[Generator], config: PreTrainedConfig) -> None:
    """Refuses a number of operators whose examples are longer than the position table of a model.

    Models of this package encode all positions behind their table as its last one. Of the others some have a table, as
    GPT-2, and some compute any position. As no config tells which, the model is tried.
    """
    longest = task.longest(size)
    if is_bipe(config) or longest <= config.max_position_embeddings:
        return
    model = AutoModelForCausalLM.from_config(config)
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, longest, dtype=torch.long))  # on the CPU, which says what is out of range
    except IndexError as error:
        raise InputError(
            f"{name}: {size} operators take up to {longest} positions, a model of type {config.model_type} with"
            f" max_position_embeddings {config.max_position_embeddings} has none for them (train with {longest})"
        ) from error


def score(written: list[str], task: type[Generator], example: Example, end: str) -> Score:
    """Compares an answer with the right one.

    Args:
        written: tokens behind the prompt. What comes after the first `end` does not count.
        task: whose separator divides the tokens into steps.
        example: the question and the right answer.
        end: the token at the end of a text.
    """
    has_ended = end in written
    text = " ".join(written[: written.index(end)] if has_ended else written)
    steps = [step.strip() for step in text.split(task.step_separator)]
    right = [ours == theirs for ours, theirs in zip_longest(steps, example.steps)][: len(example.steps)]
    return Score(has_ended and steps[-1] == example.steps[-1], sum(right), len(example.steps))


def _scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: type[Generator],
    examples: list[Example],
    longest: int,
) -> list[Score]:
    prompts = [tokenizer(prompt(example))["input_ids"] for example in examples]
    # one token more: the end of the text
    answers = write_greedily(model, prompts, longest + 1, pad_token_id=tokenizer.pad_token_id)
    return [
        score(tokenizer.convert_ids_to_tokens(ids), task, example, tokenizer.eos_token)
        for ids, example in zip(answers, examples, strict=True)
    ]


def _task_of(folder: Path) -> type[Generator]:
    file = folder / FILES.settings
    if not file.is_file():
        raise InputNotFoundError(f"model {folder}: `bipe-hf synthetic` has written no {FILES.settings} in this folder")
    settings = read_stored_settings(file)
    if settings is None or "task" not in settings:
        raise InputError(f"{file} is not what `bipe-hf synthetic` writes")
    return find_task(settings["task"])
