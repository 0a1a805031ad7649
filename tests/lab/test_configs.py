"""Every file in `configs/` against the code that reads it, and its comments against the truth."""

import json
import re
import shlex
from pathlib import Path

import families
import pytest
import torch
import yaml
from paths import ROOT
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.yaml_file import read_yaml
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.comparison.plan import MERGED
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.finetuning import FinetuneSettings
from bipe_hf.lab.finetuning.tasks import TASKS
from bipe_hf.lab.records.arguments import DEFAULTS
from bipe_hf.lab.training import PretrainSettings, build_config, build_model, fit_tokenizer


CONFIGS = ROOT / "configs"
FAMILIES = {
    "": ("rope.yaml", "alibi.yaml", "bipe_rope.yaml", "bipe_alibi.yaml", "bipe_hybrid.yaml"),
    "tiny": (
        "tiny_rope.yaml",
        "tiny_alibi.yaml",
        "tiny_bipe_rope.yaml",
        "tiny_bipe_alibi.yaml",
        "tiny_bipe_hybrid.yaml",
        "tiny_hybrid.yaml",
        "tiny_bipe_alibi_local.yaml",
        "tiny_fox.yaml",
        "tiny_fox_pro.yaml",
        "tiny_cable.yaml",
        "tiny_cable_kernel.yaml",
        "tiny_selective_rope.yaml",
        "tiny_tape.yaml",
        "tiny_path.yaml",
        "tiny_cope.yaml",
        "tiny_dape.yaml",
        "tiny_dape_v2.yaml",
        "tiny_fire.yaml",
        "tiny_hirope.yaml",
        "tiny_dca.yaml",
    ),
}
ENCODING_KEYS = {
    "inter_encoding",
    "intra_encoding",
    "segmentation",
    "separators",
    "max_segment_length",
    "intra_initializer_range",
    "alibi_slope_scale",
    "fixed_segment_length",
    "dca_train_length",
    "hirope_window",
    "hybrid_max_period",
    "hybrid_slow_pairs",
    "hybrid_alibi_scale",
    "hybrid_alibi_power",
    "layer_encodings",
    "local_window",
    "output_dir",
}

CONTINUE = "continue_"  # what the names of those start with that say nothing of the model, which is there already
CONTINUED = f"{CONTINUE}from_stock.yaml"
YARN = f"{CONTINUE}with_yarn.yaml"
FINETUNE = "finetune_"  # what the names of configurations of `bipe-hf finetune` start with
RECORDS = "records"  # that of `bipe-hf records train`
SYNTHETIC = "synthetic_"  # and of `bipe-hf synthetic`, which `test_synthetic.py` runs
COMPARE = "compare_"  # and of `bipe-hf compare`
KINDS = (
    *("chinese", "cpp", "json_lines", "logs_seen", "logs_unseen", "mathematics", "music"),
    *("novels", "plays", "python", "tables", "tables_other", "verse"),
)
COMPARISONS = (
    *("12_layers", "ablations", "arithmetic", "books", "chain", "extension", "learning_rates"),
    *("math", "math_longer", "python", "tables_longer"),
)


def every(pattern: str, *without: str):
    """Runs a test on every configuration whose name fits, but for those that start with one of `without`."""
    paths = sorted(path for path in CONFIGS.glob(pattern) if not path.name.startswith(without))
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


every_config = every("*.yaml", COMPARE)
every_pretraining = every("*.yaml", FINETUNE, RECORDS, SYNTHETIC, COMPARE)
every_new_model = every("*.yaml", FINETUNE, RECORDS, SYNTHETIC, CONTINUE, COMPARE)
every_base = every("base/*.yaml")
every_comparison = every(f"{COMPARE}*.yaml")
every_finetuning = every(f"{FINETUNE}*.yaml")
every_kind = every("compare_kinds/*.yaml")
every_relative = every("compare_relatives/*.yaml")


def arguments(path: Path):
    """The three argument objects of a file, as far as this machine can build them (bf16 wants a GPU or `use_cpu`)."""
    settings = PretrainSettings.read(path, ["--use_cpu", "true"])
    return settings.model, settings.data, settings.training_arguments()


def given(path: Path) -> dict:
    """The settings of a pretraining that differ from the defaults."""
    return PretrainSettings.read(path, []).given()


