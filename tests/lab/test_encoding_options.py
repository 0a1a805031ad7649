"""The positional encoding in YAML and on the command line. `bipe_hf.lab.common.encoding_options`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.commands import main
from bipe_hf.lab.common.encoding_options import spelt_out
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.tasks.synthetic import SyntheticSettings
from bipe_hf.lab.training import PretrainSettings, build_config, pretrain
from bipe_hf.lab.training.arguments import check_flags, check_model
from bipe_hf.lab.training.model import build_model
from bipe_hf.model.configuration_bipe import own_fields
from bipe_hf.model.encodings_bipe import ENCODING_NAMES, encoding_levels
from bipe_hf.model.errors_bipe import InputError


SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def error_line(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bipe-hf: error: ")]
    return line


@pytest.mark.parametrize("name", ENCODING_NAMES)
def test_a_name_gives_what_for_encoding_gives(name):
    needed = {"dca_train_length": 9} if name == "bipe_dca" else {}
    settings = PretrainSettings.from_dict({"encoding": name, "train_length": 128, **needed, **SHAPE})
    config = build_config(settings.model, settings.data).to_dict()
    levels = encoding_levels(name)
    token_ids = {"separator_token_ids": [0], "inner_separator_token_ids": [[0]] * (len(levels) - 1)}
    expected = BipeLlamaConfig.for_encoding(name, train_length=128, **needed, **token_ids, **SHAPE).to_dict()
    for field in own_fields().keys() - token_ids.keys():
        assert config[field] == expected[field], field
    assert config["max_position_embeddings"] == 128
    given = (settings.data.separators, settings.data.levels)
    assert given == ((None, list(levels)) if len(levels) > 1 else ((*levels, None)[0], None))
    assert settings.stored()["encoding"] is None  # a run folder keeps the fields


def test_keys_win_over_the_name_that_stands_in_the_file(tmp_path):
    (tmp_path / "small.yaml").write_text("encoding: bipe_hybrid\nhybrid_alibi_scale: 1.0\nseparators: lines\n")
    settings = PretrainSettings.read(tmp_path / "small.yaml", ["--hybrid_slow_pairs", "segments", "--train_length=64"])
    model = settings.model
    assert (model.hybrid_alibi_scale, model.hybrid_alibi_power, model.hybrid_max_period) == (1.0, 0.5, 32.0)
    assert model.hybrid_slow_pairs == "segments"
    assert settings.data.separators == "lines"
    settings = PretrainSettings.read(tmp_path / "small.yaml", ["--encoding", "alibi"])
    assert settings.model.inter_encoding == "alibi"


def test_an_encoding_that_entries_share_is_kept_with_its_fields_too(tmp_path):
    content = {
        "task": "text",
        "settings": {"vocab_size": 280, "train_length": 16, "encoding": "bipe_alibi", **SHAPE},
        "entries": {"96": {}, "8": {"alibi_slope_scale": 8.0}, "8 at 96": {"trained_as": "8", "evaluate_with": {}}},
        "measure": {"lengths": [16]},
    }
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    named = read_comparison(tmp_path / "named.yaml")
    assert "encoding" not in named.content["settings"]
    assert [entry.settings.model.alibi_slope_scale for entry in named.entries.values()] == [96.0, 8.0, 8.0]
    (tmp_path / "spelt.yaml").write_text(yaml.safe_dump(named.content, sort_keys=False))
    assert read_comparison(tmp_path / "spelt.yaml").entries == named.entries


def test_a_key_that_is_measured_stays_so():
    settings = PretrainSettings.from_dict({"encoding": "bipe_alibi", "alibi_slope_scale": "measured"})
    assert settings.model.alibi_slope_scale == "measured"
    assert settings.model.inter_encoding == "alibi"


def test_a_generated_task_has_its_length_and_its_separators():
    settings = SyntheticSettings.from_dict({"task": "chain", "max_operators": 3, "encoding": "bipe_hybrid"})
    assert settings.model.hybrid_max_period == 25 / 2  # of a chain of 3: 3 x 3 + 2 tokens, and 4 x 3 + 2 behind `=`
    assert settings.model.segmentation == "separators"
    assert settings.stored()["encoding"] is None


def test_entries_of_a_comparison_are_kept_with_their_fields(tmp_path):
    content = {
        "task": "text",
        "settings": {"data": "texts", "vocab_size": 280, "train_length": 16, "max_segment_length": 8, **SHAPE},
        "entries": {
            "hybrid": {"encoding": "bipe_hybrid", "hybrid_alibi_power": 1.0},
            "longer": {"encoding": "hybrid", "train_length": 1024, "per_device_train_batch_size": 2},
            "BiPE-RoPE": {"encoding": "bipe_rope", "seeds": [3]},
            "ALiBi": {"inter_encoding": "alibi", "segmentation": "tokens"},
        },
        "measure": {"lengths": [16, 1024]},
    }
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    named = read_comparison(tmp_path / "named.yaml")
    assert "encoding" not in json.dumps(named.content).replace("inter_encoding", "").replace("intra_encoding", "")
    assert named.content["entries"]["BiPE-RoPE"] == {
        "seeds": [3],
        "inter_encoding": "rope",
        "intra_encoding": "learned",
        "segmentation": "separators",
        "separators": "sentences",
    }
    assert named.content["entries"]["hybrid"]["hybrid_alibi_power"] == 1.0
    assert named.content["entries"]["longer"]["hybrid_max_period"] == 512.0
    assert named.content["entries"]["longer"]["train_length"] == 1024  # the default, but not what the others share
    assert named.content["entries"]["ALiBi"] == content["entries"]["ALiBi"]
    (tmp_path / "spelt.yaml").write_text(yaml.safe_dump(named.content, sort_keys=False))
    assert read_comparison(tmp_path / "spelt.yaml").entries == named.entries


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoding", "bipe_rop"], "encoding: 'bipe_rop' is none; did you mean bipe_rope? (accepted: rope, "),
        (["--encoding", "bipe_levels", "--levels", "lines"], "levels: ['lines'] is one level, but encoding"),
        (["--encoding", "rope", "--model_type", "llama"], "encoding: 'rope' given, but a model of type llama has its"),
        (["--encoding", "rope", "--model_type", "lama"], "model_type: 'lama' is not known to transformers"),
        (
            ["--encoding", "rope", "--separators", "lines"],
            "'lines' given, but this model does not segment by",
        ),
    ],
)
def test_a_name_that_cannot_be_had_is_one_line(tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("It ran.\n\n" * 40)
    Path("small.yaml").write_text("data: text.txt\nvocab_size: 258\nuse_cpu: true\nmax_steps: 1\ntrain_length: 8\n")
    assert main(["pretrain", "small.yaml", *words]) == 2
    assert message in error_line(capsys)


@pytest.fixture
def initial(tmp_path):
    """A model whose table of places has 8 rows, and one of transformers' own."""
    sizes = {"vocab_size": 270, "max_position_embeddings": 8, **SHAPE}
    BipeLlamaForCausalLM(BipeLlamaConfig.for_encoding("learned", train_length=8, **sizes)).save_pretrained(
        tmp_path / "learned"
    )
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "stock")
    return tmp_path


