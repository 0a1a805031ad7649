"""Tables as text and as Markdown, and what they need."""

import json
import sys
from dataclasses import dataclass

import pytest

from bipe_hf.lab.common.messages import install_hint
from bipe_hf.lab.common.results import check_output, write_results
from bipe_hf.lab.common.tables import aligned, markdown
from bipe_hf.lab.comparison import compare, read_comparison
from bipe_hf.lab.comparison.redraw import redraw
from bipe_hf.lab.reports import report_segments
from bipe_hf.model.errors_bipe import InputError


ROWS = [["model", "encoding", "128", "1024"], ["a  b", "日本", "1e5", "-"], ["$x$", "", "12.00 ± 3.10", "1_000"]]


def test_markdown_cells_stand_as_they_are_without_padding():
    assert markdown(ROWS) == (
        "| model | encoding | 128 | 1024 |\n"
        "| --- | --- | ---: | ---: |\n"
        "| a  b | 日本 | 1e5 | - |\n"
        "| $x$ |  | 12.00 ± 3.10 | 1_000 |"
    )


def test_markdown_of_a_heading_alone_is_a_table():
    assert markdown(ROWS[:1]) == "| model | encoding | 128 | 1024 |\n| --- | --- | ---: | ---: |"


def test_columns_of_plain_text_are_flush():
    assert aligned([["model", "encoding", "128"], ["a", "rope", "12.00 ± 3"], ["longer", "x", "7"]]).split("\n") == [
        "model   encoding        128",
        "a       rope      12.00 ± 3",
        "longer  x                 7",
    ]


@dataclass
class Numbers:
    value: int


def test_results_are_written_without_what_writes_tables(tmp_path, monkeypatch, capsys):
    file = tmp_path / "results.json"
    write_results(file, "numbers", Numbers(1), lambda: markdown(ROWS))
    assert file.with_suffix(".md").read_text() == markdown(ROWS)
    check_output(file, overwrite=True, resume=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tabulate", None)
    check_output(file, overwrite=True, resume=False)
    assert capsys.readouterr().err == (
        f"{file.with_suffix('.md')} is not written: tables need tabulate, which is not installed;"
        f" {install_hint('lab')}\n"
    )
    write_results(file, "numbers", Numbers(2), lambda: markdown(ROWS))
    assert json.loads(file.read_text()) == {"format": "numbers", "value": 2}
    assert list(tmp_path.iterdir()) == [file]  # the table was of other results
    assert aligned(ROWS)  # what is printed does without


def test_figures_with_tables_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    with pytest.raises(InputError, match=r"plot needs tabulate, which is not installed.*lab"):
        redraw(tmp_path / "comparison.json", tmp_path)
    with pytest.raises(InputError, match=r"output needs tabulate, which is not installed.*lab"):
        report_segments("no text", tokenizer="none", lengths=[8], output=tmp_path / "new")
    (tmp_path / "a.yaml").write_text(
        "task: text\nsettings: {vocab_size: 280}\nentries: {RoPE: {}}\nmeasure: {lengths: [8]}\n"
    )
    with pytest.raises(InputError, match=r"compare needs tabulate, which is not installed.*lab"):
        compare(read_comparison(tmp_path / "a.yaml"), output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_drawing_a_comparison_again_asks_for_what_it_needs_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"plot needs matplotlib, which is not installed.*lab"):
        redraw(tmp_path / "comparison.json", tmp_path)
