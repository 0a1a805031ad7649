"""`bipe-hf records ACTION ...`: language models of tables, JSON lines and logs."""

import argparse
import sys
from functools import partial

from . import measuring, settings


NAME = "records"
HELP = "learn tables, JSON lines or logs; draw rows, fill fields, score how unusual rows are"
DESCRIPTION = """\
Train a small language model on records, in minutes on a CPU, and use it.

  bipe-hf records train sales.csv --output runs/sales
  bipe-hf records score runs/sales new.csv --output runs/sales-scores
  bipe-hf records continue runs/sales --rows 100 --output drawn.csv
  bipe-hf records fill runs/sales gaps.csv --column region --output filled.csv

`bipe-hf records ACTION --help` explains an action.
"""
TRAIN = """\
Train a language model on tables with any delimiter (CSV, TSV, ...), JSON lines or logs. What the files are, and which
levels their rows have, is guessed and said; keys override it.

  bipe-hf records train sales.csv --output runs/sales
  bipe-hf records train logs/ --output runs/logs --kind log --max_steps 2000

--config names a YAML file of settings, one `key: value` a line, such as configs/records.yaml, which has the defaults;
flags of the same names override it. The same command, given again after an interruption, resumes from the last
checkpoint. The output folder then loads with AutoModelForCausalLM and AutoTokenizer; its records.json says what the
columns hold.
"""
SCORE = """\
Say how many bits each field of each row takes under a model of `bipe-hf records train`: the less likely it is behind
the fields before it, the more. Written are all bits (scores.csv), means and the most unusual rows (scores.json), and a
page that shows these rows as a heat map (scores.html).

  bipe-hf records score runs/sales new.csv --output runs/sales-scores
"""
CONTINUE = """\
Draw new rows from a model of `bipe-hf records train`, written as its files were. What is no such row (it does not
parse, or a field holds what its column never does) is drawn again; how many were valid is said. The exit status is 1
where rows are missing, since no draw was valid.

  bipe-hf records continue runs/sales --rows 100 --output drawn.csv
  bipe-hf records continue runs/sales --rows 5 --prompt begun.csv

Where each row was learnt alone, --prompt has the first columns of rows, each of which is completed --rows times; in a
log it has the lines that come before.
"""
FILL = """\
Fill a column in every row that lacks it or has NA, nan, null, ? or nothing in it, from all other fields of the row,
those on its right too: each value that the column had in training is tried, and the whole row decides.

  bipe-hf records fill runs/sales gaps.csv --column region --output filled.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, (help_text, add, act) in ACTIONS.items():
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        add(action)
        action.set_defaults(act=act)


def run(arguments: argparse.Namespace) -> int | None:
    """Runs the action, and returns the exit status that it has."""
    return arguments.act(arguments)


def _add_train(parser: argparse.ArgumentParser) -> None:
    from ..lab.records import RecordSettings

    parser.usage = "bipe-hf records train FILE ... --output RUN [--config CONFIG.yaml] [--overwrite] [--key value ...]"
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="files of records, or folders of such, all of one kind"
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="folder to write the model to")
    parser.add_argument(
        "--config", metavar="CONFIG.yaml", help="file of settings (default: as in configs/records.yaml)"
    )
    settings.add_key_arguments(parser, TRAIN, RecordSettings, output_dir="RUN of --output, whatever else is given")


def _train(arguments: argparse.Namespace) -> None:
    from ..lab.records import RecordSettings, train_records
    from ..lab.training.arguments import check_flags

    chosen = RecordSettings.read(arguments.config, arguments.overrides, arguments.output)
    check_flags(chosen.model, RecordSettings.flagged(arguments.overrides))
    settings.run_resumable(partial(train_records, arguments.files), chosen, arguments.overwrite)


def _add_score(parser: argparse.ArgumentParser) -> None:
    _describe(parser, SCORE)
    _add_run(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of records with the columns that were learnt")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write to")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote to --output")
    parser.add_argument(
        "--page-rows",
        type=int,
        default=200,
        metavar="N",
        help="rows on the page, the most unusual ones (default: 200)",
    )
    _add_device(parser)


def _score(arguments: argparse.Namespace) -> None:
    from ..lab.records import score_records, score_table

    report = score_records(
        arguments.model,
        arguments.files,
        output=arguments.output,
        overwrite=arguments.overwrite,
        page_rows=arguments.page_rows,
        revision=arguments.revision,
        device=arguments.device,
        command=measuring.command_line(),
    )
    print(f"{score_table(report)}\n\nwritten to {arguments.output}")


def _add_continue(parser: argparse.ArgumentParser) -> None:
    _describe(parser, CONTINUE)
    _add_run(parser)
    parser.add_argument("--rows", type=int, default=10, metavar="N", help="valid rows to draw (default: 10)")
    parser.add_argument("--prompt", metavar="FILE", help="what comes before the rows (default: nothing)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="below 1: likelier rows, fewer kinds (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws (default: 0)")
    _add_rows_output(parser)


def _continue(arguments: argparse.Namespace) -> int:
    from ..lab.records import continue_records

    sample = continue_records(
        arguments.model,
        arguments.rows,
        prompt=arguments.prompt,
        temperature=arguments.temperature,
        seed=arguments.seed,
        output=arguments.output,
        overwrite=arguments.overwrite,
        revision=arguments.revision,
        device=arguments.device,
    )
    print(sample, file=sys.stderr)
    return 1 if sample.given_up else 0


def _add_fill(parser: argparse.ArgumentParser) -> None:
    _describe(parser, FILL)
    _add_run(parser)
    parser.add_argument("file", metavar="FILE", help="file of records with the columns that were learnt")
    parser.add_argument("--column", required=True, metavar="NAME", help="column to fill; FILE may lack it altogether")
    parser.add_argument(
        "--missing",
        nargs="+",
        metavar="WORD",
        help="what stands where nothing is known, such as '' for nothing (default: nothing, NA, nan, null, ?, ...)",
    )
    _add_rows_output(parser)


def _fill(arguments: argparse.Namespace) -> None:
    from ..lab.records import fill_records
    from ..lab.records.schema import MISSING

    filled = fill_records(
        arguments.model,
        arguments.file,
        arguments.column,
        missing=arguments.missing or MISSING,
        output=arguments.output,
        overwrite=arguments.overwrite,
        revision=arguments.revision,
        device=arguments.device,
    )
    print(filled, file=sys.stderr)


def _describe(parser: argparse.ArgumentParser, description: str) -> None:
    parser.description = description
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="folder of `bipe-hf records train`, or its name on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of RUN on the Hub (default: main)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="torch device such as cpu or cuda:0 (default: the GPU where there is one)")


def _add_rows_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="file to write the rows to (default: standard output, UTF-8)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    _add_device(parser)


# Of each action: a line of help, what adds its arguments, and what runs it.
ACTIONS = {
    "train": ("train a model on records; interrupted runs resume", _add_train, _train),
    "score": ("write the bits of every field, and show unusual rows", _add_score, _score),
    "continue": ("draw new rows", _add_continue, _continue),
    "fill": ("fill a column where it is missing", _add_fill, _fill),
}
