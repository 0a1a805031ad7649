"""What docs/serving.md shows runs as it stands."""

import re
import shlex

import pytest
import requests
from paths import ROOT
from server import running
from small_pair import make_pair
from transformers import ContinuousBatchingConfig

from bipe_hf.commands import COMMANDS, _parse
from bipe_hf.model.inter_bipe import INTER_ENCODINGS


PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
NAME = "runs/demo/tiny_bipe_rope"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(program)]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder with a tiny chat model where the page has one; returns the model and its tokenizer."""
    tokenizer, model = make_pair()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    model.eval()
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    return model, tokenizer


def test_prompts_are_written_at_once(demo):
    names = {}
    exec(compile(blocks("python")[0], "serving.md", "exec"), names)
    assert len(names["texts"]) == 3
    assert len(names["outputs"]["req_0"].generated_tokens) <= 20


def test_clients_of_the_server_are_answered(demo):
    ((_, url, _, header, _, body),) = commands("curl")
    with running(*demo, ContinuousBatchingConfig(num_blocks=64), name=NAME) as server:
        url = url.replace("http://localhost:8000", server.url)
        response = requests.post(url, data=body, headers=dict([header.split(": ")]), timeout=20)
        assert response.text.startswith("data: {")
        block = blocks("python")[1].replace("http://localhost:8000", server.url)
        names = {}
        exec(compile(block, "serving.md", "exec"), names)
        assert names["completion"].usage.completion_tokens <= 20
        assert names["answer"]


def test_commands_are_understood():
    found = commands("bipe-hf")
    assert {command for _, command, *_ in found} == {"serve", "generate"} <= set(COMMANDS)
    for _, *words in found:
        _parse(words)


def test_every_encoding_is_told():
    told = re.search(r"## What a paged cache holds\n(.*?)\n## ", PAGE, flags=re.DOTALL)[1]
    assert set(INTER_ENCODINGS) <= set(re.findall(r"`(\w+)`", told))
