"""The commands of docs/vllm.md: a server of the OpenAI protocol, asked for several completions at once."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from hub_server import Hub
from paths import ROOT
from vllm_engine import SETTINGS, random_prompts, tokens_of_generate
from word_tokenizer import make_word_tokenizer


TO_THE_END = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, "skip_special_tokens": False}
SMALL = {name: value for name, value in SETTINGS.items() if name not in ("enforce_eager", "skip_tokenizer_init")}


def commands() -> list[list[str]]:
    """The words of each command of docs/vllm.md that serves or asks."""
    text = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(python -m vllm.*?)```", text, flags=re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module", params=["folder", "hub"])
def server(request, saved, tmp_path_factory):
    """A model, and the address at which the command of the page serves it, from its folder or by its name on a Hub."""
    model, folder = saved("llama", inter_encoding="alibi")
    make_word_tokenizer().save_pretrained(folder)
    with Hub({"token": "alice"}) as hub:
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        if request.param == "hub":
            hub.publish("alice/model", folder)
            folder = "alice/model"
            home = str(tmp_path_factory.mktemp("home"))
            environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        yield from serve(model, folder, environment, tmp_path_factory.mktemp("server") / "log")


def serve(model, folder, environment, log):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (_, *words), _ = commands()
    words[words.index("--model") + 1] = str(folder)
    small = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen(
        [sys.executable, *words, *small, "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield model, f"http://127.0.0.1:{port}", str(folder)
    finally:
        process.terminate()
        process.wait(60)


def wait_for(address, process, log):
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())


def ask(address, body):
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"]


def test_seven_requests_at_once_get_the_tokens_of_generate(server):
    model, address, folder = server
    tokenizer = make_word_tokenizer()
    prompts = random_prompts(1, 5, 25, 40, 7, 60, 33)
    body = json.loads(commands()[1][-1]) | {"model": folder, **TO_THE_END}
    with ThreadPoolExecutor(7) as pool:
        asked = [{**body, "prompt": tokenizer.decode(prompt)} for prompt in prompts]
        answers = list(pool.map(lambda each: ask(address, each), asked))
    for answer, expected in zip(answers, tokens_of_generate(model, prompts), strict=True):
        assert answer.split() == tokenizer.decode(expected).split()


def test_a_request_that_is_too_long_leaves_the_others_alone(server):
    model, address, folder = server
    (prompt,) = random_prompts(20)
    body = {"model": folder, "prompt": prompt, **TO_THE_END}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(address, {**body, "prompt": prompt * 10})
    (expected,) = tokens_of_generate(model, [prompt])
    assert ask(address, body).split() == make_word_tokenizer().decode(expected).split()
