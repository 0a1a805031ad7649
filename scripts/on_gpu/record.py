"""What was found on a machine, one file a part, written after every row; a later call goes on with what is missing."""

import json
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from benchmarking.code import code_hash
from benchmarking.measurements import NotMeasurableError

import bipe_hf
from bipe_hf.model.travel_bipe import write_whole


@dataclass(frozen=True)
class Machine:
    """Where everything runs, and how large it is."""

    device: str
    """`cuda`, or `cpu` for a dry run, in which all is tiny."""

    @property
    def is_dry(self) -> bool:
        return self.device == "cpu"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "device": "CPU, a dry run" if self.is_dry else torch.cuda.get_device_name(),
            "driver": "none" if self.is_dry else f"CUDA {torch.version.cuda}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "bipe_hf": bipe_hf.__version__,
            "model code": code_hash(),
        }


@dataclass(frozen=True)
class Row:
    """One thing to find out."""

    name: str
    find: Callable[[Machine], dict]
    """What stands in the file. It raises `NotMeasurableError` with the reason where the machine cannot say."""
    most_seconds: float = 60
    """No call begins it with less time left."""
    turn: int = 0
    """Rows of a lower one come first, whatever their part: what counts most, and what is quick."""


class DeviceLostError(Exception):
    """After an error of the device nothing else can run in this process."""


class Part:
    """The rows of one file.

    Args:
        path: of the file.
        machine: where they are found.
        fresh: whether a file of another machine, other versions or other model code may go.

    Raises:
        ValueError: if the file is such a one and may not.
    """

    def __init__(self, path: Path, machine: Machine, fresh: bool):
        self.path, self.rows = path, {}
        self.environment = machine.environment
        if not path.exists():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        differs = {key: value for key, value in self.environment.items() if found["environment"].get(key) != value}
        if not differs:
            self.rows = found["rows"]
        elif not fresh:
            key, value = next(iter(differs.items()))
            raise ValueError(
                f"{path} was made with {key} {found['environment'].get(key)}, this is {value}: --fresh starts over,"
                " --output takes another folder"
            )

    def lacks(self, row: Row) -> bool:
        """Whether it is still to be found; what ended in an error is."""
        return row.name not in self.rows or "error" in self.rows[row.name]

    def find(self, row: Row, machine: Machine) -> dict:
        """Finds a row and writes the file.

        Raises:
            DeviceLostError: after an error of the device.
        """
        try:
            found = row.find(machine)
        except NotMeasurableError as reason:
            found = {"not_run": str(reason)}
        except Exception as error:  # one row shall not cost the others the machine
            traceback.print_exc()
            found = {"ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        self.rows[row.name] = found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"environment": self.environment, "rows": self.rows}, indent=2)
        write_whole(self.path, text + "\n")
        if "CUDA error" in found.get("error", ""):
            raise DeviceLostError(f"{row.name}: {found['error']}")
        return found
