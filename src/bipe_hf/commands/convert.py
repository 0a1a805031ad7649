"""`bipe-hf convert CHECKPOINT OUTPUT`: make a BiPE model of a checkpoint of the BiPE authors, or of a stock one."""

import argparse

from ..model.configuration_bipe import INTRA_ENCODINGS
from ..model.errors_bipe import InputError


NAME = "convert"
HELP = "make a BiPE model of a checkpoint in the format of the BiPE authors' released code, or of a stock one"

STOCK_FLAGS = (
    "inter_encoding",
    "intra_encoding",
    "segmentation",
    "separators",
    "max_segment_length",
    "alibi_slope_scale",
    "hybrid_max_period",
    "hybrid_alibi_scale",
    "hybrid_alibi_power",
    "intra_init",
    "revision",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    from ..lab.conversion.stock import STOCK_ENCODINGS, STOCK_SEGMENTATIONS

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
    stock.add_argument(
        "--separators",
        metavar="PRESET",
        help="tokens that end a segment: sentences, lines, clauses or authors (default: sentences)",
    )
    stock.add_argument(
        "--inter-encoding", choices=STOCK_ENCODINGS, help="relative encoding over segments (default: rope)"
    )
    stock.add_argument(
        "--intra-encoding", choices=INTRA_ENCODINGS, help="absolute encoding inside a segment (default: learned)"
    )
    stock.add_argument(
        "--segmentation",
        choices=STOCK_SEGMENTATIONS,
        help="what a segment is: ends with a separator token, each token, the whole text (default: separators)",
    )
    stock.add_argument(
        "--max-segment-length", metavar="N", type=int, help="rows of the intra-segment table (default: 1024)"
    )
    stock.add_argument(
        "--alibi-slope-scale",
        metavar="X",
        type=float,
        help="factor on the ALiBi slopes: 96 for BiPE-ALiBi, 1 for plain ALiBi (default: 96)",
    )
    stock.add_argument(
        "--hybrid-max-period",
        metavar="TOKENS",
        type=float,
        help="hybrid: rotary pairs of at most this period go on turning with the token index",
    )
    stock.add_argument(
        "--hybrid-alibi-scale", metavar="FACTOR", type=float, help="hybrid: factor on the ALiBi slopes (default: 4)"
    )
    stock.add_argument(
        "--hybrid-alibi-power",
        metavar="POWER",
        type=float,
        help="hybrid: the slopes are raised to this before, from 0 to 1 (default: 1)",
    )
    stock.add_argument(
        "--intra-init",
        choices=("zeros", "normal"),
        help="what the learned intra-segment table holds at first: zeros change nothing (default: zeros)",
    )
    stock.add_argument("--revision", help="branch, tag or commit of a CHECKPOINT on the Hub (default: main)")


def run(arguments: argparse.Namespace) -> None:
    """Converts and prints what became of every weight."""
    from ..lab.conversion import convert_checkpoint, convert_stock_checkpoint

    given = {name: vars(arguments)[name] for name in STOCK_FLAGS if vars(arguments)[name] is not None}
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
            if "separators" in given:
                raise InputError("--separators and --separator-token-ids both say what ends a segment: give one")
            given["separators"] = arguments.separator_token_ids
        report = convert_stock_checkpoint(
            arguments.checkpoint, arguments.output, overwrite=arguments.overwrite, **given
        )
    print(report)
