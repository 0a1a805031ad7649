"""The benchmark of serving: its ratios, and that one under its limit fails the command."""

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from paths import ROOT


sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_serving


@pytest.fixture
def seconds(monkeypatch):
    """What a round takes with each model, without a server."""
    seconds = {"stock": 1.0, "bipe_rope": 1.0, "bipe_alibi": 1.1}
    monkeypatch.setattr(benchmark_serving, "served", lambda name, options: nullcontext(name))
    monkeypatch.setattr(benchmark_serving, "answer_all", lambda url, prompts, length: seconds[url])
    return seconds


def test_ratios_over_their_limits_end_well(seconds, tmp_path, capsys):
    output = tmp_path / "serving.json"
    words = ["--launches", "2", "--rounds", "3", "--requests", "3", "--answer", "10", "--output", str(output)]
    benchmark_serving.main(words)
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert "| stock Llama | 30.0 |" in table
    assert "| BiPE-ALiBi | 27.3 | 0.909 (0.909 to 0.909; 0.909 to 0.909) | 0.88 |" in table
    assert [len(rounds) for rounds in json.loads(output.read_text())["launches"]] == [3, 3]


def test_a_ratio_is_the_median_of_all_rounds_and_its_spread_that_of_launches():
    """Servers of one launch are slow by a quarter, those of the others are not."""
    fast, slow = ({"stock": 1.0, "bipe_rope": times, "bipe_alibi": 1.0} for times in (1.0, 1.25))
    record = {"launches": [[fast, fast, slow], [slow, slow, slow], [fast, fast, fast], []]}
    assert benchmark_serving.ratios(record) == {
        "bipe_rope": (1.0, (0.8, 1.0), (0.8, 1.0)),
        "bipe_alibi": (1.0, (1.0, 1.0), (1.0, 1.0)),
    }
    record["launches"] = [[fast, slow, slow], [fast, slow, slow]]
    assert benchmark_serving.ratios(record)["bipe_rope"] == (0.8, (0.8, 1.0), (0.8, 0.8))


def test_another_server_is_first_in_each_round_and_launch(seconds, monkeypatch):
    launched, asked = [], []
    monkeypatch.setattr(benchmark_serving, "served", lambda name, options: launched.append(name) or nullcontext(name))
    monkeypatch.setattr(benchmark_serving, "answer_all", lambda url, prompts, length: asked.append(url) or 1.0)
    benchmark_serving.main(["--launches", "2", "--rounds", "3"])
    stock, rope, alibi = benchmark_serving.MODELS
    assert launched == [stock, rope, alibi, rope, alibi, stock]
    rounds = [stock, rope, alibi, rope, alibi, stock, alibi, stock, rope]
    assert asked == [*launched[:3], *rounds, *launched[3:], *rounds]


@pytest.mark.parametrize(("name", "title"), [("bipe_rope", "BiPE-RoPE"), ("bipe_alibi", "BiPE-ALiBi")])
def test_a_ratio_under_its_limit_fails(seconds, name, title):
    seconds[name] = 1.25
    with pytest.raises(SystemExit) as end:
        benchmark_serving.main(["--rounds", "1"])
    assert end.value.code == f"under the limit: {title} 0.800, limit {benchmark_serving.LIMITS[name]:.2f}"


def test_a_server_that_answers_shorter_than_asked_is_no_measurement(monkeypatch):
    answer = SimpleNamespace(raise_for_status=lambda: None, json=lambda: {"usage": {"completion_tokens": 4}})
    monkeypatch.setattr(benchmark_serving.requests, "post", lambda *args, **kwargs: answer)
    with pytest.raises(AssertionError):
        benchmark_serving.answer_all("http://nowhere", ["w1"], 5)


def test_the_committed_table_is_that_of_the_committed_rounds():
    record = json.loads((ROOT / "results" / "benchmark_serving.json").read_text())
    assert (ROOT / "results" / "benchmark_serving.md").read_text() == benchmark_serving.document(record) + "\n"
