"""What is raised for bad input, so that a command can tell it from a defect."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that was given cannot be used.

    The message is one line: what it is, what was given, what is accepted. The command line prints the line alone.
    Every other exception is a defect, here or in a library, and keeps its traceback.
    """


class InputNotFoundError(InputError, FileNotFoundError):
    """A file or folder that was named is not there."""


class InputExistsError(InputError, FileExistsError):
    """A file or folder is there already, and nothing says that it may be replaced."""


class InputOSError(InputError, OSError):
    """The machine or the network does not let happen what was asked for."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean x?"` where a known word is close or has this one as a part, else nothing.

    Args:
        word: as it was given.
        known: the words that are accepted.
    """
    known = sorted(known, key=len)
    close = difflib.get_close_matches(word, known, n=1) or [each for each in known if len(word) > 3 and word in each]
    return f"; did you mean {close[0]}?" if close else ""


def check_has_all_heads(what: str, expected: int, got: int, name: str = "heads") -> None:
    """Raises `InputError` where attention has another number of heads than an encoding holds numbers for.

    Args:
        what: begins the message, which goes on with the number of heads.
        expected: number of heads of the encoding.
        got: number of heads that attention has, a part of them under tensor parallelism.
        name: of such a head.
    """
    if got != expected:
        raise InputError(
            f"{what} {expected} {name}, attention got {got}: tensor parallelism is not supported with it. Use"
            " inter_encoding='rope', or share the work by FSDP or DDP"
        )
