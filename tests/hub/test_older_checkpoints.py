"""What version 0.1 saved, with its own code beside it (tests/golden_0.1): it loads, and it can be saved over."""

import shutil

import pytest
import torch
from families import FAMILIES
from hub_client import Client, read_logits, without_package
from paths import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bipe_hf.hub.card_file import is_ours, write_model_card
from bipe_hf.model.travel_bipe import FILES


SAVED = ROOT / "tests" / "golden_0.1"
TEXTS = ["The cat sat. It ran!", "No end"]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A process in which this package does not exist, and no Hub either."""
    client = Client("http://127.0.0.1:9", tmp_path_factory.mktemp("home"), without_package)
    yield client
    client.close()


@pytest.fixture
def folder(family, tmp_path):
    """A checkpoint as 0.1 left it."""
    shutil.copytree(SAVED / family, tmp_path / "saved")
    return shutil.copytree(SAVED / "code", tmp_path / "saved", dirs_exist_ok=True)


@pytest.fixture
def expected(family):
    """What 0.1 computed for `TEXTS`."""
    return load_file(SAVED / family / "expected.safetensors")


def check(found: dict, expected: dict) -> None:
    for name in ("input_ids", "segment_ids", "attention_mask"):
        assert found[name] == expected[name].tolist()
    torch.testing.assert_close(torch.tensor(found["logits"]), expected["logits"], rtol=0, atol=1e-5)


def test_it_loads_with_the_package(folder, family, expected):
    found = read_logits(str(folder), TEXTS)
    assert (found["class"], found["module"]) == (
        f"{FAMILIES[family].prefix}ForCausalLM",
        f"bipe_hf.model.modeling_bipe_{family}",
    )
    check(found, expected)


def test_it_loads_by_its_own_code(stranger, folder, expected):
    found = stranger(read_logits, str(folder), TEXTS, trust_remote_code=True)
    assert found["module"].startswith("transformers_modules.")
    check(found, expected)


@pytest.mark.parametrize("part", ["model", "tokenizer", "both"])
def test_it_is_saved_over_and_then_loads_by_the_code_of_today(stranger, folder, expected, part):
    old = {file.name: file.read_bytes() for file in (SAVED / "code").iterdir()}
    parts = {"model": AutoModelForCausalLM, "tokenizer": AutoTokenizer}
    for name in parts if part == "both" else [part]:
        parts[name].from_pretrained(folder).save_pretrained(folder)
    now = {file.name: file.read_bytes() for file in folder.glob("*.py")}
    assert now.keys() == set(FILES)  # what only 0.1 had is gone
    assert all(now[name] != old[name] for name in old.keys() & now.keys())
    check(stranger(read_logits, str(folder), TEXTS, trust_remote_code=True), expected)


def test_an_edit_of_its_code_is_not_lost(folder):
    with (folder / "modeling_bipe.py").open("a") as file:
        file.write("# mine\n")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(FileExistsError, match="holds a file modeling_bipe.py"):
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_its_card_is_renewed(folder):
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8")
    assert is_ours(before)
    card.write_text(before.replace("library_name", "license: mit\nlibrary_name"), encoding="utf-8")
    write_model_card(folder, "me/renewed")
    renewed = card.read_text(encoding="utf-8")
    assert 'name = "me/renewed"' in renewed
    assert "license: mit" in renewed
