"""`bipe-hf convert CHECKPOINT OUTPUT`: import a checkpoint of the BiPE authors."""

import argparse


NAME = "convert"
HELP = "import a checkpoint in the format of the BiPE authors' released code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="folder with config.json and the weights (.safetensors or .bin; a .bin is read as weights only and runs"
        " no code)",
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder to write the converted model to")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that OUTPUT already holds")
    parser.add_argument(
        "--separator-token-ids",
        metavar="ID",
        type=int,
        nargs="+",
        help="token ids that end a segment, where they are not those of the authors' Llama tokenizer",
    )


def run(arguments: argparse.Namespace) -> None:
    """Converts and prints what became of every weight."""
    from ..conversion import convert_checkpoint

    report = convert_checkpoint(
        arguments.checkpoint,
        arguments.output,
        overwrite=arguments.overwrite,
        separator_token_ids=arguments.separator_token_ids,
    )
    print(report)
