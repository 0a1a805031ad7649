"""Settings of a training run: a YAML file whose keys are flags of the same names, which override it."""

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..lab.common.settings import RunSettings

TRAINING_KEYS = """\
keys of the training: every field of transformers.TrainingArguments (learning_rate, max_steps, save_steps,
per_device_train_batch_size, ...). --help-all explains them, as does
https://huggingface.co/docs/transformers/main_classes/trainer
Defaults that differ here:
  output_dir               {output_dir}
  report_to                tensorboard, where it is installed
  save_total_limit         2"""


def add_settings_arguments(
    parser: argparse.ArgumentParser, name: str, description: str, settings_class: type["RunSettings"]
) -> None:
    """Adds what every command with a file of settings takes. Flags that `parser` does not know are keys: `overrides`.

    Args:
        parser: of the command.
        name: of the command.
        description: shown above the keys.
        settings_class: whose keys are listed.
    """
    parser.usage = f"bipe-hf {name} CONFIG.yaml [--overwrite] [--key value ...]"
    parser.add_argument("config", metavar="CONFIG.yaml", help="file of settings, see configs/ for commented ones")
    add_key_arguments(parser, description, settings_class)


def add_key_arguments(
    parser: argparse.ArgumentParser,
    description: str,
    settings_class: type["RunSettings"],
    output_dir: str = "runs/<name of CONFIG>",
) -> None:
    """Adds what every training takes beside its file of settings.

    Args:
        parser: as in [`add_settings_arguments`].
        description: as in [`add_settings_arguments`].
        settings_class: as in [`add_settings_arguments`].
        output_dir: where a run goes by default.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = description
    listings = [
        _listing(f"keys of the {part}:", each, settings_class) for part, each in settings_class.parts().items()
    ]
    ends = [f"  {key:<24} {_shown(value)}" for key, value in settings_class.training_defaults().items()]
    parser.epilog = "\n\n".join([*listings, "\n".join([TRAINING_KEYS.format(output_dir=output_dir), *ends])])
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run that output_dir holds and train again from the start"
    )
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="explain the keys of the training too and exit")
    parser.set_defaults(overrides=[])


def run_resumable(train: Callable, settings: "RunSettings", overwrite: bool) -> None:
    """Trains; after Ctrl-C, says how to go on."""
    try:
        train(settings, overwrite=overwrite)
    except KeyboardInterrupt:
        folder = settings.training["output_dir"]
        raise KeyboardInterrupt(
            f"the same command, without --overwrite, resumes from the last checkpoint in {folder}"
        ) from None


class _HelpAll(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from transformers import HfArgumentParser, TrainingArguments

        parser.print_help()
        print()
        HfArgumentParser(TrainingArguments, usage=argparse.SUPPRESS, add_help=False).print_help()
        parser.exit()


def _listing(title: str, arguments: type, settings_class: type["RunSettings"]) -> str:
    """The keys of a class of arguments that can be set, each with its help."""
    lines, defaults = [title], settings_class.defaults
    for field in dataclasses.fields(arguments):
        if field.name in settings_class.reserved_keys:
            continue
        text = field.metadata["help"]
        if field.name in defaults and defaults[field.name] != field.default:
            text += f" (here: {_shown(defaults[field.name])})"
        lines += textwrap.wrap(text, width=100, initial_indent=f"  {field.name + ' ':<25}", subsequent_indent=" " * 27)
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
