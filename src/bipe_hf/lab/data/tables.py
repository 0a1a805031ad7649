"""Rows of tables: local files, saved data sets, the Hugging Face Hub."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.exceptions import DatasetGenerationError, DatasetsError

from ...model.errors_bipe import InputError, InputNotFoundError
from ..common.files import user_path
from .formats import check_zstd, content_suffix


TABLES = {  # suffix -> builder of `datasets`
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".psv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".jsonlines": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".psv": "|"}  # other than a comma
_NOT_OF_DATASETS = {".tab", ".psv", ".jsonlines"}  # endings by which `datasets` knows no builder
_TEXTS = {".html", ".md", ".py", ".rst", ".tex", ".txt"}  # only to tell a missing file from a Hub name
_SAVED_DATA_SET = (datasets.config.DATASETDICT_JSON_FILENAME, datasets.config.DATASET_STATE_JSON_FILENAME)
_AS_WRITTEN = {"keep_default_na": False, "na_values": [""]}  # of csv: NA, None and null are words
_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")


def load_rows(source: str, *, validation_fraction: float = 0.1) -> DatasetDict:
    """Loads the rows of a table, with all their columns, in a training and a validation split.

    Args:
        source (`str`): a table (its ending is one of `TABLES`, perhaps compressed), a folder of tables, which
            `datasets` splits by the names of its files, a folder saved by `save_to_disk`, or a data set of the
            Hugging Face Hub, `"name"` or `"name:config"`.
        validation_fraction (`float`, *optional*, defaults to 0.1): share of the rows held out where `source` has no
            split `validation`, drawn by chance but the same each time.

    Returns:
        The splits `"train"` and `"validation"`. Other splits are not used.

    Raises:
        FileNotFoundError: `source` is no file, folder or Hub name.
        ValueError: it cannot be read, is text, has no split `train` or too few rows to split.
    """
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction must lie between 0 and 1, both excluded, not {validation_fraction}")
    path = user_path(source)
    if path.exists() and not holds_tables(path):
        raise InputError(f"{source} is no table ({', '.join(TABLES)}), folder of tables or saved data set")
    splits = read_tables(source)
    train, validation = splits["train"].with_format(None), splits.get("validation")
    if validation is None:
        if len(train) < 2:
            raise InputError(f"{source} holds {len(train)} row(s); a training and a validation split need at least 2")
        held_out = min(max(round(validation_fraction * len(train)), 1), len(train) - 1)
        order = np.random.default_rng(0).permutation(len(train))
        parts = {"train": sorted(order[held_out:]), "validation": sorted(order[:held_out])}
        return DatasetDict({split: train.select(part, keep_in_memory=True) for split, part in parts.items()})
    for split, rows in {"train": train, "validation": validation}.items():
        if len(rows) == 0:
            raise InputError(f"{source}: the {split} split holds no rows")
    return DatasetDict(train=train, validation=validation.with_format(None))


def holds_tables(path: Path) -> bool:
    """Whether an existing file or folder is a table, a saved data set or a folder of nothing but tables."""
    if path.is_file():
        return content_suffix(path) in TABLES
    if is_saved_data_set(path):
        return True
    files = [file for file in visible_files(path) if file.name != "README.md"]
    return bool(files) and all(content_suffix(file) in TABLES for file in files)


def check_one_kind(folder: Path, files: Iterable[Path]) -> str:
    """The kind that all of these files of a folder are of: `text`, a builder of `TABLES`, or one of `_DELIMITERS`.

    Raises `InputError` where there are several.
    """
    kinds = {}
    for file in files:
        suffix = content_suffix(file)
        if file.name != "README.md":
            kinds.setdefault(suffix if suffix in _DELIMITERS else TABLES.get(suffix, "text"), file)
    if len(kinds) > 1:
        mixed = ", ".join(str(file.relative_to(folder)) for file in kinds.values())
        raise InputError(f"the folder {folder} mixes kinds of files ({mixed}); give each kind a folder of its own")
    return next(iter(kinds), "text")


def is_saved_data_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote `folder`."""
    return any((folder / name).is_file() for name in _SAVED_DATA_SET)


def visible_files(folder: Path) -> list[Path]:
    """All files in `folder` and below, sorted, but for hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_tables(source: str, *, streaming: bool = False) -> dict[str, Dataset | IterableDataset]:
    """The splits of what `holds_tables` is true for, or else of a data set of the Hub; one of them is `train`.

    In local files of the builder `csv` only an empty cell is missing; `datasets` alone would take words such as NA,
    None and null for missing, too.
    """
    path = user_path(source)
    if path.is_dir() and is_saved_data_set(path):
        with reading(source):
            splits = datasets.load_from_disk(str(path))
        splits = splits if isinstance(splits, DatasetDict) else {"train": splits}
        if streaming:
            splits = {split: rows.to_iterable_dataset() for split, rows in splits.items()}
    elif path.is_dir():
        files = visible_files(path)
        kind = check_one_kind(path, files)
        for file in files:
            _check_compression(file)
        builder, options = _builder(kind)
        # The full path, as `datasets` would take a folder named "json" for its own builder.
        named = {"path": str(path.resolve())}
        if any(content_suffix(file) in _NOT_OF_DATASETS for file in files):
            named = {"path": builder, "data_dir": str(path.resolve())}
        with reading(source):
            splits = datasets.load_dataset(**named, streaming=streaming, **options)
    elif path.is_file():
        builder, options = _builder(content_suffix(path))
        _check_compression(path)
        with reading(source):
            splits = datasets.load_dataset(builder, data_files=str(path), streaming=streaming, **options)
    else:
        name = _HUB_NAME.fullmatch(source)
        if name is None or content_suffix(Path(source)) in TABLES.keys() | _TEXTS:
            raise InputNotFoundError(f"no such file or folder: {source}")
        with reading(f'"{source}" (no local file or folder, so taken for a data set of the Hugging Face Hub)'):
            splits = datasets.load_dataset(name[1], name[2], streaming=streaming)
    if "train" not in splits:
        raise InputError(f"{source} has no split train; it has: {', '.join(splits)}")
    return dict(splits)


def _builder(kind: str) -> tuple[str, dict]:
    """The builder of `datasets` and its options, for an ending of tables or a kind of `check_one_kind`."""
    builder = TABLES.get(kind, kind)
    delimiter = {"sep": _DELIMITERS[kind]} if kind in _DELIMITERS else {}
    return builder, _AS_WRITTEN | delimiter if builder == "csv" else {}


def _check_compression(file: Path) -> None:
    if file.suffix.lower() == ".zst":
        check_zstd(file)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what `datasets` raises on input that it cannot read into one line that names the source."""
    try:
        yield
    except StopIteration as error:  # how its JSON reader ends on an empty file
        raise InputError(f"cannot read {source}: it holds no rows") from error
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise InputError(f"cannot read {source}: {' '.join(str(cause).split())}") from error
