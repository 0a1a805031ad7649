"""vLLM on a CPU, in this process where nothing else is said. `make test-vllm` makes the environment that it needs."""

import importlib.util
import os
from pathlib import Path

import pytest


STUB = str(Path(__file__).parent / "stub")
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs here, where a test can look inside
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

# The environment of `make test` has no vLLM, and leaves these tests out.
if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
elif os.environ.get("TRITON_INTERPRET") != "1" or STUB not in os.environ.get("PYTHONPATH", ""):
    raise pytest.UsageError("these tests run with: make test-vllm ARGS=...")  # before torch loads Triton
else:
    os.environ.update(SETTINGS)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tiny_model):
    """A function from a family and configuration fields to a tiny model, and the folder where it was saved."""
    folders = {}

    def save(family, **fields):
        model = tiny_model(family, **fields)
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp("model")
            model.save_pretrained(folders[model])
        return model, folders[model]

    return save
