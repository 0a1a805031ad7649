"""`bipe-hf env`: what a bug report needs, without loading a model."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version

import torch

from bipe_hf.commands import env, main


def test_one_line_for_each_fact(capsys):
    assert main(["env"]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["bipe-hf"] == version("bipe-hf")
    assert facts["Python"] == platform.python_version()
    for library in ("torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors"):
        assert facts[library] == version(library)
    assert facts["devices"].startswith("cpu")
    assert {"eager", "sdpa"} <= set(facts["attention"].split(", "))
    assert "pytest" not in facts


def test_a_library_of_an_extra_that_is_missing_is_named(monkeypatch):
    def without_peft(name):
        if name == "peft":
            raise env.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(env, "version", without_peft)
    facts = env.environment()
    assert "peft" not in facts
    assert "peft" in facts["not installed"].split(", ")


def test_every_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    assert env.environment()["devices"] == "cpu, GPU 0, GPU 1"


def test_the_cache_folder_is_the_one_in_use(tmp_path):
    code = "from bipe_hf.commands import main; main(['env'])"
    variables = os.environ | {"HF_HUB_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert re.search(rf"^cache folder +{tmp_path}$", result.stdout, flags=re.MULTILINE)
