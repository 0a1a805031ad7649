"""A checkpoint that carries its own code, loaded by a process in which this package does not exist."""

import os
import subprocess
import sys

import pytest
import torch
from families import FAMILIES


WITHOUT_THE_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bipe_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import torch
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
torch.save(model(torch.arange(20)[None]).logits, f"{folder}/actual.pt")
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_with_its_code_loads_without_the_package(family, tiny_model, tmp_path, monkeypatch):
    model = tiny_model(family)
    monkeypatch.setattr(type(model), "_auto_class", "AutoModelForCausalLM")
    monkeypatch.setattr(type(model.config), "_auto_class", "AutoConfig")
    model.save_pretrained(tmp_path / "checkpoint")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "checkpoint")]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=120)
    with torch.no_grad():
        expected = model(torch.arange(20)[None]).logits
    assert torch.equal(torch.load(tmp_path / "checkpoint" / "actual.pt"), expected)
