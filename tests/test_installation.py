"""What an installation of the package alone pulls in and what importing it loads."""

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

import bipe_hf


NEEDED = {
    "accelerate",
    "datasets",
    "huggingface-hub",
    "pyyaml",
    "safetensors",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
}


def test_nothing_optional_is_installed_with_the_package():
    requirements = [Requirement(text) for text in requires("bipe-hf")]
    always = {each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})}
    assert always == NEEDED


def test_importing_the_package_loads_little_more_than_the_stock_models():
    """Everything beyond transformers' two families, its Auto classes and the base of fast tokenizers is ours."""
    code = "import sys, json; {}; print(json.dumps(sorted(sys.modules)))"
    stock = (
        "from transformers import AutoModel, AutoTokenizer, GPTNeoXForCausalLM, LlamaForCausalLM, TokenizersBackend"
    )
    loaded = [
        set(json.loads(subprocess.check_output([sys.executable, "-c", code.format(line)], text=True)))
        for line in (stock, "import bipe_hf")
    ]
    added = {name for name in loaded[1] - loaded[0] if not name.startswith(("transformers.", "huggingface_hub."))}
    files = {f"bipe_hf.{file.stem}" for file in Path(bipe_hf.__file__).parent.glob("*.py")} - {"bipe_hf.__init__"}
    users = {"bipe_hf.lab.evaluation.plot", "bipe_hf.integrations.peft", "bipe_hf.hub.pushing"}
    assert added == {"bipe_hf", *files} - users
