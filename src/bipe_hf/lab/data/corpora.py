"""Where documents come from: this Python installation, files and folders, saved data sets, the Hugging Face Hub."""

from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
    concatenate_datasets,
)
from datasets.fingerprint import Hasher

from ...model.errors_bipe import InputError
from ..common.files import user_path
from .formats import read_text_file
from .python_corpus import python_installation, read_python
from .split import split_by_document
from .tables import check_one_kind, holds_tables, read_tables, reading, visible_files


DEFAULT_CORPUS = "python"

# `datasets` knows cached results by names and arguments, not by our code: raise this when the code below or in
# tokenize.py or blocks.py gives something else for the same input.
_CACHE_VERSION = 1

_FEATURES = Features({"text": Value("string"), "name": Value("string")})

_Documents = Dataset | IterableDataset


def load_documents(
    source: str,
    *,
    text_column: str = "text",
    validation_fraction: float = 0.05,
    seed: int = 0,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """Loads documents and splits them into training and validation documents.

    `source` is looked up in this order:

    - `"python"`: the topics of Python's documentation (`pydoc_data`, prose) and the `.py` files of its standard
      library without tests and generated tables, read from the running installation: about 10 MB.
    - a text file: any UTF-8 file. As there is but one document, its last `validation_fraction`, from a blank line on,
      is the validation document.
    - a table (its ending is one of `TABLES` of tables.py: `.jsonl`, `.csv`, `.tsv`, `.parquet`, ...): each row is a
      document, its text is in `text_column`.
    - a folder saved by `save_to_disk`: each row is a document.
    - any other folder, searched recursively without hidden files: each text file is a document, with the subfolders
      `train` and `validation`, where it has both, as the splits; or a folder of tables, which `datasets` reads and
      splits by the names of its files.
    - a data set of the Hugging Face Hub, `"name"` or `"name:config"`.

    Text files and tables may be compressed (gzip, bzip2, xz, zstd; a table has both endings: `.csv.gz`).

    A split `validation` of a saved, table or Hub data set is used as it is and its other splits but `train` are not
    used. Where there is none, the training documents are split by a hash of their names and `seed`: a document stays
    in its split whatever other documents there are, but for one that is moved where a split would be empty.
    Documents without any text are left out.

    Args:
        source (`str`): see above.
        text_column (`str`, *optional*, defaults to `"text"`): the column that holds the text, for tables only.
        validation_fraction (`float`, *optional*, defaults to 0.05): expected share of the documents, in (0, 1).
        seed (`int`, *optional*, defaults to 0): of the split.
        streaming (`bool`, *optional*, defaults to `False`): read documents only when they are asked for.

    Returns:
        The splits `"train"` and `"validation"` with the columns `text` (`str`) and `name` (`str`, unique).

    Raises:
        FileNotFoundError: `source` is no file, folder or Hub name, or this Python has no sources to read.
        ValueError: it cannot be read, has no text, no column `text_column`, or too little to split.
    """
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction must lie between 0 and 1, both excluded, not {validation_fraction}")
    if _is_text_file(source):
        splits = _from_text_file(user_path(source), validation_fraction, streaming)
    else:
        splits = _from_many(source, text_column, streaming)
    if "validation" not in splits:
        splits = split_by_document(source, splits["train"], validation_fraction, seed)
    for split, documents in splits.items():
        if next(iter(documents), None) is None:
            raise InputError(f"{source}: the {split} split holds no text")
    return IterableDatasetDict(splits) if streaming else DatasetDict(splits)


def all_documents(source: str, *, text_column: str = "text") -> Dataset:
    """Every document of a source, of which there may be one alone.

    Args:
        source: as of [`load_documents`], but a text file is one document.
        text_column: the column that holds the text, for tables only.

    Returns:
        The columns `text` and `name`. Those of a split `validation` come last.

    Raises:
        FileNotFoundError: as [`load_documents`] does.
        ValueError: it cannot be read, has no text, or no column `text_column`.
    """
    if _is_text_file(source):
        path = user_path(source)
        text = _read_text(path)
        return Dataset.from_dict({"text": [text], "name": [path.name]})
    documents = concatenate_datasets(list(_from_many(source, text_column, streaming=False).values()))
    if not len(documents):
        raise InputError(f"{source} holds no text")
    return documents


def _is_text_file(source: str) -> bool:
    if not source:
        raise InputError("source is empty; it must name a file, a folder or a data set")
    path = user_path(source)
    return path.is_file() and not holds_tables(path)


def _from_many(source: str, text_column: str, streaming: bool) -> dict[str, _Documents]:
    """The documents of what is no text file, those to validate with apart where the source has them so."""
    path = user_path(source)
    if source == DEFAULT_CORPUS:
        return {"train": _generated(source, read_python, python_installation(), streaming)}
    if path.is_dir() and not holds_tables(path):
        return _from_text_folder(path, streaming)
    return _from_tables(source, read_tables(source, streaming=streaming), text_column)


# Text


def _generated(source: str, generator: Callable, gen_kwargs: dict, streaming: bool) -> _Documents:
    """Documents from a generator function; its arguments are the key of the cache."""
    gen_kwargs = gen_kwargs | {"version": _CACHE_VERSION}
    first = next(generator(**gen_kwargs), None)
    if first is None:
        raise InputError(f"{source} holds no text")
    if streaming:
        return IterableDataset.from_generator(generator, features=_FEATURES, gen_kwargs=gen_kwargs)
    with reading(source):
        return Dataset.from_generator(generator, features=_FEATURES, gen_kwargs=gen_kwargs)


def _from_text_file(path: Path, validation_fraction: float, streaming: bool) -> dict[str, _Documents]:
    text = _read_text(path)
    cut = text.rfind("\n\n", 0, round(len(text) * (1 - validation_fraction)))
    parts = {"train": text[: cut + 2], "validation": text[cut + 2 :]}
    if cut < 0 or not parts["train"].strip() or not parts["validation"].strip():
        raise InputError(
            f"{path} has no blank line at which its last {validation_fraction:.0%} could become the validation split; "
            "give a folder with the subfolders train and validation (docs/pretrain.md)"
        )
    return {
        split: _generated(str(path), _read_part, {"text": part, "name": f"{path.name}:{split}"}, streaming)
        for split, part in parts.items()
    }


def _read_text(path: Path) -> str:
    text = read_text_file(path)
    if not text.strip():
        raise InputError(f"{path} holds no text")
    return text


def _read_part(text: str, name: str, version: int) -> Iterator[dict[str, str]]:
    yield {"text": text, "name": name}


def _from_text_folder(folder: Path, streaming: bool) -> dict[str, _Documents]:
    files = visible_files(folder)
    if not files:
        raise InputError(f"the folder {folder} holds no files")
    check_one_kind(folder, files)
    splits = {"train": folder}
    if all((folder / split).is_dir() for split in ("train", "validation")):
        splits = {split: folder / split for split in ("train", "validation")}
    return {
        split: _generated(str(subfolder), _read_files, _file_arguments(folder, subfolder), streaming)
        for split, subfolder in splits.items()
    }


def _file_arguments(folder: Path, subfolder: Path) -> dict[str, list[str]]:
    """Arguments of `_read_files`; the stamps are there for the cache: a changed file is read again."""
    files = visible_files(subfolder)
    if not files:
        raise InputError(f"the folder {subfolder} holds no files")
    stats = [file.stat() for file in files]
    return {
        "paths": [str(file.resolve()) for file in files],
        "names": [file.relative_to(folder).as_posix() for file in files],
        "stamps": [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats],
    }


def _read_files(paths: list[str], names: list[str], stamps: list[str], version: int) -> Iterator[dict[str, str]]:
    for path, name in zip(paths, names, strict=True):
        text = read_text_file(Path(path))
        if text.strip():
            yield {"text": text, "name": name}


# Tables


def _from_tables(source: str, tables: dict[str, _Documents], text_column: str) -> dict[str, _Documents]:
    return {
        split: _from_rows(source, tables[split], text_column, split)
        for split in ("train", "validation")
        if split in tables
    }


def _from_rows(source: str, rows: _Documents, text_column: str, split: str) -> _Documents:
    """One document per row with text, named by split and row number."""
    rows = rows.with_format(None)
    with reading(source):
        first = next(iter(rows), None)
    if first is None:
        raise InputError(f"{source}: the {split} split holds no rows")
    if text_column not in first:
        raise InputError(
            f'{source} has no column "{text_column}"; it has: {", ".join(first)} (choose a text_column, or let the'
            " files end in .txt to train on their text; docs/pretrain.md)"
        )
    if not isinstance(first[text_column], str | None):
        raise InputError(f'the column "{text_column}" of {source} holds {type(first[text_column]).__name__}, not text')
    rows = rows.select_columns(text_column)
    arguments = {
        "with_indices": True,
        "batched": True,
        "remove_columns": text_column,
        "features": _FEATURES,
        "fn_kwargs": {"source": source, "text_column": text_column, "split": split},
    }
    if isinstance(rows, IterableDataset):
        return rows.map(_name_rows, **arguments)
    # By default the cache of a data set from `save_to_disk` lies in its own folder, which is the user's.
    key = Hasher.hash((rows._fingerprint, text_column, split, _CACHE_VERSION))
    cache = Path(datasets.config.HF_DATASETS_CACHE, "bipe_hf", f"documents-{key}.arrow")
    return rows.map(_name_rows, cache_file_name=str(cache), new_fingerprint=key, desc="Reading documents", **arguments)


def _name_rows(
    batch: dict[str, list], indices: list[int], source: str, text_column: str, split: str
) -> dict[str, list]:
    for text, index in zip(batch[text_column], indices, strict=True):
        if not isinstance(text, str | None):
            raise InputError(
                f'{source}: the column "{text_column}" holds {text!r} in row {index} of the {split} split, which is no'
                f" text but {type(text).__name__}"
            )
    rows = [(text, f"{split}:{index}") for text, index in zip(batch[text_column], indices, strict=True)]
    rows = [(text, name) for text, name in rows if text is not None and text.strip()]
    return {"text": [text for text, _ in rows], "name": [name for _, name in rows]}
