"""The command line: `bipe-hf <command> --help` explains each command."""

import argparse
import errno
import importlib
import importlib.metadata
import os
import select
import sys

from ..model.errors_bipe import InputError


# One module of this package each. A module has NAME, HELP (one line), add_arguments(parser) and run(arguments).
COMMANDS = (
    "pretrain",
    "finetune",
    "synthetic",
    "records",
    "evaluate",
    "compare",
    "kinds",
    "scrolls",
    "segments",
    "plot",
    "generate",
    "serve",
    "convert",
    "push",
    "env",
)


# What the machine refuses: no fault of the program, whoever met it.
MACHINE_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "Not enough disk space")
# As a shell reports a program that is ended by SIGPIPE.
PIPE_STATUS = 141
DEBUG = "BIPE_HF_DEBUG"
DEBUG_HELP = f"show the traceback of every error (before pretrain, finetune and synthetic, or set {DEBUG})"


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `bipe-hf`; `None` takes them from the process.

    Returns:
        Exit status: 0, or what the command returns; 2 after bad input, with one line on stderr (with `bipe-hf --debug
        COMMAND`, or the environment variable `BIPE_HF_DEBUG`, its traceback), and where the machine refuses something,
        as a full disk does; 130 after Ctrl-C; 141 where nobody reads the output any more, as of `bipe-hf env | head
        -1`. `argparse` itself leaves with `SystemExit` (0 after `--help`, 2 after a bad flag). An exception that is no
        comment on the input is a defect of the program and keeps its traceback.
    """
    debug = bool(os.environ.get(DEBUG))
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        debug |= arguments.debug
        status = arguments.run(arguments) or 0
        sys.stdout.flush()  # here, and not when Python ends, it shows whether anybody reads it
        return status
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        return PIPE_STATUS
    except KeyboardInterrupt as interrupt:
        print(f"bipe-hf: interrupted{f': {interrupt}' if interrupt.args else ''}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not (isinstance(error, InputError) or _is_of_the_machine(error)):
            raise
        print(f"bipe-hf: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _parse(argv: list[str]) -> argparse.Namespace:
    chosen = next((word for word in argv if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="bipe-hf",
        description="Train, measure and use language models with Bilevel Positional Encoding (BiPE).",
        epilog="`bipe-hf COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bipe-hf {importlib.metadata.version('bipe-hf')}")
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"{__name__}.{name}")
        subparser = subparsers.add_parser(
            command.NAME, help=command.HELP, description=command.HELP, allow_abbrev=False
        )
        subparser.set_defaults(run=command.run)
        if name == chosen:  # the arguments of `pretrain` take seconds to collect
            command.add_arguments(subparser)
            if subparser.get_default("overrides") is None:  # else it is a key of the Trainer
                subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)

    arguments, unknown = parser.parse_known_args(argv)
    if "overrides" in arguments:
        arguments.overrides = unknown
    elif unknown:
        subparsers.choices[chosen].error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _is_output_closed() -> bool:
    """Whether nobody reads standard output; then it goes nowhere from now on, so that Python ends in silence."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether the machine refused something. Libraries that are no Python say so in words alone."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            return True
        if any(words in str(error) for words in FULL_DISK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
