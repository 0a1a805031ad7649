"""The documentation site: what is made from the code is up to date, and nothing that a user meets is missing."""

import inspect
import re
import subprocess
import sys

import pytest
from paths import ROOT

import bipe_hf
import bipe_hf.lab.data
from bipe_hf.integrations.peft import lora_config
from bipe_hf.lab.data import SkippedIndices, StretchedIndices
from bipe_hf.model.configuration_bipe import own_fields


sys.path.insert(0, str(ROOT / "scripts"))
import configs_page
import error_messages
import reference_pages


DOCS = ROOT / "docs"
NAVIGATION = re.findall(r"^ +- ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TROUBLESHOOTING = error_messages.PAGE.read_text(encoding="utf-8")


def test_the_reference_pages_are_what_the_code_says(tmp_path):
    """In a process of its own: a parser of transformers changes the types of the fields that it reads."""
    subprocess.run([sys.executable, ROOT / "scripts" / "reference_pages.py", "--output", tmp_path], check=True)
    for name in reference_pages.PAGES:
        made = (tmp_path / name).read_text(encoding="utf-8")
        assert made == (DOCS / name).read_text(encoding="utf-8"), "run `python scripts/reference_pages.py`"


def test_every_page_is_in_the_navigation_once_and_there():
    assert len(set(NAVIGATION)) == len(NAVIGATION)
    here = {path.name for path in DOCS.glob("*.md")}
    assert here == {name for name in NAVIGATION if "/" not in name}
    outside = {ROOT / name.removeprefix("repository/") for name in NAVIGATION if "/" in name}
    assert all(path.is_file() or path.with_suffix(".ipynb").is_file() for path in outside)
    assert {path.with_suffix(".md") for path in (ROOT / "notebooks").glob("*.ipynb")} <= outside


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("material", reason="needs pip install '.[docs]', which make test does")
    pytest.importorskip("mkdocstrings", reason="needs pip install '.[docs]', which make test does")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|source)[^>]+?(?:src|srcset)="(https?:[^"]+)', text)
        loaded += re.findall(r'<link[^>]+rel="(?:stylesheet|icon|preconnect)"[^>]*href="(https?:[^"]+)', text)
        assert not loaded, page
    assert 'id="bipe_hf.BipeTokenizer.from_tokenizer"' in (tmp_path / "reference_classes.html").read_text()


def test_links_out_of_the_folder_become_links_in_the_site():
    pytest.importorskip("mkdocs", reason="needs pip install '.[docs]', which make test does")
    from mkdocs.config import load_config
    from mkdocs.structure.files import get_files
    from mkdocs.structure.pages import Page

    config = load_config(str(ROOT / "mkdocs.yml"))
    files = config.plugins.run_event("files", get_files(config), config=config)
    page = Page(None, files.get_file_from_path("levels.md"), config)
    written = config.plugins.run_event(
        "page_markdown",
        "[a](../results/kinds/kinds.md#x) [b](caches.md) `[c](../LICENSE)` [d](https://e.org) ![f](../LICENSE)"
        " [g](../results)",
        page=page,
        config=config,
        files=files,
    )
    assert written == (
        "[a](repository/results/kinds/kinds.md#x) [b](caches.md) `[c](../LICENSE)` [d](https://e.org)"
        " ![f](repository/LICENSE) [g](repository/results/index.md)"
    )
    picture = config.plugins.run_event("page_markdown", "![a](b_light.svg)", page=page, config=config, files=files)
    assert picture == "![a](b_light.svg#only-light)![a](b_dark.svg#only-dark)"
    assert "repository/configs/tiny_rope.yaml" in files.src_uris  # what a page outside brings along
    inside = Page(None, files.get_file_from_path("repository/CONTRIBUTING.md"), config)
    written = config.plugins.run_event("page_markdown", "[a](docs/alibi.md)", page=inside, config=config, files=files)
    assert written == "[a](../alibi.md)"


