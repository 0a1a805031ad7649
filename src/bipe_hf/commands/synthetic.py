"""`bipe-hf synthetic CONFIG.yaml [--key value ...]`: train a model on a generated task and measure its accuracy."""

import argparse

from . import settings


NAME = "synthetic"
HELP = "train a model on a generated task (arithmetic, chains of sums) and measure its accuracy"
DESCRIPTION = """\
Train a small language model on examples that a generator makes without end, with the Trainer of transformers, then
have it write answers to new questions, and count the right ones at each number of operators.

  bipe-hf synthetic configs/synthetic_arithmetic.yaml --test_operators [2,4,6,8]

CONFIG.yaml sets keys, one `key: value` a line; flags of the same names override it. The output folder then loads with
AutoModelForCausalLM and AutoTokenizer; its synthetic.json has the accuracy. The same command, given again after an
interruption, resumes from the last checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    from ..lab.tasks.synthetic import SyntheticSettings

    settings.add_settings_arguments(parser, NAME, DESCRIPTION, SyntheticSettings)


def run(arguments: argparse.Namespace) -> None:
    """Reads the settings, trains and measures."""
    from ..lab.tasks.synthetic import SyntheticSettings, train
    from ..lab.training.arguments import check_flags

    chosen = SyntheticSettings.read(arguments.config, arguments.overrides)
    check_flags(chosen.model, SyntheticSettings.flagged(arguments.overrides))
    settings.run_resumable(train, chosen, arguments.overwrite)
