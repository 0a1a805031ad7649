"""The command line: dispatch, help, errors, settings of `pretrain`, `generate`, `convert`."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import datasets
import pytest
import torch
from small_pair import make_pair
from transformers import PreTrainedTokenizerFast

import bipe_hf
from bipe_hf import BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.commands import COMMANDS, generate, main
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.evaluation import evaluate
from bipe_hf.lab.records import RecordSettings
from bipe_hf.lab.reports import report_segments
from bipe_hf.lab.training import PretrainSettings
from bipe_hf.model.errors_bipe import InputError, InputExistsError, InputNotFoundError


def error_line(capsys) -> str:
    """What is on stderr, which must be one line with the program's name."""
    captured = capsys.readouterr().err
    assert captured.startswith("bipe-hf: error: ")
    assert captured.count("\n") == 1
    return captured


def raising(error):
    def run(arguments):
        raise error

    return run


# Dispatch


def test_help_shows_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("pretrain", "evaluate", "plot", "generate", "convert"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"bipe-hf {name}" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"bipe-hf {bipe_hf.__version__}\n"


def test_package_runs_as_a_module():
    command = [sys.executable, "-m", "bipe_hf.commands", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"bipe-hf {bipe_hf.__version__}\n"


@pytest.mark.parametrize("words", [[], ["train"], ["generate"], ["generate", "model", "prompt", "--max-new", "3"]])
def test_wrong_words_show_the_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: bipe-hf")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("length 0:\n  at least 1"), "length 0: at least 1"),
        (InputNotFoundError("there is no x.yaml"), "there is no x.yaml"),
        (InputExistsError("x exists"), "x exists"),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
    ],
)
def test_bad_input_is_one_line_and_status_2(error, line, monkeypatch, capsys):
    monkeypatch.setattr(generate, "run", raising(error))
    assert main(["generate", "model", "prompt"]) == 2
    assert error_line(capsys) == f"bipe-hf: error: {line}\n"


@pytest.mark.parametrize("error", [KeyError("defect"), ValueError("deep in a library"), OSError("there, too")])
def test_defect_of_the_program_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr(generate, "run", raising(error))
    with pytest.raises(type(error)):
        main(["generate", "model", "prompt"])


def test_interruption_is_status_130(monkeypatch, capsys):
    monkeypatch.setattr(generate, "run", raising(KeyboardInterrupt()))
    assert main(["generate", "model", "prompt"]) == 130
    assert capsys.readouterr().err == "bipe-hf: interrupted\n"


def test_interrupted_pretraining_says_how_to_resume(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text("output_dir: here")

    def interrupted(settings, overwrite):
        raise KeyboardInterrupt

    monkeypatch.setattr("bipe_hf.lab.training.pretrain", interrupted)
    assert main(["pretrain", str(tmp_path / "small.yaml")]) == 130
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "the same command" in captured
    assert "resumes from the last checkpoint in here" in captured


# Settings of pretrain


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return str(path)

    return write


def given(path: str, flags: list[str] | None = None) -> dict:
    return PretrainSettings.read(path, flags or []).given()


def test_yaml_sets_and_flags_override(config):
    path = config("learning_rate: 1e-4\nmax_steps: 10\nhidden_size: 16\nstreaming: true\n")
    settings = given(path, ["--max_steps", "20", "--hidden-size=32", "--seed", "7"])
    assert settings["learning_rate"] == 1e-4
    assert settings["max_steps"] == 20
    assert settings["hidden_size"] == 32
    assert settings["seed"] == 7
    assert settings["streaming"] is True


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("learning_rate: 3E-4", "learning_rate", 3e-4),
        ("warmup_steps: 1e2", "warmup_steps", 100.0),
        ("save_strategy: no", "save_strategy", "no"),  # YAML's own reading is the boolean false
        ("eval_strategy: no", "eval_strategy", None),  # the default
        ("tie_word_embeddings: true", "tie_word_embeddings", True),
        ("max_steps: -1", "max_steps", None),  # the default
        ("tokenizer: null", "tokenizer", None),
        ("tokenizer:", "tokenizer", None),
        ("run_name: 2024-01-31", "run_name", "2024-01-31"),
        ("run_name: 007", "run_name", "007"),
        ('run_name: "null"', "run_name", "null"),
        ("include_for_metrics: [inputs, loss]", "include_for_metrics", ["inputs", "loss"]),
    ],
)
def test_yaml_values_are_read_like_the_text_of_a_flag(config, line, key, value):
    assert given(config(line)).get(key) == value


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("true", True), ("no", False), ("0", False)])
def test_a_boolean_flag_takes_what_flags_of_transformers_take(config, word, value):
    assert given(config("{}"), ["--tie_word_embeddings", word])["tie_word_embeddings"] is value


