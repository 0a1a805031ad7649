"""What `make gpu` runs, on a CPU: every kind of row, what a file keeps, and what a call leaves for the next."""

import json
import sys

import pytest
from paths import ROOT


sys.path.insert(0, str(ROOT / "scripts"))

import gpu
from on_gpu import checks, parallel, speed, versions
from on_gpu.record import Machine, Row


ONE_OF_EACH = [
    "columns, head dimension 64, float32",
    "llama, alibi, float32",
    "gpt_neox, levels, bfloat16",
    "8 bits, llama, alibi",
    "llama, 32 tokens",
    "packing, bipe_rope",
    "fused loss",
    "Liger = plain, alibi",
    "packed = alone, llama, alibi, autocast",
    "data parallel, bipe_rope",
]


def found(folder):
    return {path.stem: json.loads(path.read_text())["rows"] for path in folder.glob("*.json")}


@pytest.fixture
def run(tmp_path, capsys):
    """A function from arguments to the lines of a dry run, whose files are in `tmp_path`."""

    def run_with(*arguments):
        gpu.main(["--dry-run", "--output", str(tmp_path), *arguments])
        return capsys.readouterr()

    return run_with


def test_every_kind_of_row_runs_and_nothing_is_found_twice(run, tmp_path):
    printed = run("--only", *ONE_OF_EACH).out.splitlines()
    rows = {name: row for part in found(tmp_path).values() for name, row in part.items()}
    assert len(printed) == len(rows) == 24
    assert all("ok" in row or row["not_run"] for row in rows.values())
    kinds = {line[6:].split(",")[0] for line in printed if line.startswith(" ok ")}
    assert {"columns", "cached = uncached", "packed = alone", "sdpa = eager", "compiled = eager"} <= kinds
    assert {"training", "prefill", "decoding", "data parallel"} <= kinds
    assert run("--only", *ONE_OF_EACH).out == ""


@pytest.mark.slow
def test_a_whole_dry_run_passes(run):
    run("--minutes", "30")


def test_a_call_leaves_what_it_has_no_time_for(run, tmp_path):
    printed = run("--only", "columns", "--minutes", "0.5")
    assert "4 rows are left" in printed.err
    assert not found(tmp_path)


def test_a_difference_over_its_limit_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "FLOAT32_LIMIT", 0.0)
    with pytest.raises(SystemExit, match="not as it should be: sdpa = eager, llama, alibi, float32"):
        run("--only", "sdpa = eager, llama, alibi, float32")
    assert found(tmp_path)["checks"]["sdpa = eager, llama, alibi, float32"]["ok"] is False


def test_a_row_that_ends_in_an_error_costs_the_others_nothing(run, tmp_path, monkeypatch):
    tried = []

    def broken(machine):
        tried.append("broken")
        raise RuntimeError("the device is lost\nand more")

    def fine(machine):
        tried.append("next")
        return {"ok": True}

    monkeypatch.setattr(parallel, "rows", lambda: [Row("broken", broken), Row("next", fine)])
    monkeypatch.setattr(gpu, "line", lambda row, found: row.name)
    error = {"ok": False, "error": "RuntimeError: the device is lost"}
    for rows in ({"broken": error, "next": {"ok": True}},) * 2:  # it is tried again
        with pytest.raises(SystemExit, match="not as it should be: broken"):
            run("--only", "broken", "next")
        assert found(tmp_path)["parallel"] == rows
        assert tried.count("broken") == len(tried) - 1


def test_fresh_finds_again_what_is_asked_for_and_keeps_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "rows", lambda: [Row(name, lambda machine: {"ok": True}) for name in ("1st", "2nd")])
    monkeypatch.setattr(gpu, "line", lambda row, found: row.name)
    assert run("--only", "1st", "2nd").out.split() == ["1st", "2nd"]
    assert run("--only", "1st", "--fresh").out.split() == ["1st"]
    assert list(found(tmp_path)["parallel"]) == ["2nd", "1st"]


def test_a_lost_device_ends_the_call(run, monkeypatch):
    def lost(machine):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(parallel, "rows", lambda: [Row("lost", lost), Row("next", lambda machine: {"ok": True})])
    monkeypatch.setattr(gpu, "line", lambda row, found: row.name)
    with pytest.raises(SystemExit, match="the device is lost: lost: RuntimeError: CUDA error"):
        run("--only", "lost", "next")


def test_rows_of_a_lower_turn_come_first(run, monkeypatch):
    late, soon = (Row(name, lambda machine: {"ok": True}, turn=turn) for name, turn in (("late", 1), ("soon", 0)))
    monkeypatch.setattr(parallel, "rows", lambda: [late, soon])
    monkeypatch.setattr(gpu, "line", lambda row, found: row.name)
    assert run("--only", "late", "soon").out.split() == ["soon", "late"]


def test_older_versions_are_refused(monkeypatch):
    assert not versions.too_old()
    monkeypatch.setattr(versions, "version", {"torch": "2.11.0+cu130", "transformers": "5.23.0"}.get)
    with pytest.raises(SystemExit, match=r"torch 2\.11\.0\+cu130 is installed, torch>=2\.13 is needed"):
        versions.check_versions()


def test_a_file_of_another_machine_is_not_mixed_with(run, tmp_path, capsys):
    (tmp_path / "checks.json").write_text(json.dumps({"environment": {"device": "another"}, "rows": {}}))
    with pytest.raises(SystemExit):
        run("--only", "columns")
    assert "was made with device another, this is CPU, a dry run: --fresh starts over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--dry-run", "--only", "no such row"], "no row is called so"), ([], "torch sees no GPU; --dry-run")],
)
def test_what_cannot_run_is_refused(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([*arguments, "--output", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_names_of_rows_differ():
    for machine in (Machine("cpu"), Machine("cuda")):
        names = [row.name for row in [*checks.rows(), *speed.rows(machine), *parallel.rows()]]
        assert len(set(names)) == len(names)


def test_the_share_of_the_peak_is_that_of_the_formula(monkeypatch):
    """1,000 tokens, 100 parameters, 2 layers 8 wide: 6 operations a parameter, 6 * 2 * 8 * 1000 besides, a token."""
    monkeypatch.setattr(Machine, "environment", {"device": "NVIDIA H100 80GB HBM3"})
    fields = {"num_hidden_layers": 2, "hidden_size": 8}
    share = speed.share_of_peak(Machine("cuda"), fields, 100, 5e9, length=1000)
    assert share == pytest.approx(5e9 * (600 + 96000) / 989e12)
    monkeypatch.setattr(Machine, "environment", {"device": "Unknown"})
    assert speed.share_of_peak(Machine("cuda"), fields, 100, 5e9, length=1000) is None
