"""`bipe-hf plot`: a picture of what `bipe-hf evaluate` measured, or those of a comparison again."""

import argparse
import sys

from ..model.errors_bipe import InputError


NAME = "plot"
HELP = "draw the results of evaluate, or tables and figures of compare again"
DESCRIPTION = """\
Draw what `bipe-hf evaluate` measured, all files in one picture:

  bipe-hf plot runs/both.json --output runs/both.png

or write the tables and figures of `bipe-hf compare` again, or the figures of `bipe-hf evaluate --tasks bipe_passkey`
and the other tasks of this package, from the results alone:

  bipe-hf plot results/compare_python/comparison.json --overwrite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="JSON files of `bipe-hf evaluate --lengths`, one of `bipe-hf evaluate --tasks`, or one comparison.json",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="picture to write, as PNG and as SVG beside it (default: perplexity.png); of a comparison or of"
        " tasks, the folder (default: that of the results)",
    )
    parser.add_argument(
        "--bits-per-byte",
        action="store_true",
        help="draw bits per byte, which compare between models with different tokenizers; perplexities do not",
    )
    parser.add_argument("--title", help="heading of the picture (default: the data measured)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing pictures and tables")


def run(arguments: argparse.Namespace) -> None:
    """Draws, and says where the pictures are."""
    from ..lab.comparison.redraw import is_comparison, redraw
    from ..lab.evaluation.plot import plot
    from ..lab.tasks.redraw import is_task_evaluation, redraw_tasks

    written = note = None
    for kind, is_kind, draw in (
        ("a comparison", is_comparison, redraw),
        ("a measurement of tasks", is_task_evaluation, redraw_tasks),
    ):
        found = [file for file in arguments.results if is_kind(file)]
        if found:
            if len(arguments.results) > 1:
                raise InputError(f"{found[0]} is {kind}, which is drawn alone")
            if arguments.bits_per_byte or arguments.title is not None:
                raise InputError(f"the figures of {kind} take neither --bits-per-byte nor --title")
            written = draw(found[0], arguments.output, overwrite=arguments.overwrite)
    if written is None:
        written, note = plot(
            arguments.results,
            "perplexity.png" if arguments.output is None else arguments.output,
            bits_per_byte=arguments.bits_per_byte,
            title=arguments.title,
            overwrite=arguments.overwrite,
        )
    if note is not None:
        print(note, file=sys.stderr)
    print(f"written: {', '.join(map(str, written))}")
