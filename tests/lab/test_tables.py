"""Tables as text and as Markdown, and what they need."""

import sys

import pytest

from bipe_hf.lab.common.results import check_output
from bipe_hf.lab.common.tables import aligned, markdown
from bipe_hf.lab.comparison.redraw import redraw


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


def test_tables_that_nothing_can_write_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    with pytest.raises(ValueError, match=r"output needs tabulate, which is not installed.*lab"):
        check_output(tmp_path / "new" / "results.json", overwrite=False, resume=False)
    assert not (tmp_path / "new").exists()
    assert aligned(ROWS)  # what is printed does without


def test_drawing_a_comparison_again_asks_for_what_it_needs_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"plot needs matplotlib, which is not installed.*lab"):
        redraw(tmp_path / "comparison.json", tmp_path)