@pytest.mark.parametrize(
    ("line", "flag", "value"),
    [
        ("separators: sentences", "sentences", "sentences"),
        ("separators: [13, 869]", "[13, 869]", [13, 869]),
        ('separators: ["\\n", .]', '["\\n", "."]', ["\n", "."]),
        ("separators:\n  - 13\n  - ;", '[13, ";"]', [13, ";"]),
    ],
)
def test_separators_are_a_preset_or_a_list(config, line, flag, value):
    assert PretrainSettings.read(config(line), []).data.separators == value
    assert PretrainSettings.read(config("{}"), ["--separators", flag]).data.separators == value


def test_mapping_keeps_its_numbers(config):
    settings = PretrainSettings.read(config("rope_parameters: {rope_type: linear, factor: 2, rope_theta: 5e5}"), [])
    assert settings.model.rope_parameters == {"rope_type": "linear", "factor": 2, "rope_theta": 500_000.0}


def test_output_folder_is_named_after_the_config(config):
    assert given(config("{}"))["output_dir"] == os.path.join("runs", "small")
    assert given(config("output_dir: elsewhere"))["output_dir"] == "elsewhere"
    assert given(config("output_dir: elsewhere"), ["--output_dir", "there"])["output_dir"] == "there"


@pytest.mark.parametrize(("installed", "target"), [(True, "tensorboard"), (False, None)])
def test_tensorboard_is_used_where_it_is_installed(config, installed, target, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert given(config("{}")).get("report_to") == target
    assert "report_to" not in given(config("report_to: none"))


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("learning_rat: 1", [], "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("qqqqqqqq: 1", [], "unknown key 'qqqqqqqq'"),
        ("{}", ["--hiden-size", "3"], "unknown argument '--hiden-size'; did you mean hidden_size?"),
        ("{}", ["--learning", "3"], "unknown argument '--learning'"),  # no abbreviations
        ("{}", ["--epochs", "3"], "unknown argument '--epochs'; did you mean num_train_epochs?"),
        (
            "max_steps: 9",
            ["--num_train_epochs", "3"],
            "num_train_epochs: 3 given, but max_steps, 9, ends the training",
        ),
        ("{}", ["--levels", "lines", "fields"], "'fields' belongs to no key: several values of one have commas"),
        ("seed: 1\nmax_steps: 2\nseed: 3", [], "key 'seed' is given twice, again in line 3"),
        ("max_steps: many", [], "max_steps: invalid int value: 'many'"),
        ("max_steps: 1.5", [], "max_steps: invalid int value: '1.5'"),
        ("max_steps: [1, 2]", [], "max_steps: invalid int value: '[1, 2]'"),
        ("max_steps: {a: 1}", [], "max_steps: invalid int value"),
        ("learning_rate: yes", [], "learning_rate: invalid float value: 'yes'"),
        ("streaming: maybe", [], "streaming: 'maybe' given, true or false is accepted"),
        ("bf16: yes", [], "bf16: 'yes' given, true or false is accepted"),
        ("tie_word_embeddings: off", [], "tie_word_embeddings: 'off' given, true or false is accepted"),
        ("greater_is_better: 1", [], "greater_is_better: 1 given, true or false is accepted"),
        ("use_cpu: [true]", [], "use_cpu: [True] given, true or false is accepted"),
        ("{}", ["--streaming", "maybe"], "streaming: Truthy value expected: got maybe"),
        ("document_boundaries: drop", [], "document_boundaries: invalid choice: 'drop'"),
        ("{}", ["--seed"], "seed: expected one argument"),
        ("just words", [], "expected lines of the form `key: value`"),
        ("- a\n- b", [], "expected lines of the form `key: value`"),
        ("", [], "expected lines of the form `key: value`"),
        ("a: b: c", [], "not valid YAML"),
        ("a: [1", [], "not valid YAML"),
    ],
)
def test_bad_settings_name_the_key(config, text, flags, message, capsys):
    assert main(["pretrain", config(text), *flags]) == 2
    assert message in error_line(capsys)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without a GPU")
