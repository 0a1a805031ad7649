"""The benchmark measures what it says, keeps what it has measured, and compares with an honest peer."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from paths import ROOT
from transformers import StaticCache

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM


sys.path.insert(0, str(ROOT / "scripts"))

import benchmark
from benchmarking import measurements
from benchmarking.authors_way import AuthorsLlama
from benchmarking.code import code_hash, without_prose
from benchmarking.measurements import MEASUREMENTS, NotMeasurableError, Work
from benchmarking.models import SHAPES, Setting, build, tokens
from benchmarking.report import document, over_limit, report


@pytest.fixture
def mini(monkeypatch):
    """A setting, by family, in which everything runs in milliseconds."""
    fields = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32}
    monkeypatch.setitem(SHAPES, "mini", {**fields, "num_hidden_layers": 1, "num_attention_heads": 2})
    return lambda family="llama": Setting(family, "mini", "cpu", "float32")


@pytest.fixture
def fake_measure(monkeypatch):
    """Takes the place of all measuring; a list of what was asked for."""
    asked = []

    def measure(options, family, name):
        asked.append((family, name))
        base, *others = MEASUREMENTS[name].models
        return {"models": {base: {"seconds": 1.0}, **{other: {"seconds": 1.0, "ratio": 1.0} for other in others}}}

    monkeypatch.setattr(benchmark, "measure", measure)
    return asked


# The peer


@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
def test_the_authors_way_computes_the_same(inter_encoding):
    config = BipeLlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        separator_token_ids=[3, 7, 11],
        max_segment_length=20,  # some segments are longer
        inter_encoding=inter_encoding,
    )
    torch.manual_seed(0)
    ours, authors = BipeLlamaForCausalLM(config), AuthorsLlama(config)
    authors.load_state_dict({name.removeprefix("model."): value for name, value in ours.state_dict().items()})
    ids = torch.randint(0, 60, (3, 100))
    ids[0, -1] = ids[1, 0] = ids[2, 40] = ids[2, 41] = 3
    torch.testing.assert_close(authors(ids), ours(ids).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(authors.loss(ids), ours(ids, labels=ids).loss)


# Measuring


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("name", ["stock", "bipe_rope", "bipe_alibi"])
def test_every_run_of_a_decoding_measurement_starts_from_the_same_length(mini, family, name):
    lengths = []
    model = build(mini(family), name)
    work = measurements.decoding_steps(model, mini(family), length=8, count=3)

    def note_length(module, args, kwargs):
        lengths.append(kwargs["past_key_values"].get_seq_length())

    model.register_forward_pre_hook(note_length, with_kwargs=True)
    measurements.warm_up({name: work})
    measurements.times_in_turn({name: work}, "cpu", budget=0, rounds=2)
    assert lengths == [8, 9, 10] * 3


@pytest.fixture
def traced_only(monkeypatch):
    """`torch.compile` without its C++ backend: what could go wrong here is tracing."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_(*args, **kwargs, backend="aot_eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_decoding_compiles_once_and_fills_its_cache_anew_when_it_is_full(mini, traced_only, monkeypatch):
    fillings = []
    reset = StaticCache.reset
    monkeypatch.setattr(StaticCache, "reset", lambda cache: fillings.append(cache) or reset(cache))
    work = measurements.compiled_decoding_steps(build(mini(), "bipe_alibi"), mini(), length=64, count=60)
    measurements.warm_up({"bipe_alibi": work})
    measurements.times_in_turn({"bipe_alibi": work}, "cpu", budget=0, rounds=3)
    assert len(fillings) == 2  # for the warm-up, and when the first round had used up the room


def test_compiling_again_while_timed_is_an_error(mini, traced_only):
    model = build(mini(), "bipe_rope")
    work = measurements.compiled_decoding_steps(model, mini(), length=8, count=1)
    work.prepare()
    work.warm_up()
    model.config._attn_implementation = "eager"
    with pytest.raises(torch._dynamo.exc.RecompileError):
        work.run()


