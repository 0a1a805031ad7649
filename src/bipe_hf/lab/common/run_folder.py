"""The output folder of a training run: whether a run may start there, and from which checkpoint it continues.

The file of settings (`pretrain.yaml`) is the first one of a run and marks the folder as one; the file of results
(`training.json`) is the last and marks the run as finished.
"""

import json
import math
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from ...hub.records import ORIGIN_FILE
from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import check_code, write_whole
from .files import user_path
from .trained_on import TRAINED_ON_FILE


class RunFiles(NamedTuple):
    """The first and the last file of a run of one command.

    Args:
        settings: name of the file that marks a folder as one of a run.
        result: name of the file that marks the run as finished.
    """

    settings: str
    result: str


PRETRAIN = RunFiles("pretrain.yaml", "training.json")
DATA_FILE = "data.sha256"

# What a run writes besides its `RunFiles`. Nothing else in the folder is ever deleted.
_RUN_FILES = (
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "checkpoint-*",
    "config.json",
    DATA_FILE,
    "generation_config.json",
    "model*.safetensors*",
    "runs/*/events.out.tfevents.*",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
    TRAINED_ON_FILE,
    ORIGIN_FILE,
    "training_args.bin",
)

# Settings that decide what is written down and how fast, but not what is learnt: a resumed run may change them.
_FREE_SETTINGS = {
    "dataloader_num_workers",
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "max_validation_blocks",
    "num_proc",
    "output_dir",
    "per_device_eval_batch_size",
    "report_to",
    "run_name",
    "test_operators",
    "test_samples",
}
_FREE_PREFIXES = ("eval_", "hub_", "logging_", "save_")


