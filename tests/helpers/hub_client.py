"""What users do with the Hub, in a process of their own whose `huggingface_hub` asks another server.

`Client` is such a process and runs the functions below: `client(push_model, folder, ...)`. It serves many calls, since
importing transformers takes seconds. Only `with_package` imports this package: a process may have to do without it.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest


class Client:
    """`client(function, *arguments)` runs a function of this module in the process and returns what it returns."""

    def __init__(self, endpoint: str, home: Path, setup: Callable[[], None]) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"), initializer=setup)
        with pytest.MonkeyPatch.context() as patch:  # the environment is read when the process starts
            for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE"):
                patch.delenv(name, raising=False)
            patch.setenv("HF_ENDPOINT", endpoint)
            patch.setenv("HF_HOME", str(home))
            patch.setenv("NO_PROXY", "127.0.0.1")
            patch.setenv("HF_HUB_OFFLINE", "0")
            patch.setenv("HF_HUB_DISABLE_XET", "1")
            patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            self(int)

    def __call__(self, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        return self._process.submit(function, *arguments, **keywords).result(timeout=120)

    def close(self) -> None:
        self._process.shutdown()


def with_package() -> None:
    """Sets a process up for users who have installed this package."""
    import bipe_hf  # noqa: F401


def without_package() -> None:
    """Sets a process up for everybody else: importing `bipe_hf` fails."""

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "bipe_hf":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Missing())


def push_model(folder: str, auto_class: str, repo: str, **keywords: Any) -> None:
    load(folder, auto_class).push_to_hub(repo, **keywords)


def push_tokenizer(folder: str, repo: str, **keywords: Any) -> None:
    load(folder, "AutoTokenizer").push_to_hub(repo, **keywords)


def save_and_push_tokenizer(folder: str, output: str, repo: str, token: str) -> None:
    """Saves and pushes in one call, from a folder that stays."""
    load(folder, "AutoTokenizer").save_pretrained(output, push_to_hub=True, repo_id=repo, token=token)


def save_config(name: str, folder: str, **fields: Any) -> None:
    """A configuration with other values, saved alone by remote code."""
    load(name, "AutoConfig", trust_remote_code=True, **fields).save_pretrained(folder)


def save_model(name: str, folder: str) -> None:
    """A model, saved by remote code."""
    load(name, "AutoModelForCausalLM", trust_remote_code=True).save_pretrained(folder)


def save_tokenizer(name: str, folder: str) -> None:
    """A tokenizer, saved by remote code."""
    load(name, "AutoTokenizer", trust_remote_code=True).save_pretrained(folder)


def build_model(name: str) -> str:
    """The class that the Auto class builds from a configuration alone."""
    import transformers

    config = load(name, "AutoConfig", trust_remote_code=True)
    return type(transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True)).__name__


def train_and_push(folder: str, output: str, repo: str, token: str) -> None:
    """One step of `Trainer` with `push_to_hub=True`, which pushes when it saves, and at the end once more."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output, push_to_hub=True, hub_model_id=repo, hub_token=token, max_steps=1, report_to="none"
    )
    data = [{"input_ids": list(range(20)), "labels": list(range(20))}]
    tokenizer = load(folder, "AutoTokenizer")
    trainer = Trainer(load(folder, "AutoModelForCausalLM"), arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.push_to_hub()


def run_command(*words: str, token: str | None = None) -> tuple[int, str, str]:
    """`bipe-hf` with these words: exit status, standard output, standard error."""
    from bipe_hf.commands import main

    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        pytest.MonkeyPatch.context() as patch,
    ):
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        status = main(list(words))
    return status, output.getvalue(), errors.getvalue()


def run_command_elsewhere(*words: str, token: str) -> str:
    """The error line of `bipe-hf` where nobody answers."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        return run_command(*words, token=token)[2].splitlines()[-1]


def without_waiting(function: Callable, *arguments: Any, **keywords: Any) -> Any:
    """The client tries five times more when a connection breaks, up to 8 seconds apart."""
    import huggingface_hub.utils._http as http

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.time, "sleep", lambda seconds: None)
        return function(*arguments, **keywords)


def fine_tune(repo: str, auto_class: str, folder: str, new_repo: str, token: str, **keywords: Any) -> dict[str, Any]:
    """A new head, one step of training, saved in a folder and pushed; the outputs that a reader must find."""
    import torch

    model = load(repo, auto_class, num_labels=3, **keywords).train()
    model.config.pad_token_id = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.arange(20)[None], labels=torch.tensor([1])).loss.backward()
    optimizer.step()
    model.save_pretrained(folder)
    model.push_to_hub(new_repo, token=token)
    return describe(model.eval())


def load(name: str, auto_class: str, **keywords: Any) -> Any:
    import transformers

    return getattr(transformers, auto_class).from_pretrained(name, **keywords)


def describe(model: Any) -> dict[str, Any]:
    """Class, module and the first output of a model for 20 tokens."""
    import torch

    with torch.no_grad():
        output = model(torch.arange(20)[None])[0]
    return {"class": type(model).__name__, "module": type(model).__module__, "output": output.tolist()}


def read_model(name: str, auto_class: str = "AutoModelForCausalLM", **keywords: Any) -> dict[str, Any]:
    return describe(load(name, auto_class, **keywords).eval())


def read_logits(name: str, texts: list[str], **keywords: Any) -> dict[str, Any]:
    """What a tokenizer and then a language model make of texts: class and module of the model, ids, logits."""
    import torch

    model = load(name, "AutoModelForCausalLM", **keywords).eval()
    encoded = load(name, "AutoTokenizer", **keywords)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits
    found = {key: value.tolist() for key, value in encoded.items()}
    return found | {"class": type(model).__name__, "module": type(model).__module__, "logits": logits.tolist()}


def read_tokenizer(name: str, texts: list[str], **keywords: Any) -> dict[str, Any]:
    tokenizer = load(name, "AutoTokenizer", **keywords)
    encoded = dict(tokenizer(texts, padding=True))
    return {"class": type(tokenizer).__name__, "module": type(tokenizer).__module__, "encoded": encoded}


def error_of(function: Callable, *arguments: Any, **keywords: Any) -> str:
    """What a call raises, as a user reads it in the last lines of a traceback."""
    try:
        function(*arguments, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{function.__name__}{arguments} raised nothing")
