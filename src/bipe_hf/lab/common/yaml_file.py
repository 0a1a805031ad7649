"""One reader for every YAML file of ours: one rule for booleans and numbers, no key twice, `extends`."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ...model.errors_bipe import InputError, InputNotFoundError
from .files import user_path


EXTENDS = "extends"


def read_yaml(path: Path, merged: Mapping[str, int] = MappingProxyType({})) -> dict[str, Any]:
    """The mapping of a YAML file, on top of that of the file that its key `extends` names.

    Only `true` and `false` are booleans (`no`, `off` and `yes` are words), only decimal numbers are numbers (`1e-4` is
    one; `007`, `1_000` and dates are words), `null`, `~` and nothing are null. So a setting that is a boolean accepts
    `true` and `false` alone from a file; as a flag it accepts what `HfArgumentParser` does, `yes` and `no` too.

    Args:
        path: the file. `extends: FILE` is relative to its folder, and may go on from file to file.
        merged: keys of mappings that are merged key by key with those of the other file, and how deep: 1 replaces
            the values in them, 2 merges mappings in them in the same way. Every other key replaces what stands there.

    Raises:
        FileNotFoundError: no such file, or none that `extends` names.
        ValueError: no YAML mapping, one with a key twice or a key that is no text, or files that extend each other.
    """
    return _read(path, merged, ())


def _read(path: Path, merged: Mapping[str, int], extending: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        where = f", which {extending[-1]} {EXTENDS}" if extending else ""
        raise InputNotFoundError(f"{path}: no such file{where}")
    if path.resolve() in [each.resolve() for each in extending]:
        raise InputError(f"{EXTENDS}: {' -> '.join(map(str, (*extending, path)))} goes round in a circle")
    try:
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected lines of the form `key: value`")
    base = content.pop(EXTENDS, None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise InputError(f"{path}: {EXTENDS}: {base!r} is no name of a file")
    below = _read(path.parent / user_path(base), merged, (*extending, path))
    return below | {key: _merge(below.get(key), value, merged.get(key, 0)) for key, value in content.items()}


def _merge(below: Any, content: Any, depth: int) -> Any:
    if not depth or not isinstance(below, dict) or not isinstance(content, dict):
        return content
    return below | {key: _merge(below.get(key), value, depth - 1) for key, value in content.items()}


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2: PyYAML has 1.1, which takes `no` for a boolean, `1e4` for text, `1:30` for 90."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"a key is no word, in line {line}")
            if key.value in keys:
                raise yaml.YAMLError(f"key {key.value!r} is given twice, again in line {line}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(0|[1-9]\d*)", "-+0123456789"),
    ("float", r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))
