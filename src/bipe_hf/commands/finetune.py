"""`bipe-hf finetune CONFIG.yaml [--key value ...]`: train a model for a task from the settings of a YAML file."""

import argparse

from . import settings


NAME = "finetune"
HELP = "train a model for a task, such as classification, from the settings of a YAML file"
DESCRIPTION = """\
Fine-tune a model on the rows of a table with the Trainer of transformers: on texts, on instructions with their
answers, to classify texts or words, to find answers in a text, or to answer questions about long documents and
summarise them (SCROLLS).

  bipe-hf finetune configs/finetune_classification.yaml --data reviews.csv --columns '{"text": "review"}'

CONFIG.yaml sets keys, one `key: value` a line; flags of the same names override it. The output folder then loads with
the Auto class of the task and AutoTokenizer; its finetuning.json has the metrics. The same command, given again after
an interruption, resumes from the last checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    from ..lab.finetuning import FinetuneSettings

    settings.add_settings_arguments(parser, NAME, DESCRIPTION, FinetuneSettings)


def run(arguments: argparse.Namespace) -> None:
    """Reads the settings and trains."""
    from ..lab.finetuning import FinetuneSettings, finetune

    settings.run_resumable(finetune, FinetuneSettings.read(arguments.config, arguments.overrides), arguments.overwrite)
