"""Ctrl-C while a command is still importing: one line and status 130, as later on.

The libraries take seconds. [`bipe_hf.commands.main`] is there only when they are.
"""

import os
import sys
from types import TracebackType


def is_command(words: list[str]) -> bool:
    """Whether these words started `bipe-hf`, or `python -m bipe_hf` or a module of it."""
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].split(".")[0] == "bipe_hf"
    return any(os.path.basename(word) in ("bipe-hf", "bipe-hf.exe") for word in words[:2])


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What `sys.excepthook` does, but for Ctrl-C."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("bipe-hf: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if is_command(sys.orig_argv) and sys.excepthook is sys.__excepthook__:
    sys.excepthook = end_quietly
