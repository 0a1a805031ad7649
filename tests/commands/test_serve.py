"""`bipe-hf serve`: what it refuses before work starts, and a process that serves until Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys

import pytest
import requests
import torch
from tiny import TINY
from word_tokenizer import EOS, make_word_tokenizer

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.commands import main
from bipe_hf.lab.common import extras


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("served"), "rope")


def make_folder(folder, encoding):
    torch.manual_seed(0)
    config = BipeLlamaConfig(**{**TINY, "inter_encoding": encoding, "eos_token_id": EOS})
    BipeLlamaForCausalLM(config).save_pretrained(folder)
    make_word_tokenizer().save_pretrained(folder)
    return folder


def error_of(capsys, *words):
    assert main(["serve", *map(str, words)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("bipe-hf: error: ")
    assert shown.count("\n") == 1
    return shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port 70000: must be from 0"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1 --port 8000: nothing can listen there"),
        (["--num-blocks", "0", "--continuous-batching"], "--num-blocks 0: at least 1 is needed"),
        (["--num-blocks", "4"], "--num-blocks 4: give --continuous-batching too"),
        (["--max-batch-tokens", "4"], "--max-batch-tokens 4: give --continuous-batching too"),
        (["--device", "abacus"], "device: 'abacus'"),
        (["--dtype", "int4"], "dtype: 'int4'"),
    ],
)
def test_bad_words_are_one_line(folder, words, message, capsys):
    assert message in error_of(capsys, folder, *words)


def test_no_model_is_one_line(tmp_path, capsys):
    assert "missing: there is no such folder" in error_of(capsys, tmp_path / "missing", "--port", 0)


def test_a_port_in_use_is_one_line(folder, capsys):
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        assert f"--host localhost --port {port}: nothing can listen there (" in error_of(
            capsys, folder, "--port", port
        )


def test_a_model_that_no_paged_cache_holds_is_one_line(tmp_path, capsys):
    words = make_folder(tmp_path, "kerple"), "--continuous-batching", "--port", 0
    capsys.readouterr()
    assert "--continuous-batching: inter_encoding='kerple' has a bias for each pair" in error_of(capsys, *words)


def test_a_missing_library_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_installed", lambda library: library != "uvicorn")
    assert "serve needs uvicorn, which is not installed; in a clone of bipe-hf: pip install '.[serve]'" in error_of(
        capsys, folder
    )


@pytest.mark.parametrize(
    "batching",
    [
        pytest.param([], id="one by one", marks=pytest.mark.slow),
        pytest.param(["--continuous-batching", "--num-blocks", "2"], id="batch"),
    ],
)
def test_a_process_serves_until_it_is_interrupted(folder, batching):
    command = [sys.executable, "-m", "bipe_hf.commands", "serve", str(folder), "--port", "0", *batching]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        (url,) = re.findall(r"is served at (\S+) \(Ctrl-C stops it\)", process.stdout.readline())
        body = {"model": str(folder), "prompt": "w01 w02 w03", "max_tokens": 5}
        answer = requests.post(f"{url}/completions", json=body, timeout=30).json()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "bipe-hf: interrupted")
    model = BipeLlamaForCausalLM.from_pretrained(folder)
    written = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5, do_sample=False, pad_token_id=0)[0, 3:]
    assert answer["choices"][0]["text"] == make_word_tokenizer().decode(written, skip_special_tokens=True)