def test_docstrings_of_the_grammar_of_transformers_are_read():
    pytest.importorskip("griffe", reason="needs pip install '.[docs]', which make test does")
    from docs_docstrings import plain

    text = (
        "A [`~peft.LoraConfig`].\n\n    Args:\n        name (`int` or [`A`], *optional*, defaults to `1`): of [`B`].\n"
    )
    assert plain(text) == ("A `LoraConfig`.\n\n    Args:\n        name (int or A, optional, defaults to 1): of `B`.\n")


def taken(function):
    """The names of what a function takes."""
    others = (inspect.Parameter.VAR_POSITIONAL,)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.name != "self" and each.kind not in others]


@pytest.mark.parametrize("name", bipe_hf.__all__)
def test_every_public_name_says_what_it_takes(name):
    value = getattr(bipe_hf, name)
    text = inspect.getdoc(value)
    if name.endswith("Config"):
        names = own_fields()
    elif name == "BipeTokenizer":  # its constructor is for what was saved
        names, text = taken(value.from_tokenizer), inspect.getdoc(value.from_tokenizer)
    else:
        names = taken(value)
    arguments = text.partition("Args:\n")[2]
    assert arguments
    for each in names:
        assert re.search(rf"^ +{each}( \(.*\))?:", arguments, flags=re.MULTILINE), each


@pytest.mark.parametrize("value", [lora_config, StretchedIndices, SkippedIndices])
def test_what_is_public_beside_them_says_what_it_takes(value):
    arguments = inspect.getdoc(value).partition("Args:\n")[2]
    for each in taken(value):
        assert re.search(rf"^ +{each}( \(.*\))?:?", arguments, flags=re.MULTILINE), each


def test_every_public_name_is_on_the_page_of_classes():
    page = (DOCS / "reference_classes.md").read_text(encoding="utf-8")
    names = [f"bipe_hf.{name}" for name in bipe_hf.__all__] + ["bipe_hf.integrations.peft.lora_config"]
    names += [f"bipe_hf.lab.data.{each.__name__}" for each in (StretchedIndices, SkippedIndices)]
    assert [name for name in names if f"::: {name}\n" not in page] == []


def is_explained(message):
    return error_messages.is_on(TROUBLESHOOTING, message)


def test_every_error_message_is_explained():
    messages = error_messages.messages()
    assert len(messages) > 500
    missing = [f"{each.file}:{each.line}: {each.text}" for each in messages if not is_explained(each)]
    assert not missing, "write cause and mend into docs/troubleshooting.md, as scripts/error_messages.py prints them"


def test_the_code_names_pages_that_are_there():
    code = [file.read_text(encoding="utf-8") for file in error_messages.PACKAGE.rglob("*.py")]
    named = {page for text in code for page in re.findall(r"docs/\w+\.md", text)}
    assert len(named) >= 8
    assert [page for page in sorted(named) if not (DOCS.parent / page).is_file()] == []


def test_the_page_explains_no_message_that_is_gone():
    shown = {error_messages.code(each.text) for each in error_messages.messages()}
    found = re.findall(r"^[- ] (`.*`)<br>$", TROUBLESHOOTING, flags=re.MULTILINE)
    others = (
        "unrecognized arguments",
        "the following arguments",
        "argument …",
        "…: invalid",
        "…: No space",
        "…: Permission",
    )
    assert [each for each in found if each not in shown and not each.strip("`").startswith(others)] == []


@pytest.mark.slow
def test_the_page_of_configurations_is_what_they_say():
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    assert text == configs_page.page(), "files or results have changed: run `python scripts/configs_page.py`"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_on_its_page_with_its_parameters(path):
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    name = path.relative_to(ROOT / "configs").as_posix()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [`{name}`]({name}) |")]
    stated = re.search(r"^# parameters: ([\d,]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert stated is None or f" | {stated[1]} | " in row