def stated(path: Path, name: str) -> float:
    """The number in a comment line `# name: 1,234 ...`."""
    (text,) = re.findall(rf"^# {name}: ([\d,.e+]+)( |$)", path.read_text(), flags=re.MULTILINE)
    return float(text[0].replace(",", ""))


def test_all_settings_of_the_paper_are_there():
    others = (FINETUNE, RECORDS, SYNTHETIC, COMPARE)
    names = {path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith(others)}
    assert names == {"bipe_rope_1.6b.yaml", CONTINUED, YARN, *FAMILIES[""], *FAMILIES["tiny"]}


def test_the_settings_of_records_are_the_defaults_of_the_command():
    assert read_yaml(CONFIGS / f"{RECORDS}.yaml") == DEFAULTS


def test_every_task_of_finetune_has_a_configuration():
    assert {path.name for path in CONFIGS.glob(f"{FINETUNE}*")} == {f"{FINETUNE}{task}.yaml" for task in TASKS}


@every_config
def test_every_key_is_commented_and_the_usage_names_the_file(path):
    lines = path.read_text().splitlines()
    keys = [line for line in lines if line and not line.startswith("#")]
    assert keys
    for line in keys:
        assert re.fullmatch(r"\w+: \S+ +# \S.*", line), line
    commands = {FINETUNE: "finetune", RECORDS: "--config", SYNTHETIC: "synthetic"}
    command = next((name for prefix, name in commands.items() if path.name.startswith(prefix)), "pretrain")
    assert any(f"{command} configs/{path.name}" in line for line in lines if line.startswith("#"))
    assert max(map(len, lines)) <= 119


@every_base
def test_every_key_of_a_base_is_commented(path):
    lines = path.read_text().splitlines()
    for line in lines:
        is_name = re.fullmatch(r"  \w[^:#]*:", line)
        assert not line or line.lstrip().startswith("#") or is_name or re.fullmatch(r" *\w+: .*# \S.*", line), line
    assert lines[0].startswith("#")
    assert max(map(len, lines)) <= 119


def test_a_configuration_holds_what_differs_from_its_base_and_no_more():
    def check(own: dict, there: dict, depths: dict) -> None:
        for key, value in own.items():
            if depths.get(key) and isinstance(there.get(key), dict):
                check(value, there[key], dict.fromkeys(value, depths[key] - 1))
            else:
                assert there.get(key, "nothing") != value, f"{path.name}: {key}"

    extended = []
    for path in (*CONFIGS.glob("*.yaml"), *CONFIGS.glob("*/*.yaml")):
        own = yaml.safe_load(path.read_text())
        if "extends" not in own:
            continue
        base = (path.parent / own.pop("extends")).resolve()
        extended.append(base)
        check(own, read_yaml(base), MERGED)
    shared = [base for base in extended if base.parent.name == "base"]  # others stand for themselves too
    assert set(shared) == set(CONFIGS.glob("base/*.yaml"))
    assert all(shared.count(base) > 1 for base in shared)


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
    settings = [given(CONFIGS / name) for name in names]
    rest = [{key: value for key, value in each.items() if key not in ENCODING_KEYS} for each in settings]
    assert all(each == rest[0] for each in rest)
    encodings = [tuple(str(each.get(key)) for key in sorted(ENCODING_KEYS - {"output_dir"})) for each in settings]
    assert len(set(encodings)) == len(names)


def test_paper_setting_is_the_published_recipe():
    _, data_args, training_args = arguments(CONFIGS / "bipe_rope.yaml")
    settings = given(CONFIGS / "bipe_rope.yaml")
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
    here |= {"encoding_schedule_steps": "2", "bf16": "false", "max_validation_blocks": "4", "report_to": "none"}
    assert main([*pretrain, *(word for key, value in here.items() for word in (f"--{key}", value))]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / Path(CONTINUED).stem)
    assert model.config.model_type == "bipe_gpt_neox"
    assert (model.config.token_share, model.config.hybrid_alibi_scale) == (0.0, 0.02)