def find_checkpoint(
    folder: Path,
    settings: dict[str, Any],
    *,
    overwrite: bool,
    say: Callable[[str], None],
    files: RunFiles = PRETRAIN,
    processes: int = 1,
) -> Path | None:
    """Decides how a run with `settings` starts in `folder`, and changes nothing on disk.

    Args:
        folder: output folder, existing or not.
        settings: resolved settings of the run, as `begin_run` stores them.
        overwrite: start again although `folder` holds a run.
        say: called with one line for everything that the user should know.
        files: of the command that runs.
        processes: that train together now.

    Returns:
        The last complete checkpoint of the interrupted run in `folder`, or `None` where training starts at step 0: so
        it does, with whatever settings, where the run ended before its first checkpoint.

    Raises:
        FileExistsError: `folder` holds a finished run, files that are no training run, or one that the code of the
            model would replace.
        ValueError: `folder` holds an interrupted run with other settings, of another number of processes, or whose
            settings cannot be read; or `overwrite` would delete a run with what the new one reads.
    """
    if folder.exists() and not folder.is_dir():
        raise InputExistsError(f"output_dir {folder} is a file, not a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / files.settings).is_file():
        raise InputExistsError(
            f"output_dir {folder} is not empty and holds no training run (no {files.settings}): choose another folder"
        )
    check_code(folder)
    if overwrite:
        _check_inputs(folder, settings)
        return None
    if (folder / files.result).is_file():
        raise InputExistsError(
            f"output_dir {folder} holds a finished run ({files.result}): choose another output_dir, or give"
            " --overwrite to delete that run and train again"
        )
    steps = {
        int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if not steps:
        say(f"{folder} holds a run that ended before its first checkpoint: starting it over")
        return None
    _compare(folder / files.settings, settings)

    for _, checkpoint in sorted(steps.items(), reverse=True):
        defect = _defect(checkpoint)
        if defect is None:
            _compare_processes(checkpoint, processes)
            say(f"resuming {folder} from {checkpoint.name}")
            return checkpoint
        say(f"passing over {checkpoint}, which is incomplete: {defect}")
    say(f"{folder} holds an interrupted run without a complete checkpoint: starting it over")
    return None


def begin_run(
    folder: Path,
    settings: dict[str, Any],
    fingerprint: str | None,
    *,
    overwrite: bool,
    files: RunFiles = PRETRAIN,
) -> None:
    """Marks a folder as that of a run.

    Args:
        folder: of the run.
        settings: resolved, to be stored.
        fingerprint: of the text; None for a stream.
        overwrite: first delete what an earlier run wrote there.
        files: of the command that runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for pattern in (files.result, *_RUN_FILES):
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if fingerprint is not None:
        write_whole(folder / DATA_FILE, fingerprint + "\n")
    write_whole(folder / files.settings, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def check_data(folder: Path, fingerprint: str | None) -> None:
    """Checks that a run is resumed on the text that it began with; a stream's is not known.

    Args:
        folder: of the run.
        fingerprint: of the text now; None for a stream.

    Raises:
        InputError: the text is another one.
    """
    file = folder / DATA_FILE
    if fingerprint is not None and file.is_file() and file.read_text(encoding="utf-8").strip() != fingerprint:
        raise InputError(
            f"data: the text is not what the interrupted run in {folder} began with; bring that text back to resume,"
            " or give another output_dir, or --overwrite to train again from the start"
        )


def finish_run(folder: Path, result: dict[str, Any], *, files: RunFiles = PRETRAIN) -> None:
    """Writes the result of a run and thereby marks it as finished.

    Numbers that JSON does not have, as a run that diverged gives them (NaN, infinity), become null.

    Args:
        folder: of the run.
        result: JSON.
        files: of the command that runs.
    """
    write_whole(folder / files.result, json.dumps(_with_nulls(result), indent=2, allow_nan=False) + "\n")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_inputs(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses to delete a run together with what the new one is to read."""
    for key in ("initial_model", "tokenizer", "data"):
        source = user_path(settings.get(key) or "")
        if settings.get(key) and source.exists() and source.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{key}: {settings[key]} lies in output_dir {folder}, whose run --overwrite deletes: give another"
                " output_dir"
            )


def _compare(file: Path, settings: dict[str, Any]) -> None:
    stored = read_stored_settings(file)
    if stored is None:
        raise InputError(f"{file} cannot be read: give --overwrite to train again from the start")
    if (file.parent / DATA_FILE).is_file():  # `check_data` tells the text by its digest, not by its name
        stored = stored | {"data": settings.get("data")}
    differences = differing_settings(stored, settings)
    if differences:
        raise InputError(
            f"{file.parent} holds an interrupted run with other settings: {', '.join(differences)}; give the same"
            " settings to resume it, another output_dir, or --overwrite to train again from the start"
        )


def read_stored_settings(file: Path) -> dict[str, Any] | None:
    """The settings that a run was begun with; None where the file is damaged."""
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return stored if isinstance(stored, dict) else None


def differing_settings(stored: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What differs, one line for each setting that decides what is learnt.

    Args:
        stored: settings of an earlier run.
        settings: those of now.
    """
    return [
        f"{key} (there {stored.get(key, 'default')}, now {settings.get(key, 'default')})"
        for key in sorted(stored.keys() | settings.keys())
        if stored.get(key) != settings.get(key) and key not in _FREE_SETTINGS and not key.startswith(_FREE_PREFIXES)
    ]


def _compare_processes(checkpoint: Path, processes: int) -> None:
    """Each process adds its blocks to a step, and writes one file with the state of its random numbers."""
    written_by = len(list(checkpoint.glob("rng_state*.pth")))
    if written_by != processes:
        raise InputError(
            f"{checkpoint} was written by {written_by} training processes, now there are {processes}, so that a step"
            " would see another number of blocks: launch as many to resume, or give another output_dir, or --overwrite"
            " to train again from the start"
        )


def _defect(checkpoint: Path) -> str | None:
    """Why `checkpoint` cannot be resumed from, or `None`. A process killed while saving leaves a truncated file or,
    since Trainer writes `trainer_state.json` last, none of that name."""
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except (ValueError, TypeError):
        return "trainer_state.json is damaged"
    for weights in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(weights, framework="pt"):  # reads the header and compares it with the file's size
                pass
        except SafetensorError:
            return f"{weights.name} is damaged"
    states = (path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin"))
    for state in states:  # .bin: those of FSDP; in a folder: those of DeepSpeed
        if not zipfile.is_zipfile(state):  # torch.save writes zip archives, whose directory stands at the end
            return f"{state.name} is damaged"
    return None
