"""`bipe-hf segments` with levels: numbers against hand counts and naive loops, hidden separators, page and figure."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from page_parser import Page
from paths import HELPERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from word_tokenizer import EOS, make_word_tokenizer

import bipe_hf.lab.reports.page as page_module
from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.reports import open_segmentation, report_segments, segment_statistics, segment_table
from bipe_hf.lab.reports.histogram import draw_levels
from bipe_hf.lab.reports.inputs import Level
from bipe_hf.lab.reports.marks import Marks, distinct_marks, one_line_break
from bipe_hf.lab.reports.page import render_page
from bipe_hf.lab.reports.statistics import Units, level_units
from bipe_hf.model.separators_bipe import PRESETS


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")
property_test = settings(max_examples=100, deadline=None)

# Words of the word tokenizer: one without meaning, and the separators of three levels.
WORDS = {"w": "w00", ".": "w03", ",": "w02", ";": "w01"}
LEVELS = [["w03"], ["w02"], ["w01"]]
ROWS = 'id,name,note\n1,"Ba, Lin",late\n2,Co,\n\n'


def words_of(letters):
    return " ".join(WORDS[letter] for letter in letters)


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer that has one token for each word; w03, w07, w11 and w19 end segments."""
    make_word_tokenizer().save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A folder with a byte-level tokenizer trained on rows."""
    folder = tmp_path_factory.mktemp("tokenizers") / "bytes"
    train_tokenizer([ROWS] * 20, 300).save_pretrained(folder)
    return str(folder)


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def page_of(text, folder, **options):
    return Page(render_page([{"text": text, "name": "rows"}], open_segmentation(folder, **options), "x", 9, ""))


# Statistics


def test_statistics_of_levels_worked_out_by_hand(tmp_path, words):
    # Segments: "w,w;w." (6 tokens), ".", "w,," (3), and the end-of-text token in the last: "w,,<end>" has 4.
    text = write(tmp_path / "text.txt", words_of("w,w;w..w,,"))
    report = report_segments(text, tokenizer=words, levels=LEVELS, max_segment_length=1, lengths=[4])
    segments, second, third = report.levels
    assert report.segmentation == "levels ['w03'], ['w02'], ['w01']"
    assert (segments.unit, second.unit, third.unit) == ("segment", "level-1 unit", "level-2 unit")
    assert (segments.separators, second.separators) == (["w03"], ["w02"])
    assert segments.units == 3
    assert segments.tokens_per_unit == report.statistics.tokens_per_segment
    assert (segments.units_per_parent, segments.clamped_share) == (None, None)
    # Second level: "w," "w;w." | "." | "w," "," "<end>"; third: "w," | "w;" "w." | "." | "w," | "," | "<end>".
    assert second.units == 6
    assert second.tokens_per_unit == pytest.approx(
        {"mean": 11 / 6, "median": 1.5, "percentile_5": 1, "percentile_95": 3.5, "longest": 4}
    )
    assert second.units_per_parent == pytest.approx(
        {"mean": 2, "median": 2, "percentile_5": 1.1, "percentile_95": 2.9, "most": 3}
    )
    assert third.units == 7
    assert third.units_per_parent == pytest.approx(
        {"mean": 7 / 6, "median": 1, "percentile_5": 1, "percentile_95": 1.75, "most": 2}
    )
    assert (second.clamped_share, third.clamped_share) == (0, 0)
    # One token in each row of the intra table: the second token of a unit of the third level is the first beyond it.
    assert report.statistics.clamped_share == 4 / 11
    (block,) = report.statistics.blocks  # "w,w;" and "w..w"
    assert (block.blocks, block.segments_mean, block.clamped_share) == (2, 2, 3 / 8)


def naive_units(ids, levels):
    """For each level the tokens of its units and the units of their parents, by dividing a list again and again."""
    parents, found = [list(ids)], []
    for level in levels:
        divided = []
        for parent in parents:
            units = [[]]
            for token in parent:
                units[-1].append(token)
                if token in level:
                    units.append([])
            divided.append([unit for unit in units if unit])
        parents = [unit for units in divided for unit in units]
        found.append(([len(unit) for unit in parents], [len(units) for units in divided]))
    return found


@property_test
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_units_are_those_of_naive_loops(ids, most_tokens, most_units):
    levels = [[1], [2], [3]]
    fields = {"vocab_size": 6, "separator_token_ids": [1], "max_segment_length": most_tokens}
    config = BipeLlamaConfig(**fields, inner_separator_token_ids=levels[1:], max_inner_index=most_units)
    expected = naive_units(ids, levels)
    found = level_units(torch.tensor(ids), config)
    assert [each.tokens.tolist() for each in found] == [tokens for tokens, _ in expected]
    assert [each.per_parent.tolist() for each in found[1:]] == [parents for _, parents in expected[1:]]
    for at, (tokens, parents) in enumerate(expected[1:], start=1):
        indices = [index for number in parents for index in range(number)]
        beyond = sum(size for size, index in zip(tokens, indices, strict=True) if index >= most_units)
        assert found[at].clamped_share == pytest.approx(beyond / len(ids))
    statistics = segment_statistics(torch.tensor(ids), config, [4], documents=1)
    places = [place for size in expected[-1][0] for place in range(size)]
    assert statistics.clamped_share == pytest.approx(sum(place >= most_tokens for place in places) / len(ids))
    plain = segment_statistics(torch.tensor(ids), BipeLlamaConfig(**fields), [4], documents=1)
    assert statistics.tokens_per_segment == plain.tokens_per_segment
    assert statistics.suggested_alibi_slope_scale == plain.suggested_alibi_slope_scale


# Where levels come from


def test_a_saved_tokenizer_brings_its_levels(tmp_path, byte_level):
    plain = PreTrainedTokenizerFast.from_pretrained(byte_level)
    own = BipeTokenizer.from_tokenizer(plain, levels=["lines", "fields"])
    own.save_pretrained(tmp_path / "own")
    for source, options in ((tmp_path / "own", {}), (byte_level, {"levels": ["lines", "fields"]})):
        segmentation = open_segmentation(str(source), **options)
        assert segmentation.config.inner_separator_token_ids == own.inner_separator_token_ids
        assert [level.unit for level in segmentation.levels] == ["segment", "field"]
        assert segmentation.description == "levels lines, fields"
    one = open_segmentation(str(tmp_path / "own"), separators="lines")
    assert (one.config.inner_separator_token_ids, one.levels) == ([], [])
    other = open_segmentation(str(tmp_path / "own"), levels=["json"])
    assert [level.unit for level in other.levels] == ["segment", "value"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_brings_its_levels_and_the_rows_of_their_tables(words, family):
    fields = {"vocab_size": 60, "separator_token_ids": [3], "inner_separator_token_ids": [[2], [1]]}
    config = FAMILIES[family].make_config(**fields, max_inner_index=2, max_segment_length=5)
    config.save_pretrained(words)
    segmentation = open_segmentation(words)
    assert segmentation.config.inner_separator_token_ids == [[2], [1]]
    assert segmentation.description == "levels [3], [2], [1]"
    given = open_segmentation(words, levels=[["w05"], ["w06"]]).config
    assert (given.inner_separator_token_ids, given.max_inner_index, given.max_segment_length) == ([[6]], 2, 5)
    FAMILIES[family].make_config(
        vocab_size=60, segmentation="fixed", fixed_segment_length=4, inner_separator_token_ids=[[2]]
    ).save_pretrained(words)
    assert open_segmentation(words).description == "levels each 4 tokens, [2]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separators": "lines", "levels": ["lines"]}, "separators and levels: the first of the levels"),
        ({"levels": ["lines", "feilds"]}, "levels: 'feilds' is not accepted"),
        ({"levels": []}, r"levels: \[\] is not accepted"),
        ({"levels": [["w03"], "fields"]}, "levels: 'fields' finds no separator in this vocabulary"),
    ],
)
def test_levels_that_do_not_fit_are_refused_before_the_text_is_read(words, options, message, monkeypatch):
    monkeypatch.setattr("bipe_hf.lab.reports.run.all_documents", None)
    with pytest.raises(ValueError, match=message):
        report_segments("text.txt", tokenizer=words, **options)


# The command


def test_the_command_writes_and_prints_all_levels(tmp_path, byte_level, capsys):
    text, output = write(tmp_path / "rows.txt", ROWS * 20), tmp_path / "out"
    command = ["segments", text, "--tokenizer", byte_level, "--lengths", "32"]
    assert main([*command, "--levels", "lines", "fields", "--output", str(output)]) == 0
    assert sorted(file.suffix for file in output.iterdir()) == [".html", ".json", ".md", ".png", ".svg"]
    content = json.loads((output / "segments.json").read_text())
    assert content["format"] == "bipe-hf segments 1"
    assert (content["max_inner_index"], len(content["inner_separator_token_ids"])) == (64, 1)
    assert [level["unit"] for level in content["levels"]] == ["segment", "field"]
    printed, tables = capsys.readouterr().out, (output / "segments.md").read_text()
    fields = content["levels"][1]
    mean = f"{fields['units_per_parent']['mean']:.2f}"
    assert re.search(rf"\nfield +segment +{re.escape(mean)} ", printed)
    assert f"| field | segment | {mean} |" in tables
    assert re.search(rf"\nfield +fields +{fields['units']} ", printed)
    assert "positions in the innermost unit from 1024 on (clamped)" in printed
    for words, unit in ((['["lines", "fields"]'], "field"), (["lines", '[",", "\\n"]'], "level-1 unit")):
        assert main([*command, "--levels", *words]) == 0
        assert f"\n{unit}  " in capsys.readouterr().out


def test_separators_beside_levels_are_refused(byte_level, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segments", "text.txt", "--tokenizer", byte_level, "--separators", "lines", "--levels", "lines"])
    assert stop.value.code == 2
    assert "--levels: not allowed with argument --separators" in capsys.readouterr().err
    assert main(["segments", "text.txt", "--tokenizer", byte_level, "--levels", '["lines"']) == 2
    assert "--levels: '[\"lines\"' is not valid JSON" in capsys.readouterr().err


def test_without_levels_nothing_of_them_is_stored_or_shown(tmp_path, byte_level):
    text = write(tmp_path / "rows.txt", ROWS)
    for name, options in (("plain", {"separators": "lines"}), ("one", {"levels": ["lines"]})):
        report_segments(text, tokenizer=byte_level, output=tmp_path / name, **options)
    assert json.loads((tmp_path / "plain" / "segments.json").read_text()).keys() == {
        *("format", "created", "command", "text", "tokenizer", "segmentation", "separator_token_ids"),
        *("max_segment_length", "statistics"),
    }
    assert "Levels" not in (tmp_path / "plain" / "segments.md").read_text()
    pages = [(tmp_path / name / "segments.html").read_text() for name in ("plain", "one")]
    assert pages[0].replace("separators lines", "levels lines") == pages[1]
    assert not re.search(
        r'strong|class="[ab] ', pages[0].replace('class="a sample"', "").replace('class="b sample"', "")
    )


# Hidden separators


def tokenizer_of(tokens, merges=()):
    """A vocabulary of these tokens, each standing for itself, and an end-of-text token."""
    vocabulary = {token: at for at, token in enumerate((*tokens, "<|end|>"))}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, list(merges))), eos_token="<|end|>"
    )


@pytest.fixture
def hiding(tmp_path):
    tokens = ["a", ",", '"', "\n", '",', "\n\n", ",\n"]
    tokenizer_of(tokens, [('"', ","), ("\n", "\n"), (",", "\n")]).save_pretrained(tmp_path / "hiding")
    return str(tmp_path / "hiding")


def numbers(level):
    return level.marks, level.separators, level.sharing, level.elsewhere, level.difference


def test_hidden_separators_counted_by_hand(tmp_path, hiding):
    text = write(tmp_path / "text.txt", 'a",a,\n\na')  # tokens: a ", a , \n\n a, and the end of the text
    hidden = report_segments(text, tokenizer=hiding, levels=["lines", "fields"]).hidden
    lines, fields = hidden.levels
    assert numbers(lines) == (2, 1, 1, 0, 0)
    assert numbers(fields) == (4, 3, 1, 0, 0)
    assert (hidden.vocabulary, hidden.several_in_vocabulary, hidden.several_in_text) == (7, 2, 1)
    assert (hidden.not_separators_in_vocabulary, hidden.not_separators_in_text) == (0, 0)
    (token,) = hidden.tokens
    assert (token.token_id, token.text, token.marks, token.unit, token.times) == (5, "\n\n", 2, "segment", 1)


def test_a_list_of_separators_is_hidden_by_longer_tokens(tmp_path, hiding):
    text = write(tmp_path / "text.txt", 'a",a,\n\na",')
    report = report_segments(text, tokenizer=hiding, levels=[["\n"], [","]], output=tmp_path / "out")
    lines, fields = report.hidden.levels
    assert numbers(lines) == (2, 0, 0, 2, 0)
    assert numbers(fields) == (3, 1, 0, 2, 0)
    assert (report.hidden.several_in_vocabulary, report.hidden.not_separators_in_vocabulary) == (2, 3)
    assert [(token.text, token.marks, token.unit, token.times) for token in report.hidden.tokens] == [
        ('",', 1, None, 2),
        ("\n\n", 2, None, 1),
    ]
    assert "Tokens that hold one and end nothing: 3 of 7 in the vocabulary" in segment_table(report)


@pytest.mark.parametrize(
    ("tokens", "merges", "levels", "text", "expected"),
    [
        (["a", "\r", "\n"], [], ["lines"], "a\r\na", (1, 2, 0, 0, -1)),  # one line break ends two lines
        (["a", "\r", "\n", "\r\n"], [("\r", "\n")], ["lines"], "a\r\na", (1, 1, 0, 0, 0)),
        (["3", ".", "1"], [], ["sentences"], "3.1.", (1, 2, 0, 0, -1)),  # the first dot is none in the text
        (["a", " "], [], ["words"], "a  a", (1, 2, 0, 0, -1)),
        (["a", " ", "  "], [(" ", " ")], ["words"], "a  a", (1, 1, 0, 0, 0)),
        (["a", "<", "|", "e", "n", "d", ">"], [], ["turns"], "a<|end|>", (1, 0, 0, 0, 1)),  # read as the text it is
    ],
)
def test_marks_and_separators_that_differ(tmp_path, tokens, merges, levels, text, expected):
    tokenizer_of(tokens, merges).save_pretrained(tmp_path / "tokenizer")
    rows = [json.dumps({"text": document}) for document in (text, text[0])]  # a table keeps line breaks as they are
    text = write(tmp_path / "text.jsonl", "\n".join(rows))
    (level,) = report_segments(text, tokenizer=str(tmp_path / "tokenizer"), levels=levels).hidden.levels
    assert numbers(level) == expected


def test_a_mark_that_is_split_over_bytes_is_told(tmp_path, byte_level):
    text = write(tmp_path / "text.txt", "a\u3002b\u3002\nc")
    (level,) = report_segments(text, tokenizer=byte_level, levels=["sentences"]).hidden.levels
    assert numbers(level) == (3, 1, 0, 0, 2)


PRESET_MARKS = {
    "turns": {"<|end|>": 1, "end": 0},
    "paragraphs": {"\n": 0, "\n\n": 1, "\n \n\n\n": 1, "\f": 1},
    "objects": {"}": 1, "}}": 2, "}\n": 2, "{": 0},
    "sentences": {'."': 1, "?!": 1, "...": 1, ".\n": 2, ".com": 0, "\u3002\u3002": 2, "a. b.": 2, "a.** b.[c": 2},
    "lines": {"\n\n": 2, "\r\n": 1, "\n\r\n": 2, "\v\f": 2, " ": 0},
    "clauses": {',"': 2, '",': 1, "a, b": 1, "1,5": 0},
    "fields": {",,": 2, ",\n": 2, '","': 1, "\t;|": 3},
    "values": {'":': 1, '","': 1, ":\n": 2},
    "words": {"    ": 1, " a": 1, " a ": 2, "a": 0},
    "authors": {" .": 1, ".": 0, "a .\n": 2},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_marks_of_every_preset_counted_by_hand(preset):
    token_ids = {"turns": [1], "authors": [13, 869]}.get(preset, [])  # those that are lists of tokens
    marks = Marks(Level("unit", preset, token_ids), {0: "a", 1: "<|end|>", 13: "\n", 869: " ."})
    expected = PRESET_MARKS[preset]
    assert {text: marks.count(one_line_break(text)) for text in expected} == expected
    assert {text: len(marks.places(one_line_break(text))) for text in expected} == expected


@property_test
@given(st.text('a,;|\t\n}:"{', max_size=30), st.sampled_from(["lines", "fields", "objects", "values"]))
def test_marks_are_what_would_be_separators_with_tokens_of_one_character(text, preset):
    plain = tokenizer_of('a,;|\t\n}:"{')
    wrapped = BipeTokenizer.from_tokenizer(plain, preset)
    ids = wrapped(text, add_special_tokens=False)["input_ids"]
    expected = sum(token_id in wrapped.separator_token_ids for token_id in ids)
    assert Marks(Level("unit", preset, wrapped.separator_token_ids), {}).count(text) == expected


@pytest.mark.parametrize(
    ("text", "levels", "expected"),
    [
        ("\n", ["lines", "fields"], 1),
        (",\n", ["lines", "fields"], 2),
        ("},", ["objects", "values"], 2),
        (" \n", ["lines", "words"], 1),
        ("\n    ", ["lines", "words"], 1),
        ("\n\n", ["paragraphs", "lines"], 2),
        ("a", ["lines", "fields"], 0),
    ],
)
def test_separators_of_several_levels_in_a_token(text, levels, expected):
    assert distinct_marks(Marks(Level("unit", level, []), {}).places(text) for level in levels) == expected


def test_bars_in_tokens_do_not_divide_cells(tmp_path):
    tokenizer_of(["a", "|", "||"], [("|", "|")]).save_pretrained(tmp_path / "bars")
    text = write(tmp_path / "text.txt", "a||a")
    report_segments(text, tokenizer=str(tmp_path / "bars"), levels=["fields"], output=tmp_path / "out")
    assert r"| '\|\|' | segment | 2 | 2 | 1 |" in (tmp_path / "out" / "segments.md").read_text()


# The page


def test_every_index_is_on_the_page(words):
    page = page_of(words_of("w,w;w.,"), words, levels=LEVELS)
    assert [token["data-positions"] for token in page.tokens] == [
        "segment 0, level-1 unit 0, level-2 unit 0, position 0, token id 0",
        "segment 0, level-1 unit 0, level-2 unit 0, position 1, token id 2",
        "segment 0, level-1 unit 1, level-2 unit 0, position 0, token id 0",
        "segment 0, level-1 unit 1, level-2 unit 0, position 1, token id 1",
        "segment 0, level-1 unit 1, level-2 unit 1, position 0, token id 0",
        "segment 0, level-1 unit 1, level-2 unit 1, position 1, token id 3",
        "segment 1, level-1 unit 0, level-2 unit 0, position 0, token id 2",
        f"segment 1, level-1 unit 1, level-2 unit 0, position 0, token id {EOS}",
    ]
    assert [token["class"] for token in page.tokens] == ["a s", "a", "a d s", "a d", "a d s", "a d", "b s", "b d s"]


def test_units_are_called_after_their_preset_and_clamped_indices_say_so(tmp_path, byte_level):
    own = BipeTokenizer.from_tokenizer(PreTrainedTokenizerFast.from_pretrained(byte_level), levels=["lines", "fields"])
    own.save_pretrained(tmp_path / "model")
    BipeLlamaConfig(
        vocab_size=300,
        separator_token_ids=own.separator_token_ids,
        inner_separator_token_ids=own.inner_separator_token_ids,
        max_inner_index=2,
        max_segment_length=2,
    ).save_pretrained(tmp_path / "model")
    tokens = page_of("x,x,x,xxxx", str(tmp_path / "model")).tokens
    assert tokens[0]["data-positions"].startswith("segment 0, field 0, position 0, token id ")
    assert tokens[4]["data-positions"].startswith("segment 0, field 2 (encoded as 1), position 0, ")
    assert tokens[9]["data-positions"].startswith("segment 0, field 3 (encoded as 1), position 3 (encoded as 1), ")


def test_levels_in_between_are_underlined_in_turns(words):
    page = page_of(words_of("w;;w"), words, levels=[["w03"], ["w02"], ["w01"], ["w04"]])
    assert [token["class"] for token in page.tokens] == ["a s", "a", "a s u", "a s", "a"]


def test_the_page_with_levels_holds_the_text_exactly(byte_level):
    text = f"{ROWS}<b>\u65e5</b>, & {{style}};\t\x00|\r\n\u05e9\u05dc, end"
    page = page_of(text, byte_level, levels=["paragraphs", "lines", "fields", "words"])
    assert page.texts == [text]
    assert not re.search(r"@import|url\(|src\(", page_module._LEVELS_STYLE)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "p", "div", "span", "i")
    }


def colours(style, rule):
    return dict(re.findall(r"--([\w-]+): (#\w{6})", style[style.index(rule) :].split("}")[0]))


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("rule", "of_levels"), [(":root {", ":root {"), (":root { --page: #15181c", ":root { --a-strong: #1c5483")]
)
def test_contrast_with_levels_in_light_and_dark(rule, of_levels):
    found = colours(page_module._STYLE, rule) | colours(page_module._LEVELS_STYLE, of_levels)
    for ground in ("page", "a", "b", "a-strong", "b-strong"):
        assert contrast(found["ink"], found[ground]) >= 7, ground
        assert contrast(found["mark"], found[ground]) >= 4.5, ground
        assert contrast(found["edge"], found[ground]) >= 3, ground
    for colour in "ab":
        assert contrast(found[colour], found[f"{colour}-strong"]) >= 1.25, colour


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_index_by_pointer_and_by_keyboard(tmp_path, byte_level, scheme):
    """Chromium, in a window of 360 pixels; it comes with `pip install '.[browser]'`."""
    segmentation = open_segmentation(byte_level, levels=["lines", "fields"])
    html = render_page([{"text": ROWS * 5, "name": "rows"}], segmentation, "x", 9, "")
    page = tmp_path / "page.html"
    page.write_bytes(html.encode())
    command = [sys.executable, str(HELPERS.joinpath("browser.py")), str(page), scheme]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout)
    assert found["text"] == ROWS * 5
    assert (found["messages"], found["scripts"], found["too_wide"]) == ([], 0, 0)
    tokens = Page(html).tokens
    assert found["hovered"] == tokens[30]["data-positions"]
    assert found["focused"] == tokens[2]["data-positions"]


# The figure


def units_of(tokens, per_parent):
    return Units(np.array(tokens), None if per_parent is None else np.array(per_parent), 0.0)


def test_a_panel_for_each_level_and_for_the_units_inside():
    levels = [Level("segment", "lines", [1]), Level("field", "fields", [2])]
    units = [units_of([4] * 3 + [6], None), units_of([1] * 3 + [3] * 5, [2, 2, 2, 2])]
    figure = draw_levels(levels, units, 3, 2, r"$\wrong$")
    FigureCanvasAgg(figure).draw()
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "tokens per segment",
        "fields per segment",
        "tokens per field",
    ]
    assert [axes.get_ylabel() for axes in figure.axes] == ["share of segments", "share of segments", "share of fields"]
    bars = [
        {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches if bar.get_height()}
        for axes in figure.axes
    ]
    assert bars == [{4: 0.75, 6: 0.25}, {2: 1.0}, {1: 3 / 8, 3: 5 / 8}]
    limits = [
        [text.get_text() for text in axes.get_legend().get_texts() if text.get_text().startswith("max")]
        for axes in figure.axes
    ]
    assert limits == [[], ["max_inner_index 2"], ["max_segment_length 3"]]
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert axes.get_window_extent().x1 < legend.x0
        assert legend.x1 <= figure.bbox.x1
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks
        assert all(tick.isdigit() for tick in ticks)
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))


def test_the_same_text_gives_the_same_page_and_picture(tmp_path, byte_level):
    text = write(tmp_path / "rows.txt", ROWS)
    for name in ("one", "two"):
        report_segments(text, tokenizer=byte_level, levels=["lines", "fields"], output=tmp_path / name)
    for file in ("segments.html", "segments.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_tokenizers_of_other_kinds_keep_their_marks(tmp_path):
    """Metaspaces are the spaces that they stand for."""
    backend = Tokenizer(models.BPE({"\u2581": 0, "a": 1, "\u2581a": 2, ",": 3, "</s>": 4}, [("\u2581", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path / "metaspace")
    text = write(tmp_path / "text.txt", "a, a a")
    report = report_segments(text, tokenizer=str(tmp_path / "metaspace"), levels=["fields", "words"])
    assert [numbers(level) for level in report.hidden.levels] == [(1, 1, 0, 0, 0), (2, 2, 0, 0, 0)]
