"""The README's Python runs as it stands, and its files and commands exist."""

import re
import runpy
import shutil
import sys

import pytest
import torch
import transformers.dynamic_module_utils as dynamic_modules
from paths import ROOT

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.lab.data import train_tokenizer


README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder in which a tiny model stands where the README has the one that `make demo` makes."""
    tokenizer = train_tokenizer(["The return value is a number. It is one.\n"] * 5, vocab_size=300)
    tokenizer = BipeTokenizer.from_tokenizer(tokenizer)
    config = BipeLlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        separator_token_ids=tokenizer.separator_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    for part in (tokenizer, BipeLlamaForCausalLM(config)):
        for folder in (tmp_path / "runs" / "demo" / "tiny_bipe_rope", tmp_path / "me" / "my-bipe"):
            part.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_python_blocks_of_the_page_on_levels_run(demo):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "levels.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(block, "levels.md", "exec"), names)
    assert names["config"].encoding_label == "BiPE-RoPE with levels"
    lines, fields = zip(*names["tokenizer"]("a,b\nc")["segment_ids"], strict=True)
    assert (max(lines), max(fields)) == (1, 1)


@pytest.mark.slow
def test_the_loop_of_the_page_on_onnx_makes_what_generate_makes(demo):
    pytest.importorskip("onnxruntime", reason="needs pip install '.[onnx]', which make test does")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(block, "docs/onnx.md", "exec"), names)
    model = names["model"]
    model.generation_config.eos_token_id = None
    expected = model.generate(**names["inputs"], max_new_tokens=20, do_sample=False)
    assert torch.equal(names["ids"], expected)


def test_the_ten_lines_of_the_readme_run(demo, capsys):
    """What they print with the model of the demo stands behind them, from results/demo."""
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(block.splitlines()) <= 10
    shutil.copytree(demo / "runs" / "demo" / "tiny_bipe_rope", demo / "runs" / "demo" / "tiny_bipe_hybrid")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The return value is")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_of_the_readme_is_the_one_that_its_script_draws(theme, tmp_path, monkeypatch):
    script = str(ROOT / "scripts" / "levels_picture.py")
    monkeypatch.setattr(sys, "argv", [script, "--output", str(tmp_path)])
    runpy.run_path(script, run_name="__main__")
    name = f"levels_{theme}.svg"
    assert (tmp_path / name).read_text() == (ROOT / "docs" / "pictures" / name).read_text()


def test_links_and_configs_in_the_readme_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"configs/\w+\.yaml", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{each.name}" for each in DOCS)]
)
def test_every_path_and_link_of_a_text_is_there(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paths = re.findall(r"`((?:tests|scripts|configs|docs|results)/[^`*<>{} ]+)`", text)
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if link and not ((ROOT / file).parent / link).exists()]
    assert not missing
