"""What ends a segment, as flags of a command."""

import argparse
from typing import Any


def add_separators(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str) -> None:
    """Adds `--separators` and `--levels`; `default` says what holds without them."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--separators",
        metavar="PRESET|LIST",
        help="tokens that end a segment: sentences, lines, clauses, turns or another preset, or a JSON list of"
        ' presets, token ids and strings such as \'["sentences", "<|im_end|>", 13]\', in which "-turns" ends no'
        f" segment at the end of a turn (default: {default})",
    )
    either.add_argument(
        "--levels",
        metavar="LEVEL",
        nargs="+",
        help="instead of --separators: those of segments and of each level inside them, coarse to fine, such as lines"
        " fields; each one as --separators takes it, or all in one JSON list",
    )


def given_separators(arguments: argparse.Namespace) -> dict[str, Any]:
    """`separators` and `levels` as they were given, without what was not."""
    from ..lab.common.messages import parsed_json
    from ..lab.common.separators import parsed_levels

    words = arguments.levels
    given = {
        "separators": parsed_json("--separators", arguments.separators),
        "levels": parsed_levels("--levels", words[0] if words is not None and len(words) == 1 else words),
    }
    return {name: value for name, value in given.items() if value is not None}
