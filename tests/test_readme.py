"""The README's Python runs as it stands, and its files and commands exist."""

import re
import runpy
import shutil
import sys

import pytest
import torch
from paths import ROOT


README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))


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
