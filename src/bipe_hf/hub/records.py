"""What `bipe-hf` recorded beside a model, and how its records are told from files of other programs."""

import json
from pathlib import Path
from typing import Any


TRAINING_FILES = ("training.json", "finetuning.json", "synthetic.json")
"""What `bipe-hf` writes of a training: on a text, for a task, on a generated task."""
ORIGIN_FILE = "origin.json"
"""Whose weights a model started with."""
EVALUATION_FILE, FIGURE_FILE = "evaluation.json", "evaluation.png"
RECORD_FILES = (*TRAINING_FILES, ORIGIN_FILE, EVALUATION_FILE, FIGURE_FILE)
EVALUATION_FORMAT = "bipe-hf evaluation 1"

_FIELDS = {
    "training.json": {"versions", "train_length", "data", "tokens_seen", "parameters", "eval_loss", "config"},
    "finetuning.json": {"versions", "task", "data", "examples", "parameters", "metrics"},
    "synthetic.json": {"versions", "task", "max_operators", "examples_seen", "parameters", "accuracy"},
    ORIGIN_FILE: {"bipe_hf_version", "model", "base_model", "license", "history"},
    EVALUATION_FILE: {"format", "data", "results"},
}


def read_record(file: Path) -> dict[str, Any] | None:
    """What `bipe-hf` wrote of the model beside it into one of the `RECORD_FILES`, the figure excepted.

    None without the file; where another program wrote it, since a name such as `training.json` is nobody's own; and
    for an evaluation of several models, or of this one with other config fields. Ours are written as a whole or not at
    all, so what cannot be read or lacks a field is not ours.
    """
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(content, dict) or not _FIELDS[file.name] <= content.keys():
        return None
    if file.name == EVALUATION_FILE and not _is_of_one_model(content):
        return None
    if file.name in TRAINING_FILES and "bipe-hf" not in content["versions"]:
        return None
    return content


def _is_of_one_model(evaluation: dict[str, Any]) -> bool:
    if evaluation["format"] != EVALUATION_FORMAT:
        return False
    rows = evaluation["results"]
    return len({row["model"] for row in rows}) == 1 and not any(row.get("config_fields") for row in rows)
