"""Settings of a run: a YAML file whose keys are flags of the same names, which override it.

The parser is transformers' own `HfArgumentParser`: it comes with the base install, knows `TrainingArguments`, and its
flags are those of every script of the ecosystem. It reads a setting once, into the objects of a [`RunSettings`], which
are handed on from there.
"""

import dataclasses
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ...model.errors_bipe import InputError, InputNotFoundError, did_you_mean
from .files import user_path
from .messages import as_input_error
from .yaml_file import read_yaml


@dataclass(frozen=True)
class RunSettings:
    """The settings of one run.

    A subclass for each kind of run has one field more for each of its argument classes.

    Args:
        training: the fields of `transformers.TrainingArguments` that were given; these are made when the run starts,
            by [`RunSettings.training_arguments`], since they look at the device.
    """

    training: dict[str, Any]

    reserved_keys: ClassVar[dict[str, str]]
    """Keys that are not the user's to set, and why."""
    defaults: ClassVar[dict[str, Any]] = {}
    """What holds of the command where nothing is given, as far as its keys say otherwise."""

    @classmethod
    def read(cls, config: str | Path, overrides: list[str]) -> Self:
        """The settings of a YAML file with flags on top.

        A value of the file is read as the text of the flag of that name would be, so both have the same types and
        checks. Of booleans a file has `true` and `false` alone, and a flag what `HfArgumentParser` takes.

        Args:
            config: YAML file, one flat mapping (see [`read_yaml`]). `null` stands for the default.
            overrides: flags, `["--key", "value", "--other-key=value"]`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no flat mapping, a key twice or unknown, a value that is not accepted.
        """
        config = user_path(config)
        if not config.is_file():
            raise InputNotFoundError(f"{config}: no such file (the settings come first: CONFIG.yaml --key value)")
        return cls.parse(read_yaml(config), overrides, str(config), str(Path("runs") / config.stem))

    @classmethod
    def parse(cls, values: dict[str, Any], overrides: list[str], source: str, output_dir: str | None) -> Self:
        """What [`RunSettings.read`] returns, from the values of a file.

        Values that are the default count as not given.

        Args:
            values: by key.
            overrides: flags, as in [`RunSettings.read`].
            source: what messages call the file.
            output_dir: where a run goes that says nothing of it.

        Raises:
            ValueError: a key that is unknown, or a value that is not accepted.
        """
        keys = _parser(cls)
        defaults = vars(keys.parse_args([]))
        known = defaults.keys() - cls.reserved_keys.keys()
        words = [
            f"--report_to={'tensorboard' if importlib.util.find_spec('tensorboard') else 'none'}",
            "--save_total_limit=2",
            *([] if output_dir is None else [f"--output_dir={output_dir}"]),
        ]
        for key, value in values.items():
            if key not in defaults:
                raise InputError(f"{source}: unknown key {key!r}{did_you_mean(str(key), known)}")
            if key in keys.booleans() and not isinstance(value, bool | None):
                raise InputError(f"{key}: {value!r} given, true or false is accepted")
            if isinstance(value, list) and (isinstance(defaults[key], list) or key in keys.lists_of_words()):
                words += [f"--{key}", *map(str, value)]
            elif value is not None:
                words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
        typed, unknown = keys.parse_known_args(words + overrides)
        if unknown:
            if not unknown[0].startswith("-"):
                raise InputError(f"{unknown[0]!r} belongs to no key: several values of one have commas between them")
            name = unknown[0].split("=")[0]
            key = name.removeprefix("--").replace("-", "_")
            raise InputError(f"unknown argument {name!r}{did_you_mean(key, known)}")
        is_of_epochs = any(re.match(r"--num[-_]train[-_]epochs(=|$)", word) for word in overrides)
        if is_of_epochs and typed.max_steps > 0:
            raise InputError(
                f"num_train_epochs: {typed.num_train_epochs:g} given, but max_steps, {typed.max_steps}, ends the"
                " training: give --max_steps -1 too, or --max_steps alone"
            )
        return cls.from_dict({key: value for key, value in vars(typed).items() if value != defaults[key]})

    @classmethod
    def flagged(cls, overrides: list[str]) -> set[str]:
        """The keys that these flags set to anything but the default."""
        keys = _parser(cls)
        defaults = vars(keys.parse_args([]))
        typed, _ = keys.parse_known_args(overrides)
        return {key for key, value in vars(typed).items() if value != defaults[key]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The settings of typed values by key. Raises `ValueError` for keys that are unknown or not to be set."""
        for key in cls.reserved_keys.keys() & values.keys():
            raise InputError(f"{key} cannot be set: {cls.reserved_keys[key]}")
        left, parts = dict(values), {}
        for name, arguments in cls.parts().items():
            parts[name] = arguments(**{key: left.pop(key) for key in _names(arguments) if key in left})
        for key in left.keys() - _names(TrainingArguments):
            raise InputError(f"unknown key {key!r}{did_you_mean(key, cls.all_keys() - cls.reserved_keys.keys())}")
        return cls(training=left, **parts)

    @classmethod
    def of(cls, settings: Self | dict[str, Any]) -> Self:
        """`settings` themselves, or made of a dictionary."""
        return settings if isinstance(settings, cls) else cls.from_dict(settings)

    @classmethod
    def parts(cls) -> dict[str, type]:
        """The argument classes by the names of their fields here."""
        return {field.name: field.type for field in dataclasses.fields(cls) if field.name != "training"}

    @classmethod
    def all_keys(cls) -> set[str]:
        """All keys, those that cannot be set included."""
        return set().union(*map(_names, (*cls.parts().values(), TrainingArguments)))

    @classmethod
    def training_defaults(cls) -> dict[str, Any]:
        """Those of the `defaults` that are of fields of `TrainingArguments`."""
        return {key: value for key, value in cls.defaults.items() if key in _names(TrainingArguments)}

    def with_training(self, **fields: Any) -> Self:
        """The same with other fields of `TrainingArguments`."""
        return replace(self, training=self.training | fields)

    def stored(self) -> dict[str, Any]:
        """What a run folder keeps: every field of its own argument classes, and those of the training given."""
        parts = [dataclasses.asdict(getattr(self, name)) for name in self.parts()]
        return {key: value for part in parts for key, value in part.items()} | self.training

    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        defaults = {
            field.name: field.default for arguments in self.parts().values() for field in dataclasses.fields(arguments)
        }
        return {key: value for key, value in self.stored().items() if key not in defaults or value != defaults[key]}

    def training_arguments(self) -> TrainingArguments:
        """The arguments of the Trainer. Raises `ValueError` for what they or this machine do not accept."""
        for name in ("bf16", "bf16_full_eval", "fp16"):
            if self.training.get(name) and not self.training.get("use_cpu") and not torch.accelerator.is_available():
                raise InputError(
                    f"{name}: true given, but there is no GPU here; --{name} false computes in 32 bits on the CPU"
                )
        # What it checks of its mappings are Python's own errors of calls and attributes.
        with as_input_error("the Trainer does not accept its settings", ImportError, TypeError, AttributeError):
            return TrainingArguments(**self.training)


class _Parser(HfArgumentParser):
    def booleans(self):
        """Keys that are a boolean and nothing else. Flags take `yes` and `no` too, files do not."""
        return {action.dest for action in self._actions if action.type is string_to_bool}

    def lists_of_words(self):
        """Keys that take several words, as flags and in files."""
        return {action.dest for action in self._actions if action.nargs == "+" and action.type is str}

    def error(self, message):
        raise InputError(re.sub(r"^argument --(\w+)\S*:", r"\1:", message))


@cache
def _parser(settings_class: type[RunSettings]) -> _Parser:
    classes = [*settings_class.parts().values(), TrainingArguments]
    return _Parser(classes, add_help=False, allow_abbrev=False)


def _names(arguments: type) -> set[str]:
    return {field.name for field in dataclasses.fields(arguments) if field.init}
