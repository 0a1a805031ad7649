"""One reader for every YAML file: booleans, numbers, keys, `extends`. `bipe_hf.lab.common.yaml_file`."""

import pytest
import yaml

from bipe_hf.lab.common.yaml_file import read_yaml
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.training import PretrainSettings
from bipe_hf.model.errors_bipe import InputError, InputNotFoundError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        *((word, word) for word in ("yes", "no", "on", "off", "y", "n", "True", "Yes", "NO")),
        ("1e-4", 1e-4),
        ("3E4", 3e4),
        ("5e+2", 500.0),
        (".5", 0.5),
        ("-7", -7),
        ("0", 0),
        *((word, word) for word in ("007", "1_000", "0x10", "0o7", "1:30", "2024-01-31", "1e", ".inf", "1.2.3")),
        ("null", None),
        ("~", None),
        ("", None),
        ('"true"', "true"),
        ('"7"', "7"),
        ("[no, 1e-2, true, [off]]", ["no", 1e-2, True, ["off"]]),
        ("{on: yes, 1.5: x}", {"on": "yes", 1.5: "x"}),
    ],
)
@pytest.mark.parametrize("nesting", ["key: {}", "settings:\n  key: {}"], ids=["flat", "nested"])
def test_a_value_is_the_same_in_every_file(here, nesting, text, value):
    content = read_yaml(write(here / "a.yaml", nesting.format(text)))
    found = content.get("settings", content)["key"]
    assert found == value
    assert type(found) is type(value)


def test_what_other_writers_write_is_read_as_it_was(here):
    content = {"a": [1, 2.5, None, True, "no", "null", ""], "b": {"c": -1e-7, "d": "x: y"}, "e": "true"}
    assert read_yaml(write(here / "a.yaml", yaml.safe_dump(content))) == content


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "a:\n  seed: 1\n  seed: 2", "a: [{seed: 1, seed: 2}]"])
def test_a_key_twice_is_refused_wherever_it_stands(here, text):
    with pytest.raises(InputError, match=r"a\.yaml: not valid YAML: key 'seed' is given twice, again in line \d$"):
        read_yaml(write(here / "a.yaml", text))


def test_extending_adds_to_the_file_and_replaces_what_it_says_otherwise(here):
    write(here / "base" / "root.yaml", "seed: 1\nhidden_size: 16\nmax_steps: 9\nrope_parameters: {a: 1}")
    write(here / "base" / "middle.yaml", "extends: root.yaml\nseed: 2\nmax_steps: null")
    top = write(here / "top.yaml", "extends: base/middle.yaml\nhidden_size: 32\nrope_parameters: {rope_theta: 7.0}")
    settings = PretrainSettings.read(top, ["--seed", "3"])
    assert settings.model.hidden_size == 32
    assert settings.model.rope_parameters == {"rope_theta": 7.0}  # a value like any other
    assert settings.training["seed"] == 3
    assert "max_steps" not in settings.training  # null is the default
    assert settings.training["output_dir"] == "runs/top"
    assert "extends" not in settings.stored()


def test_a_comparison_merges_settings_entries_and_measure_by_key(here):
    base = """
task: text
settings: {data: texts, vocab_size: 280, train_length: 16, hidden_size: 16, max_steps: 2, learning_rate: 1e-3}
entries:
  RoPE: {segmentation: tokens, intra_encoding: none}
  BiPE-RoPE: {intra_encoding: sinusoidal, separators: sentences}
measure: {lengths: [16], max_tokens: 512}
"""
    own = """
extends: base.yaml
settings: {max_steps: 3, learning_rate: null}
entries:
  BiPE-RoPE: {separators: lines, rope_parameters: {rope_theta: 7.0}}
  NoPE: {inter_encoding: none}
measure: {lengths: [16, 32]}
"""
    write(here / "base.yaml", base)
    comparison = read_comparison(write(here / "own.yaml", own))
    assert list(comparison.entries) == ["RoPE", "BiPE-RoPE", "NoPE"]
    assert comparison.name == "own"
    assert comparison.entries["BiPE-RoPE"].settings.data.separators == "lines"
    assert comparison.entries["BiPE-RoPE"].settings.model.intra_encoding == "sinusoidal"
    training = comparison.entries["NoPE"].settings.training
    assert training["max_steps"] == 3
    assert "learning_rate" not in training
    assert comparison.measure.lengths == [16, 32]
    assert comparison.measure.max_tokens == 512
    whole = write(here / "whole.yaml", yaml.safe_dump(comparison.content, sort_keys=False))
    assert read_comparison(whole).entries == comparison.entries  # what results keep stands for itself


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"a": "extends: b.yaml"}, InputNotFoundError, r"b\.yaml: no such file, which .*a\.yaml extends"),
        ({"a": "extends: a.yaml"}, InputError, r"extends: .*a\.yaml -> .*a\.yaml goes round in a circle"),
        ({"a": "extends: b.yaml", "b": "extends: a.yaml"}, InputError, "goes round in a circle"),
        ({"a": "extends: [b.yaml]", "b": "{}"}, InputError, r"a\.yaml: extends: \['b.yaml'\] is no name of a file"),
        ({"a": "extends: b.yaml", "b": "- x"}, InputError, r"b\.yaml: expected lines of the form"),
        ({"a": "extends: b.yaml", "b": "x: [1"}, InputError, r"b\.yaml: not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_extended_is_named_in_one_line(here, files, error, message):
    for name, text in files.items():
        write(here / f"{name}.yaml", text)
    with pytest.raises(error, match=message):
        PretrainSettings.read(here / "a.yaml", [])