@pytest.mark.parametrize("name", ["bf16", "bf16_full_eval", "fp16"])
def test_sixteen_bits_without_a_gpu_name_the_flag_that_helps(config, tmp_path, capsys, name):
    words = ["pretrain", config(f"{name}: true"), "--vocab_size", "300", "--output_dir", str(tmp_path / "run")]
    assert main(words) == 2
    assert f"--{name} false" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_missing_or_unreadable_config_is_refused(tmp_path, capsys):
    assert main(["pretrain", str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml: no such file" in error_line(capsys)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert main(["pretrain", str(tmp_path / "binary.yaml")]) == 2
    assert "binary.yaml: not valid YAML" in error_line(capsys)


def test_help_names_what_the_command_accepts_and_its_own_defaults(capsys):
    """Of `records train`: no key that it refuses, and the defaults that differ; of `convert`: no flag it refuses."""
    with pytest.raises(SystemExit):
        main(["records", "train", "--help"])
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if re.match(r"  \w+ ", line)}
    assert {"hidden_size", "encoding", "levels", "learning_rate"} <= listed
    assert not listed & RecordSettings.reserved_keys.keys()
    assert re.search(r"hidden_size +width of the hidden states \(here: 128\)", text)
    assert re.search(r"learning_rate +0\.003\n", text)
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert "--hybrid-alibi-scale" in text
    assert not re.search(r"--fox-gate|cope|t5|bipe_fox|axes", text)
    assert "(default: that of --encoding, else 4.0)" in " ".join(text.split())


def test_help_of_pretrain_explains_every_key(capsys):
    from dataclasses import fields

    from bipe_hf.lab.training import DataArguments, ModelArguments

    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    output = capsys.readouterr().out
    assert all(f"  {field.name} " in output for kind in (ModelArguments, DataArguments) for field in fields(kind))
    assert "TrainingArguments" in output
    assert "--learning_rate " not in output.partition("keys of the model:")[2]
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--help-all"])
    assert stop.value.code == 0
    assert "--learning_rate " in capsys.readouterr().out.partition("keys of the training:")[2]


def test_pretrain_trains_from_the_command_line(tmp_path, config, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "text.txt").write_text("\n\n".join(f"It ran {n} times. Then it sat." for n in range(100)))
    path = config(
        f"""
        data: {tmp_path / "text.txt"}
        validation_fraction: 0.2
        vocab_size: 280
        train_length: 16
        hidden_size: 16
        intermediate_size: 16
        num_hidden_layers: 1
        num_attention_heads: 2
        max_steps: 9
        use_cpu: true
        output_dir: {tmp_path / "run"}
        """
    )
    words = ["pretrain", path, "--max_steps=2", "--report_to", "none", "--disable_tqdm", "true"]
    assert main(words) == 0
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["steps"] == 2
    assert "perplexity" in capsys.readouterr().out
    assert main(words) == 2
    assert "--overwrite" in error_line(capsys)
    assert main([*words, "--overwrite"]) == 0
    assert main(["generate", str(tmp_path / "run"), "It ran", "--max-new-tokens", "1", "--device", "cpu"]) == 0


# Generate


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A random model with sharp predictions and a tokenizer with one separator."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    for part in make_pair("the cat sat. it ran.", 280, initializer_range=0.5):
        part.save_pretrained(folder)
    return folder


def greedy(folder, prompt: str, count: int) -> str:
    """The likeliest token again and again, each from a pass over the whole text."""
    model, tokenizer = BipeLlamaForCausalLM.from_pretrained(folder), BipeTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(count):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return tokenizer.decode(ids, skip_special_tokens=True)


def run_generate(capsys, *words: str) -> str:
    assert main(["generate", *words, "--device", "cpu"]) == 0
    return capsys.readouterr().out


def test_generate_prints_the_prompt_and_the_likeliest_text(model_folder, capsys):
    output = run_generate(capsys, str(model_folder), "the cat sat. it", "--max-new-tokens", "12")
    assert output == greedy(model_folder, "the cat sat. it", 12) + "\n"


def test_generate_says_where_a_text_is_longer_than_the_model_is_declared_for(model_folder, tmp_path, capsys):
    model = BipeLlamaForCausalLM.from_pretrained(model_folder)
    model.config.max_position_embeddings = 20
    for part in (model, BipeTokenizer.from_pretrained(model_folder)):
        part.save_pretrained(tmp_path)
    words = ["generate", str(tmp_path), "cat", "--device", "cpu", "--max-new-tokens"]
    assert main([*words, "2"]) == 0
    assert "is declared for" not in capsys.readouterr().err
    assert main([*words, "20"]) == 0
    assert "the model is declared for 20 (max_position_embeddings)" in capsys.readouterr().err


def test_generate_asks_a_chat_model_by_its_template_and_says_so(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "chat")
    tokenizer = BipeTokenizer.from_pretrained(folder)
    turns = "{% for m in messages %}({{ m.role }}) {{ m.content }}. {% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}it{% endif %}"
    tokenizer.save_pretrained(folder)
    words = ["generate", str(folder), "the cat", "--max-new-tokens", "12", "--device", "cpu"]
    assert main(words) == 0
    shown = capsys.readouterr()
    prompt = "(user) the cat. it"
    assert shown.out == greedy(folder, prompt, 12).removeprefix(prompt) + "\n"
    assert "chat template (--raw continues it as it stands)" in shown.err
    assert main([*words, "--raw"]) == 0
    shown = capsys.readouterr()
    assert shown.out == greedy(folder, "the cat", 12) + "\n"
    assert "template" not in shown.err
    tokenizer.chat_template = "{{ raise_exception('a system turn comes first') }}"
    tokenizer.save_pretrained(folder)
    assert main(words) == 2
    assert "refuses a prompt (a system turn comes first): --raw continues" in capsys.readouterr().err


def test_generate_reads_the_prompt_from_standard_input(model_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("it ran.\n"))  # as echo ends a text
    output = run_generate(capsys, str(model_folder), "-", "--max-new-tokens", "3")
    assert output == greedy(model_folder, "it ran.", 3) + "\n"


def test_generate_draws_at_random_with_a_temperature_and_a_seed(model_folder, capsys):
    words = [str(model_folder), "it", "--max-new-tokens", "12", "--temperature", "2"]
    texts = [run_generate(capsys, *words, "--seed", seed) for seed in "0012"]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    only_the_likeliest = run_generate(capsys, *words, "--top-p", "1e-6")
    assert only_the_likeliest == greedy(model_folder, "it", 12) + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["it", "--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["it", "--temperature", "0"], "--temperature 0.0"),
        (["it", "--temperature", "nan"], "--temperature nan"),
        (["it", "--top-p", "0.5"], "give --temperature too"),
        (["it", "--temperature", "1", "--top-p", "1.5"], "--top-p 1.5"),
        (["it", "--device", "abacus"], "device: 'abacus'"),
        ([""], "the prompt is empty"),
    ],
)
def test_generate_refuses_what_makes_no_sense(model_folder, words, message, capsys):
    assert main(["generate", str(model_folder), *words]) == 2
    assert message in error_line(capsys)