@pytest.mark.parametrize(("name", "length"), [("sinusoidal", 16), ("learned", 8), ("rope", 16)])
def test_an_initial_model_gets_the_encoding_of_that_name(initial, name, length):
    settings = PretrainSettings.from_dict(
        {"initial_model": str(initial / "learned"), "encoding": name, "train_length": length}
    )
    check_model(settings.model)
    config = build_config(settings.model, settings.data)
    found = config.to_dict()
    assert {field: found[field] for field in spelt_out(name, length, {})} == spelt_out(name, length, {})
    assert build_model(settings.model, config).config.max_segment_length == max(8, length if name != "rope" else 8)


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("learned", "learned", r"^encoding \(max_segment_length\): 16 rows given, but the learned table of .* has 8$"),
        ("stock", "rope", r"^encoding \(inter_encoding, .*\): a model of type llama has its own$"),
    ],
)
def test_an_encoding_that_an_initial_model_cannot_have_is_refused_by_that_name(initial, model, name, message):
    settings = PretrainSettings.from_dict(
        {"initial_model": str(initial / model), "encoding": name, "train_length": 16}
    )
    check_model(settings.model)
    with pytest.raises(InputError, match=message):
        build_config(settings.model, settings.data)


@pytest.mark.parametrize("fields", [{}, {"intra_encoding": "none"}])
def test_rows_that_nothing_of_an_initial_model_reads_are_refused(fields):
    settings = PretrainSettings.from_dict({"initial_model": "x", "max_segment_length": 16, **fields})
    with pytest.raises(InputError, match="max_segment_length: the weights of initial_model x decide it"):
        check_model(settings.model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hybrid_slow_pairs", "none"], "hybrid_slow_pairs: 'none' given, but only inter_encoding hybrid reads it"),
        (
            ["--max_segment_length=8"],
            "max_segment_length: 8 given, but only intra_encoding learned or sinusoidal",
        ),
        (
            ["--encoding", "bipe_rope", "--alibi_slope_scale", "2"],
            "only inter_encoding alibi or dape or dape_v2 reads it",
        ),
        (["--encoding", "learned", "--fixed_segment_length", "4"], "only segmentation fixed reads it"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "synthetic"])
