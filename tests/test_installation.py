"""What an installation of the package alone pulls in, what comes with it, and what importing it loads."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from paths import ROOT

import bipe_hf
from bipe_hf.lab.common.messages import install_hint


PACKAGE = ROOT / "src" / "bipe_hf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
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
    assert {Requirement(text).name for text in PROJECT["project"]["dependencies"]} == NEEDED


def test_the_exact_versions_are_within_the_bounds():
    exact = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    exact = {name.lower().replace("_", "-"): version for name, version in exact.items()}
    for text in [*PROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]:
        requirement = Requirement(text)
        if requirement.name in exact:
            assert requirement.specifier.contains(exact[requirement.name]), text


def test_every_file_of_the_package_is_installed():
    """A module is, in a folder with an `__init__.py`; anything else is where pyproject.toml names it."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["bipe_hf"]
    files = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    for file in files:
        is_module = file.suffix == ".py" and (file.parent / "__init__.py").exists()
        named = file.relative_to(PACKAGE).as_posix()
        assert is_module or any(fnmatch(named, pattern.replace("**/", "*")) for pattern in patterns), named
    assert PACKAGE / "py.typed" in files


def test_the_package_is_installed_from_a_clone_and_nowhere_else():
    """Its name on the index is not ours: whoever asked pip for it would get something else, or nothing."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in ("src", "configs", "scripts", "tests/helpers"):
        files += [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml", ".jinja", ".sh")]
    wrong = [file for file in files if re.search(r"pip install \S*bipe[-_]hf|bipe-hf\[", file.read_text("utf-8"))]
    assert not wrong


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_an_environment_is_made_of_exact_versions(name):
    """And of nothing that only one machine has, such as the folder of an editable install."""
    comment, *pins = (ROOT / name).read_text().splitlines()
    assert comment.startswith("# ")
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.!+]+", pin)] == []


def test_every_extra_that_is_named_exists():
    where = {"install_hint": 0, "require": 1}  # which argument is the extra
    named = [
        node.args[where[node.func.id]].value
        for file in PACKAGE.rglob("*.py")
        if file.name != "extras.py"  # which hands on what it is given
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in where
    ]
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "scripts").rglob("*.py")]
    lines = re.findall(r"pip install[^`\n]*\[[^`\n]*", "\n".join(file.read_text(encoding="utf-8") for file in files))
    groups = [re.search(r"(?:^| )'\.\[([\w,-]+)\]'", line) for line in lines]
    assert all(groups), lines
    in_text = [extra for group in groups for extra in group[1].split(",")]
    assert "lab" in in_text
    assert {"lab", "finetune"} <= {*named, *in_text} <= set(EXTRAS)
    assert install_hint("lab").endswith("pip install '.[lab]'")


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == bipe_hf.__version__
    (paper,) = citation["references"]
    bibtex = (ROOT / "README.md").read_text().split("```bibtex")[1]
    assert f"title     = {{{paper['title']}}}" in bibtex
    authors = " and ".join(f"{each['family-names']}, {each['given-names']}" for each in paper["authors"])
    assert f"author    = {{{authors}}}" in bibtex
    assert paper["url"] == PROJECT["project"]["urls"]["Paper"]


def test_the_changelog_has_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert ".dev" in bipe_hf.__version__ or bipe_hf.__version__ in headings


def test_continuous_integration_runs_what_a_clone_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["steps"][-1]["run"] == "bash .ci/run"
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == least
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("module", ["bipe_hf", "bipe_hf.commands"])
def test_the_package_is_a_program(module):
    result = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"bipe-hf {bipe_hf.__version__}\n"


@pytest.mark.slow
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
    model = {f"bipe_hf.model.{file.stem}" for file in (Path(bipe_hf.__file__).parent / "model").glob("*_bipe*.py")}
    pushed = {"bipe_hf.hub", *(f"bipe_hf.hub.{name}" for name in ("card", "card_file", "origin", "records"))}
    assert added == {"bipe_hf", "bipe_hf.interrupted", "bipe_hf.model", *model, *pushed}


def test_importing_the_package_loads_neither_data_sets_nor_the_lab():
    code = "import sys, bipe_hf; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "bipe_hf" in loaded
    assert not {"datasets", "pandas", "pyarrow", "bipe_hf.lab", "bipe_hf.commands", "bipe_hf.hub.push"} & set(loaded)
