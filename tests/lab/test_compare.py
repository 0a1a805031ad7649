"""`bipe-hf compare`: what is trained and measured, what is kept, what is refused, and what the tables say."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comparisons import CONTENT, YARN, changed, write, write_texts
from matplotlib.collections import PolyCollection
from weights import change_a_weight

import bipe_hf.lab.comparison.run as run_module
from bipe_hf.commands import main
from bipe_hf.lab.comparison import ComparisonResults, compare, markdown_tables, read_comparison
from bipe_hf.lab.comparison.curves import draw_learning_curves
from bipe_hf.lab.comparison.experiments import EXPERIMENTS, TextExperiment
from bipe_hf.lab.comparison.figures import draw_loss_by_position, draw_perplexity, figure_names
from bipe_hf.lab.comparison.losses import UnitLosses
from bipe_hf.lab.comparison.results import Row
from bipe_hf.lab.comparison.run import Clock, Job
from bipe_hf.lab.comparison.tables import Rows, effective_length
from bipe_hf.lab.evaluation import evaluate
from bipe_hf.lab.training import build_config, build_model


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


def run(content: dict, name: str = "tiny", **options) -> ComparisonResults:
    return compare(read_comparison(write(content, name)), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with texts and the finished comparison."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_texts(Path("texts"))
        run(CONTENT)
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time of a small comparison."""
    monkeypatch.setattr(run_module, "draw_figures", lambda *arguments: None)


