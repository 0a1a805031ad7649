"""Libraries that the base install does not bring."""

import importlib.util

from ...model.errors_bipe import InputError
from .messages import install_hint


def is_installed(library: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(library) is not None


def require(library: str, extra: str, what: str) -> None:
    """Raises `ValueError` where a library is not installed.

    Args:
        library: its name when it is imported.
        extra: of this package, which brings it.
        what: needs it, for the message.
    """
    if not is_installed(library):
        raise InputError(f"{what} needs {library}, which is not installed; {install_hint(extra)}")
