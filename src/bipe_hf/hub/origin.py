"""Where weights come from: what the card of a model tells of the one that it was made of."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from yaml import YAMLError

from ..model.travel_bipe import write_whole
from ..model.version_bipe import __version__
from .records import ORIGIN_FILE, TRAINING_FILES, read_record


def describe_origin(name: str | Path, folder: Path | None) -> dict[str, Any]:
    """What is known of a model that another one starts with.

    Args:
        name: as it was given, a folder or a name on the Hub.
        folder: where its files are; None where they are not at hand.

    Returns:
        JSON: `model`, its name; `base_model`, the name on the Hub that it has, or that of the model it was made of;
        `license`, and `history`, what was done to it in this package, the first step first. None, or empty, where that
        is not known: nothing is guessed.
    """
    is_folder = Path(name).expanduser().is_dir()
    metadata = {} if folder is None else _card_metadata(folder)
    earlier = {} if folder is None else read_origin(folder) or {}
    stated = metadata.get("base_model")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    return {
        "model": Path(name).name if is_folder else str(name),
        "base_model": (earlier.get("base_model") or stated) if is_folder else str(name),
        "license": metadata.get("license") or earlier.get("license"),
        "history": [*earlier.get("history", []), *([] if folder is None else _steps(folder))],
    }


def write_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Keeps what is known of a model beside the one that starts from there.

    Args:
        folder: of the model that starts.
        origin: what [`describe_origin`] gave.
    """
    write_whole(folder / ORIGIN_FILE, json.dumps(origin | {"bipe_hf_version": __version__}, indent=2) + "\n")


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What [`write_origin`] kept in `folder`; None where it kept nothing."""
    return read_record(folder / ORIGIN_FILE)


def _steps(folder: Path) -> list[str]:
    """What the records in `folder` say was done to its weights."""
    training, finetuning, synthetic = (read_record(folder / file) for file in TRAINING_FILES)
    steps = []
    if training is not None:
        steps.append(f"trained on `{training['data']}`, {training['tokens_seen']:,} tokens")
    if finetuning is not None:
        steps.append(f"fine-tuned on `{finetuning['data']}`, {finetuning['examples']['train']:,} examples")
    if synthetic is not None:
        steps.append(f"trained on the generated task {synthetic['task']}, {synthetic['examples_seen']:,} examples")
    return steps


def _card_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the card in `folder`, empty where it has none that can be read."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        return ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, YAMLError):  # no UTF-8, or metadata that are no YAML
        return {}