@pytest.fixture
def here(finished, tmp_path, monkeypatch, no_figures):
    """A copy of that folder to work in."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, copy_function=shutil.copy2)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def empty(finished, tmp_path, monkeypatch, no_figures):
    """A folder with the texts alone."""
    shutil.copytree(finished / "texts", tmp_path / "texts", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """The folders that trainings go to from now on."""
    folders, pretrain = [], run_module.EXPERIMENTS["text"].run

    def recorded(task, settings, overwrite):
        folders.append(Path(settings.training["output_dir"]).name)
        return pretrain(task, settings, overwrite)

    monkeypatch.setattr(run_module.EXPERIMENTS["text"], "run", recorded)
    return folders


def keys(results: ComparisonResults) -> set:
    return {(row.entry, row.seed, row.size) for row in results.results}


OUTPUT = "runs/compare/tiny"


def load(folder: str = OUTPUT, name: str = "comparison.json") -> dict:
    return json.loads(Path(folder, name).read_text())


def error_line(capsys) -> str:
    captured = capsys.readouterr().err
    assert captured.startswith("bipe-hf: error: ")
    assert captured.count("\n") == 1
    return captured


# What is done


def test_every_entry_seed_and_length_is_measured_as_evaluate_does(here):
    content = load()
    assert len(content["results"]) == 3 * 2 * 2
    for row in content["results"]:
        slug = "rope" if row["entry"] == "RoPE" else "bipe-rope"
        fields = {"rope_parameters": YARN} if row["entry"] == "BiPE YaRN" else None
        folder = f"runs/compare/tiny/{slug}-seed{row['seed']}"
        options = {"data": "texts", "max_tokens": 512, "device": "cpu", "config_fields": fields}
        expected = {each.length: each for each in evaluate([folder], [16, 64], **options).results}[row["size"]]
        assert row["value"] == expected.perplexity == row["measured"]["perplexity"]
        assert row["measured"]["text_sha256"] == expected.text_sha256
        assert row["measured"]["loss_by_position"] == expected.loss_by_position
        assert row["measured"]["config_fields"] == (fields or {})
    by_key = {(row["entry"], row["seed"], row["size"]): row["value"] for row in content["results"]}
    assert by_key["BiPE YaRN", 1, 64] != by_key["BiPE-RoPE", 1, 64]
    assert by_key["RoPE", 1, 64] != by_key["RoPE", 2, 64]


def test_all_models_share_one_tokenizer_and_differ_in_their_encoding(here):
    folders = sorted(Path("runs/compare/tiny").glob("*-seed*"))
    assert [folder.name for folder in folders] == ["bipe-rope-seed1", "bipe-rope-seed2", "rope-seed1", "rope-seed2"]
    models = {(folder / "tokenizer.json").read_text() for folder in folders}
    assert len({json.dumps(json.loads(text)["model"]) for text in models}) == 1
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [config["segmentation"] for config in configs] == ["separators"] * 2 + ["tokens"] * 2
    assert [json.loads((folder / "training.json").read_text())["config"]["seed"] for folder in folders] == [1, 2, 1, 2]


def test_finished_comparison_has_nothing_left_to_do(here, trained, monkeypatch):
    monkeypatch.setattr(run_module, "_measure", None)
    before = load()
    results = run(CONTENT)
    assert trained == []
    assert [vars(row) for row in results.results] == before["results"]
    assert results.failures == []


def test_every_result_keeps_the_call_that_measured_it(empty, trained):
    run(CONTENT, only=["RoPE"], command="the first")
    run(CONTENT, only=["RoPE"], command="nothing to do")
    results = run(CONTENT, command="the second")
    assert [call["command"] for call in results.calls] == ["the first", "the second"]
    assert {(row.entry, row.call) for row in results.results} == {("RoPE", 0), ("BiPE-RoPE", 1), ("BiPE YaRN", 1)}
    assert all({"torch", "transformers", "device"} <= call["environment"].keys() for call in results.calls)
    tables = Path(OUTPUT, "comparison.md").read_text()
    assert "`the first`, " in tables
    assert "`the second`, " in tables


def test_records_of_trainings_come_with_results_in_another_folder(here, trained):
    run(CONTENT, output="elsewhere")
    assert trained == []
    by_key = [{(run["entry"], run["seed"]): run for run in load(folder)["runs"]} for folder in ("elsewhere", OUTPUT)]
    assert by_key[0] == by_key[1]
    assert len(by_key[0]) == 4


def test_number_spelt_otherwise_is_the_same_setting(here, trained):
    results = run(changed(CONTENT, settings__learning_rate=0.03))
    assert trained == []
    assert len(results.results) == 12


def test_entries_seeds_and_lengths_added_later_redo_nothing(here, trained):
    before = {(row["entry"], row["seed"], row["size"]): row for row in load()["results"]}
    more = changed(CONTENT, measure__lengths=[16, 32, 64], entries__NoPE={"inter_encoding": "none", "seeds": [3]})
    more = changed(more, entries__RoPE__seeds=[1, 2, 3])
    results = run(more)
    assert sorted(trained) == ["nope-seed3", "rope-seed3"]
    assert keys(results) == {
        (entry, seed, size)
        for entry, seeds in {"RoPE": [1, 2, 3], "BiPE-RoPE": [1, 2], "BiPE YaRN": [1, 2], "NoPE": [3]}.items()
        for seed in seeds
        for size in (16, 32, 64)
    }
    kept = {(row.entry, row.seed, row.size): vars(row) for row in results.results}
    assert all(kept[key] == row for key, row in before.items())


UNITS = changed(CONTENT, measure__unit_tokens=50, seeds=[1])


def test_losses_of_units_are_kept_beside_the_results(empty, trained, capsys):
    """All entries have the same units, and their sums are the mean losses in the results."""
    run(UNITS, only=["RoPE"])
    assert UnitLosses.read(Path(OUTPUT)).nats.keys() == {("RoPE", 1, 16), ("RoPE", 1, 64)}
    run(changed(UNITS, measure__lengths=[16, 32, 64]))  # more entries, and a length more
    losses = UnitLosses.read(Path(OUTPUT))
    rows = load()["results"]
    assert losses.nats.keys() == {(row["entry"], row["seed"], row["size"]) for row in rows}
    assert len(rows) == 9
    (units,) = {nats.shape for nats in losses.nats.values()}
    assert units == (11,)  # 512 tokens of one document
    for row in rows:
        tokens = losses.tokens[row["size"]]
        assert tokens.sum() == row["measured"]["tokens_scored"]
        mean = losses.nats[row["entry"], 1, row["size"]].sum() / tokens.sum()
        assert mean == pytest.approx(row["measured"]["nll"], abs=1e-5)
    assert trained == ["rope-seed1", "bipe-rope-seed1"]
    assert "nats" not in Path(OUTPUT, "comparison.json").read_text()  # they are long


def test_losses_that_are_gone_or_were_not_asked_for_are_told(empty, trained, capsys):
    run(CONTENT, only=["RoPE"])
    assert not Path(OUTPUT, "losses.json").exists()
    capsys.readouterr()
    assert main(["compare", str(write(changed(CONTENT, measure__unit_tokens=50)))]) == 2
    assert "unit_tokens (there None, now 50)" in error_line(capsys)
    run(UNITS, only=["RoPE"], output="other")
    capsys.readouterr()
    file = Path("other/losses.json")
    content = json.loads(file.read_text())
    content["nats"].pop()
    file.write_text(json.dumps(content))
    assert main(["compare", str(write(UNITS)), "--output", "other"]) == 2
    assert "other/losses.json has no losses of 'RoPE', seed 1, at 64, which comparison.json has" in error_line(capsys)
    content["nats"][0]["nats"].pop()
    file.write_text(json.dumps(content))
    assert main(["compare", str(write(UNITS)), "--output", "other"]) == 2
    assert "other/losses.json: the units of 'RoPE', seed 1, at 16 have no tokens" in error_line(capsys)
    file.unlink()
    assert main(["compare", str(write(UNITS)), "--output", "other"]) == 2
    assert "file not found: other/losses.json" in error_line(capsys)
    assert main(["compare", str(write(UNITS)), "--output", "other", "--overwrite"]) == 0
    assert len(UnitLosses.read(Path("other")).nats) == 6


def test_learning_curves_are_those_of_the_logs(empty, capsys):
    logged = {"settings__logging_steps": 1, "settings__eval_strategy": "steps", "settings__eval_steps": 1}
    run(changed(CONTENT, seeds=[1], **logged), only=["RoPE"])
    history = load(f"{OUTPUT}/rope-seed1", "trainer_state.json")["log_history"]
    (curve,) = [each["learning_curve"] for each in load()["runs"]]
    for kind, key in (("training", "loss"), ("validation", "eval_loss")):
        points = {row["step"]: row[key] for row in history if key in row}
        assert curve[kind]["steps"] == [1, 2]
        assert curve[kind]["losses"] == pytest.approx([points[1], points[2]], abs=1e-4)
    assert main(["plot", f"{OUTPUT}/comparison.json", "--overwrite"]) == 0
    assert "learning_curves.svg" in capsys.readouterr().out
    assert Path(OUTPUT, "learning_curves.png").is_file()


def test_an_entry_may_have_a_learning_rate_of_its_own(empty, trained):
    run(changed(CONTENT, seeds=[1], entries__RoPE__learning_rate="1e-2"), only=["RoPE", "BiPE-RoPE"])
    rates = [
        load(f"{OUTPUT}/{name}-seed1", "training.json")["config"]["learning_rate"] for name in ("rope", "bipe-rope")
    ]
    assert rates == [1e-2, 3e-2]


def test_only_some_entries_are_run_and_the_model_they_need(empty, trained):
    results = run(CONTENT, only=["BiPE YaRN"])
    assert trained == ["bipe-rope-seed1", "bipe-rope-seed2"]
    assert {row.entry for row in results.results} == {"BiPE YaRN"}
    assert {row.entry for row in run(CONTENT, only=["RoPE"]).results} == {"BiPE YaRN", "RoPE"}


def test_interrupted_comparison_goes_on_to_the_same_results(empty, finished, trained, monkeypatch, capsys):
    task_run = EXPERIMENTS["text"].run

    def interrupted(task, settings, overwrite):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return task_run(task, settings, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(EXPERIMENTS["text"], "run", interrupted)
        assert main(["compare", str(write(CONTENT))]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert {(row["entry"], row["seed"]) for row in load()["results"]} == {
        ("RoPE", 1),
        ("BiPE-RoPE", 1),
        ("BiPE YaRN", 1),
    }
    results = run(CONTENT)
    assert sorted(trained) == ["bipe-rope-seed1", "bipe-rope-seed2", "rope-seed1", "rope-seed2"]
    whole = {
        (row["entry"], row["seed"], row["size"]): row["value"]
        for row in load(finished / "runs/compare/tiny")["results"]
    }
    assert {(row.entry, row.seed, row.size): row.value for row in results.results} == whole


def test_failed_entry_is_told_and_tried_again_and_costs_no_other(empty, monkeypatch, capsys):
    task_run = EXPERIMENTS["text"].run

    def failing(task, settings, overwrite):
        if "bipe" in settings.training["output_dir"] and settings.training["seed"] == 1:
            raise RuntimeError("the disk is full")
        return task_run(task, settings, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(EXPERIMENTS["text"], "run", failing)
        assert main(["compare", str(write(CONTENT))]) == 1
    assert "- BiPE-RoPE, seed 1: training: RuntimeError: the disk is full" in capsys.readouterr().out
    assert "the disk is full" in Path("runs/compare/tiny/comparison.md").read_text()
    assert {(each["entry"], each["seed"]) for each in load()["failures"]} == {("BiPE-RoPE", 1), ("BiPE YaRN", 1)}
    assert len(load()["results"]) == (2 + 1 + 1) * 2
    assert main(["compare", str(write(CONTENT))]) == 0
    assert load()["failures"] == []
    assert len(load()["results"]) == 12


def test_diverged_training_is_a_failure_that_is_trained_again(empty, trained, capsys):
    diverging = changed(CONTENT, settings__learning_rate="1e38", settings__max_grad_norm="0", seeds=[1])
    diverging = changed(diverging, settings__max_steps=4)
    assert main(["compare", str(write(diverging)), "--only", "RoPE"]) == 1
    assert "the training diverged, its validation loss is nan" in load()["failures"][0]["reason"]
    assert load()["results"] == []
    assert main(["compare", str(write(diverging)), "--only", "RoPE"]) == 1
    assert trained == ["rope-seed1"] * 2


def test_models_of_one_seed_start_from_the_same_weights(empty, family):
    """But for those of their encodings."""
    entries = {
        "BiPE-ALiBi": {"inter_encoding": "alibi", "separators": "sentences"},
        "T5": {"inter_encoding": "t5", "separators": "sentences", "intra_encoding": "sinusoidal"},
        "NoPE": {"inter_encoding": "none", "segmentation": "tokens"},
    }
    content = changed(CONTENT, entries=CONTENT["entries"] | entries, settings__model_type=f"bipe_{family}")
    comparison = read_comparison(write(content))
    states = []
    for name in ("RoPE", "BiPE-RoPE", *entries):
        settings = comparison.entries[name].settings
        torch.manual_seed(1)
        states.append(build_model(settings.model, build_config(settings.model, settings.data)).state_dict())
    plain = states[0]
    for state in states[1:]:
        assert plain.keys() <= state.keys()
        assert all("encoding" in name for name in state.keys() - plain.keys())
        assert [name for name in plain if not torch.equal(plain[name], state[name])] == []


def test_arithmetic_is_measured_by_operators(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = CONTENT["settings"] | {"max_operators": 2, "max_segment_length": 64}
    for key in ("data", "vocab_size", "train_length", "max_validation_blocks"):
        del settings[key]
    content = {
        "task": "arithmetic",
        "seeds": [1],
        "settings": settings,
        "entries": {"RoPE": {"segmentation": "tokens"}, "BiPE-RoPE": {}},
        "measure": {"sizes": [1, 2, 3], "samples": 6},
    }
    assert main(["compare", str(write(content))]) == 0
    assert {(row["entry"], row["size"]) for row in load()["results"]} == {
        (entry, size) for entry in ("RoPE", "BiPE-RoPE") for size in (1, 2, 3)
    }
    for row in load()["results"]:
        assert row["value"] == row["measured"]["accuracy"]
        assert row["measured"]["samples"] == 6
    capsys.readouterr()
    Path(OUTPUT, "rope-seed1", "synthetic.json").write_text("[]")
    assert main(["compare", str(write(content))]) == 2
    assert "synthetic.json is no record of a training" in error_line(capsys)
    assert main(["compare", str(write(content | {"reference": "RoPE"}))]) == 2
    assert "reference: the tables of task arithmetic have no ratio to one" in error_line(capsys)
    assert "Right answers in percent" in Path("runs/compare/tiny/comparison.md").read_text()
    assert Path("runs/compare/tiny/accuracy.png").is_file()


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "poetry"}, "task: 'poetry' is none of text, arithmetic, chain"),
        ({"task": ["text"]}, "task: ['text'] is none of text, arithmetic, chain"),
        ({"measure": None}, "measure is missing"),
        ({"meassure": {}}, "unknown key 'meassure'; did you mean measure?"),
        ({"seeds": []}, "seeds: []"),
        ({"seeds": [1, 1]}, "the same seed is given twice"),
        ({"seeds": ["one"]}, "seeds: ['one'] is no list of whole numbers"),
        ({"reference": "rope"}, "reference: there is no entry 'rope'"),
        ({"reference": ["RoPE"]}, "reference: there is no entry ['RoPE']"),
        ({"entries": {}}, "entries: there is none"),
        ({"entries__BiPE YaRN__trained_as": ["RoPE"]}, "trained_as: there is no entry ['RoPE']"),
        ({"entries__BiPE YaRN__trained_as": "BiPE"}, "trained_as: there is no entry 'BiPE'; did you mean BiPE-RoPE?"),
        ({"entries__RoPE__trained_as": "BiPE-RoPE"}, "none of its own"),
        ({"entries__bipe-rope": {}}, "would share the folder bipe-rope"),
        ({"entries__a|b": {}}, "'a|b' is no name"),
        ({"entries__RoPE__hidden_size": 32}, "entry 'RoPE' sets hidden_size: all entries share it"),
        ({"entries__RoPE__max_steps": 3}, "entry 'RoPE' sets max_steps: all entries share it"),
        ({"entries__RoPE__data": "python"}, "entry 'RoPE' sets data: all entries share it"),
        ({"entries__RoPE__vocab_size": 300}, "entry 'RoPE' sets vocab_size: all entries share it"),
        ({"entries__RoPE__segmentatoin": "tokens"}, "no such setting; did you mean segmentation?"),
        ({"entries__RoPE__inter_encoding": "rotary"}, "entry 'RoPE': inter_encoding must be one of"),
        ({"entries__RoPE__train_length": 64}, "differ in the tokens of a step (256 and 64)"),
        ({"entries__BiPE YaRN__evaluate_with": {"rope_parametres": {}}}, "has no field rope_parametres"),
        (
            {"entries__BiPE YaRN__evaluate_with": {"max_segment_length": 99}},
            "evaluate_with: the weights that are trained do not fit it (model.intra_encoding.weight)",
        ),
        ({"settings__max_steps": "many"}, "max_steps: invalid int value: 'many'"),
        ({"settings__seed": 3}, "settings: seed is not to be set"),
        ({"settings__output_dir": "x"}, "settings: output_dir is not to be set"),
        ({"settings__resume_from_checkpoint": "x"}, "resume_from_checkpoint"),
        ({"settings__data": "nowhere"}, "nowhere"),
        ({"measure__lengths": [64]}, "measure, lengths: 16 is missing, the train length of 'RoPE'"),
        ({"measure__lengths": [16, 16]}, "the same one is given twice"),
        ({"measure__lengths": [16, 1]}, "1 is too short"),
        ({"measure__lengths": "16,64"}, "'16,64' given, a list of whole numbers"),
        ({"measure__lengths": [16, 4]}, "4 tokens hold less than one segment of 'BiPE-RoPE'"),
        ({"measure__max_tokens": 20}, "20 tokens hold no block of 64"),
        ({"measure__lengths": [16, 65536], "measure__max_tokens": None}, "too few for one block of 65536"),
        ({"measure__protocol": "sideways"}, "'sideways' is none of"),
        ({"measure__text_column": "x"}, "without data in measure"),
        ({"measure__speed": 1}, "measure: unknown key 'speed'"),
        ({"measure__unit_tokens": 0}, "unit_tokens: 0 given, at least 1 is needed"),
    ],
)
def test_bad_file_is_one_line_before_anything_is_written(empty, changes, message, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "_work", None)
    assert main(["compare", str(write(changed(CONTENT, **changes)))]) == 2
    assert message in error_line(capsys)
    assert not list(Path().rglob("comparison.json"))
    assert not list(Path().rglob("*-seed*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("entries:\n  RoPE: {}\n  RoPE: {}\n", "'RoPE' is given twice"),
        ("task: text\ntask: chain\n", "'task' is given twice"),
        ("? [task, text]\n: 1\n", "a key is no word"),
        ("- text\n", "expected lines of the form"),
        ("task: [", "tiny.yaml"),
    ],
)
def test_file_that_is_no_mapping_or_has_a_name_twice_is_refused(empty, content, message, capsys):
    assert main(["compare", str(write(content))]) == 2
    assert message in error_line(capsys)


def test_unknown_entry_of_only_is_refused(empty, capsys):
    assert main(["compare", str(write(CONTENT)), "--only", "RoPe"]) == 2
    assert "only: there is no entry 'RoPe'; did you mean RoPE?" in error_line(capsys)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHERS = [
    ({"entries__RoPE__log_scale_train_length": 4}, "log_scale_train_length"),
    ({"settings__learning_rate": "1e-3"}, "learning_rate"),
    ({"settings__vocab_size": 270}, "vocab_size"),
    ({"entries__BiPE-RoPE__separators": "lines"}, "'BiPE-RoPE': separators (there sentences, now lines)"),
    ({"entries__BiPE YaRN__evaluate_with": {"max_position_embeddings": 9}}, "'BiPE YaRN': evaluate_with"),
    ({"measure__max_tokens": 256}, "max_tokens (there 512, now 256)"),
    ({"measure__lengths": [16]}, "which this file does not ask for"),
    ({"seeds": [1]}, "seed 2, at 16, which this file does not ask for"),
    ({"entries__RoPE": None, "reference": "BiPE-RoPE"}, "which this file does not ask for"),
]


def test_overwriting_the_results_of_all_is_refused_with_entries_named(here, capsys):
    before = files(here / "runs")
    assert main(["compare", str(write(CONTENT)), "--only", "RoPE", "--overwrite"]) == 2
    assert "only and overwrite exclude each other" in error_line(capsys)
    assert files(here / "runs") == before


@pytest.mark.parametrize(("changes", "message"), OTHERS)
def test_results_of_another_comparison_are_refused_and_kept(here, changes, message, capsys):
    before = files(here / "runs")
    assert main(["compare", str(write(changed(CONTENT, **changes)))]) == 2
    line = error_line(capsys)
    assert message in line
    assert "comparison.json" in line
    assert "--overwrite" in line
    assert files(here / "runs") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings__learning_rate": "1e-3"}, "trained with other settings: learning_rate (there 0.03, now 0.001)"),
        ({"settings__vocab_size": 270}, "trained with other settings: vocab_size"),
    ],
)
def test_models_of_another_comparison_are_refused_without_results_too(here, changes, message, capsys):
    Path("runs/compare/tiny/comparison.json").unlink()
    for path in Path("runs/compare/tiny").glob("*.*"):
        path.unlink()
    before = files(here / "runs")
    assert main(["compare", str(write(changed(CONTENT, **changes)))]) == 2
    assert message in error_line(capsys)
    assert files(here / "runs") == before


def test_other_text_is_refused_for_results_and_for_models(here, trained, capsys):
    shutil.rmtree("texts")
    write_texts(Path("texts"), seed=7)
    before = files(here / "runs")
    assert main(["compare", str(write(CONTENT))]) == 2
    assert "is of another text or tokenizer (text_sha256" in error_line(capsys)
    assert main(["compare", str(write(CONTENT)), "--output", "elsewhere"]) == 2
    assert "it was trained on other text" in error_line(capsys)
    assert files(here / "runs") == before
    assert trained == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("基线", "基线"),
        ("Базовая 2", "базовая-2"),
        ("हिंदी", "हिंदी"),
        ("Cafe\u0301 (1)", "caf\u00e9-1"),
        ("BiPE, 30 times", "bipe-30-times"),
    ],
)
def test_names_in_any_script_name_folders_and_stand_in_figures(empty, name, slug):
    content = changed(CONTENT, entries={name: {"segmentation": "tokens", "intra_encoding": "none"}}, reference=None)
    comparison = read_comparison(write(content))
    assert comparison.model_folder(comparison.entries[name], 1).name == f"{slug}-seed1"


def test_text_to_measure_on_that_is_trained_on_is_said_so_whatever_its_name(empty):
    write_texts(Path("other"), seed=7)
    shutil.copy("texts/train/text.txt", "other/validation/copy.txt")
    content = changed(CONTENT, measure__data="other", measure__max_tokens=None)
    with pytest.warns(UserWarning, match="trained on 1 of the 2 documents of other"):
        TextExperiment(read_comparison(write(content))).prepare()


def test_entry_is_added_to_results_that_came_without_models(here, trained):
    before = load()["results"]
    for folder in Path(OUTPUT).glob("*-seed*"):
        shutil.rmtree(folder)
    results = run(changed(CONTENT, entries__NoPE={"inter_encoding": "none", "seeds": [1]}))
    assert trained == ["nope-seed1"]
    assert [vars(row) for row in results.results[:12]] == before
    assert {row.entry for row in results.results[12:]} == {"NoPE"}
    assert {run["entry"] for run in results.runs} == {"RoPE", "BiPE-RoPE", "NoPE"}


@pytest.mark.parametrize(
    "changes",
    [
        {"measure__lengths": [16, 32, 64]},
        {"entries__RoPE linear": {"trained_as": "RoPE", "evaluate_with": {"max_position_embeddings": 9}}},
    ],
)
def test_nothing_more_is_measured_of_a_model_that_is_gone(here, trained, changes, capsys):
    shutil.rmtree(f"{OUTPUT}/rope-seed1")
    before = files(here / "runs")
    assert main(["compare", str(write(changed(CONTENT, **changes)))]) == 2
    assert "rope-seed1, which runs/compare/tiny/comparison.json has results of, is gone" in error_line(capsys)
    assert files(here / "runs") == before
    assert trained == []


def test_results_of_a_model_that_was_trained_again_are_refused(here, trained, capsys):
    change_a_weight(f"{OUTPUT}/rope-seed1/model.safetensors")
    assert main(["compare", str(write(CONTENT))]) == 2
    assert "has results of 'RoPE', seed 1, that are not of the model in" in error_line(capsys)
    assert trained == []


def test_a_model_keeps_its_results_when_it_is_copied_or_touched(here, trained):
    folder = Path(OUTPUT, "rope-seed1")
    before = vars(run(CONTENT))
    shutil.copytree(folder, here / "copy")
    shutil.rmtree(folder)
    shutil.copytree(here / "copy", folder)
    os.utime(folder / "model.safetensors", (0, 0))
    assert vars(run(CONTENT)) == before
    assert trained == []


def test_results_that_tell_a_model_by_time_are_measured_again(here, trained, capsys):
    """As those of earlier versions do, whose models may be here or not."""
    file = Path(OUTPUT, "comparison.json")
    content = json.loads(file.read_text())
    before = run(CONTENT).results
    for row in content["results"]:
        row["model_fingerprint"] = "0" * 64
    file.write_text(json.dumps(content))
    shutil.rmtree(Path(OUTPUT, "rope-seed1"))
    after = run(CONTENT).results
    assert trained == []
    assert {(row.entry, row.seed, row.size, row.value) for row in after} == {
        (row.entry, row.seed, row.size, row.value) for row in before
    }
    assert {(row.entry, row.seed) for row in after if row.model_fingerprint == "0" * 64} == {("RoPE", 1)}
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("it is measured again")]
    assert len(said) == len({(row.entry, row.seed) for row in before}) - 1


def test_overwriting_trains_again_what_is_another_and_nothing_else(here, trained):
    changes = {"entries__BiPE-RoPE__separators": "clauses"}
    results = run(changed(CONTENT, **changes), overwrite=True)
    assert trained == ["bipe-rope-seed1", "bipe-rope-seed2"]
    assert keys(results) == {(row["entry"], row["seed"], row["size"]) for row in load()["results"]}
    assert len(results.results) == 12


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pretrain.yaml", "[", "its pretrain.yaml cannot be read"),
        ("pretrain.yaml", "text", "its pretrain.yaml cannot be read"),
        ("training.json", "{", "training.json is no record of a training"),
        ("training.json", "[]", "training.json is no record of a training"),
    ],
)
def test_damaged_run_is_one_line(here, trained, file, content, message, capsys):
    Path(OUTPUT, "rope-seed1", file).write_text(content)
    assert main(["compare", str(write(CONTENT))]) == 2
    assert message in error_line(capsys)
    assert trained == []


@pytest.mark.parametrize("existing", ["comparison.md", "losses.json", "perplexity.png", "comparison.json"])
def test_files_of_somebody_else_are_kept(empty, existing, capsys):
    Path("mine").mkdir()
    Path("mine", existing).write_text("precious")
    assert main(["compare", str(write(CONTENT)), "--output", "mine"]) == 2
    assert existing in error_line(capsys)
    assert Path("mine", existing).read_text() == "precious"


def test_folder_that_holds_no_run_is_refused(empty, capsys):
    Path("runs/compare/tiny/rope-seed1").mkdir(parents=True)
    Path("runs/compare/tiny/rope-seed1/notes.txt").write_text("precious")
    assert main(["compare", str(write(CONTENT))]) == 2
    assert "rope-seed1 is not empty and holds no training run" in error_line(capsys)


# What is shown


def row(entry: str, seed: int, size: int, value: float, train_length: int = 16) -> Row:
    measured = {
        "encoding": entry.upper(),
        "train_length": train_length,
        "bits_per_byte": value / 10,
        "segments_per_block": size / 4,
        "tokens_scored": size - 1,
        "loss_by_position": [
            {"first": 1, "tokens": 1, "nll": value / 2},
            {"first": 2, "tokens": 2, "nll": value / 4},
        ],
    }
    return Row(entry, seed, size, value, "", measured, call=0)


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """A comparison and results with numbers that are easy to reckon with."""
    monkeypatch.chdir(tmp_path)
    content = changed(CONTENT, measure__lengths=[16, 32, 64])
    values = {
        ("RoPE", 1): (10.0, 20.0, 40.0),
        ("RoPE", 2): (14.0, 20.0, 44.0),
        ("BiPE-RoPE", 1): (12.0, 12.05, 11.0),
    }
    rows = [
        row(entry, seed, size, value)
        for (entry, seed), line in values.items()
        for size, value in zip((16, 32, 64), line, strict=True)
    ]
    text = {"source": "a text", "documents": 1, "tokens": 64}
    failures = [{"entry": "BiPE-RoPE", "seed": 2, "reason": "training: no luck"}]
    calls = [{"begun": "today", "command": "a command", "environment": {}}]
    results = ComparisonResults(calls, content, text, [], failures, rows)
    return results, read_comparison(write(content))


def table(tables: str, title: str) -> dict[str, list[str]]:
    """The cells behind the name of each entry in the table under a title."""
    lines = tables.split(title)[1].split("\n\n")[1].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}


def test_tables_show_mean_spread_and_ratio(by_hand):
    tables = markdown_tables(*by_hand)
    perplexity = table(tables, "Perplexity:")
    assert perplexity["entry"] == ["encoding", "seeds", "16", "32", "64"]
    assert perplexity["RoPE"] == ["ROPE", "2", "12.00 ± 2.83", "20.00 ± 0.00", "42.00 ± 2.83"]  # 2.83: the root of 8
    assert perplexity["BiPE-RoPE"] == ["BIPE-ROPE", "1", "12.00", "12.05", "11.00"]
    assert table(tables, "Bits per byte:")["RoPE"][2] == "1.2000 ± 0.2828"
    ratios = table(tables, "Perplexity divided by that of RoPE at its train length (16):")
    assert ratios["RoPE"][2:] == ["1.000", "1.667", "3.500"]
    assert ratios["BiPE-RoPE"][2:] == ["1.000", "1.004", "0.917"]
    assert table(tables, "Segments per block:")["RoPE"][2:] == ["4.0", "8.0", "16.0"]
    assert "Tokens scored: 15 at 16, 31 at 32, 63 at 64." in tables
    effective = table(tables, "Effective length")
    assert effective["RoPE"][1:] == ["16", "16"]
    assert effective["BiPE-RoPE"][1:] == ["16", "≥ 64"]
    assert "- BiPE-RoPE, seed 2: training: no luck" in tables


@pytest.mark.parametrize(
    ("means", "train_length", "expected"),
    [
        ([(16, 10.0), (32, 10.04), (64, 9.0)], 16, 64),
        ([(16, 10.0), (32, 10.06), (64, 9.0)], 16, 16),  # what follows a worse length does not count
        ([(16, 99.0), (32, 10.0), (64, 10.0), (128, 11.0)], 32, 64),  # what is shorter does not count
        ([(16, 10.0), (32, None), (64, 9.0)], 16, 16),
        ([(16, None), (32, 9.0)], 16, None),
    ],
)
def test_effective_length_is_contiguous_and_allows_for_noise(means, train_length, expected):
    assert effective_length(means, train_length) == expected


def test_figures_show_means_and_the_band_of_the_seeds(by_hand):
    results, comparison = by_hand
    rows = Rows(results, comparison)
    (axes,) = draw_perplexity(rows, "title").axes
    lines = [list(line.get_ydata()) for line in axes.get_lines() if line.get_marker() != "None"]
    assert lines == [[12.0, 20.0, 42.0], [12.0, 12.05, 11.0]]
    bands = [each.get_paths()[0].get_extents() for each in axes.collections if isinstance(each, PolyCollection)]
    assert bands[0].y1 == pytest.approx(42 + 8**0.5)
    names = {text.get_text(): text.xy for text in axes.texts if text.arrow_patch is not None}
    assert names == {"RoPE": (64, 42.0), "BiPE-RoPE": (64, 11.0)}
    (axes,) = draw_loss_by_position(rows, "title").axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
    assert ([1, 2], [21.0, 10.5]) in lines  # means of 40 and 44, halved and quartered
    assert ([1, 2], [5.5, 2.75]) in lines


def test_learning_curves_are_means_over_seeds_at_the_steps_of_all(by_hand):
    results, comparison = by_hand
    logs = {("RoPE", 1): [4.0, 3.0, 2.0], ("RoPE", 2): [6.0, 3.5], ("BiPE-RoPE", 1): [5.0, 2.0, 1.0]}
    results.runs = [
        {
            "entry": entry,
            "seed": seed,
            "learning_curve": {
                "validation": {"steps": [10, 20, 30][: len(losses)], "losses": losses},
                "training": {"steps": [5], "losses": [9.0 + seed]},
            },
        }
        for (entry, seed), losses in logs.items()
    ]
    (axes,) = draw_learning_curves(results, comparison, "title").axes
    lines = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.get_lines()}
    assert lines == {((10, 20), (5.0, 3.25)), ((10, 20, 30), (5.0, 2.0, 1.0)), ((5,), (10.5,)), ((5,), (10.0,))}
    names = {text.get_text(): text.xy for text in axes.texts if text.arrow_patch is not None}
    assert names == {"RoPE": (20, 3.25), "BiPE-RoPE": (30, 1.0)}
    assert figure_names(results, comparison)[-1] == "learning_curves"
    results.runs = [{key: each[key] for key in ("entry", "seed")} for each in results.runs]  # as earlier versions have
    assert "learning_curves" not in figure_names(results, comparison)


def test_first_entry_is_drawn_on_top_and_the_reference_below_it(by_hand):
    results, comparison = by_hand
    entries = {name: comparison.entries[name] for name in ("BiPE-RoPE", "RoPE")}
    entries["other"] = replace(comparison.entries["RoPE"], name="other")
    comparison = replace(comparison, entries=entries)
    results.results += [row("other", 1, size, 13.0) for size in (16, 64)]
    for draw in (draw_perplexity, draw_loss_by_position):
        (axes,) = draw(Rows(results, comparison), "title").axes
        lines = [line for line in axes.get_lines() if line.get_marker() != "None"]
        headline, reference, other = lines
        assert headline.get_zorder() > reference.get_zorder() > other.get_zorder()
        assert headline.get_linewidth() == reference.get_linewidth() > other.get_linewidth()


def test_an_entry_looks_the_same_while_others_are_not_measured(by_hand):
    results, comparison = by_hand
    looks = []
    for _ in range(2):
        for draw in (draw_perplexity, draw_loss_by_position):
            (axes,) = draw(Rows(results, comparison), "title").axes
            line = [line for line in axes.get_lines() if line.get_marker() != "None"][-1]
            looks.append((line.get_color(), line.get_marker()))
        results.results = [row for row in results.results if row.entry != "RoPE"]
    assert len(set(looks)) == 1


def test_every_file_is_written_and_the_figures_are_pictures(here):
    names = {path.name for path in Path("runs/compare/tiny").iterdir() if path.is_file()}
    assert names == {
        "comparison.json",
        "comparison.md",
        *(f"{figure}.{suffix}" for figure in ("perplexity", "loss_by_position") for suffix in ("png", "svg")),
    }
    content = load()
    assert content["format"] == "bipe-hf comparison 1"
    assert content["config"]["entries"] == CONTENT["entries"]
    assert content["text"].keys() >= {"text_sha256", "tokenizer_sha256", "training_text_sha256"}
    assert {(run["entry"], run["seed"]) for run in content["runs"]} == {
        (entry, seed) for entry in ("RoPE", "BiPE-RoPE") for seed in (1, 2)
    }
    assert all({"seconds", "tokens_seen", "parameters", "versions"} <= run.keys() for run in content["runs"])


def test_time_left_follows_from_the_jobs_that_are_done():
    jobs = [Job("training", None, 1), Job("measuring", None, 1), Job("training", None, 2)]
    clock = Clock()
    assert clock.left(jobs) == "time left: known after the first"
    clock.seconds = {"training": [100.0, 140.0], "measuring": [60.0]}
    assert clock.left(jobs) == "about 5 min left"
    assert clock.left(jobs[:0]) == "done"
