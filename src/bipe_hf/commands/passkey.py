"""`bipe-hf passkey`: how often saved models find a number hidden in a long text, by length and depth."""

import argparse
import shlex
import sys

from ..model.errors_bipe import InputError
from . import measuring


NAME = "passkey"
HELP = "measure how often saved models retrieve a pass key, by length of the text and depth of the key"
DESCRIPTION = """\
Pass key retrieval (Mohtashami and Jaggi 2023): a number stands somewhere in a long text that says nothing else, and
the model is asked for it. Prints and writes the share of keys found at each length and depth, and draws it.

  bipe-hf passkey runs/bipe_alibi runs/rope --lengths 256,512,1024 --depths 0,0.5,1 --samples 20

A length counts every token of the prompt: task, text, key, question and a beginning-of-text token where the tokenizer
puts one. A prompt takes as much text as fits, so it is at most that long; the answer comes on top. A key is found if
the first number that the model writes, greedily, is that key. Depth 0 puts it before the text, 1 behind it. The same
seed gives the same prompts to every model with the same tokenizer.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    measuring.add_model_arguments(parser, several=True)
    parser.add_argument("--lengths", required=True, help="tokens of a prompt, comma separated: 256,512,1024")
    parser.add_argument(
        "--depths", default="0,0.25,0.5,0.75,1", help="places of the key, comma separated (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="keys at each place (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the keys and of the text (default: 0)")
    parser.add_argument(
        "--data",
        help="hide the key in the held-out text of this instead of the sentences of the paper: 'python', a text file,"
        " a folder, a saved data set, or a data set on the Hub as name or name:config",
    )
    parser.add_argument(
        "--text-column", default=argparse.SUPPRESS, help="with --data: column that holds the text (default: text)"
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="tokens per batch: speed and memory (default: %(default)s)"
    )
    measuring.add_output_arguments(
        parser,
        "passkey.json",
        "JSON file to write, completed after each place; the table goes beside it as .md, the heat map of each model"
        " as .png and .svg",
        "keep an existing output and measure what it lacks",
    )
    measuring.add_machine_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, writes the results and prints the table."""
    options = dict(vars(arguments))
    options["lengths"] = measuring.integers("--lengths", arguments.lengths)
    try:
        options["depths"] = [float(part) for part in arguments.depths.split(",")]
    except ValueError as error:
        raise InputError(f"--depths: {arguments.depths!r} is not a comma-separated list of numbers") from error
    if arguments.data is None and "text_column" in options:
        raise InputError("--text-column: only --data takes this")
    del options["run"], options["debug"]

    from ..lab.tasks.passkey.run import measure_passkey, passkey_table

    evaluation = measure_passkey(**options, command=shlex.join(["bipe-hf", *sys.argv[1:]]))
    print(f"\n{passkey_table(evaluation.results)}\n\nwritten to {arguments.output}")
