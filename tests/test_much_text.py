"""The benchmark of much text: what it reads and counts, its file, and that it goes on where it was."""

import json
import sys
from itertools import islice

import pytest
from paths import ROOT


sys.path.insert(0, str(ROOT / "scripts"))

import much_text

from bipe_hf import BipeTokenizer
from bipe_hf.lab.data import train_tokenizer


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Three documents and a vocabulary with which everything takes milliseconds; the call that has them."""
    documents = [{"text": f"line {number}\nand another\n" * 40, "name": str(number)} for number in range(3)]
    monkeypatch.setattr(much_text, "read_python", lambda **_: iter(documents))
    for name, value in (("BYTES", 20_000), ("PARTS", 4), ("TOKENS", [64, 128]), ("VOCABULARY", 300), ("BATCH", 2)):
        monkeypatch.setattr(much_text, name, value)
    return ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "much.json")]


@pytest.fixture
def scored(monkeypatch):
    """What would be scored, in place of the processes that do so."""
    asked = []

    def evaluating(work, tokens):
        assert (work / "stock/model.safetensors").exists()
        assert (work / "bipe/tokenizer_config.json").exists()
        asked.append(tokens)
        took = {"seconds": tokens / 100, "bytes": 2**20 * tokens, "tokens": tokens}
        return {"models": {"stock": took, "bipe": took | {"seconds": tokens / 50}}, "others": 0.0}

    monkeypatch.setattr(much_text, "evaluating", evaluating)
    return asked


def test_a_part_counts_what_both_tokenizers_read(small):
    wrapped = train_tokenizer([row["text"] for row in islice(much_text.endless_sources(), 3)], 300)
    tokenizers = {"wrapped": wrapped, "bipe": BipeTokenizer.from_tokenizer(wrapped, separators="lines")}
    for row in much_text.tokenizing(tokenizers):
        ours, theirs = (row["models"][name] for name in ("bipe", "wrapped"))
        assert (ours["bytes"], ours["tokens"]) == (theirs["bytes"], theirs["tokens"])
        document = next(much_text.endless_sources())["text"]
        assert 5000 <= ours["bytes"] < 5000 + len(document)
        assert ours["tokens"] == ours["bytes"] // len(document) * len(wrapped(document)["input_ids"])
        assert row["resident"] > 2**20
    assert "segment_ids" in next(much_text.tokenized(tokenizers["bipe"]))


def test_it_writes_numbers_tables_and_a_picture_and_goes_on(small, scored, tmp_path, monkeypatch, capsys):
    output = tmp_path / "much.json"
    much_text.main(small)
    record = json.loads(output.read_text())
    assert list(record["results"]) == ["tokenizing", "evaluating 64", "evaluating 128"]
    assert len(record["results"]["tokenizing"]) == 4
    assert "| 64 | 0.6 | 1.3 | 2.000 | 64 | 64 |" in output.with_suffix(".md").read_text()
    assert output.with_suffix(".md").read_text() == much_text.document(record)
    assert much_text.document(record) in capsys.readouterr().out
    assert output.with_suffix(".png").stat().st_size > 1000
    del record["results"]["evaluating 128"]
    output.write_text(json.dumps(record))
    monkeypatch.setattr(much_text, "tokenizing", None)  # nothing of it is measured again
    much_text.main(small)
    assert scored == [64, 128, 128]
    monkeypatch.setattr(much_text, "VOCABULARY", 301)
    with pytest.raises(SystemExit):
        much_text.main(small)
    assert "was measured with vocabulary 300, this is 301" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(much_text, "VOCABULARY", 300)
    wrapped = train_tokenizer([row["text"] for row in islice(much_text.endless_sources(), 20)], 300)
    much_text.save_models(tmp_path, wrapped, BipeTokenizer.from_tokenizer(wrapped, separators="lines"))
    row = much_text.evaluating(tmp_path, 2048)
    assert {each["tokens"] for each in row["models"].values()} == {2048}
    assert all(each["bytes"] > 100 * 2**20 for each in row["models"].values())
    (tmp_path / "bipe/config.json").unlink()
    with pytest.raises(RuntimeError, match="config.json"):
        much_text.evaluating(tmp_path, 2048)


@pytest.mark.parametrize("name", ["nowhere/much.json", "much.txt"])
def test_bad_arguments_are_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        much_text.main(["--work", "work", "--output", name])
    assert "a file that ends in .json, in a folder that exists, is needed" in capsys.readouterr().err
