"""`bipe-hf kinds`: comparisons of many kinds of text one after the other, and the map of them."""

import json
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import yaml
from comparisons import CONTENT, changed, sentences
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import bipe_hf.lab.comparison.run as run_module
import bipe_hf.lab.kinds.run as kinds_module
from bipe_hf.commands import main
from bipe_hf.lab.common.figures import save_figure
from bipe_hf.lab.comparison.losses import UnitLosses
from bipe_hf.lab.comparison.results import ComparisonResults, Row
from bipe_hf.lab.kinds.figure import draw_map_figure
from bipe_hf.lab.kinds.map import Map, make_kind
from bipe_hf.lab.kinds.tables import markdown_map


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")

SMALL = changed(CONTENT, **{"entries__BiPE YaRN": None}, seeds=[1], measure__unit_tokens=20)
MAP = ["kinds.md", "kinds.png", "kinds.svg"]


def write_kind(name: str, content: dict = SMALL) -> None:
    """A text with a document for every sentence or two, and the file of its comparison."""
    for split, seed in (("train", 0), ("validation", 1)):
        folder = Path("texts", name, split)
        folder.mkdir(parents=True, exist_ok=True)
        for at in range(30):
            (folder / f"{at:02}.txt").write_text(sentences(ord(name[0]) + 1000 * seed + at, 4))
    Path("kinds").mkdir(exist_ok=True)
    content = changed(content, settings__data=f"texts/{name}")
    Path("kinds", f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def with_figure(tmp_path, monkeypatch):
    """Two kinds of text. The figures of comparisons are left out: drawing takes most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "draw_figures", lambda *arguments: None)
    for name in ("verse", "prose"):
        write_kind(name)


@pytest.fixture
def here(with_figure, monkeypatch):
    """The same, without the figure of the map."""
    monkeypatch.setattr(kinds_module, "save_figure", lambda *arguments: None)


def error_line(capsys) -> str:
    captured = capsys.readouterr().err
    assert captured.startswith("bipe-hf: error: ")
    assert captured.count("\n") == 1
    return captured


def results(name: str) -> list[dict]:
    return json.loads(Path("out", name, "comparison.json").read_text())["results"]


def table(tables: str, title: str) -> dict[str, list[str]]:
    lines = tables.split(title)[1].split("\n\n")[1].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}


# What is run


def test_each_kind_is_compared_and_the_map_shows_all(with_figure, capsys):
    assert main(["kinds", "kinds", "--output", "out", "--only", "verse"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"verse", *MAP}
    assert "| prose |" not in Path("out/kinds.md").read_text()
    assert main(["kinds", "kinds", "--output", "out"]) == 0
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("kind ")] == [
        "kind 1 of 1: verse",
        "kind 1 of 2: prose",
        "kind 2 of 2: verse",
    ]
    tables = Path("out/kinds.md").read_text()
    assert "written to out" in said.out
    for name in ("prose", "verse"):
        values = {(row["entry"], row["size"]): row for row in results(name)}
        assert len(values) == 4
        for length in (16, 64):
            cells = table(tables.split(f"## {length} tokens")[1], "Perplexity")
            best = min(("RoPE", "BiPE-RoPE"), key=lambda entry: values[entry, length]["value"])
            assert cells["kind"] == ["best", "RoPE", "BiPE-RoPE"]
            assert cells[name][0] == best
            for entry, cell in zip(cells["kind"][1:], cells[name][1:], strict=True):
                found = values[entry, length]["measured"]
                text = f"{found['perplexity']:.2f} · {found['bits_per_byte']:.4f}"
                assert cell == (f"**{text}**" if entry == best else text)
    assert "16 tokens, 1 times the train length" in tables
    assert "64 tokens, 4 times the train length" in tables
    before = {name: Path("out", name).read_bytes() for name in MAP}
    assert main(["kinds", "kinds", "--output", "out", "--draw-only"]) == 0
    assert "out/kinds.svg" in capsys.readouterr().out
    assert {name: Path("out", name).read_bytes() for name in MAP} == before


def test_the_map_is_written_after_each_measurement_with_what_there_is(here, monkeypatch):
    """Also while another process works on another kind, whose results are part of the map."""
    assert main(["kinds", "kinds", "--output", "out", "--only", "prose"]) == 0
    seen = []
    measure = run_module._measure

    def measured(job, *rest):
        seen.append(Path("out/kinds.md").read_text())
        measure(job, *rest)

    monkeypatch.setattr(run_module, "_measure", measured)
    assert main(["kinds", "kinds", "--output", "out", "--only", "verse"]) == 0
    first, second = (table(text, "Perplexity") for text in seen)
    assert list(first) == ["kind", "---", "prose"]
    assert second["verse"][0] == "RoPE"
    assert second["verse"][1].startswith("**")
    assert second["verse"][2] == "-"
    assert second["prose"] == first["prose"]


def test_a_kind_that_fails_does_not_stop_the_others(here, capsys):
    write_kind("broken", changed(SMALL, measure__lengths=[16, 64, 65536], measure__max_tokens=None))
    assert main(["kinds", "kinds", "--output", "out"]) == 1
    said = capsys.readouterr()
    assert "broken: validation split of texts/broken: the text has " in said.out
    assert "kind 3 of 3: verse" in said.err
    assert len(results("prose")) == len(results("verse")) == 4


def test_an_entry_that_fails_is_told_with_its_kind(here, capsys, monkeypatch):
    def failing(task, settings, overwrite):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(run_module.EXPERIMENTS["text"], "run", failing)
    assert main(["kinds", "kinds", "--output", "out", "--only", "prose"]) == 1
    said = capsys.readouterr()
    assert "prose: RoPE, seed 1: training: RuntimeError: the disk is full; BiPE-RoPE, seed 1: training" in said.out
    assert "the map is not drawn: output: there are no results of any kind in out" in said.err
    assert said.out.endswith("nothing is written: there is no result\n")


def test_interrupted_work_goes_on(here, capsys, monkeypatch):
    train = run_module.EXPERIMENTS["text"].run
    trained = []

    def interrupted(task, settings, overwrite):
        if len(trained) == 3:
            trained.append(None)
            raise KeyboardInterrupt
        trained.append(settings.training["output_dir"])
        return train(task, settings, overwrite)

    monkeypatch.setattr(run_module.EXPERIMENTS["text"], "run", interrupted)
    assert main(["kinds", "kinds", "--output", "out"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert (len(results("prose")), len(results("verse"))) == (4, 2)
    assert main(["kinds", "kinds", "--output", "out"]) == 0
    assert trained[4:] == ["runs/compare/verse/bipe-rope-seed1"]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure__unit_tokens": None}, "kinds/prose.yaml: measure, unit_tokens is missing"),
        ({"measure__lengths": [64]}, "kind prose: measure, lengths: 16 is missing"),
        ({"meassure": {}}, "kinds/prose.yaml: unknown key 'meassure'"),
    ],
)
def test_bad_file_is_one_line_before_anything_is_written(here, changes, message, capsys):
    write_kind("prose", changed(SMALL, **changes))
    assert main(["kinds", "kinds", "--output", "out"]) == 2
    assert message in error_line(capsys)
    assert not Path("out").exists()
    assert not Path("runs").exists()


def test_what_is_no_folder_of_kinds_is_refused(here, capsys):
    assert main(["kinds", "nowhere"]) == 2
    assert "nowhere: no folder with files *.yaml" in error_line(capsys)
    assert main(["kinds", "kinds", "--only", "vrese"]) == 2
    assert "only: there is no kind 'vrese'; did you mean verse?" in error_line(capsys)
    assert main(["kinds", "kinds", "--draw-only"]) == 2
    assert "output: there are no results of any kind in runs/kinds" in error_line(capsys)
    assert main(["kinds", "kinds", "--draw-only", "--only", "verse"]) == 2
    assert "it takes neither only nor overwrite" in error_line(capsys)


def test_task_that_is_no_text_is_refused(here, capsys):
    content = {"task": "arithmetic", "settings": {}, "entries": {"RoPE": {}}, "measure": {"sizes": [1]}}
    Path("kinds/sums.yaml").write_text(yaml.safe_dump(content))
    assert main(["kinds", "kinds"]) == 2
    assert "kinds/sums.yaml: task: arithmetic is no kind of text" in error_line(capsys)


@pytest.mark.parametrize("existing", MAP)
def test_files_of_somebody_else_are_kept(here, existing, capsys):
    Path("out").mkdir()
    Path("out", existing).write_text("precious")
    assert main(["kinds", "kinds", "--output", "out"]) == 2
    assert f"output: out/{existing} exists without results of any kind" in error_line(capsys)
    assert Path("out", existing).read_text() == "precious"


def test_a_figure_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    figure, file = Figure(), tmp_path / "map.png"
    save_figure(figure, file)
    before = file.read_bytes()

    def half(target, **options):
        Path(target).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, file)
    assert file.read_bytes() == before


# What is shown


def kind(name: str, behind: dict[str, dict[int, list[float]]], noise: float = 0.0):
    """Entries whose perplexities are so many times 10 at each length, a value a seed, on ten units of 100 tokens; with
    `noise`, half of the units are so many nats a token easier and half as much harder."""
    lengths = sorted({length for values in behind.values() for length in values})
    losses = UnitLosses(100, {length: np.full(10, 100) for length in lengths})
    rows = []
    for at, (entry, values) in enumerate(behind.items()):
        for length, times in values.items():
            for seed, each in enumerate(times):
                uneven = noise * np.array([-1, 1] * 5) * (1 if at else -1)
                losses.nats[entry, seed, length] = 100 * (log(10 * each) + uneven)
                measured = {"bits_per_byte": each, "train_length": 16}
                rows.append(Row(entry, seed, length, 10 * each, "", measured, 0))
    text = {"source": f"validation split of {name}", "documents": 5, "tokens": 1000}
    calls = [{"begun": "today", "command": "a command", "environment": {"torch": "2.13"}}]
    config = {"entries": dict.fromkeys(behind)}
    return make_kind(name, ComparisonResults(calls, config, text, [], [], rows), losses)


@pytest.fixture
def by_hand() -> Map:
    prose = kind("prose", {"A": {16: [1.0], 64: [4.0]}, "B": {16: [1.25], 64: [2.0]}, "C": {16: [3.0]}})
    verse = kind("verse", {"A": {16: [1.02], 64: [1.0]}, "B": {16: [1.0, 1.0], 64: [1.0, 1.21]}}, noise=0.5)
    return Map([prose, verse], ["A", "B", "C"], [16, 64])


def test_tables_show_the_best_and_how_far_others_are_behind(by_hand):
    tables = markdown_map(by_hand)
    assert "`a command`, with torch 2.13" in tables
    assert "| prose | validation split of prose | 5 | 10 | 1,000 |" in tables
    short, long = tables.split("## ")[1:]
    assert short.startswith("16 tokens, 1 times the train length")
    assert table(short, "Perplexity") == {
        "kind": ["best", "A", "B", "C"],
        "---": ["---", "---:", "---:", "---:"],
        "prose": ["A", "**10.00 · 1.0000**", "12.50 · 1.2500", "30.00 · 3.0000"],
        "verse": ["B", "10.20 · 1.0200", "**10.00 ± 0.00 · 1.0000**", "-"],
    }
    behind = table(short, "Behind")
    assert behind["prose"] == ["A", "**best**", "25.0 (25.0 to 25.0) *", "200.0 (200.0 to 200.0) *"]
    # A and B differ by a nat a token on each unit, to one side on half of them: as many of ten as binomial, 2 to 8.
    low, high = (100 * (exp(log(1.02) + (2 * share - 1)) - 1) for share in (0.2, 0.8))
    assert behind["verse"] == ["B", f"2.0 ({low:.1f} to {high:.1f})", "**best**", "-"]
    assert table(long, "Perplexity")["prose"] == ["B", "40.00 · 4.0000", "**20.00 · 2.0000**", "-"]
    assert table(long, "Perplexity")["verse"][2] == "11.00 ± 1.48 · 1.1050"  # 1.1 is the root of 1.21


def test_figure_has_a_panel_a_length_with_every_number(by_hand):
    figure = draw_map_figure(by_hand)
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == [
        "16 tokens, 1 times the train length",
        "64 tokens, 4 times the train length",
    ]
    shown = [{text.get_position(): text.get_text() for text in axes.texts} for axes in panels]
    assert shown[0] == {(0, 0): "best", (1, 0): "25.0", (2, 0): "200", (0, 1): "(2.0)", (1, 1): "best"}
    assert shown[1] == {(0, 0): "100", (1, 0): "best", (0, 1): "best", (1, 1): "(10.0)"}
    for axes, texts in zip(panels, shown, strict=True):
        frames = {(round(each.get_x() + 0.46), round(each.get_y() + 0.46)) for each in axes.patches}
        assert frames == {place for place, text in texts.items() if text == "best"}
        assert all(isinstance(each, Rectangle) for each in axes.patches)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["A", "B", "C"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["prose", "verse"]
    assert np.isnan(panels[1].get_images()[0].get_array().filled(np.nan)[0, 2])