def test_a_trained_model_goes_on_with_yarn_over_segments(family, tmp_path, monkeypatch):
    """Afterwards the angles are those that transformers gives to plain tokens, of which there are as many as segments
    here."""
    text = "The cat sat. It ran!\nWhile rain fell, it sat on that hill.\n" * 60
    tokenizer = BipeTokenizer.from_tokenizer(train_tokenizer([text], 280))
    shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    start = families.FAMILIES[family].make_causal_lm(
        vocab_size=len(tokenizer), separator_token_ids=tokenizer.separator_token_ids, **shape
    )
    start.save_pretrained(tmp_path / "runs" / "bipe_rope")
    tokenizer.save_pretrained(tmp_path / "runs" / "bipe_rope")
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample.txt").write_text(text)
    (count,) = re.findall("bipe-hf (segments .*)", (CONFIGS / YARN).read_text())
    assert main(shlex.split(count)) == 0
    (block,) = json.loads(Path("runs/segments/segments.json").read_text())["statistics"]["blocks"]
    ids = tokenizer(text)["input_ids"][: block["blocks"] * 1024]
    ends = sum(each in tokenizer.separator_token_ids for each in ids)
    assert block["length"] == 1024
    assert block["segments_mean"] == pytest.approx(ends / block["blocks"], abs=1)  # a block may begin in a segment

    here = {"data": "texts", "streaming": "false", "train_length": "64", "max_steps": "2", "use_cpu": "true"}
    here |= {"gradient_accumulation_steps": "1", "bf16": "false", "report_to": "none"}
    flags = [word for key, value in here.items() for word in (f"--{key}", value)]
    assert main(["pretrain", str(CONFIGS / YARN), *flags]) == 0

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / Path(YARN).stem)
    rope = model.config.rope_parameters  # with how much of a head a GPT-NeoX rotates
    assert rope.items() >= arguments(CONFIGS / YARN)[0].rope_parameters.items()
    assert model.config.max_position_embeddings == 8192
    angles = []
    model.base_model.inter_encoding.rotary_emb.register_forward_hook(lambda *call: angles.append(call[-1]))
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    segments = [sum(each in tokenizer.separator_token_ids for each in ids[:at]) for at in range(len(ids))]
    assert len(set(segments)) > 100
    stock = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=2, rope_parameters=rope))
    expected = stock(torch.zeros(1), position_ids=torch.tensor([segments]))
    assert all(map(torch.equal, angles[0], expected))
    with torch.no_grad():
        start.load_state_dict(model.state_dict())
        before = start(input_ids=torch.tensor([ids])).logits
    assert (before - logits).abs().max() > 1e-4  # the angles alone make a difference


def test_yarn_is_stretched_as_its_comments_say():
    """Blocks that are 8 times longer, and segments of 16 tokens in those that the model was trained on."""
    before = arguments(CONFIGS / "bipe_rope.yaml")[1].train_length
    model_args, data_args, _ = arguments(CONFIGS / YARN)
    assert given(CONFIGS / YARN)["initial_model"] == "runs/bipe_rope"
    assert model_args.rope_parameters["factor"] == data_args.train_length / before
    assert model_args.max_position_embeddings == data_args.train_length
    assert f"({before:,} / 16)" in (CONFIGS / YARN).read_text()
    assert model_args.rope_parameters["original_max_position_embeddings"] == before / 16


@every_finetuning
def test_a_finetuning_runs_with_its_configuration(path, tmp_path, monkeypatch):
    """With a tiny checkpoint and rows in place of what stands on the Hub, and fewer steps."""
    task = path.stem.removeprefix(FINETUNE)
    settings = FinetuneSettings.read(path, []).given()
    assert settings["task"] == task
    assert settings["initial_model"] == f"runs/{Path(CONTINUED).stem}"
    columns = settings.get("columns", {})
    row = {
        "text": "The cat sat. It ran!",
        "prompt": "Who sat? ",
        "completion": "The cat.",
        "tokens": ["The", "cat", "sat"],
        "question": "Who sat?",
        "context": "The cat sat.",
        "answers": {"text": ["cat"], "answer_start": [4]},
        "id": "0",
        "input": "Who sat?\n\nThe cat sat.",
        "output": "cat",
    }
    rows = [
        {columns.get(key, key): value for key, value in {**row, "label": label, "tags": ["O", tag, "O"]}.items()}
        for label, tag in [(0, "B-cat"), (1, "O")] * 10
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "scrolls" / settings.get("scrolls_task", "")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    tokenizer = train_tokenizer([row["text"], row["context"] + row["question"]] * 5, 280)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer.save_pretrained(tmp_path / "stock")
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "stock")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "stock", settings["initial_model"], "--from", "stock"]) == 0
    here = {"max_steps": "4", "eval_steps": "2", "save_steps": "2", "bf16": "false", "use_cpu": "true"}
    here |= {"data": "scrolls" if task == "scrolls" else "rows.jsonl", "report_to": "none"}
    assert main(["finetune", str(path), *(word for key, value in here.items() for word in (f"--{key}", value))]) == 0
    record = json.loads((tmp_path / "runs" / path.stem / "finetuning.json").read_text())
    assert record["steps"] == 4
    assert settings["metric_for_best_model"] == TASKS[task].best_metric
    assert type(TASKS[task].head.from_pretrained(tmp_path / "runs" / path.stem)).__name__.startswith("BipeGPTNeoX")


