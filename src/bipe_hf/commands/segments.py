"""`bipe-hf segments TEXT`: how long the segments of a text are, in numbers, in a picture and on a page."""

import argparse

from . import measuring, separating


NAME = "segments"
HELP = "measure and show the segments into which a tokenizer's separators divide a text"
DESCRIPTION = """\
Measure the segments of a text: tokens per segment, segments per block at several lengths, positions beyond the intra
table; with levels inside segments the same of their units, and which tokens hide separators. With --output also write
them as JSON and Markdown, histograms, and a page that shows the text with its segments and units coloured and the
indices of each token.

  bipe-hf segments book.txt --tokenizer runs/bipe_rope --output runs/segments
  bipe-hf segments python --tokenizer EleutherAI/pythia-160m --separators lines
  bipe-hf segments rows.txt --tokenizer EleutherAI/pythia-160m --levels lines fields

All documents of TEXT are read, training ones before validation ones, one behind the other as in training, each closed
by the end-of-text token.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "text",
        metavar="TEXT",
        help="what to read: 'python' (the documentation and sources of this Python), a text file, a folder, a saved"
        " data set, or a data set on the Hub as name or name:config",
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="FOLDER|HUB",
        help="a tokenizer, or a model, which brings its own separators, levels and max_segment_length",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a tokenizer or model on the Hub (default: main)")
    separating.add_separators(parser, default="those of the model, else sentences")
    parser.add_argument(
        "--max-segment-length",
        type=int,
        metavar="N",
        help="rows of the intra-segment table (default: those of the model, else 1024)",
    )
    parser.add_argument(
        "--lengths",
        default="128,512,1024,4096",
        help="block lengths in tokens, comma separated (default: %(default)s)",
    )
    parser.add_argument("--text-column", default="text", help="column that holds the text (default: text)")
    parser.add_argument("--output", metavar="FOLDER", help="folder to write to (default: only print the numbers)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote to --output")


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""

    lengths = measuring.integers("--lengths", arguments.lengths)

    from ..lab.reports import report_segments, segment_table

    report = report_segments(
        arguments.text,
        tokenizer=arguments.tokenizer,
        max_segment_length=arguments.max_segment_length,
        revision=arguments.revision,
        lengths=lengths,
        text_column=arguments.text_column,
        output=arguments.output,
        overwrite=arguments.overwrite,
        command=measuring.command_line(),
        **separating.given_separators(arguments),
    )
    print(segment_table(report))
    if arguments.output is not None:
        print(f"\nwritten to {arguments.output}")
