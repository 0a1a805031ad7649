"""The versions that pyproject.toml asks for."""

import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement


PROJECT = Path(__file__).parents[2] / "pyproject.toml"
NEEDED = ("torch", "transformers")


def too_old() -> list[str]:
    """One text for each of the libraries that is not in the version that it must be."""
    texts = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = {each.name: each.specifier for each in map(Requirement, texts)}
    return [
        f"{name} {version(name)} is installed, {name}{wanted[name]} is needed"
        for name in NEEDED
        if not wanted[name].contains(version(name).partition("+")[0], prereleases=True)
    ]


def check_versions() -> None:
    """Ends the program where one is older."""
    if found := too_old():
        sys.exit(f"gpu.py: error: {'; '.join(found)}")
