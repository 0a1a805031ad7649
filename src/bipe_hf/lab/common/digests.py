"""SHA-256 of large files and long tables, kept in the cache of `datasets` so that each is read once."""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

from ...model.travel_bipe import write_whole


# A file may change again without another time, as far as its file system counts time.
CLOCK_TICK = 2.0
ROWS_AT_ONCE = 1000


def file_digest(file: Path) -> str:
    """The SHA-256 of the bytes of a file, in hexadecimal.

    It is kept by path, size, inode and the two times of the file that a change moves: the second one (ctime) no
    program can set back. What was written a moment ago is read again.
    """
    file = file.resolve()
    key = _identity(file)
    if max(file.stat().st_mtime, file.stat().st_ctime) > time.time() - CLOCK_TICK:
        return _read(file)

    def read() -> str | None:
        digest = _read(file)
        return digest if _identity(file) == key else None

    return _kept(key, read) or _read(file)


def _identity(file: Path) -> tuple[Any, ...]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def rows_digest(*splits: Dataset) -> str:
    """The SHA-256 of all values of `splits`, in hexadecimal.

    A zero byte ends each value's text (`str`), a one each split. It depends on nothing but the values, however they
    lie in memory. It is kept by the fingerprints of `datasets`.
    """
    key = [(rows._fingerprint, len(rows), rows.column_names) for rows in splits]

    def read() -> str:
        digest = hashlib.sha256()
        for rows in splits:
            table = rows.with_format("arrow")
            for start in range(0, len(rows), ROWS_AT_ONCE):
                digest.update(_values(table, rows.with_format(None), slice(start, start + ROWS_AT_ONCE)))
            digest.update(b"\1")
        return digest.hexdigest()

    return _kept(key, read)


def _values(table: Dataset, rows: Dataset, chosen: slice) -> memoryview:
    """The text of some rows' values, row by row, a zero byte behind each; what is text stays in Arrow for it."""
    columns = []
    for name, column in zip(table.column_names, table[chosen].columns, strict=True):
        if rows.features[name] in (Value("string"), Value("large_string")):
            columns.append(pc.fill_null(column.cast(pa.large_string()), "None").combine_chunks())
        else:
            values = rows.select_columns(name)[chosen][name]
            columns.append(pa.array(list(map(str, values)), pa.large_string()))
    end, separator = (pa.scalar(text, pa.large_string()) for text in ("", "\0"))
    joined = pc.binary_join_element_wise(*columns, end, separator)
    return memoryview(joined.buffers()[2])[: pc.sum(pc.binary_length(joined)).as_py()]


def _kept(key: Any, compute: Callable[[], str | None]) -> str | None:
    """The digest that is kept for `key`, else what is computed now; None is not kept."""
    name = hashlib.sha256(repr(key).encode()).hexdigest()
    file = Path(datasets.config.HF_DATASETS_CACHE, "bipe_hf", "digests", name)
    if file.is_file() and re.fullmatch("[0-9a-f]{64}", kept := file.read_text(encoding="utf-8")):
        return kept
    digest = compute()
    if digest is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, digest)
    return digest
