"""Settings of a run: a YAML file whose keys are flags of the same names, which override it."""

import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...model.errors_bipe import InputError, InputNotFoundError
from .messages import did_you_mean


def read_settings(
    config: str | Path, overrides: list[str], argument_classes: Sequence[type], reserved_keys: Iterable[str]
) -> dict[str, Any]:
    """The settings of a YAML file with flags on top.

    Every YAML value is read as the text of the flag of that name would be, so both have the same types and checks
    (`learning_rate: 1e-4` is a number, `eval_strategy: no` is not a boolean).

    Args:
        config: YAML file, one flat mapping. `null` stands for the default.
        overrides: flags, `["--key", "value", "--other-key=value"]`.
        argument_classes: data classes whose fields are the keys.
        reserved_keys: fields that are not proposed for a misspelt key.

    Returns:
        Values of the keys that differ from the defaults of `argument_classes`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no flat mapping, a key twice or unknown, or a value of another type than the key's.
    """
    config = Path(config)
    output_dir = str(Path("runs") / config.stem)
    return typed_settings(_read_yaml(config), overrides, argument_classes, reserved_keys, str(config), output_dir)


def typed_settings(
    values: dict[str, Any],
    overrides: list[str],
    argument_classes: Sequence[type],
    reserved_keys: Iterable[str],
    source: str,
    output_dir: str,
) -> dict[str, Any]:
    """What [`read_settings`] returns, from the `values` of its file: numbers or their text, `None` for the default.

    `source` is named in the messages, `output_dir` is where a run goes that says nothing of it.
    """
    from transformers import HfArgumentParser

    class Keys(HfArgumentParser):
        def error(self, message):
            raise InputError(re.sub(r"^argument --(\w+)\S*:", r"\1:", message))

    keys = Keys(argument_classes, add_help=False, allow_abbrev=False)
    defaults = vars(keys.parse_args([]))
    known = defaults.keys() - set(reserved_keys)
    words = []
    for key, value in values.items():
        if key not in defaults:
            raise InputError(f"{source}: unknown key {key!r}{did_you_mean(key, known)}")
        if isinstance(value, list) and isinstance(defaults[key], list):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")

    keys.set_defaults(
        output_dir=output_dir,
        report_to="tensorboard" if importlib.util.find_spec("tensorboard") else "none",
        save_total_limit=2,
    )
    values, unknown = keys.parse_known_args(words + overrides)
    if unknown:
        name = unknown[0].split("=")[0]
        key = name.removeprefix("--").replace("-", "_")
        raise InputError(f"unknown argument {name!r}{did_you_mean(key, known)}")
    return {key: value for key, value in vars(values).items() if value != defaults[key]}


def read_nested_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, of nested mappings too; only `true` and `false` are booleans, not `no` or `on`.

    Raises `FileNotFoundError` without the file, `ValueError` where it is no YAML mapping or one has a key twice.
    """
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file")
    try:
        content = _NestedLoader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected lines of the form `key: value`")
    return content


def _read_yaml(path: Path) -> dict[str, Any]:
    """Top-level keys with their values: a scalar as its text, `None` for null, lists and mappings as they are."""
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (the settings come first: CONFIG.yaml --key value)")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}: expected lines of the form `key: value`")
        values = {}
        for key, value in root.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{path}: the key in line {key.start_mark.line + 1} is no word")
            if key.value in values:
                raise InputError(f"{path}: key {key.value!r} is given twice, again in line {key.start_mark.line + 1}")
            if not isinstance(value, yaml.ScalarNode):
                values[key.value] = loader.construct_object(value, deep=True)
            elif value.tag == "tag:yaml.org,2002:null":
                values[key.value] = None
            else:
                values[key.value] = value.value
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `1e4` for text; inside lists and mappings it shall be the number that it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class _NestedLoader(_Loader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no word", problem_mark=key.start_mark)
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_NestedLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false"), list("tf"))
