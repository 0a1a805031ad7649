"""`bipe-hf segments TEXT`: how long the segments of a text are, in numbers, in a picture and on a page."""

import argparse

from . import measuring


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
    separators = parser.add_mutually_exclusive_group()
    separators.add_argument(
        "--separators",
        help="tokens that end a segment: sentences, lines, clauses, authors, or a JSON list of token ids and strings"
        " such as '[\".\", 13]' (default: those of the model, else sentences)",
    )
    separators.add_argument(
        "--levels",
        metavar="LEVEL",
        nargs="+",
        help="instead of --separators: those of segments and of each level inside them, coarse to fine, such as lines"
        " fields; each one a preset or a JSON list, or all in one JSON list",
    )
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

    from ..lab.common.messages import parsed_json
    from ..lab.reports import report_segments, segment_table

    levels = arguments.levels
    if levels is not None:
        levels = [parsed_json("--levels", level) for level in levels]
        if len(levels) == 1 and isinstance(levels[0], list):
            levels = levels[0]
    report = report_segments(
        arguments.text,
        tokenizer=arguments.tokenizer,
        separators=parsed_json("--separators", arguments.separators),
        max_segment_length=arguments.max_segment_length,
        revision=arguments.revision,
        lengths=lengths,
        text_column=arguments.text_column,
        output=arguments.output,
        overwrite=arguments.overwrite,
        levels=levels,
        command=measuring.command_line(),
    )
    print(segment_table(report))
    if arguments.output is not None:
        print(f"\nwritten to {arguments.output}")
