"""The tasks of this package, by name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...model.errors_bipe import InputError
from ..common.mappings import read_mapping
from .passkey.task import Passkey
from .shipped import ShippedTask
from .synthetic.task import GeneratedTask


SHIPPED: dict[str, ShippedTask] = {
    task.name: task
    for task in (Passkey("bipe_passkey"), GeneratedTask("bipe_arithmetic"), GeneratedTask("bipe_chain"))
}
"""By the names that their files give them. Those of the harness differ from all of them."""


def read_metadata(requests: Sequence[str], metadata: dict[str, Any]) -> dict[str, Any]:
    """The settings of each task of this package that is asked for, of the class that the task says.

    Args:
        requests: names of tasks.
        metadata: settings by name.

    Raises:
        InputError: a setting that no such task has, or a value that is not accepted.
    """
    asked = {name: SHIPPED[name].settings_class for name in requests if name in SHIPPED}
    known = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in asked.items()}
    every = sorted(set().union(*known.values()))
    for key in metadata:
        if key not in every:
            reads = f"{', '.join(asked)} read {', '.join(every)}" if asked else f"only {', '.join(SHIPPED)} read it"
            raise InputError(f"metadata: unknown key {key!r}; {reads}")
    return {
        name: read_mapping(
            f"metadata of {name}", kind, {key: value for key, value in metadata.items() if key in known[name]}
        )
        for name, kind in asked.items()
    }