def test_compiled_decoding_without_a_compiler_says_so(mini, monkeypatch):
    def no_compiler():
        raise measurements.InvalidCxxCompiler()

    monkeypatch.setattr(measurements, "get_cpp_compiler", no_compiler)
    with pytest.raises(NotMeasurableError, match=r"C\+\+ compiler"):
        measurements.compiled_decoding_steps(build(mini(), "stock"), mini(), length=8, count=1)


def test_models_take_turns_and_another_is_first_each_round():
    calls = []

    def work(name):
        return Work(
            run=lambda: calls.append(name),
            warm_up=lambda: calls.append(f"warm-up {name}"),
            prepare=lambda: calls.append("prepare"),
        )

    works = {name: work(name) for name in "abc"}
    measurements.warm_up(works)
    measurements.times_in_turn(works, "cpu", budget=0, rounds=6)
    calls = [call for call in calls if call != "prepare"]
    assert calls[:3] == ["warm-up a", "warm-up b", "warm-up c"]
    rounds = ["".join(calls[i : i + 3]) for i in range(3, 21, 3)]
    assert sorted(rounds) == ["abc", "acb", "bac", "bca", "cab", "cba"]
    assert all(one[0] != other[0] for one, other in pairwise(rounds))


@pytest.mark.parametrize(("budget", "rounds"), [(0, measurements.FEWEST_ROUNDS), (60, measurements.MOST_ROUNDS)])
def test_the_budget_sets_the_rounds(budget, rounds):
    work = Work(run=lambda: None, warm_up=lambda: None, count=2)
    assert len(measurements.times_in_turn({"a": work}, "cpu", budget)["a"]) == rounds


def test_the_ratio_is_the_median_of_the_ratios_within_a_round():
    times = {"stock": [1.0, 2.0, 1.1], "bipe_rope": [1.1, 2.2, 3.3]}  # the machine slows, then something else disturbs
    record = measurements.compare_times(times, {"bipe_rope": "stock"})["bipe_rope"]
    assert record["ratio"] == pytest.approx(1.1)
    assert record["interval"] == pytest.approx((1.1, 3.0))
    assert record["of_least"] == pytest.approx(1.1)


