"""`bipe-hf kinds FOLDER`: the same comparison on many kinds of text, and the map of where each encoding wins."""

import argparse

from . import measuring


NAME = "kinds"
HELP = "compare encodings on many kinds of text: one table and one figure of where each wins"
DESCRIPTION = """\
Run the comparison of each kind of text, as `bipe-hf compare` does, and draw the map of all of them.

  bipe-hf kinds configs/compare_kinds --output results/kinds

FOLDER has one file *.yaml for each kind. Its results go to OUTPUT/<kind>, its models to runs/compare/<kind>. The map,
OUTPUT/kinds.md and the figure beside it, is written again after each measurement. The same command goes on where it
was stopped. Two processes may share the work, each with kinds of its own: --only tables novels, --only python verse.
The exit status is 1 where a kind or an entry failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="FOLDER", help="folder with a file of a comparison for each kind of text")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        default="runs/kinds",
        help="folder for the map, with a folder of each kind's results (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", metavar="KIND", help="run these kinds only, in this order")
    parser.add_argument("--draw-only", action="store_true", help="run nothing: draw the map of the results there are")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="drop the results of the kinds, and train again what was trained with other settings or on other data",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compares and draws, says where the map is, and returns the exit status."""
    from ..lab.kinds import compare_kinds, draw_map, is_drawn, read_kinds
    from ..model.errors_bipe import InputError

    kinds = read_kinds(arguments.folder)
    if arguments.draw_only:
        if arguments.only or arguments.overwrite:
            raise InputError("draw-only draws the results there are: it takes neither only nor overwrite")
        print(f"written: {', '.join(map(str, draw_map(kinds, arguments.output)))}")
        return 0
    try:
        failed = compare_kinds(
            kinds,
            arguments.output,
            only=arguments.only,
            overwrite=arguments.overwrite,
            command=measuring.command_line(),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "the same command goes on from here"
            + ("; with --overwrite, what is trained stays and is measured again" if arguments.overwrite else "")
        ) from None
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    print(f"written to {arguments.output}" if is_drawn(arguments.output) else "nothing is written: there is no result")
    return 1 if failed else 0
