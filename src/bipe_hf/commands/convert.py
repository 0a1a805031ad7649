"""`bipe-hf convert CHECKPOINT OUTPUT`: make a BiPE model of a checkpoint of the BiPE authors, or of a stock one."""

import argparse

from ..model.errors_bipe import InputError
from .separating import add_separators, given_separators


NAME = "convert"
HELP = "make a BiPE model of a checkpoint in the format of the BiPE authors' released code, or of a stock one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    from ..lab.common.encoding_options import encoding_help, flag_type, option_help
    from ..lab.conversion.scaling import SCALINGS
    from ..lab.conversion.stock import ACCEPTED, INTRA_INITS, STOCK_NAMES, stock_options

    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="folder with config.json and the weights (.safetensors or .bin; a .bin is read as weights only and runs"
        " no code); with --from stock also a name on the Hub",
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder to write the converted model to")
    parser.add_argument(
        "--from",
        dest="source",
        choices=("authors", "stock"),
        default="authors",
        help="what CHECKPOINT is: of the BiPE authors' code, or a stock Llama or GPT-NeoX (Pythia), whose weights are"
        " taken over to continue pretraining (default: authors)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every weight, not those alone that are not as they were"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that OUTPUT already holds")
    parser.add_argument(
        "--separator-token-ids",
        metavar="ID",
        type=int,
        nargs="+",
        help="token ids that end a segment, where they are not those of the authors' Llama tokenizer, or instead of"
        " --separators",
    )
    stock = parser.add_argument_group("with --from stock")
    add_separators(stock, default="that of --encoding, or sentences")
    stock.add_argument(
        "--encoding",
        metavar="NAME",
        help=f"{encoding_help(STOCK_NAMES)}; where it can it starts as the stock model and moves from there while it"
        f" trains (encoding_schedule of pretrain). For longer texts without training: dca, hirope,"
        f" {', '.join(SCALINGS)}; the last three are RoPE with the scaling of transformers that has this name",
    )
    stock.add_argument(
        "--factor",
        type=float,
        metavar="X",
        help=f"with --encoding {', '.join(SCALINGS)}: how many times longer texts shall be than CHECKPOINT is declared"
        " for; of dynamic, which follows the length of a text, how much more than that (1 by default)",
    )
    for name, field in stock_options().items():
        choices = ACCEPTED.get(name, field.metadata["choices"])
        stock.add_argument(
            f"--{name.replace('_', '-')}",
            choices=choices,
            **flag_type(field),
            metavar=None if choices else "X",
            help=option_help(field, ACCEPTED, "that of --encoding, else {}").replace("%", "%%"),
        )
    stock.add_argument(
        "--intra-init",
        choices=INTRA_INITS,
        help="what the learned intra table holds at first: zeros change nothing (default: zeros)",
    )
    stock.add_argument(
        "--text",
        metavar="FILE",
        help="text to measure on what the change costs before any training, up to the length that the checkpoint is"
        " declared for (default: 1,024 tokens of the documentation that comes with Python)",
    )
    stock.add_argument("--revision", help="branch, tag or commit of a CHECKPOINT on the Hub (default: main)")


def run(arguments: argparse.Namespace) -> None:
    """Converts and prints what changed, and what that costs."""
    from ..lab.conversion import convert_checkpoint, convert_stock_checkpoint
    from ..lab.conversion.stock import stock_options

    flags = ("encoding", "factor", *stock_options(), "intra_init", "text", "revision")
    given = {name: vars(arguments)[name] for name in flags if vars(arguments)[name] is not None}
    given |= given_separators(arguments)
    if arguments.source == "authors":
        for name in given:
            raise InputError(f"--{name.replace('_', '-')} needs --from stock: the authors' checkpoint decides it")
        report = convert_checkpoint(
            arguments.checkpoint,
            arguments.output,
            overwrite=arguments.overwrite,
            separator_token_ids=arguments.separator_token_ids,
        )
    else:
        if arguments.separator_token_ids is not None:
            for name in given.keys() & {"separators", "levels"}:
                raise InputError(f"--{name} and --separator-token-ids both say what ends a segment: give one")
            given["separators"] = arguments.separator_token_ids
        report = convert_stock_checkpoint(
            arguments.checkpoint, arguments.output, overwrite=arguments.overwrite, **given
        )
    print(report.text(verbose=arguments.verbose))
