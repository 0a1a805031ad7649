"""Flags that the commands which measure models have in common."""

import argparse
import shlex
import sys

from ..model.errors_bipe import InputError


MODEL = "folder that holds a model and its tokenizer, or the name of one on the Hub"


def add_model_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds `MODEL`, as `model`, or as the list `models`, and `--revision`."""
    if several:
        parser.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    else:
        parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--revision", help="branch, tag or commit of a MODEL on the Hub (default: main)")


def command_line() -> str:
    """The command that runs, as results record it."""
    return shlex.join(["bipe-hf", *sys.argv[1:]])


def add_output_arguments(parser: argparse.ArgumentParser, output: str, help_text: str, resume_help: str) -> None:
    """Adds `--output`, `--overwrite` and `--resume`.

    Args:
        parser: of the command.
        output: default of `--output`.
        help_text: of `--output`, without the default.
        resume_help: of `--resume`.
    """
    group = parser.add_argument_group("results")
    group.add_argument("--output", default=output, help=f"{help_text} (default: %(default)s)")
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace an existing output")
    existing.add_argument("--resume", action="store_true", help=resume_help)


def add_machine_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds `--device`, `--dtype` and `--attn-implementation`; returns their group."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", help="torch device such as cpu or cuda:0 (default: the GPU where there is one)")
    group.add_argument(
        "--dtype", default="auto", help="auto (as saved), float32, bfloat16 or float16 (default: %(default)s)"
    )
    group.add_argument("--attn-implementation", help="eager, sdpa, ... (default: the model's own)")
    return group


def integers(name: str, text: str) -> list[int]:
    """The whole numbers of a comma-separated list; raises `ValueError`, which names the flag."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name}: {text!r} is not a comma-separated list of whole numbers") from error
