"""`bipe-hf compare CONFIG.yaml`: train and measure models that differ in their positional encoding alone."""

import argparse

from . import measuring


NAME = "compare"
HELP = "train and measure models that differ in their positional encoding: tables and figures, over several seeds"
DESCRIPTION = """\
Train what is not trained yet, measure what is not measured yet, and write tables and figures.

  bipe-hf compare configs/compare_python.yaml

CONFIG.yaml has the settings that all entries share, and entries with the settings in which they differ; see
configs/compare_*.yaml for commented ones. Models go to runs/compare/<name of CONFIG>. The same command, given again
after Ctrl-C or a failure, goes on; entries, seeds and lengths may be added to the file at any time. The exit status is
1 where an entry failed: the others are there, and the tables say why.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="CONFIG.yaml", help="file of the comparison")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder for comparison.json, comparison.md and the figures (default: runs/compare/<name of CONFIG>)",
    )
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="train and measure these entries only, by name")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="drop the results in the folder, and train again what was trained with other settings or on other data",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compares, prints the tables, and returns the exit status."""
    from ..lab.common.files import user_path
    from ..lab.comparison import compare, markdown_tables, read_comparison

    comparison = read_comparison(arguments.config)
    output = comparison.folder if arguments.output is None else user_path(arguments.output)
    try:
        results = compare(
            comparison,
            output=output,
            only=arguments.only,
            overwrite=arguments.overwrite,
            command=measuring.command_line(),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "the same command goes on from here"
            + ("; with --overwrite, what is trained stays and is measured again" if arguments.overwrite else "")
        ) from None
    print(f"\n{markdown_tables(results, comparison)}\nwritten to {output}")
    asked = {entry.name for entry in comparison.chosen(arguments.only)}
    return 1 if any(failure["entry"] in asked for failure in results.failures) else 0
