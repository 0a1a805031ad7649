"""Rows of SCROLLS: local files, or the archives of the Hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value
from huggingface_hub import hf_hub_download

from ....model.errors_bipe import InputError, InputNotFoundError
from ...common.files import user_path
from ...data.tables import reading


HUB_NAME = "tau/scrolls"
SPLITS = ("train", "validation", "test")
_FEATURES = Features({column: Value("string") for column in ("id", "input", "output")})


def read_split(data: str, task: str, split: str) -> Dataset:
    """The rows of one split of a task: the texts `id`, `input` and `output`, None where a row lacks one.

    Args:
        data: a folder that holds `<task>/<split>.jsonl`, as the archives of SCROLLS do, or a data set of the Hugging
            Face Hub that holds `<task>.zip`: `tau/scrolls`. `datasets` itself does not load that one any more, since
            it is described by a script.
        task: its name in `SCROLLS_TASKS`.
        split: one of `SPLITS`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, holds no rows, or anything but text in these columns.
    """
    folder = user_path(data)
    if not folder.exists() and data.count("/") == 1 and not data.startswith((".", "/", "~")):
        name = f'"{data}" (no local folder, so taken for a data set of the Hugging Face Hub)'
        with reading(name):
            archive = hf_hub_download(data, f"{task}.zip", repo_type="dataset")
            folder = Path(datasets.DownloadManager().extract(archive))
    file = folder / task / f"{split}.jsonl"
    if not file.is_file():
        raise InputNotFoundError(f"data: {data} has no file {task}/{split}.jsonl")
    stat = file.stat()
    # The stamp is there for the cache: a changed file is read again.
    source = {"path": str(file.resolve()), "stamp": f"{stat.st_size} {stat.st_mtime_ns}"}
    with reading(str(file)):
        next(_read_lines(**source))
        return Dataset.from_generator(_read_lines, features=_FEATURES, gen_kwargs=source)


def _read_lines(path: str, stamp: str) -> Iterator[dict[str, str | None]]:
    """Not by the reader of `datasets`, which takes texts that look like dates for dates."""
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"line {number} is no JSON ({error})") from error
            if not isinstance(row, dict) or "input" not in row:
                there = ", ".join(row) if isinstance(row, dict) else line.strip()[:80]
                raise InputError(f"line {number} has no 'input', but {there}")
            row = {column: row.get(column) for column in _FEATURES}
            for column, value in row.items():
                if not isinstance(value, str | None):
                    raise InputError(f"line {number} has {value!r} as {column}, text is needed")
            yield row
