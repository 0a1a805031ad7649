"""The benchmark of bounded memory and edits: what it times is what it says, and it goes on where it was."""

import json
import sys

import pytest
import torch
from paths import ROOT


sys.path.insert(0, str(ROOT / "scripts"))

import bounded_memory
from benchmarking.models import SHAPES, Setting, build

from bipe_hf import SepLLMCache


@pytest.fixture
def small(monkeypatch):
    fields = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    monkeypatch.setitem(SHAPES, "tiny", {**fields, "num_hidden_layers": 2})
    limits = {"initial_tokens": 1, "separators": 2, "neighbors": 4, "capacity": 10}
    for name, value in (("DECODED", [16, 32]), ("EDITED", [32]), ("LIMITS", limits), ("STEPS", 3), ("CHUNK", 8)):
        monkeypatch.setattr(bounded_memory, name, value)
    return ["--shape", "tiny", "--device", "cpu", "--rounds", "2"]


def test_it_writes_numbers_tables_and_a_picture_and_goes_on(small, tmp_path, monkeypatch, capsys):
    output = tmp_path / "bounded.json"
    bounded_memory.main([*small, "--output", str(output)])
    record = json.loads(output.read_text())
    assert list(record["results"]) == ["decoding 16", "decoding 32", "editing 32"]
    sizes = [record["results"][f"decoding {length}"]["bytes"] for length in (16, 32)]
    assert sizes[1]["full"] == 2 * sizes[0]["full"]
    assert sizes[1]["bounded"] < sizes[1]["full"] / 2
    assert output.with_suffix(".md").read_text() == bounded_memory.document(record)
    assert "Tokens a second over the first 32" in capsys.readouterr().out
    assert output.with_suffix(".png").stat().st_size > 1000
    del record["results"]["editing 32"]
    output.write_text(json.dumps(record))
    monkeypatch.setattr(bounded_memory, "decoding", None)  # nothing of it is measured again
    bounded_memory.main([*small, "--output", str(output)])
    assert list(json.loads(output.read_text())["results"]) == ["decoding 16", "decoding 32", "editing 32"]
    with pytest.raises(SystemExit):
        bounded_memory.main([*small[:-1], "3", "--output", str(output)])
    assert "was measured with rounds 2, this is 3" in capsys.readouterr().err


def test_steps_start_from_the_length_that_they_are_named_after(small):
    setting, lengths = Setting("llama", "tiny", "cpu", "float32"), []
    model = build(setting, "bipe_rope").eval()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["past_key_values"].get_seq_length()), with_kwargs=True
    )
    cache = SepLLMCache(model.config, **bounded_memory.LIMITS)
    full = bounded_memory.repeated_cache(build(setting, "bipe_rope").eval(), setting, 16)
    for work in (bounded_memory.steps_of(model, full, torch.ones(1, 3).long(), 16),) * 2:
        work.prepare()
        work.run()
    assert lengths == [16, 17, 18] * 2
    work = bounded_memory.steps_of(model, cache, torch.ones(1, 3).long(), None)
    work.run()
    assert cache.get_seq_length() == 3


def test_the_time_of_all_tokens_is_the_area_under_that_of_one():
    rows = {length: {"models": {"full": {"seconds": seconds}}} for length, seconds in ((10, 1.0), (30, 3.0))}
    assert bounded_memory.seconds_of_all(rows, "full") == 10 * 1.0 + 20 * 2.0


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--output", "nowhere/x.json"], ["--output", "x.txt"]])
def test_bad_arguments_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        bounded_memory.main(["--output", "x.json", *words])
    assert words[0] in capsys.readouterr().err