def test_a_flag_that_nothing_reads_is_refused(tmp_path, command, words, message, capsys):
    task = "task: chain\nmax_operators: 2\n" if command == "synthetic" else ""
    (tmp_path / "small.yaml").write_text(f"{task}encoding: rope\noutput_dir: {tmp_path / 'run'}\n")
    assert main([command, str(tmp_path / "small.yaml"), *words]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"encoding": "rope", "hybrid_slow_pairs": "none", "max_segment_length": 8}, []),  # as entries share them
        ({"encoding": "rope"}, ["--encoding", "bipe_hybrid", "--hybrid_slow_pairs", "segments"]),
        ({"encoding": "rope"}, ["--inter_encoding", "alibi", "--alibi_slope_scale", "2"]),
        ({"initial_model": "x"}, ["--alibi_slope_scale", "2"]),  # its config says whether something reads it
    ],
)
def test_what_stands_in_a_file_or_is_read_is_accepted(tmp_path, content, words):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    model = PretrainSettings.read(tmp_path / "small.yaml", words).model
    check_flags(model, PretrainSettings.flagged(words))


def test_a_run_begun_with_the_fields_is_resumed_with_the_name(tmp_path, own_datasets_cache, no_progress_bars):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(4):
        (texts / f"{number}.txt").write_text(f"It ran {number} times. Then it sat.\n" * 20)
    rest = {"data": str(texts), "vocab_size": 280, "train_length": 16, "max_steps": 1, "use_cpu": True, **SHAPE}
    rest |= {"validation_fraction": 0.3, "output_dir": str(tmp_path / "run"), "disable_tqdm": True}
    fields = {"inter_encoding": "rope", "intra_encoding": "learned", "segmentation": "separators"}
    pretrain(rest | fields | {"separators": "sentences"})
    (tmp_path / "run" / "training.json").unlink()
    with pytest.raises(InputError, match=r"with other settings: .*inter_encoding \(there rope, now alibi\)"):
        pretrain(rest | {"encoding": "bipe_alibi"})
    assert pretrain(rest | {"encoding": "bipe_rope"})["resumed_from"] == "checkpoint-1"


NEW_FIELD = """
import dataclasses, sys
from bipe_hf.model import configuration_bipe

metadata = {"help": "how many", "choices": None, "read_by": {"inter_encoding": ("alibi",)}}
field = dataclasses.field(default=3, metadata=metadata)
made_up = dataclasses.make_dataclass("Made", [("made_up", int | None, field)])
known = configuration_bipe.own_fields()
configuration_bipe.own_fields = lambda: known | {"made_up": dataclasses.fields(made_up)[0]}

from bipe_hf.commands import main
from bipe_hf.lab.conversion.stock import _spelt_out
from bipe_hf.lab.training import PretrainSettings

assert PretrainSettings.read(sys.argv[1], ["--made_up", "7"]).model.config_fields()["made_up"] == 7
assert _spelt_out(None, {}, 1)["made_up"] == 3
for command in ("pretrain", "synthetic", "convert"):
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
main(["convert", "a", "b", "--from", "stock", "--made-up", "7"])
"""


def test_a_field_of_the_configuration_is_a_key_and_a_flag_without_more(tmp_path):
    (tmp_path / "small.yaml").write_text("hidden_size: 16\n")
    done = subprocess.run([sys.executable, "-c", NEW_FIELD, tmp_path / "small.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("inter_encoding alibi: how many (default: 3)") == 2
    of_convert = "inter_encoding alibi: how many (default: that of --encoding, else 3)"
    assert of_convert in " ".join(done.stdout.split())
    assert "--made-up X" in done.stdout
    assert "made_up: 7 given, but only inter_encoding alibi reads it" in done.stderr


def test_a_pattern_of_layers_is_a_list_in_a_file_and_several_words_of_a_flag(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("layer_encodings: [local, inter]\nlocal_window: 8\n")
    given = PretrainSettings.read(file, []).given()
    assert given["layer_encodings"] == ["local", "inter"]
    words = ["--layer-encodings", "rope", "inter", "none"]
    assert PretrainSettings.read(file, words).given()["layer_encodings"] == ["rope", "inter", "none"]
