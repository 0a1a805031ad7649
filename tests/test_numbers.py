"""README and pages have the numbers that the committed results have."""

import importlib.util
import sys

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def fill_numbers():
    spec = importlib.util.spec_from_file_location("fill_numbers", ROOT / "scripts" / "fill_numbers.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
        spec.loader.exec_module(module)
    return module


def test_every_number_is_that_of_the_results(fill_numbers):
    stale = [page.name for page in fill_numbers.pages() if fill_numbers.filled(page.read_text()) != page.read_text()]
    assert not stale, "run: python scripts/fill_numbers.py"


def test_every_part_stands_in_a_page(fill_numbers):
    found = [part[1] for page in fill_numbers.pages() for part in fill_numbers.PART.findall(page.read_text())]
    assert sorted(set(found)) == sorted(fill_numbers.PARTS)


def test_every_sentence_with_numbers_stands_in_one_page(fill_numbers):
    pages = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    sentences = sys.modules["filling.sentences"]
    found = {text: sum(len(sentences.pattern(text).findall(page)) for page in pages) for text in sentences.SENTENCES}
    assert set(found.values()) == {1}, {text: count for text, count in found.items() if count != 1}


def test_another_number_in_a_sentence_is_put_right(fill_numbers):
    page = (ROOT / "docs" / "claims.md").read_text()
    wrong = page.replace("BiPE-ALiBi 56 %;", "BiPE-ALiBi 1.5 %;").replace("(85 % and 206 %", "(8 % and 9 %")
    assert wrong.count("1.5 %;") == wrong.count("(8 % and 9 %") == 1
    assert fill_numbers.filled(wrong) == page


def test_another_number_in_a_page_is_put_right(fill_numbers):
    page = (ROOT / "README.md").read_text()
    wrong = page.replace("| RoPE | 2.77", "| RoPE | 1.77")
    assert wrong != page
    assert fill_numbers.filled(wrong) == page


def test_a_length_that_was_not_measured_is_an_error(fill_numbers):
    found = fill_numbers.Comparison("compare_12_layers")
    with pytest.raises(KeyError, match="no BiPE-RoPE at 8192"):
        found.cell("BiPE-RoPE", 8192)
    assert found.cell_or_dash("BiPE-RoPE", 8192, "perplexity") == "-"
    assert found.cell_or_dash("BiPE-RoPE", 1024, "perplexity") == found.cell("BiPE-RoPE", 1024, "perplexity")
