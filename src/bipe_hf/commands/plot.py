"""`bipe-hf plot`: a picture of what `bipe-hf evaluate` measured, or those of a comparison again."""

import argparse
import sys

from ..model.errors_bipe import InputError


NAME = "plot"
HELP = "draw perplexity against test length from the results of evaluate, or tables and figures of compare again"
DESCRIPTION = """\
Draw what `bipe-hf evaluate` measured, all files in one picture:

  bipe-hf plot runs/both.json --output runs/both.png

or write the tables and figures of `bipe-hf compare` again, from its results alone:

  bipe-hf plot results/compare_python/comparison.json --overwrite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="JSON files of `bipe-hf evaluate`, or one comparison.json"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="picture to write, as PNG and as SVG beside it (default: perplexity.png); of a comparison, the folder"
        " (default: that of the results)",
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

    comparisons = [file for file in arguments.results if is_comparison(file)]
    if comparisons:
        if len(arguments.results) > 1:
            raise InputError(f"{comparisons[0]} is a comparison, which is drawn alone")
        if arguments.bits_per_byte or arguments.title is not None:
            raise InputError("the figures of a comparison take neither --bits-per-byte nor --title")
        written, note = redraw(comparisons[0], arguments.output, overwrite=arguments.overwrite), None
    else:
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
