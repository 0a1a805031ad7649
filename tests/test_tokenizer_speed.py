"""The benchmark of the tokenizer with levels: its texts, its file, the committed one."""

import csv
import json
import sys
from itertools import islice

import pytest
from paths import ROOT
from transformers import TokenizersBackend

from bipe_hf import BipeTokenizer


sys.path.insert(0, str(ROOT / "scripts"))

import tokenizer_speed


class Clock:
    """A clock that stands still until it is moved; a call gives the seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def small(monkeypatch):
    """Texts and a vocabulary with which everything takes milliseconds."""
    for name, value in (("BYTES", 3000), ("TEXTS", 7), ("VOCABULARY", 300), ("LINES", 5)):
        monkeypatch.setattr(tokenizer_speed, name, value)


def test_texts_are_cut_at_lines_and_divided_without_loss():
    text = tokenizer_speed.first_bytes(iter(["one\n", "two\nth", "ree\nfour\n"]), 12)
    assert text == "one\ntwo\n"
    parts = tokenizer_speed.divided("".join(f"{number}\n" for number in range(10)), 4)
    assert parts == ["0\n1\n", "2\n3\n4\n", "5\n6\n", "7\n8\n9\n"]


def test_every_row_of_the_table_has_as_many_fields():
    rows = list(csv.reader("".join(islice(tokenizer_speed.table_rows(), 50)).splitlines()))
    assert {len(row) for row in rows} == {7}
    assert all("," in row[4] for row in rows)


def test_both_tokenizers_are_timed_on_every_text(small, tmp_path, capsys):
    output = tmp_path / "speed.json"
    tokenizer_speed.main(["--rounds", "2", "--output", str(output)])
    record = json.loads(output.read_text())
    assert [(row["text"], row["given as"]) for row in record["results"]] == [
        (text, given)
        for text in ("Python sources", "a table as CSV")
        for given in ("one text", "one text, offsets", "7 texts", "7 texts, padded tensors", "one line a call")
    ]
    for row in record["results"]:
        assert row["tokens"] > (50 if row["given as"] == "one line a call" else 1000)
        assert [len(times["all"]) for times in row["models"].values()] == [2, 2]
        ratios = [
            mine / base
            for mine, base in zip(*(row["models"][name]["all"] for name in ("levels", "wrapped")), strict=True)
        ]
        assert row["models"]["levels"]["ratio"] == pytest.approx(sum(ratios) / 2)
        assert len(row["within"]) == 2
        assert min(row["within"]) > 1
    assert output.with_suffix(".md").read_text() == tokenizer_speed.document(record)
    assert tokenizer_speed.document(record) in capsys.readouterr().out


def test_within_a_call_is_what_levels_add(monkeypatch):
    """On a clock where the tokenizer's own part takes 4 s, what levels add 1 s, and the caller 5 s around both."""
    clock = Clock()
    monkeypatch.setattr(tokenizer_speed.time, "perf_counter", clock)
    monkeypatch.setattr(TokenizersBackend, "_encode_plus", lambda self: clock.passes(4))

    def with_levels(self):
        clock.passes(0.25)
        super(BipeTokenizer, self)._encode_plus()
        clock.passes(0.75)

    monkeypatch.setattr(BipeTokenizer, "_encode_plus", with_levels)
    tokenizer = BipeTokenizer.__new__(BipeTokenizer)

    def call():
        clock.passes(2)
        tokenizer._encode_plus()
        clock.passes(3)

    assert tokenizer_speed.within(call, 3) == [pytest.approx(10 / 9)] * 3
    assert BipeTokenizer._encode_plus is with_levels


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--output", "nowhere/speed.json"], ["--output", "speed.txt"]])
def test_bad_arguments_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        tokenizer_speed.main(["--output", "speed.json", *words])
    assert words[0] in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_committed_times():
    record = json.loads((ROOT / "results" / "tokenizer_speed.json").read_text())
    assert (ROOT / "results" / "tokenizer_speed.md").read_text() == tokenizer_speed.document(record)
