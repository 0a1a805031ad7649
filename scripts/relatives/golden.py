"""A folder of numbers that an encoding's authors computed, and how near to them others are."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file


class UnsupportedError(Exception):
    """The package has nothing that computes what a folder holds."""


class Found(NamedTuple):
    """What the package computes for a tensor of a folder."""

    name: str
    """Of the tensor."""
    numbers: torch.Tensor
    of: Callable[[torch.Tensor], torch.Tensor] | None = None
    """What is compared of the tensor, where it is not the whole as it stands."""


class Golden:
    """The numbers of a folder. What is asked for, and what is compared, is remembered.

    Args:
        folder: with `config.json` and `golden.safetensors`.

    Raises:
        OSError: if a file is not there.
    """

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tensors = load_file(folder / "golden.safetensors")
        self.tolerance = self.config.get("tolerance", 0.0)  # none where all are whole numbers
        self.known: set[str] = set()

    @property
    def system(self) -> str:
        """What the field calls it: the name that stands before the paper."""
        return self.config["system"].partition(" (")[0].partition(",")[0]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        self.known.add(name)
        return self.tensors[name]

    def values(self, name: str) -> list[torch.Tensor]:
        """The weight of that name, and the bias where there is one."""
        return [self[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in self]

    def require(self, name: str, value: object) -> None:
        """Raises `UnsupportedError` where a setting of the configuration is another one than the package has."""
        if self.config[name] != value:
            raise UnsupportedError(f"{name}={self.config[name]!r} is not there, only {value!r}")

    def unread(self) -> list[str]:
        """Names of the tensors that nobody has asked for and nothing was compared with."""
        return sorted(self.tensors.keys() - self.known)

    def differences(self, found: Iterable[Found]) -> dict[str, float]:
        """The largest relative difference for each tensor, infinite where shapes or whole numbers differ."""
        differences = {}
        for each in found:
            expected = self[each.name]
            expected = expected if each.of is None else each.of(expected)
            differences[each.name] = max(relative_difference(each.numbers, expected), differences.get(each.name, 0.0))
        return differences


def relative_difference(numbers: torch.Tensor, expected: torch.Tensor) -> float:
    """`max |numbers - expected| / max(1, max |expected|)`; of whole numbers 0 or infinite."""
    if numbers.shape != expected.shape:
        return math.inf
    if not expected.is_floating_point():
        return 0.0 if torch.equal(numbers, expected) else math.inf
    numbers, expected = numbers.detach().double(), expected.double()
    difference = (numbers - expected).abs().max() / expected.abs().max().clamp(min=1)
    return math.inf if difference.isnan() else difference.item()