def test_generate_needs_a_whole_model(model_folder, tmp_path, capsys):
    assert main(["generate", str(tmp_path / "missing"), "it"]) == 2
    assert "missing" in error_line(capsys)
    assert main(["generate", str(tmp_path), "it"]) == 2
    assert "config.json" in error_line(capsys)
    for path in model_folder.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    assert main(["generate", str(tmp_path), "it"]) == 2
    assert "cannot be loaded" in error_line(capsys)


def test_generate_works_with_any_model(tmp_path, capsys):
    """A tokenizer without `segment_ids`, a model that is not ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(["the cat sat. it ran."] * 5, 280)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=280, n_embd=8, n_layer=1, n_head=1, n_positions=32)).save_pretrained(
        tmp_path
    )
    assert run_generate(capsys, str(tmp_path), "the cat", "--max-new-tokens", "2").startswith("the cat")


# Convert


def test_convert_passes_its_arguments_on_and_prints_the_report(monkeypatch, capsys):
    calls = []

    def convert_checkpoint(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(text=lambda verbose: "the report")

    monkeypatch.setattr("bipe_hf.lab.conversion.convert_checkpoint", convert_checkpoint)
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "theirs", "ours", "--overwrite", "--separator-token-ids", "13", "869"]) == 0
    assert capsys.readouterr().out == "the report\nthe report\n"
    assert calls == [
        (("theirs", "ours"), {"overwrite": False, "separator_token_ids": None}),
        (("theirs", "ours"), {"overwrite": True, "separator_token_ids": [13, 869]}),
    ]


def test_convert_passes_on_what_was_given_for_a_stock_checkpoint(monkeypatch, capsys):
    calls = []

    def convert_stock_checkpoint(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(text=lambda verbose: "the report")

    monkeypatch.setattr("bipe_hf.lab.conversion.convert_stock_checkpoint", convert_stock_checkpoint)
    words = ["convert", "theirs", "ours", "--from", "stock"]
    flags = "--inter-encoding alibi --intra-encoding learned --segmentation separators --separators lines"
    numbers = "--max-segment-length 32 --alibi-slope-scale 8 --intra-init normal"
    assert main(words) == 0
    assert main([*words, *flags.split(), *numbers.split()]) == 0
    assert main([*words, "--overwrite", "--separator-token-ids", "13", "869"]) == 0
    assert capsys.readouterr().out == "the report\n" * 3
    given = {
        "inter_encoding": "alibi",
        "intra_encoding": "learned",
        "segmentation": "separators",
        "separators": "lines",
        "max_segment_length": 32,
        "alibi_slope_scale": 8.0,
        "intra_init": "normal",
    }
    assert calls == [
        (("theirs", "ours"), {"overwrite": False}),
        (("theirs", "ours"), {"overwrite": False, **given}),
        (("theirs", "ours"), {"overwrite": True, "separators": [13, 869]}),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inter-encoding", "rope"], "--inter-encoding needs --from stock"),
        (["--from", "authors", "--max-segment-length", "9"], "--max-segment-length needs --from stock"),
        (
            ["--from", "stock", "--separators", "lines", "--separator-token-ids", "13"],
            "--separators and --separator-token-ids both",
        ),
    ],
)
def test_convert_refuses_flags_that_nothing_would_read(words, message, capsys):
    assert main(["convert", "theirs", "ours", *words]) == 2
    assert message in error_line(capsys)


def test_the_home_is_the_same_wherever_a_path_is_given(tmp_path, monkeypatch):
    """In files of settings, in arguments and in Python, for what is read and for what is written."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "text.txt").write_text("\n\n".join(["The cat sat. It ran. " * 8] * 40))
    base = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    base |= {"data": "~/text.txt", "vocab_size": 270, "train_length": 16, "max_steps": 1, "use_cpu": True}
    (home / "base.yaml").write_text(json.dumps(base | {"report_to": "none"}))
    (home / "run.yaml").write_text(json.dumps({"extends": "~/base.yaml", "output_dir": "~/run"}))
    (home / "compare.yaml").write_text(
        json.dumps(
            {"task": "text", "seeds": [1], "settings": base, "measure": {"lengths": [16], "data": "~/text.txt"}}
            | {"entries": {"a": {"segmentation": "tokens", "intra_encoding": "none"}}}
        )
    )
    assert main(["pretrain", "~/run.yaml"]) == 0
    assert main(["evaluate", "~/run", "--lengths", "16", "--data", "~/text.txt", "--output", "~/one.json"]) == 0
    assert main(["plot", "~/one.json", "--output", "~/one.png"]) == 0
    assert main(["segments", "~/text.txt", "--tokenizer", "~/run", "--output=~/report"]) == 0
    assert main(["generate", "~/run", "It", "--max-new-tokens", "1"]) == 0
    written = {file.name for file in home.iterdir()}
    assert {"run", "one.json", "one.md", "one.png", "one.svg", "report"} <= written
    read_comparison("~/compare.yaml")
    evaluate(["~/run"], [16], data="~/text.txt", output="~/two.json", device="cpu")
    report_segments("~/text.txt", tokenizer="~/run", output="~/python")
    assert {"two.json", "python"} <= {file.name for file in home.iterdir()}
    assert not list(here.iterdir())
