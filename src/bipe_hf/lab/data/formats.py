"""What the bytes of a file are: text, text that was compressed, or something that no text is read from."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from ...model.errors_bipe import InputError
from ..common.extras import is_installed


COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Endings that stand behind that of the content: `rows.csv.gz`."""

# By the bytes that a file of the format begins with, whatever it is called.
_COMPRESSIONS: dict[bytes, tuple[str, Callable]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_NO_TEXT = {
    b"PK\3\4": "a zip archive or an office document: unpack it, or save it as text",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"\x04\x22\x4d\x18": "compressed with lz4: unpack it",
    b"%PDF": "a PDF document: extract its text",
    b"\xd0\xcf\x11\xe0": "an office document: save it as text",
    b"PAR1": "a Parquet table: its name must end in .parquet",
    b"ARROW1": "an Arrow table: its name must end in .arrow",
    b"ORC": "an ORC table: save it as Parquet",
    b"Obj\1": "an Avro file: save it as Parquet or JSON lines",
    b"SQLite format 3": "an SQLite database: export its tables",
    b"\x89HDF": "an HDF5 file: save its tables as Parquet",
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_TAR, _TAR_AT = b"ustar", 257


def content_suffix(path: Path) -> str:
    """The ending of what a file holds, in lower case: `.csv` of `Rows.CSV.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def read_text_file(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, plain or compressed with gzip, bzip2, xz or zstd.

    Line ends become newlines, as Python reads text. Raises `InputError` for what is no such text, with what it is.
    """
    data = read_bytes(path)
    check_is_text(path, data)
    if data.startswith(_UTF_16):
        raise InputError(f"{path} is UTF-16 text: convert it (iconv -f utf-16 -t utf-8)")
    if 10 * data.count(0) > len(data):
        raise InputError(f"{path} is no text, but full of NUL bytes (UTF-16? then iconv -f utf-16 -t utf-8)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it or leave it out") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_is_text(path: Path, data: bytes) -> None:
    """Refuses what the bytes of a file show to be an archive, a document or another thing that is no text."""
    for magic, what in _NO_TEXT.items():
        if data.startswith(magic):
            raise InputError(f"{path} is {what}")
    if data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        raise InputError(f"{path} is a tar archive: unpack it")


def read_bytes(path: Path) -> bytes:
    """What is in a file, unpacked where it is compressed. Raises `InputError` where that cannot be done."""
    with path.open("rb") as file:
        beginning = file.read(8)
    for magic, (name, opened) in _COMPRESSIONS.items():
        if beginning.startswith(magic):
            return _unpacked(path, name, opened)
    if beginning.startswith(_ZSTD):
        check_zstd(path)
        import zstandard

        try:
            return _unpacked(path, "zstd", zstandard.open)
        except zstandard.ZstdError as error:
            raise InputError(f"{path} is compressed with zstd and damaged ({error})") from error
    return path.read_bytes()


def check_zstd(path: Path) -> None:
    """Refuses a file that is compressed with zstd where the library for it is missing."""
    if not is_installed("zstandard"):
        raise InputError(f"{path} is compressed with zstd: pip install zstandard, or unpack it (unzstd)")


def _unpacked(path: Path, name: str, opened: Callable) -> bytes:
    try:
        with opened(path, "rb") as file:
            return file.read()
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is compressed with {name} and damaged ({error})") from error
