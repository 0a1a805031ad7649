"""`bipe-hf plot`: a picture of what `bipe-hf evaluate` measured."""

import argparse
import sys


NAME = "plot"
HELP = "draw perplexity against test length from the results of evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="JSON file written by `bipe-hf evaluate`")
    parser.add_argument(
        "--output",
        default="perplexity.png",
        metavar="FILE",
        help="picture to write, as PNG and as SVG beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--bits-per-byte",
        action="store_true",
        help="draw bits per byte, which compare between models with different tokenizers; perplexities do not",
    )
    parser.add_argument("--title", help="heading of the picture (default: the data measured)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing pictures")


def run(arguments: argparse.Namespace) -> None:
    """Draws, and says where the pictures are."""
    from ..lab.evaluation.plot import plot

    written, note = plot(
        arguments.results,
        arguments.output,
        bits_per_byte=arguments.bits_per_byte,
        title=arguments.title,
        overwrite=arguments.overwrite,
    )
    if note is not None:
        print(note, file=sys.stderr)
    print(f"written: {', '.join(map(str, written))}")
