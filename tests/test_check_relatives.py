"""The encodings of relatives are those of their authors: the committed numbers, and others in other shapes."""

import shutil
import sys

import pytest
import torch
from naive_relatives import Maker, Shape, cable, cope, dape, dca, fox, hirope, path, selective_rope, sepllm, tape
from paths import GOLDEN_RELATIVES, ROOT
from safetensors.torch import load_file, save_file


sys.path.insert(0, str(ROOT / "scripts"))

import check_relatives
from relatives.checkers import CHECKERS
from relatives.golden import Golden, UnsupportedError
from relatives.one_layer import FAMILIES


# What the package has no part for.
NOT_COVERED = {
    "hirope": {"by_position_in_unit.logits", "by_position_in_unit.windowed_logits"},
}
GROUPED_KEYS = "GPT-NeoX has no grouped keys, and its heads make up the hidden size"
ONLY_IN_LLAMA = {
    "dca": GROUPED_KEYS,
    "path": GROUPED_KEYS,
    "tape": "GPT-NeoX has no RMS norms and no gate in its MLP",
}
GROUPED = Shape(heads=6, key_heads=2, head_dim=8, hidden=24, length=11)
ALL_HEADS = Shape(heads=3, key_heads=3, head_dim=6, hidden=18, length=13)
MADE = {
    "cable": ("CABLE", cable, {}),
    "fox": ("FoX, with a longer name", fox, {}),
    "cope": ("CoPE", cope, {"positions": 4}),
    "dape": ("DAPE", dape, {"width": 5}),
    "dape_v2": ("DAPE V2", dape, {"kernel": 5, "fire_length": 40}),
    "hirope": ("HiRoPE", hirope, {}),
    "hirope, all slow": ("HiRoPE", hirope, {"low": 0, "window": 6}),
    "dca": ("DCA", dca, {}),
    "sepllm": ("SepLLM", sepllm, {}),
    "tape": ("TAPE", tape, {}),
    "path": ("PaTH attention", path, {"length": 150}),
    "selective_rope": ("Selective RoPE", selective_rope, {}),
    "selective_rope, best": ("Selective RoPE", selective_rope, {"activation": "silu", "has_gate": True, "kernel": 2}),
}


OUTPUTS = {
    *("bias", "scores", "positions", "weights", "output", "logits", "windowed_logits"),
    *("hidden", "cos", "sin"),
}


def is_output(name):
    last = name.split(".")[-1]
    return last in OUTPUTS or last.startswith(("expected", "rotated_"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(folder.name for folder in GOLDEN_RELATIVES.iterdir()))
def test_numbers_are_those_of_the_authors(name, family):
    golden = Golden(GOLDEN_RELATIVES / name)
    found = CHECKERS[golden.system](golden, family)
    if family == "gpt_neox" and name in ONLY_IN_LLAMA:
        with pytest.raises(UnsupportedError, match=f"^{ONLY_IN_LLAMA[name]}$"):
            golden.differences(found)
        return
    differences = golden.differences(found)
    assert differences
    assert max(differences.values()) <= golden.tolerance
    outputs = {each for each in golden.unread() if golden.tensors[each].ndim > 2 and is_output(each)}
    assert outputs == NOT_COVERED.get(name, set())


@pytest.mark.parametrize("shape", [GROUPED, ALL_HEADS], ids=["grouped", "all heads"])
@pytest.mark.parametrize("name", MADE)
def test_other_shapes_and_options_are_computed_too(tmp_path, capsys, name, shape):
    system, make, options = MADE[name]
    maker = Maker(shape, seed=1)
    maker.write(tmp_path / name, system, make(maker, **options))
    assert check_relatives.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "llama" in out
    assert "FAILED" not in out
    has_keys = name.split(",")[0] not in ("dape", "dape_v2", "sepllm", "tape")
    assert ("GPT-NeoX has no grouped keys" in out) == (has_keys and shape is GROUPED)


def test_every_corrupted_tensor_that_comes_out_fails(tmp_path, capsys):
    """By a hundredth of its largest number, in one place."""
    for name in ("cable", "cope", "dape_v2", "hirope"):
        source = GOLDEN_RELATIVES / name
        tensors = load_file(source / "golden.safetensors")
        golden = Golden(source)
        for corrupted in golden.differences(CHECKERS[golden.system](golden, "llama")):
            folder = tmp_path / f"{name}-{corrupted}"
            shutil.copytree(source, folder)
            numbers = tensors[corrupted].clone()
            numbers.view(-1)[numbers.numel() // 2] += 0.01 * max(1.0, numbers.abs().max().item())
            save_file({**tensors, corrupted: numbers}, folder / "golden.safetensors")
            assert any(f", {corrupted}:" in failure for failure in check_relatives.check(folder)), corrupted
    capsys.readouterr()


def test_what_cannot_be_compared_is_a_failure_with_a_name(tmp_path, capsys):
    Maker(GROUPED, 0).write(tmp_path / "a", "Rotations", {})
    (tmp_path / "b").mkdir()
    maker = Maker(GROUPED, 0)
    maker.write(tmp_path / "c", "Selective RoPE", {**selective_rope(maker), "temp_max": 2.0})
    maker = Maker(GROUPED, 0)
    config = cope(maker)
    del maker.tensors["proj_out.weight"]
    maker.write(tmp_path / "d", "CoPE", config)
    assert check_relatives.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAILED a: no checker for 'Rotations', there are CABLE" in out
    assert "FAILED b: cannot be read" in out
    assert "llama: not compared, temp_max=2.0 is not there, only 1.0" in out
    assert "FAILED c: nothing was compared" in out
    assert "FAILED d, llama: " in out
    assert "4 folders, 4 failures" in out
    with pytest.raises(SystemExit):
        check_relatives.main([str(tmp_path / "nothing")])


def test_the_command_of_the_script_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = [line.split() for line in check_relatives.__doc__.splitlines() if line.startswith("    python")]
    assert command[:2] == ["python", "scripts/check_relatives.py"]
    assert check_relatives.main(command[2:]) == 0
    assert "not covered: by_position_in_unit.logits" in capsys.readouterr().out
    assert torch.is_grad_enabled()
