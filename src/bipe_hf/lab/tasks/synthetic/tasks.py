"""The tasks by the names that the key `task` takes."""

from ....model.errors_bipe import InputError, did_you_mean
from .arithmetic import Arithmetic
from .chain import Chain
from .generator import Generator


TASKS = {"arithmetic": Arithmetic, "chain": Chain}


def find_task(name: str | None) -> type[Generator]:
    """The generator of that task; raises `ValueError` where there is none."""
    if not isinstance(name, str) or name not in TASKS:
        hint = did_you_mean(name, TASKS) if isinstance(name, str) else ""
        raise InputError(f"task: {name!r} given, one of {', '.join(TASKS)} is needed{hint}")
    return TASKS[name]
