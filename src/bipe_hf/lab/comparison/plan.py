"""The file of a comparison, read and checked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...model.errors_bipe import InputError, did_you_mean
from ..common.files import user_path
from ..common.yaml_file import read_yaml
from .entries import Comparison, Entry, among
from .experiments import EXPERIMENTS, Experiment


KEYS = {
    "task": "what is learnt: text, or one of the generated tasks arithmetic and chain",
    "seeds": "of first weights and order of the blocks or examples: one run of each entry with each (default: [42])",
    "settings": "keys of `bipe-hf pretrain`, of a generated task those of `bipe-hf synthetic`, that all entries share",
    "entries": "mapping from the name of each entry to the keys in which it differs; nothing where it does not",
    "measure": "how the models are measured: a mapping of the keys below",
    "reference": "name of the entry whose perplexity at its train length ratios are to; of task text alone",
}
# Mappings that a file which `extends` another one adds to, key by key, and to each entry in the same way.
MERGED = {"settings": 1, "entries": 2, "measure": 1}
# Of an entry, beside the settings in which it differs.
ENTRY_KEYS = {
    "seeds": "those of this entry alone, in place of the shared ones",
    "trained_as": "name of another entry, whose models are measured: this one has no training of its own",
    "evaluate_with": "fields of the configuration that are set for the measurement; of task text alone",
}
# Of a run, which compare decides.
OWN_SETTINGS = ("output_dir", "seed", "data_seed")


def read_comparison(path: str | Path) -> Comparison:
    """The comparison that a YAML file describes (see `configs/compare_python.yaml`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, a key twice, missing or unknown, a name that names nothing, an entry that sets what all
            share, or a value that is not accepted. Nothing of the data is looked at.
    """
    path = user_path(path)
    content = read_yaml(path, MERGED)
    try:
        return parse_comparison(path.stem, content)
    except InputError as error:
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
    if task not in list(EXPERIMENTS):  # equality: YAML may hold what has no hash
        raise InputError(f"task: {task!r} is none of {', '.join(EXPERIMENTS)}")
    kind = EXPERIMENTS[task]
    if content.get("reference") is not None and not kind.has_reference:
        raise InputError(f"reference: the tables of task {task} have no ratio to one")
    seeds = _seeds("seeds", content.get("seeds", [42]))
    shared = content["settings"]
    for key in OWN_SETTINGS:
        if key in shared:
            raise InputError(f"settings: {key} is not to be set: compare gives each run its seed and folder")
    for key, reason in kind.settings.reserved_keys.items():
        if key in shared:
            raise InputError(f"settings: {key} cannot be set: {reason}")
    entries, spelt_out = {}, {}
    for entry_name, own in content["entries"].items():
        if not isinstance(entry_name, str) or not entry_name.isprintable() or "|" in entry_name:
            raise InputError(f"entries: {entry_name!r} is no name: text without | is")
        entries[entry_name], spelt_out[entry_name] = _read_entry(
            entry_name, {} if own is None else own, shared, seeds, kind, kind.fixed_settings(task)
        )
    _check_names(entries, content.get("reference"))
    for entry_name, entry in entries.items():
        if entry.trained_as is not None:
            model = entries[entry.trained_as]
            entries[entry_name] = Entry(entry_name, model.settings, model.seeds, entry.trained_as, entry.evaluate_with)
    content = content | {
        "settings": {key: value for key, value in shared.items() if key != "encoding"},
        "entries": spelt_out,
    }
    return Comparison(name, task, entries, kind.read_measure(content["measure"]), content.get("reference"), content)


def _read_entry(
    name: str, own: dict[str, Any], shared: dict[str, Any], seeds: list[int], kind: type[Experiment], fixed: dict
) -> tuple[Entry, dict[str, Any]]:
    """An entry, and what stands in the file for it, with the fields of an encoding in place of its name."""
    where = f"entry {name!r}"
    _check_mapping(where, own)
    differing = {key: value for key, value in own.items() if key not in ENTRY_KEYS}
    for key in differing:
        if key not in kind.entry_keys():
            if key in kind.settings.all_keys():
                raise InputError(f"{where} sets {key}: all entries share it")
            raise InputError(f"{where} sets {key}: no such setting{did_you_mean(str(key), kind.entry_keys())}")
    trained_as = own.get("trained_as")
    if trained_as is not None and (differing or "seeds" in own):
        raise InputError(f"{where}: with trained_as it has the settings and seeds of that entry, and none of its own")
    evaluate_with = own.get("evaluate_with") or {}
    _check_mapping(f"{where}, evaluate_with", evaluate_with)
    settings = kind.settings.parse({**shared, **differing, **fixed}, [], where, None)
    if trained_as is None and ("encoding" in own or "encoding" in shared):
        # Results keep the fields that the name stood for: another version may have other ones.
        meant = {key: value for key, value in settings.given().items() if key in kind.entry_keys()}
        own = {key: value for key, value in meant.items() if key not in shared} | own
        own.pop("encoding", None)
    own_seeds = _seeds(f"{where}, seeds", own["seeds"]) if "seeds" in own else seeds
    return Entry(name, settings, own_seeds, trained_as, evaluate_with), own


def _check_names(entries: dict[str, Entry], reference: str | None) -> None:
    slugs = {}
    for entry in entries.values():
        if not entry.slug:
            raise InputError(f"entries: {entry.name!r} has no letter or digit to name a folder with")
        if entry.slug in slugs:
            raise InputError(f"entries: {slugs[entry.slug]!r} and {entry.name!r} would share the folder {entry.slug}")
        slugs[entry.slug] = entry.name
        model = entry.trained_as
        if model is not None and model not in list(entries):  # equality, as of `task`
            raise InputError(f"entry {entry.name!r}, trained_as: there is no entry {model!r}{among(model, entries)}")
        if model is not None and entries[model].trained_as is not None:
            raise InputError(f"entry {entry.name!r}, trained_as: {model!r} has no training of its own either")
    if not entries:
        raise InputError("entries: there is none")
    if reference is not None and reference not in list(entries):
        raise InputError(f"reference: there is no entry {reference!r}{among(reference, entries)}")


def _check_keys(where: str, content: dict, known: Iterable[str]) -> None:
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
