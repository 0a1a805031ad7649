"""Every file in `configs/` against the code that reads it, and its comments against the truth."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, HfArgumentParser

from bipe_hf.commands import finetune, main
from bipe_hf.commands.pretrain import read_settings
from bipe_hf.data import train_tokenizer
from bipe_hf.finetuning.tasks import TASKS
from bipe_hf.training import ARGUMENT_CLASSES, build_config, build_model, fit_tokenizer


CONFIGS = Path(__file__).parents[1] / "configs"
FAMILIES = {
    "": ("rope.yaml", "alibi.yaml", "bipe_rope.yaml", "bipe_alibi.yaml"),
    "tiny": ("tiny_rope.yaml", "tiny_alibi.yaml", "tiny_bipe_rope.yaml", "tiny_bipe_alibi.yaml"),
}
ENCODING_KEYS = {
    "inter_encoding",
    "intra_encoding",
    "segmentation",
    "separators",
    "max_segment_length",
    "alibi_slope_scale",
    "output_dir",
}

CONTINUED = "continue_from_stock.yaml"  # says nothing of the model, which is there already
FINETUNE = "finetune_"  # what the names of configurations of `bipe-hf finetune` start with


def every(pattern: str, *without: str):
    """Runs a test on every configuration whose name fits, but for those that start with one of `without`."""
    paths = sorted(path for path in CONFIGS.glob(pattern) if not path.name.startswith(without))
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


every_config = every("*.yaml")
every_pretraining = every("*.yaml", FINETUNE)
every_new_model = every("*.yaml", FINETUNE, CONTINUED)
every_finetuning = every(f"{FINETUNE}*.yaml")


def arguments(path: Path):
    """The three argument objects of a file, as far as this machine can build them (bf16 wants a GPU or `use_cpu`)."""
    return HfArgumentParser(ARGUMENT_CLASSES).parse_dict(read_settings(path, []) | {"use_cpu": True})


def stated(path: Path, name: str) -> float:
    """The number in a comment line `# name: 1,234 ...`."""
    (text,) = re.findall(rf"^# {name}: ([\d,.e+]+)( |$)", path.read_text(), flags=re.MULTILINE)
    return float(text[0].replace(",", ""))


def test_all_settings_of_the_paper_are_there():
    names = {path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith(FINETUNE)}
    assert names == {"bipe_rope_1.6b.yaml", CONTINUED, *FAMILIES[""], *FAMILIES["tiny"]}


def test_every_task_of_finetune_has_a_configuration():
    assert {path.name for path in CONFIGS.glob(f"{FINETUNE}*")} == {f"{FINETUNE}{task}.yaml" for task in TASKS}


@every_config
def test_every_key_is_commented_and_the_usage_names_the_file(path):
    lines = path.read_text().splitlines()
    keys = [line for line in lines if line and not line.startswith("#")]
    assert len(keys) > 10
    for line in keys:
        assert re.fullmatch(r"\w+: \S+ +# \S.*", line), line
    command = "finetune" if path.name.startswith(FINETUNE) else "pretrain"
    assert any(f"{command} configs/{path.name}" in line for line in lines if line.startswith("#"))
    assert max(map(len, lines)) <= 119


@every_new_model
def test_stated_parameters_and_cost_are_true(path):
    model_args, data_args, training_args = arguments(path)
    config = build_config(model_args, data_args)
    tokenizer = fit_tokenizer(config, train_tokenizer(["Yes. No?\n"], 258), model_args, data_args)
    if config.segmentation == "separators":
        assert config.separator_token_ids == tokenizer.separator_token_ids != []
    config.vocab_size = data_args.vocab_size
    with torch.device("meta"):
        parameters = build_model(model_args, config).num_parameters()
    assert stated(path, "parameters") == parameters

    tokens = training_args.max_steps * stated(path, "tokens per step")
    assert stated(path, "FLOPs") == pytest.approx(6 * parameters * tokens, rel=0.05)


@every_pretraining
def test_stated_tokens_are_true(path):
    _, data_args, training_args = arguments(path)
    blocks = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    assert stated(path, "tokens per step") == blocks * data_args.train_length
    assert stated(path, "tokens") == blocks * data_args.train_length * training_args.max_steps
    assert f"({blocks} blocks of {data_args.train_length:,})" in path.read_text()
    assert f"({training_args.max_steps:,} steps)" in path.read_text()


@pytest.mark.parametrize("names", FAMILIES.values(), ids=["paper", "tiny"])
def test_models_to_compare_differ_in_the_positional_encoding_alone(names):
    settings = [read_settings(CONFIGS / name, []) for name in names]
    rest = [{key: value for key, value in each.items() if key not in ENCODING_KEYS} for each in settings]
    assert all(each == rest[0] for each in rest)
    encodings = [tuple(str(each.get(key)) for key in sorted(ENCODING_KEYS - {"output_dir"})) for each in settings]
    assert len(set(encodings)) == len(names)


def test_paper_setting_is_the_published_recipe():
    _, data_args, training_args = arguments(CONFIGS / "bipe_rope.yaml")
    settings = read_settings(CONFIGS / "bipe_rope.yaml", [])
    published = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    assert published.items() <= settings.items()
    assert (data_args.vocab_size, data_args.train_length) == (32000, 1024)
    assert training_args.learning_rate == 1e-4
    assert training_args.get_warmup_steps(training_args.max_steps) == 10_000
    assert training_args.lr_scheduler_type == "linear"
    assert training_args.weight_decay == 0.01
    assert training_args.max_steps == 1_000_000


def test_a_stock_checkpoint_goes_on_with_its_configuration(tmp_path, monkeypatch):
    """The two commands of the file, with a tiny checkpoint and text in place of what stands on the Hub."""
    text = "The cat sat. It ran!\nWhile rain fell, it sat on that hill.\n" * 60
    tokenizer = train_tokenizer([text], 280)
    tokenizer.save_pretrained(tmp_path / "stock")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "stock")
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    lines = (CONFIGS / CONTINUED).read_text().splitlines()
    convert, pretrain = (
        line.removeprefix("#   bipe-hf ").split() for line in lines if line.startswith("#   bipe-hf ")
    )
    assert main(["stock" if "/" in word and "runs" not in word else word for word in convert]) == 0
    pretrain[1] = str(CONFIGS.parent / pretrain[1])
    here = {"data": "texts", "streaming": "false", "train_length": "16", "max_steps": "2", "use_cpu": "true"}
    here |= {"bf16": "false", "max_validation_blocks": "4", "report_to": "none"}
    assert main([*pretrain, *(word for key, value in here.items() for word in (f"--{key}", value))]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / Path(CONTINUED).stem)
    assert model.config.model_type == "bipe_gpt_neox"
    assert model.base_model.intra_encoding.weight.any()


@every_finetuning
def test_a_finetuning_runs_with_its_configuration(path, tmp_path, monkeypatch):
    """With a tiny checkpoint and rows in place of what stands on the Hub, and fewer steps."""
    task = path.stem.removeprefix(FINETUNE)
    settings = finetune.read_settings(path, [])
    assert settings["task"] == task
    assert settings["initial_model"] == f"runs/{Path(CONTINUED).stem}"
    columns = json.loads(settings.get("columns", "{}"))
    row = {
        "text": "The cat sat. It ran!",
        "prompt": "Who sat? ",
        "completion": "The cat.",
        "tokens": ["The", "cat", "sat"],
        "question": "Who sat?",
        "context": "The cat sat.",
        "answers": {"text": ["cat"], "answer_start": [4]},
    }
    rows = [
        {columns.get(key, key): value for key, value in {**row, "label": label, "tags": ["O", tag, "O"]}.items()}
        for label, tag in [(0, "B-cat"), (1, "O")] * 10
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = train_tokenizer([row["text"], row["context"] + row["question"]] * 5, 280)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer.save_pretrained(tmp_path / "stock")
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "stock")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "stock", settings["initial_model"], "--from", "stock"]) == 0
    here = {"data": "rows.jsonl", "max_steps": "4", "eval_steps": "2", "save_steps": "2", "bf16": "false"}
    here |= {"use_cpu": "true", "report_to": "none"}
    assert main(["finetune", str(path), *(word for key, value in here.items() for word in (f"--{key}", value))]) == 0
    record = json.loads((tmp_path / "runs" / path.stem / "finetuning.json").read_text())
    assert record["steps"] == 4
    assert settings["metric_for_best_model"] == TASKS[task].best_metric
    assert type(TASKS[task].head.from_pretrained(tmp_path / "runs" / path.stem)).__name__.startswith("BipeGPTNeoX")