@pytest.mark.parametrize(("count", "ranks"), [(3, (1, 3)), (6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (60, (22, 39))])
def test_the_interval_of_the_median_is_that_of_the_sign_test(count, ranks):
    assert measurements.median_interval([float(rank) for rank in range(count, 0, -1)]) == ranks


def test_the_share_of_others_is_what_neither_this_process_nor_nobody_used(monkeypatch):
    readings = iter([(100.0, 5.0, 700.0), (110.0, 17.0, 716.0)])  # seconds: wall, this process, all
    monkeypatch.setattr(measurements.ShareOfOthers, "_seconds", lambda self: next(readings))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert measurements.ShareOfOthers().so_far() == pytest.approx(4 / 20)


def peaks_of(sizes):
    return [measurements.peak_bytes(partial(torch.ones, mebibytes, 2**18), "cpu") for mebibytes in sizes]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_the_most_at_a_time():
    """In a process of its own, as the command measures: this one may hold free memory from tests before."""
    sizes = (96, 48)  # the second does not see the peak of the first
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        peaks = pool.submit(peaks_of, sizes).result()
    for mebibytes, peak in zip(sizes, peaks, strict=True):
        assert peak == pytest.approx(mebibytes * 2**20, rel=0.1)


# The command


def test_the_command_measures_in_processes_of_their_own(tmp_path, capsys):
    output = tmp_path / "new" / "bench.json"
    arguments = ["--shape", "tiny", "--family", "gpt_neox", "--only", "decode_1024", "--rounds", "2"]
    benchmark.main([*arguments, "--device", "cpu", "--output", str(output)])
    record = json.loads(output.read_text())["results"]["gpt_neox"]["decode_1024"]
    assert list(record["models"]) == ["stock", "bipe_rope", "bipe_alibi"]
    assert all(len(times["all"]) == 2 and times["seconds"] == min(times["all"]) for times in record["models"].values())
    assert record["others"] is None or 0 <= record["others"] <= 1
    table = capsys.readouterr().out
    assert "| decoding a token, 1024 cached" in table
    assert table == output.with_suffix(".md").read_text()


def test_an_interrupted_run_goes_on(fake_measure, tmp_path, monkeypatch):
    arguments = ["--shape", "tiny", "--output", str(tmp_path / "bench.json")]
    measure = benchmark.measure

    def measure_until_interrupted(options, family, name):
        if len(fake_measure) == 3:
            raise KeyboardInterrupt
        return measure(options, family, name)

    monkeypatch.setattr(benchmark, "measure", measure_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(arguments)
    monkeypatch.setattr(benchmark, "measure", measure)
    benchmark.main(arguments)
    expected = [(f, name) for f in ("llama", "gpt_neox") for name in MEASUREMENTS if f in MEASUREMENTS[name].families]
    assert fake_measure == expected
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [(family, name) for family in results for name in results[family]] == expected


def test_fresh_measures_again_what_is_selected(fake_measure, tmp_path):
    output = tmp_path / "bench.json"
    arguments = ["--family", "llama", "--output", str(output)]
    benchmark.main([*arguments, "--shape", "tiny", "--only", "train_1024", "decode_1024"])
    again = [*arguments, "--fresh", "--only", "train_1024"]
    benchmark.main([*again, "--shape", "tiny"])
    assert fake_measure == [("llama", "train_1024"), ("llama", "decode_1024"), ("llama", "train_1024")]
    assert set(json.loads(output.read_text())["results"]["llama"]) == {"train_1024", "decode_1024"}
    benchmark.main([*again, "--shape", "paper"])  # nothing of the file goes with these settings
    assert set(json.loads(output.read_text())["results"]["llama"]) == {"train_1024"}


def test_what_was_measured_otherwise_is_not_gone_on_with(fake_measure, tmp_path, capsys, monkeypatch):
    output = tmp_path / "bench.json"
    arguments = ["--only", "train_1024", "--output", str(output)]
    benchmark.main([*arguments, "--shape", "tiny"])
    before = output.read_text()
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--shape", "paper"])
    assert "was measured with shape tiny, this is paper. --fresh starts over" in capsys.readouterr().err
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--shape", "tiny"])
    assert f"was measured with torch {json.loads(before)['environment']['torch']}" in capsys.readouterr().err
    assert output.read_text() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"results": {}}'])
def test_a_file_of_something_else_is_not_touched(fake_measure, tmp_path, capsys, content):
    output = tmp_path / "bench.json"
    output.write_text(content)
    with pytest.raises(SystemExit):
        benchmark.main(["--output", str(output)])
    assert str(output) in capsys.readouterr().err
    assert output.read_text() == content
    assert not fake_measure


def test_the_committed_benchmark_is_of_the_model_code_as_it_is():
    """Fails after a change of the model code: measure again, or note the change as scripts/benchmark.py says."""
    record = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert benchmark.measured_or_noted(record) == code_hash()


def test_the_committed_tables_are_those_of_the_committed_measurements():
    record = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert (ROOT / "results" / "benchmark.md").read_text() == document(record) + "\n"


PROGRAM = """
def f(x: int) -> int:
    return x + 1  # one more
"""


@pytest.mark.parametrize(
    "other",
    [
        '"""About."""\n' + PROGRAM,
        PROGRAM.replace("    return", '    """Adds\n\n    # one.\n    """\n\n    return'),
        PROGRAM.replace("one more", "größer").replace("return", "# first\n    return"),
    ],
)
def test_prose_is_no_code(other):
    assert other != PROGRAM
    assert without_prose(other) == without_prose(PROGRAM) == "def f(x: int) -> int:\n    return x + 1"


@pytest.mark.parametrize("other", [PROGRAM.replace("1", "2"), PROGRAM.replace("return", "x = '# one'\n    return")])
def test_everything_else_is_code(other):
    assert without_prose(other) != without_prose(PROGRAM)


def test_every_file_that_travels_counts_but_the_number_of_the_release(tmp_path):
    for name in ("alibi_bipe.py", "version_bipe.py"):
        (tmp_path / name).write_text("a = 1\n")
    before = code_hash(tmp_path)
    (tmp_path / "version_bipe.py").write_text("a = 2\n")
    assert code_hash(tmp_path) == before
    (tmp_path / "alibi_bipe.py").write_text("a = 2\n")
    assert code_hash(tmp_path) != before


def test_a_change_of_the_code_can_be_noted_and_stands_above_the_tables(fake_measure, tmp_path, capsys, monkeypatch):
    output = tmp_path / "bench.json"
    arguments = ["--shape", "tiny", "--family", "gpt_neox", "--output", str(output)]
    benchmark.main(arguments)
    note = ["--output", str(output), "--code-changed", "the words of an error"]
    with pytest.raises(SystemExit):
        benchmark.main(note)
    assert "there is no change to note" in capsys.readouterr().err
    measured = json.loads(output.read_text())
    monkeypatch.setattr(benchmark, "code_hash", lambda: "0123456789ab")
    benchmark.main(note)
    record = json.loads(output.read_text())
    assert benchmark.measured_or_noted(record) == "0123456789ab"
    assert record["environment"] == measured["environment"]
    assert record["results"] == measured["results"]
    assert "were measured: the words of an error (0123456789ab)." in output.with_suffix(".md").read_text()
    with pytest.raises(SystemExit):  # rows of different code do not go into one file
        benchmark.main(arguments)
    assert "was measured with model code" in capsys.readouterr().err
    benchmark.main([*arguments, "--fresh"])
    assert "code changed" not in json.loads(output.read_text())


def test_a_change_is_noted_in_a_file_of_the_benchmark_only(tmp_path, capsys):
    for file, reason in ((None, "needs --output"), (tmp_path / "none.json", "none.json")):
        with pytest.raises(SystemExit):
            benchmark.main(["--code-changed", "all", *(["--output", str(file)] if file else [])])
        assert reason in capsys.readouterr().err


def test_a_process_that_dies_costs_its_own_row_alone(fake_measure, tmp_path, monkeypatch):
    measure = benchmark.measure

    def out_of_memory(options, family, name):
        if name == "train_4096":
            raise subprocess.CalledProcessError(-9, "benchmark")
        return measure(options, family, name)

    monkeypatch.setattr(benchmark, "measure", out_of_memory)
    output = tmp_path / "bench.json"
    names = ["train_1024", "train_4096", "decode_1024"]
    with pytest.raises(SystemExit, match="llama train_4096"):
        benchmark.main(["--family", "llama", "--only", *names, "--output", str(output)])
    assert list(json.loads(output.read_text())["results"]["llama"]) == ["train_1024", "decode_1024"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "decode_7"], "'decode_1024'"),
        (["--family", "bert"], "'gpt_neox'"),
        (["--family", "gpt_neox", "--only", "authors_train_1024"], "not measured for gpt_neox"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_accepted(fake_measure, capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err
    assert not fake_measure


# The table


def test_the_table_marks_ratios_over_their_limit():
    def timed(seconds, ratio):
        return {"seconds": seconds, "ratio": ratio, "interval": [ratio - 0.01, ratio + 0.01], "of_least": ratio}

    results = {
        "gpt_neox": {
            "decode_1024": {
                "models": {
                    "stock": {"seconds": 0.0634},
                    "bipe_rope": timed(0.07, 1.0204),
                    "bipe_alibi": timed(0.07, 1.0996),
                },
                "others": 0.0499,
            },
            "decode_compiled_1024": {"not_measured": "no compiler"},
            "memory_train_1024": {
                "models": {
                    "stock": {"bytes": 2**20 * 100},
                    "bipe_rope": {"bytes": 2**20 * 102, "ratio": 1.02},
                    "bipe_alibi": {"bytes": 2**20 * 111, "ratio": 1.11},
                }
            },
        },
        "llama": {
            "levels_decode_1024": {
                "models": {"bipe_rope": {"seconds": 0.05}, "bipe_levels": timed(0.06, 1.03)},
                "others": 0.0,
            },
            "authors_train_4096": {
                "models": {
                    "bipe_rope": {"seconds": 15.0},
                    "authors_rope": timed(45.0, 3.0),
                    "bipe_alibi": {"seconds": 16.0},
                    "authors_alibi": timed(40.0, 2.5),
                },
                "others": 0.25,
            },
        },
    }
    table = report(results)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows == [
        "|  | BiPE-RoPE | with two levels inside segments / BiPE-RoPE (limit 1.02) |",
        "| --- | ---: | ---: |",
        "| decoding a token, 1024 cached | 50.00 ms | **1.030** (1.020 to 1.040; 1.030) |",
        "|  | BiPE-RoPE | authors' / BiPE-RoPE | BiPE-ALiBi | authors' / BiPE-ALiBi |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| training step, 4096 tokens (others used 25% of the processors) | 15.00 s | 3.000 (2.990 to 3.010; 3.000) "
        "| 16.00 s | 2.500 (2.490 to 2.510; 2.500) |",
        "|  | stock | BiPE-RoPE / stock (limit 1.02) | BiPE-ALiBi / stock (limit 1.10) |",
        "| --- | ---: | ---: | ---: |",
        "| peak memory, training step, 1024 tokens | 100 MiB | 1.020 | **1.110** |",
        "| decoding a token, 1024 cached | 63.40 ms | **1.020** (1.010 to 1.030; 1.020) "
        "| 1.100 (1.090 to 1.110; 1.100) |",
        "| decoding a token, 1024 in a static cache, compiled | not measured: no compiler |  |  |",
    ]
    assert over_limit(results) == [
        "llama, decoding a token, 1024 cached: bipe_levels 1.030, limit 1.02",
        "gpt_neox, peak memory, training step, 1024 tokens: bipe_alibi 1.110, limit 1.10",
        "gpt_neox, decoding a token, 1024 cached: bipe_rope 1.020, limit 1.02",
    ]


def test_a_part_keeps_the_share_of_the_head():
    whole, third = Setting("llama", "paper", "cpu", "float32"), Setting("llama", "paper", "cpu", "float32", parts=3)
    assert third.fields["num_hidden_layers"] * 3 == whole.fields["num_hidden_layers"]
    assert third.fields["vocab_size"] * 3 == pytest.approx(whole.fields["vocab_size"], abs=3)
    assert tokens(third, 1000).max() < third.fields["vocab_size"]


@pytest.mark.parametrize("name", ["stock", "bipe_rope", "bipe_alibi"])
def test_a_long_cache_is_one_that_a_model_decodes_from(mini, monkeypatch, name):
    """Of which only a part is computed; every layer has the whole length, the segments too."""
    caches = []
    model = build(mini(), name)
    work = measurements.decoding_steps(model, mini(), length=3 * 1024, count=2)
    model.register_forward_hook(lambda module, args, output: caches.append(output.past_key_values))
    work.run()
    assert {layer.get_seq_length() for layer in caches[-1].layers} == {3 * 1024 + 2}
    work.prepare()
    assert caches[-1].get_seq_length() == 3 * 1024


def test_few_layers_are_two_of_twelve():
    settings = []
    row = measurements.FewLayersTiming("", work=lambda model, setting: settings.append(setting), budget=0)
    row.work_of(Setting("llama", "paper", "cpu", "float32"), "stock")
    assert settings[0].fields["num_hidden_layers"] == 2
    for length in (1024, 12288, 32768):
        assert isinstance(MEASUREMENTS[f"decode_few_layers_{length}"], measurements.FewLayersTiming)
