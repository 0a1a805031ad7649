"""Tables and figures again from results alone, without the models: those of this repository, and what is refused."""

import shutil
from pathlib import Path

import pytest
from paths import ROOT

from bipe_hf.commands import main
from bipe_hf.lab.comparison import markdown_tables
from bipe_hf.lab.comparison.redraw import open_comparison, redraw
from bipe_hf.lab.evaluation import Evaluation, markdown_table
from bipe_hf.lab.tasks.evaluation import TaskEvaluation
from bipe_hf.lab.tasks.results import TaskResult


COMPARISONS = sorted(ROOT.glob("results/*/comparison.json"))


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copy(ROOT / "results/compare_arithmetic/comparison.json", tmp_path / "comparison.json"))


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.parent.name)
def test_committed_results_give_the_committed_tables(file):
    assert markdown_tables(*open_comparison(file)).encode() == file.with_suffix(".md").read_bytes()


@pytest.mark.parametrize("name", ["compare_python", "compare_arithmetic"])
def test_every_committed_file_is_written_again(name, tmp_path):
    file = ROOT / "results" / name / "comparison.json"
    written = {path.name for path in redraw(file, tmp_path)}
    assert written == {path.name for path in file.parent.iterdir()} - {"comparison.json"}
    assert written == {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "comparison.md").read_bytes() == file.with_suffix(".md").read_bytes()


def test_comparisons_are_committed():
    assert len(COMPARISONS) >= 7


def test_committed_evaluation_gives_the_committed_tables():
    file = ROOT / "results/demo/evaluation.json"
    evaluation = Evaluation.load(file)
    assert f"{evaluation.summary()}\n\n{markdown_table(evaluation.results)}" == file.with_suffix(".md").read_text()


def test_same_results_give_the_same_figures(copy, tmp_path):
    for folder in ("one", "two"):
        assert main(["plot", str(copy), "--output", str(tmp_path / folder)]) == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_figures_go_beside_the_results_and_replace_others_only_when_asked(copy, capsys):
    picture = copy.with_name("accuracy.svg")
    picture.write_text("precious")
    assert main(["plot", str(copy)]) == 2
    assert capsys.readouterr().err == f"bipe-hf: error: output: {picture} exists (--overwrite replaces it)\n"
    assert picture.read_text() == "precious"
    assert not copy.with_suffix(".md").exists()
    assert main(["plot", str(copy), "--overwrite"]) == 0
    assert str(copy.with_suffix(".md")) in capsys.readouterr().out
    assert "<svg" in picture.read_text()


def task_results(file: Path, *requests: str) -> Path:
    """Two models on each of these tasks."""
    rows = [
        TaskResult(
            model=f"runs/{name}",
            name=name,
            encoding="RoPE",
            train_length=64,
            request=request,
            task=request,
            metric="found",
            filter="none",
            value=0.5,
            stderr=None,
            samples=2,
            num_fewshot=0,
            max_length=None,
            seconds=1.0,
            model_fingerprint="sha256:0",
            part={"length": 64, "depth": 0.5} if request == "bipe_passkey" else {},
        )
        for name in ("one", "two")
        for request in requests
    ]
    TaskEvaluation("now", "bipe-hf evaluate", {}, {"lm_eval": "0.4"}, rows).save(file)
    return file


def test_tasks_that_have_a_figure_are_drawn_again(tmp_path, capsys):
    file = task_results(tmp_path / "tasks.json", "bipe_passkey", "arc_easy")
    assert main(["plot", str(file)]) == 0
    drawn = {f"tasks-passkey-{name}.{kind}" for name in ("one", "two") for kind in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.json", "tasks.md", *drawn}
    assert main(["plot", str(file)]) == 2
    assert "tasks-passkey-one.png exists (--overwrite replaces it)" in capsys.readouterr().err
    assert main(["plot", str(file), "--overwrite"]) == 0


def test_tasks_without_a_figure_say_what_they_are(tmp_path, capsys):
    file = task_results(tmp_path / "tasks.json", "arc_easy", "hellaswag")
    assert main(["plot", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"bipe-hf: error: {file} has results of tasks (arc_easy, hellaswag), and only bipe_passkey, "
    )
    assert main(["plot", str(file), str(ROOT / "results/demo/evaluation.json")]) == 2
    assert f"{file} is a measurement of tasks, which is drawn alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--title", "x"], "neither --bits-per-byte nor --title"),
        (["--bits-per-byte"], "neither --bits-per-byte nor --title"),
        ([str(ROOT / "results/demo/evaluation.json")], "is a comparison, which is drawn alone"),
    ],
)
def test_what_a_comparison_cannot_be_drawn_with_is_refused(copy, capsys, arguments, message):
    assert main(["plot", str(copy), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in copy.parent.iterdir()] == ["comparison.json"]
