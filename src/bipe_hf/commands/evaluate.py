"""`bipe-hf evaluate`: perplexity of saved models against test length."""

import argparse
import shlex
import sys


NAME = "evaluate"
HELP = "measure the perplexity of saved models at several lengths"
DESCRIPTION = """\
Measure the perplexity of saved models at several test lengths and print the tables.

  bipe-hf evaluate runs/bipe_rope runs/rope --lengths 256,512,1024

Protocols (a result means nothing without the name of its protocol):
  blocks   non-overlapping blocks; every token is scored but the first of each block
  sliding  a window that moves by --stride tokens; only tokens new to it are scored
  tail     non-overlapping blocks; the last 256 tokens of each are scored

Documents are concatenated, whatever the models were trained with, and the text is cut to a multiple of the longest
length, so that every length covers the same text. Perplexities of models with different tokenizers do not compare;
bits per byte do.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder that holds a model and its tokenizer")
    parser.add_argument("--lengths", required=True, help="test lengths in tokens, comma separated: 256,512,1024")
    parser.add_argument("--protocol", default="blocks", help="one or several, comma separated (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=256, help="tokens the sliding window moves by (default: 256)")
    data = parser.add_argument_group("text")
    data.add_argument(
        "--data",
        default="python",
        help="what to read: 'python' (the documentation and sources of this Python), a text file, a folder, a saved "
        "data set, or a data set on the Hub as name or name:config (default: %(default)s)",
    )
    data.add_argument("--split", default="validation", help="train or validation (default: %(default)s)")
    data.add_argument("--text-column", default="text", help="column that holds the text (default: %(default)s)")
    data.add_argument(
        "--validation-fraction",
        type=float,
        help="part of the documents held out where the data has no splits (default: as the models were trained)",
    )
    data.add_argument("--streaming", action="store_true", help="read a large data set piece by piece")
    data.add_argument("--max-tokens", type=int, help="score at most so many tokens of the text (default: all)")
    output = parser.add_argument_group("results")
    output.add_argument(
        "--output",
        default="evaluation.json",
        help="JSON file to write, completed after each result; the tables go beside it as .md (default: %(default)s)",
    )
    existing = output.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace an existing output")
    existing.add_argument("--resume", action="store_true", help="keep an existing output and measure what it lacks")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--batch-tokens", type=int, default=8192, help="tokens per batch: speed and memory (default: %(default)s)"
    )
    machine.add_argument("--device", help="torch device such as cpu or cuda:0 (default: the GPU where there is one)")
    machine.add_argument(
        "--dtype", default="auto", help="auto (as saved), float32, bfloat16 or float16 (default: %(default)s)"
    )
    machine.add_argument("--attn-implementation", help="eager, sdpa, ... (default: the model's own)")


def run(arguments: argparse.Namespace) -> None:
    """Measures, writes the results and prints the tables."""
    lengths = _integers("--lengths", arguments.lengths)

    from ..evaluation import evaluate, text_table

    evaluation = evaluate(
        arguments.models,
        lengths,
        data=arguments.data,
        split=arguments.split,
        text_column=arguments.text_column,
        validation_fraction=arguments.validation_fraction,
        streaming=arguments.streaming,
        protocols=[name.strip() for name in arguments.protocol.split(",")],
        stride=arguments.stride,
        max_tokens=arguments.max_tokens,
        batch_tokens=arguments.batch_tokens,
        device=arguments.device,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        output=arguments.output,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        command=shlex.join(["bipe-hf", *sys.argv[1:]]),
    )
    print(f"\n{text_table(evaluation.results)}\n\nwritten to {arguments.output}")


def _integers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is not a comma-separated list of whole numbers") from error
