"""Libraries that the base install does not bring."""

import importlib.util

from ...model.errors_bipe import InputError
from .messages import install_hint


def is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def require(library: str, extra: str, what: str) -> None:
    """Raise `ValueError` where `library`, which `what` needs and `extra` of this package brings, is not installed."""
    if not is_installed(library):
        raise InputError(f"{what} needs {library}, which is not installed; {install_hint(extra)}")
