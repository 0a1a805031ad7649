"""A model answers a split of a task: predictions as they come, then scores."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ....model.errors_bipe import InputError
from ...common.checkpoints import encoding_label, is_outdated, open_checkpoint, training_record
from ...common.devices import check_device, check_dtype
from ...common.files import user_path
from ...common.generation import write_greedily
from ...common.messages import check_counts
from ...common.results import check_output, describe_environment, in_words, moment, read_results, write_results
from ...common.tables import aligned, markdown
from .data import HUB_NAME, SPLITS, read_split
from .metrics import check_installed, score
from .prompts import closing_ids, encode_prompts, room_for_document
from .tasks import ScrollsTask, find_task


FORMAT = "bipe-hf scrolls 1"
MAX_LENGTH = 8192


@dataclass(frozen=True)
class ScrollsResult:
    """One metric of a task.

    Args:
        model: folder or name on the Hub, as it was given.
        name: a short one, for tables.
        encoding: what the field calls its positional encoding.
        task: one of `SCROLLS_TASKS`.
        split: that was answered.
        metric: its name.
        value: in percent.
        examples: how many were answered.
        references: how many answers they have.
    """

    model: str
    name: str
    encoding: str
    task: str
    split: str
    metric: str
    value: float
    examples: int
    references: int


@dataclass
class ScrollsEvaluation:
    """Scores with what is needed to repeat them; `results` is empty until all predictions are there.

    `save` and `load` keep it as JSON. The predictions stand beside it (suffix `.jsonl`), `id` and `prediction` a line.

    Args:
        created: when, in ISO 8601.
        command: that answered.
        environment: what `describe_environment` found.
        settings: model, task, data and lengths.
        results: one for each metric.
    """

    created: str
    command: str
    environment: dict
    settings: dict
    results: list[ScrollsResult]

    def save(self, path: Path) -> None:
        """Writes the JSON file and its table (suffix `.md`), each replaced as a whole or not at all."""
        summary = f"`{self.command}`, begun {self.created} with {in_words(self.environment)}"
        write_results(path, FORMAT, self, lambda: f"{summary}\n\n{markdown(_table(self.results))}\n")

    @classmethod
    def load(cls, path: str | Path) -> "ScrollsEvaluation":
        """The evaluation that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds anything else.
        """
        return read_results(path, FORMAT, cls, ScrollsResult, "scrolls")


@dataclass(frozen=True)
class _Example:
    """An input, which is that of row `row`, with all answers that it has: none in a split without."""

    row: int
    references: list[str]


def scrolls_table(results: Sequence[ScrollsResult]) -> str:
    """A row for each metric, as aligned plain text."""
    return aligned(_table(results))


def _table(results: Sequence[ScrollsResult]) -> list[list[str]]:
    heading = ["model", "encoding", "task", "split", "examples", "metric", "percent"]
    rows = [
        [each.name, each.encoding, each.task, each.split, str(each.examples), each.metric, f"{each.value:.2f}"]
        for each in results
    ]
    return [heading, *rows]


def answer_scrolls(
    model: str | Path,
    *,
    output: str | Path,
    revision: str | None = None,
    task: str | None = None,
    data: str | None = None,
    split: str = "validation",
    max_length: int | None = None,
    answer_length: int | None = None,
    predict_only: bool = False,
    batch_size: int = 1,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "bipe_hf.lab.tasks.scrolls.answer_scrolls",
) -> ScrollsEvaluation:
    """Lets a model answer a split of a SCROLLS task, taking the likeliest token each time, and scores the answers.

    Args:
        model: as in `open_checkpoint`.
        output: JSON file of the scores. The table goes beside it as `.md`, the predictions as `.jsonl`, each as soon
            as its batch is done.
        revision: as in `open_checkpoint`.
        task: as in fine-tuning; like `data`, `max_length` and `answer_length` by default what the model was fine-tuned
            with, where `finetuning.json` in its folder tells of this task.
        data: as in fine-tuning; else `tau/scrolls`.
        split: train, validation or test.
        max_length: of prompt and answer, in tokens; else 8192.
        answer_length: in tokens; else that of `SCROLLS_TASKS`.
        predict_only: leave out the scores. The test split of SCROLLS has no answers to score with.
        batch_size: prompts at once, padded on the left; it changes speed and memory.
        device: as in `bipe_hf.lab.evaluation.evaluate`.
        dtype: as in `bipe_hf.lab.evaluation.evaluate`.
        attn_implementation: as in `bipe_hf.lab.evaluation.evaluate`.
        overwrite: as in `bipe_hf.lab.evaluation.evaluate`.
        resume: keep the predictions of an earlier call with the same model, data and settings and add what they lack.
        command: as in `bipe_hf.lab.evaluation.evaluate`.

    Returns:
        The scores; none new with `predict_only`.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, data or files, before anything is written.
    """
    numbers = {"max_length": max_length, "answer_length": answer_length, "batch_size": batch_size}
    check_counts(numbers, numbers)
    if split not in SPLITS:
        raise InputError(f"split: {split!r} is none of {', '.join(SPLITS)}")
    check_dtype(dtype)
    target = check_device(device)
    output = user_path(output)
    check_output(output, overwrite, resume, beside=(".md", ".jsonl"))
    file = output.with_suffix(".jsonl")
    is_resumed = resume and output.exists()

    candidate = open_checkpoint(model, revision)
    trained = _finetuned_with(candidate.folder, task)
    task = task or trained.get("task")
    scrolls_task = find_task("task", task)
    settings = {
        "model": candidate.given,
        "model_fingerprint": candidate.fingerprint,
        "task": task,
        "data": data or trained.get("data") or HUB_NAME,
        "split": split,
        "max_length": max_length or trained.get("max_length") or MAX_LENGTH,
        "answer_length": answer_length or trained.get("answer_length") or scrolls_task.answer_length,
        "dtype": dtype,
    }
    rows = read_split(settings["data"], task, split)
    examples, settings["data_sha256"] = _read_examples(rows, scrolls_task, candidate.tokenizer, settings)
    references = [example.references for example in examples.values()]
    if not predict_only:
        check_installed(scrolls_task.metric)
        if not all(references):
            raise InputError(
                f"split: the {split} split of {settings['data']} has no answers to score with (column output);"
                " --predict-only writes predictions alone"
            )
    evaluation = ScrollsEvaluation(
        created=moment(),
        command=command,
        environment=describe_environment(target, dtype),
        settings=settings,
        results=[],
    )
    predictions = {}
    if is_resumed:
        earlier = ScrollsEvaluation.load(output)
        _compare(output, earlier.settings, settings)
        predictions = _read_predictions(file, examples)
        evaluation.created, evaluation.results = earlier.created, earlier.results
    missing = [key for key in examples if key not in predictions]
    network = candidate.load(target, dtype, attn_implementation) if missing else None
    if not is_resumed:
        file.write_bytes(b"")
        evaluation.save(output)

    with (
        file.open("a", encoding="utf-8") as lines,
        tqdm(total=len(examples), initial=len(predictions), desc=task, unit="example") as progress,
    ):
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            prompts, _ = encode_prompts(
                [rows[examples[key].row]["input"] for key in batch],
                scrolls_task,
                candidate.tokenizer,
                settings["max_length"],
                [settings["answer_length"]] * len(batch),
            )
            answers = generate_answers(network, candidate.tokenizer, prompts, settings["answer_length"])
            for key, answer in zip(batch, answers, strict=True):
                predictions[key] = answer
                lines.write(json.dumps({"id": key, "prediction": answer}, ensure_ascii=False) + "\n")
            lines.flush()
            progress.update(len(batch))
    if not predict_only:
        scores = score(scrolls_task.metric, [predictions[key] for key in examples], references)
        evaluation.results = [
            ScrollsResult(
                model=candidate.given,
                name=candidate.name,
                encoding=encoding_label(candidate.config),
                task=task,
                split=split,
                metric=metric,
                value=value,
                examples=len(examples),
                references=sum(map(len, references)),
            )
            for metric, value in scores.items()
        ]
        evaluation.save(output)
    return evaluation


def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], answer_length: int
) -> list[str]:
    """The likeliest continuation of each prompt (token ids) up to eos, of `answer_length` tokens at most, as text."""
    eos = tokenizer.eos_token_id  # with which fine-tuning closes an answer
    written = write_greedily(model, prompts, answer_length, eos_token_id=eos, pad_token_id=eos)
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def _finetuned_with(folder: Path, task: str | None) -> dict[str, Any]:
    """What `bipe-hf finetune` wrote of a model that it trained for this SCROLLS task (None: for any), else nothing."""
    record = training_record(folder / "finetuning.json")
    if record is None or record["task"] != "scrolls" or task not in (None, record["config"]["scrolls_task"]):
        return {}
    return {"task": record["config"]["scrolls_task"], "answer_length": record["config"]["answer_length"]} | {
        name: record[name] for name in ("data", "max_length")
    }


def _read_examples(
    rows: Dataset, task: ScrollsTask, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> tuple[dict[str, _Example], str]:
    """The examples by their `id`, in the order of their first rows, and a hash of all that is asked.

    Several rows with one `id` are one example with several answers, as in the evaluator of SCROLLS.
    """
    where = f"data: {settings['data']}, {settings['split']} split of {settings['task']}"
    examples: dict[str, _Example] = {}
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        for column in ("id", "input"):
            if row[column] is None:
                raise InputError(f"{where}: row {index} has no {column}")
        digest.update(json.dumps([row["id"], row["input"]]).encode())
        example = examples.get(row["id"])
        if example is None:
            try:
                question, _ = task.split_input(row["input"])
            except ValueError as error:
                raise InputError(f"{where}: the input of row {index} {error}") from error
            closing = closing_ids(question, tokenizer)
            room_for_document(closing, question, settings["max_length"], settings["answer_length"])
            example = examples[row["id"]] = _Example(index, [])
        elif rows[example.row]["input"] != row["input"]:
            raise InputError(f"{where}: rows {example.row} and {index} have one id, {row['id']!r}, and two inputs")
        if row["output"] is not None:
            example.references.append(row["output"])
    return examples, digest.hexdigest()


def _compare(output: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to add to predictions that another model made, or other settings."""
    differing = [name for name in now if there.get(name) != now[name]]
    if differing == ["model_fingerprint"] and is_outdated(there.get("model_fingerprint", "")):
        raise InputError(
            f"resume: {output} tells its model by the time of its files, as earlier versions did, not by its weights:"
            " it cannot be completed (--overwrite replaces it)"
        )
    if differing:
        differences = [f"{name} (there {there.get(name)}, now {now[name]})" for name in differing]
        raise InputError(
            f"resume: {output} was made with other settings: {', '.join(differences)} (--overwrite replaces it)"
        )


def _read_predictions(file: Path, examples: dict[str, _Example]) -> dict[str, str]:
    """The predictions by `id`. A last line that is not whole, as a killed process leaves it, is cut off the file."""
    written = file.read_bytes() if file.exists() else b""
    whole = written[: written.rfind(b"\n") + 1]
    predictions = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            fields = json.loads(line)
            key, prediction = fields["id"], fields["prediction"]
            is_good = key in examples and key not in predictions and isinstance(prediction, str)
        except (ValueError, KeyError, TypeError):
            is_good = False
        if not is_good:
            raise InputError(
                f"resume: line {number} of {file} is no prediction for this data, or a second one (--overwrite"
                " replaces it)"
            )
        predictions[key] = prediction
    if len(whole) < len(written):
        os.truncate(file, len(whole))
    return predictions
