"""What `make gpu` runs, on a CPU: every kind of row, what a file keeps, and what a call leaves for the next."""

import json
import sys

import pytest
from paths import ROOT


sys.path.insert(0, str(ROOT / "scripts"))

import gpu
from on_gpu import checks, parallel, speed
from on_gpu.record import Machine, Row


ONE_OF_EACH = [
    "columns, head dimension 64, float32",
    "llama, alibi, float32",
    "gpt_neox, levels, bfloat16",
    "8 bits, llama, alibi",
    "llama, 32 tokens",
    "packing, bipe_rope",
    "fused loss",
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
    assert len(printed) == len(rows) == 22
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
    with pytest.raises(SystemExit, match="over the limit: sdpa = eager, llama, alibi, float32"):
        run("--only", "sdpa = eager, llama, alibi, float32")
    assert found(tmp_path)["checks"]["sdpa = eager, llama, alibi, float32"]["ok"] is False


def test_a_row_that_ends_in_an_error_costs_the_others_nothing(run, tmp_path, monkeypatch):
    def broken(machine):
        raise RuntimeError("the device is lost\nand more")

    monkeypatch.setattr(parallel, "rows", lambda: [Row("broken", broken), Row("next", lambda machine: {"ok": True})])
    monkeypatch.setattr(checks, "rows", list)
    monkeypatch.setattr(gpu, "line", lambda row, found: row.name)
    with pytest.raises(SystemExit, match="over the limit: broken"):
        run("--only", "broken", "next")
    rows = found(tmp_path)["parallel"]
    assert rows == {"broken": {"ok": False, "error": "RuntimeError: the device is lost"}, "next": {"ok": True}}


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
    monkeypatch.setattr(Machine, "environment", {"device": "NVIDIA H100 PCIe"})
    fields = {"num_hidden_layers": 2, "hidden_size": 8}
    share = speed.share_of_peak(Machine("cuda"), fields, 100, 5e9, length=1000)
    assert share == pytest.approx(5e9 * (600 + 96000) / 989e12)
    monkeypatch.setattr(Machine, "environment", {"device": "Unknown"})
    assert speed.share_of_peak(Machine("cuda"), fields, 100, 5e9, length=1000) is None
