"""`bipe-hf pretrain CONFIG.yaml [--key value ...]`: train a model from the settings of a YAML file."""

import argparse

from . import settings


NAME = "pretrain"
HELP = "train a model from the settings of a YAML file; interrupted runs resume"
DESCRIPTION = """\
Train a language model with the Trainer of transformers.

  bipe-hf pretrain configs/tiny_bipe_rope.yaml --learning_rate 1e-3

CONFIG.yaml sets keys, one `key: value` a line; flags of the same names override it. The output folder then loads with
AutoModelForCausalLM and AutoTokenizer. The same command, given again after an interruption, resumes from the last
checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    from ..lab.training import PretrainSettings

    settings.add_settings_arguments(parser, NAME, DESCRIPTION, PretrainSettings)


def run(arguments: argparse.Namespace) -> None:
    """Reads the settings and trains."""
    from ..lab.training import PretrainSettings, pretrain
    from ..lab.training.arguments import check_flags

    chosen = PretrainSettings.read(arguments.config, arguments.overrides)
    check_flags(chosen.model, PretrainSettings.flagged(arguments.overrides))
    settings.run_resumable(pretrain, chosen, arguments.overwrite)
