"""What is compared: the entries of a file, what they share, and what they are measured with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...model.errors_bipe import InputError
from ..common.settings import read_nested_yaml, typed_settings
from ..training import did_you_mean
from .tasks import TASKS, Measurement


KEYS = ("task", "seeds", "settings", "entries", "measure", "reference")
# Of an entry, beside the settings in which it differs.
ENTRY_KEYS = ("seeds", "trained_as", "evaluate_with")
# Of a run, which compare decides.
OWN_SETTINGS = ("output_dir", "seed", "data_seed")


@dataclass(frozen=True)
class Entry:
    """A line of the tables.

    `settings` are those of its training, shared ones included, without seed and folder. With `trained_as` it has no
    training of its own but the models of that entry. `evaluate_with` are config fields set for the measurement.
    """

    name: str
    settings: dict[str, Any]
    seeds: list[int]
    trained_as: str | None
    evaluate_with: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name in the names of folders."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Comparison:
    """A file of `bipe-hf compare`: `content` as it was read, the rest checked and typed."""

    name: str
    task: str
    entries: dict[str, Entry]
    measure: Measurement
    reference: str | None
    content: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its models go."""
        return Path("runs", "compare", self.name)

    def model_of(self, entry: Entry) -> Entry:
        """The entry whose training gives the model of `entry`."""
        return entry if entry.trained_as is None else self.entries[entry.trained_as]

    def model_folder(self, entry: Entry, seed: int) -> Path:
        """Where the model of `entry` is."""
        return self.folder / f"{self.model_of(entry).slug}-seed{seed}"

    def chosen(self, names: Sequence[str] | None) -> list[Entry]:
        """The entries of these names, or all without any. Raises `ValueError` for a name that there is not."""
        for name in names or ():
            if name not in self.entries:
                raise InputError(f"only: there is no entry {name!r}{_known(name, self.entries)}")
        return [entry for name, entry in self.entries.items() if not names or name in names]


def read_comparison(path: str | Path) -> Comparison:
    """The comparison that a YAML file describes (see `configs/compare_python.yaml`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, a key twice, missing or unknown, a name that names nothing, an entry that sets what all
            share, or a value that is not accepted. Nothing of the data is looked at.
    """
    path = Path(path)
    content = read_nested_yaml(path)
    try:
        return parse_comparison(path.stem, content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def parse_comparison(name: str, content: dict[str, Any]) -> Comparison:
    """The comparison that the content of a file describes. Raises `ValueError` as [`read_comparison`] does."""
    _check_keys("", content, KEYS)
    for key in ("task", "settings", "entries", "measure"):
        if content.get(key) is None:
            raise InputError(f"{key} is missing")
    for key in ("settings", "entries", "measure"):
        _check_mapping(key, content[key])
    task = content["task"]
    if task not in TASKS:
        raise InputError(f"task: {task!r} is none of {', '.join(TASKS)}")
    kind = TASKS[task]
    if content.get("reference") is not None and not kind.has_reference:
        raise InputError(f"reference: the tables of task {task} have no ratio to one")
    seeds = _seeds("seeds", content.get("seeds", [42]))
    shared = content["settings"]
    for key in OWN_SETTINGS:
        if key in shared:
            raise InputError(f"settings: {key} is not to be set: compare gives each run its seed and folder")
    for key, reason in kind.reserved_keys().items():
        if key in shared:
            raise InputError(f"settings: {key} cannot be set: {reason}")
    entries = {}
    for entry_name, own in content["entries"].items():
        own = {} if own is None else own
        if not isinstance(entry_name, str) or not entry_name.isprintable() or "|" in entry_name:
            raise InputError(f"entries: {entry_name!r} is no name: text without | is")
        where = f"entry {entry_name!r}"
        _check_mapping(where, own)
        differing = {key: value for key, value in own.items() if key not in ENTRY_KEYS}
        for key in differing:
            if key not in kind.entry_keys():
                if key in kind.all_keys():
                    raise InputError(f"{where} sets {key}: all entries share it")
                raise InputError(f"{where} sets {key}: no such setting{did_you_mean(str(key), kind.entry_keys())}")
        if own.get("trained_as") is not None and (differing or "seeds" in own):
            raise InputError(
                f"{where}: with trained_as it has the settings and seeds of that entry, and none of its own"
            )
        evaluate_with = own.get("evaluate_with") or {}
        _check_mapping(f"{where}, evaluate_with", evaluate_with)
        settings = typed_settings(
            {**shared, **differing, **kind.fixed_settings(task)},
            [],
            kind.argument_classes(),
            kind.reserved_keys(),
            where,
            "",
        )
        del settings["output_dir"]
        own_seeds = _seeds(f"{where}, seeds", own["seeds"]) if "seeds" in own else seeds
        entries[entry_name] = Entry(entry_name, settings, own_seeds, own.get("trained_as"), evaluate_with)
    _check_names(entries, content.get("reference"))
    for entry_name, entry in entries.items():
        if entry.trained_as is not None:
            model = entries[entry.trained_as]
            entries[entry_name] = Entry(entry_name, model.settings, model.seeds, entry.trained_as, entry.evaluate_with)
    return Comparison(name, task, entries, kind.read_measure(content["measure"]), content.get("reference"), content)


def _check_names(entries: dict[str, Entry], reference: str | None) -> None:
    slugs = {}
    for entry in entries.values():
        if not entry.slug:
            raise InputError(f"entries: {entry.name!r} has no letter or digit to name a folder with")
        if entry.slug in slugs:
            raise InputError(f"entries: {slugs[entry.slug]!r} and {entry.name!r} would share the folder {entry.slug}")
        slugs[entry.slug] = entry.name
        model = entry.trained_as
        if model is not None and model not in entries:
            raise InputError(f"entry {entry.name!r}, trained_as: there is no entry {model!r}{_known(model, entries)}")
        if model is not None and entries[model].trained_as is not None:
            raise InputError(f"entry {entry.name!r}, trained_as: {model!r} has no training of its own either")
    if not entries:
        raise InputError("entries: there is none")
    if reference is not None and reference not in entries:
        raise InputError(f"reference: there is no entry {reference!r}{_known(reference, entries)}")


def _known(name: Any, entries: dict[str, Entry]) -> str:
    return did_you_mean(str(name), entries) or f" among {', '.join(entries)}"


def _check_keys(where: str, content: dict, known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}unknown key {key!r}{did_you_mean(str(key), known)}")


def _check_mapping(where: str, content: Any) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where}: {content!r} is no mapping of keys to values")


def _seeds(where: str, seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{where}: {seeds!r} is no list of whole numbers from 0 on, such as [1, 2, 3]")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where}: the same seed is given twice in {seeds}")
    return seeds
