"""vLLM on a CPU, in this process where nothing else is said. `make test-vllm` makes the environment that it needs."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest


STUB = Path(__file__).parent / "stub"
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_DISABLE_COMPILE_CACHE": "0",
    "VLLM_USE_AOT_COMPILE": "1",  # programs are counted
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs here, where a test can look inside
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

# The environment of `make test` has no vLLM, and leaves these tests out.
if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
elif STUB not in [Path(entry).resolve() for entry in sys.path] or os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError("these tests run with: make test-vllm ARGS=...")  # which says it before Triton is loaded
else:
    os.environ.update(SETTINGS, PYTHONPATH=str(STUB))  # also of a process with another working directory


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