def test_every_comparison_is_there():
    there = {path.name for path in CONFIGS.glob(f"{COMPARE}*.yaml")}
    assert there == {f"{COMPARE}{name}.yaml" for name in COMPARISONS}


@every_comparison
def test_every_key_of_a_comparison_is_commented_and_its_numbers_are_true(path):
    lines = path.read_text().splitlines()
    for line in lines:
        is_name = re.fullmatch(r"  \w[^:#]*:", line)  # an entry without more to say
        is_explained_above = re.fullmatch(r" {6}rope_parameters: {.*}", line)
        assert not line or line.startswith("#") or " # " in line or is_name or is_explained_above, line
    assert f"#   bipe-hf compare configs/{path.name}" in lines
    assert max(map(len, lines)) <= 119
    settings = read_comparison(path).content["settings"]
    steps, per_step = settings["max_steps"], settings["per_device_train_batch_size"]
    if "train_length" in settings:
        assert stated(path, "tokens per step") == per_step * settings["train_length"]
        assert stated(path, "tokens") == steps * per_step * settings["train_length"]
    else:
        assert stated(path, "examples per step") == per_step
        assert stated(path, "examples") == steps * per_step


def test_every_kind_of_the_map_is_there():
    assert {path.stem for path in CONFIGS.glob("compare_kinds/*")} == set(KINDS)


# Kinds whose held-out text is of other sources than those of training: one rate for all entries.
NEW_SOURCES = ("json_lines", "logs_unseen")


def test_kinds_of_new_sources_have_the_higher_rate_once_more():
    for name in NEW_SOURCES:
        path = CONFIGS / "compare_kinds_rates" / f"{name}_rates.yaml"
        lines = path.read_text().splitlines()
        usage = f"#   bipe-hf kinds configs/compare_kinds_rates --output results/kinds_rates --only {path.stem}"
        assert usage in lines
        assert max(map(len, lines)) <= 119
        once, again = (read_comparison(file).entries for file in (CONFIGS / "compare_kinds" / f"{name}.yaml", path))
        assert list(once) == list(again)
        for entry, other in zip(once.values(), again.values(), strict=True):
            settings, there = entry.settings.given(), other.settings.given()
            assert (settings.pop("learning_rate"), there.pop("learning_rate")) == (1.5e-3, 3e-3)
            assert settings == there


def test_relatives_are_compared_on_four_kinds():
    assert {path.stem for path in CONFIGS.glob("compare_relatives/*")} == {"mathematics", "novels", "python", "tables"}


@every_relative
def test_relatives_are_compared_over_tokens_and_over_segments_with_and_without_fast_pairs(path):
    entries = read_comparison(path).entries
    labels = {name: entry.settings.given() for name, entry in entries.items()}
    for name in ("fox", "cable", "cope", "dape"):
        found = {
            (given["segmentation"], given.get("added_rotation") == "fast")
            for given in labels.values()
            if given["inter_encoding"] == name
        }
        assert found == {(over, fast) for over in ("tokens", "separators") for fast in (True, False)}
    assert {given.get("separators") for given in labels.values()} > {None}


@pytest.mark.parametrize(
    "path",
    [*CONFIGS.glob("compare_kinds/*.yaml"), *CONFIGS.glob("compare_relatives/*.yaml")],
    ids=lambda path: path.stem,
)
def test_every_key_of_a_kind_is_commented_and_all_share_what_is_measured(path):
    lines = path.read_text().splitlines()
    for line in lines:
        is_name = re.fullmatch(r"  \w[^:#]*:", line)
        assert not line or line.startswith("#") or " # " in line or is_name, line
    what = path.parent.name.removeprefix("compare_")
    assert f"#   bipe-hf kinds configs/compare_{what} --output results/{what} --only {path.stem}" in lines
    assert max(map(len, lines)) <= 119
    comparison, other = read_comparison(path), read_comparison(path.parent / "tables.yaml")
    assert comparison.measure == other.measure
    assert comparison.measure.unit_tokens == max(comparison.measure.lengths)
    assert list(comparison.entries) == list(other.entries)
    for entry, same in zip(comparison.entries.values(), other.entries.values(), strict=True):
        settings, there = entry.settings.given(), same.settings.given()
        assert Path(settings.pop("data")) == Path("runs/kinds_of_text", path.stem)
        for each in (settings, there):
            for key in ("data", "separators", "levels"):
                each.pop(key, None)
        if path.parent.name == "compare_kinds" and path.stem in NEW_SOURCES:
            assert settings.pop("learning_rate") == 1.5e-3
            assert there.pop("learning_rate") in (1.5e-3, 3e-3)
        assert settings == there


def test_the_stated_tokens_of_the_kinds_are_true():
    base = CONFIGS / "base" / "kinds.yaml"
    settings = read_yaml(base)["settings"]
    blocks, length, steps = (settings[key] for key in ("per_device_train_batch_size", "train_length", "max_steps"))
    assert stated(base, "tokens per step") == blocks * length
    assert stated(base, "tokens") == blocks * length * steps
    text = base.read_text()
    assert f"({blocks} blocks of {length})" in text
    assert f"({steps:,} steps)" in text
    assert max(read_yaml(base)["measure"]["lengths"]) == 16 * length


@every_kind
def test_the_levels_of_a_kind_are_those_of_its_text(path):
    """Encodings over segments have separators of their own, those with levels more than one."""
    comparison = read_comparison(path)
    for entry in comparison.entries.values():
        data, model = entry.settings.data, entry.settings.model
        assert (data.separators is not None) == entry.name.startswith(("BiPE", "hybrid over segments"))
        assert (data.levels is not None) == entry.name.startswith("levels")
        assert model.max_segment_length == data.train_length
    levels = [entry.settings.data.levels for name, entry in comparison.entries.items() if name.startswith("levels")]
    assert len(levels) == 3
    assert len(levels[0]) > 1
    assert levels[0] == levels[1] == levels[2]


@pytest.mark.parametrize(
    "name",
    [
        "books",
        "extension",
        "kinds",
        "python",
        # What these have beyond the others, `test_compare.py` tests.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("12_layers", "ablations", "arithmetic", "chain", "math", "math_longer")
        ),
    ],
)
def test_a_comparison_runs_with_its_configuration(name, tmp_path, monkeypatch, capsys, own_datasets_cache):
    """With fewer and shorter steps on a text of its own, and the smallest of models."""
    path = CONFIGS / ("compare_kinds/tables.yaml" if name == "kinds" else f"{COMPARE}{name}.yaml")
    (tmp_path / "texts").mkdir()
    text = "The cat sat, and then it ran. Over that hill!\nWhile rain fell, it sat on a mat.\n" * 40
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    content = read_comparison(path).content
    content["seeds"] = content["seeds"][:1]
    for entry in content["entries"].values():
        entry.pop("seeds", None)
    shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    content["settings"] |= shape | {"num_key_value_heads": 2, "max_steps": 1, "per_device_train_batch_size": 8}
    content["settings"] |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    content["settings"] |= {"use_cpu": True}  # also where a configuration is for a GPU
    if "data" in content["settings"]:
        content["settings"] |= {"data": "texts", "validation_fraction": 0.4, "vocab_size": 280, "train_length": 64}
        content["settings"] |= {"max_validation_blocks": 2}
        content["measure"] |= {"lengths": [64, 128], "max_tokens": 512}
        content["settings"].pop("eval_strategy", None)
        for entry in content["entries"].values():
            if "train_length" in entry:
                entry |= {"train_length": 128, "per_device_train_batch_size": 4}
    else:
        content["settings"]["max_operators"] = 2
        content["measure"] |= {"sizes": [1, 3], "samples": 2}
    Path("small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["compare", "small.yaml"]) == 0
    assert "Without a result" not in capsys.readouterr().out
    results = json.loads(Path("runs/compare/small/comparison.json").read_text())["results"]
    assert {row["entry"] for row in results} == content["entries"].keys()
    assert len(results) == 2 * len(content["entries"])
    assert main(["compare", "small.yaml"]) == 0  # knows what it has done, and goes over nothing again
    assert json.loads(Path("runs/compare/small/comparison.json").read_text())["results"] == results
