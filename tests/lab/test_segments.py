"""`bipe-hf segments`: numbers against counts by hand, the page against a parser, what is refused."""

import dataclasses
import json
import random
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from page_parser import Page
from paths import HELPERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerFast
from word_tokenizer import EOS, make_word_tokenizer, random_words

import bipe_hf.lab.reports.page as page_module
from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.data import load_documents, tokenize_documents, train_tokenizer
from bipe_hf.lab.evaluation import block_windows, segments_per_block
from bipe_hf.lab.reports import open_segmentation, report_segments, segment_statistics
from bipe_hf.lab.reports.histogram import draw_histogram
from bipe_hf.lab.reports.page import render_page, split_text


HOSTILE = (
    "<script>alert('x')</script> \"quoted\" & 'single' <b onmouseover=alert(1)>bold</b> </div></style> &amp; &#10;\n"
    "<img src=http://example.com/x.png> {style} {0} %s javascript:alert(1) <|endoftext|>\n"
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd. Right to left. \u0645\u0631\u062d\u0628\u0627\u061f\n"
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea e\u0301.\r\n\u65e5\u672c\u8a9e\u3002"
    "[\x00] [\x01] [\x1b[31m] [\x7f] [\x85] [\x9f] [\u202eoverride\u202c] [\u2028] [\ufeff]."
    "\rA lone CR.\n\n\n\tTab.   \n"
)
pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A folder with a byte-level tokenizer: most characters beyond ASCII are several of its tokens."""
    folder = tmp_path_factory.mktemp("tokenizers") / "bytes"
    train_tokenizer(["It is. It was.\nAnd so on."] * 5, 300).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer that has one token for each word; w03, w07, w11 and w19 end segments."""
    make_word_tokenizer().save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def page_of(text, folder, **options):
    return Page(
        render_page([{"text": text, "name": "a <name>"}], open_segmentation(folder, **options), "a & b", 9, "")
    )


def test_statistics_of_a_text_worked_out_by_hand(tmp_path, words):
    text = write(tmp_path / "text.txt", "w00 w03 w07 w01 w02 w04 w11 w05")  # and the end-of-text token
    found = report_segments(text, tokenizer=words, max_segment_length=2, lengths=[3, 4, 100]).statistics
    assert (found.documents, found.tokens, found.segments) == (1, 9, 4)  # 2, 1, 4 and 2 tokens
    assert found.tokens_per_segment == pytest.approx(
        {"mean": 2.25, "median": 2.0, "percentile_5": 1.15, "percentile_95": 3.7, "longest": 4}
    )
    assert found.suggested_alibi_slope_scale == 2.25
    assert found.clamped_share == 2 / 9  # positions 2 and 3 of the third segment
    three, four, none = found.blocks
    assert (three.blocks, three.segments_mean, three.segments_fewest, three.segments_most) == (3, 5 / 3, 1, 2)
    assert three.clamped_share == 1 / 9  # w04, at position 2 behind w01 and w02
    assert (four.blocks, four.segments_mean, four.segments_fewest, four.segments_most) == (2, 2.5, 2, 3)
    assert four.clamped_share == 1 / 8
    assert (none.blocks, none.segments_mean, none.clamped_share) == (0, None, None)


@pytest.mark.parametrize("segmentation", ["separators", "tokens", "document"])
def test_segments_per_block_are_those_that_evaluate_reports(segmentation):
    config = BipeLlamaConfig(vocab_size=20, separator_token_ids=[3, 7], segmentation=segmentation)
    ids = torch.tensor(random.Random(0).choices(range(20), k=400))
    found = segment_statistics(ids, config, [24, 100], documents=1)
    for block in found.blocks:
        assert block.segments_mean == segments_per_block(config, ids, block_windows(len(ids), block.length))


def test_documents_are_read_as_in_training(tmp_path, words):
    (tmp_path / "texts" / "train").mkdir(parents=True)
    (tmp_path / "texts" / "validation").mkdir()
    write(tmp_path / "texts" / "train" / "b.txt", "w00 w03")
    write(tmp_path / "texts" / "train" / "a.txt", "w01")
    write(tmp_path / "texts" / "validation" / "c.txt", "w07 w02 w02")
    report = report_segments(str(tmp_path / "texts"), tokenizer=words, output=tmp_path / "out")
    # w01 end w00 w03 | end w07 | w02 w02 end
    assert (report.statistics.documents, report.statistics.tokens, report.statistics.segments) == (3, 9, 3)
    assert report.statistics.tokens_per_segment["longest"] == 4
    shown = Page((tmp_path / "out" / "segments.html").read_text())
    assert shown.texts == ["w01", "w00 w03", "w07 w02 w02"]
    positions = [re.findall(r"\d+", token["data-positions"]) for token in shown.tokens]
    assert [(int(segment), int(intra)) for segment, intra, _ in positions] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    assert [int(token_id) for *_, token_id in positions] == [1, EOS, 0, 3, EOS, 7, 2, 2, EOS]
    assert [token["class"] for token in shown.tokens] == list("aaaabbaaa")


@pytest.mark.parametrize("name", ["text.txt", "texts"])
@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_line_ends_are_read_as_training_reads_them(tmp_path, byte_level, name, ends):
    reports = {}
    for kind, end in (("unix", "\n"), ("other", ends)):
        folder = tmp_path / kind / name
        (folder if name == "texts" else folder.parent).mkdir(parents=True)
        for file in (folder / "a.txt", folder / "b.txt") if name == "texts" else (folder,):
            file.write_bytes("\ufeffOne. Two\n\nthree.\nFour\n".replace("\n", end).encode())
        report = report_segments(str(folder), tokenizer=byte_level, levels=["lines", "words"])
        documents = load_documents(str(folder), validation_fraction=0.5)
        tokenizer = AutoTokenizer.from_pretrained(byte_level)
        trained = [row for split in documents.values() for row in tokenize_documents(split, tokenizer)]
        ends_of_parts = len(trained) - report.statistics.documents  # training divides a file
        assert report.statistics.tokens == sum(len(row["input_ids"]) for row in trained) - ends_of_parts
        reports[kind] = dataclasses.replace(report, created="", text="")
    assert reports["other"] == reports["unix"]


def test_a_folder_may_hold_one_file(tmp_path, words):
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "a.txt", "w00 w03 w01")
    report = report_segments(str(tmp_path / "one"), tokenizer=words)
    assert (report.statistics.documents, report.statistics.tokens) == (1, 4)  # and the end of it


def test_a_file_without_a_blank_line_is_one_document(tmp_path, words):
    report = report_segments(write(tmp_path / "text.txt", "w00 w01\n"), tokenizer=words)
    assert (report.statistics.documents, report.statistics.tokens) == (1, 3)


def test_a_model_brings_its_own_segments(tmp_path, words, family):
    from families import FAMILIES

    fields = {"vocab_size": 60, "separator_token_ids": [5], "max_segment_length": 3}
    config = FAMILIES[family].make_config(**fields)
    config.save_pretrained(words)
    segmentation = open_segmentation(words)
    assert (segmentation.config.separator_token_ids, segmentation.config.max_segment_length) == ([5], 3)
    given = open_segmentation(words, separators=["w06"], max_segment_length=9)
    assert (given.config.separator_token_ids, given.config.max_segment_length) == ([6], 9)
    assert open_segmentation(words, separators=["w06"]).config.max_segment_length == 3
    FAMILIES[family].make_config(**fields, segmentation="fixed", fixed_segment_length=4).save_pretrained(words)
    text = write(tmp_path / "text.txt", random_words(9, seed=0))
    report = report_segments(text, tokenizer=words)
    assert report.statistics.tokens_per_segment["mean"] == 10 / 3
    assert report.segmentation == "each 4 tokens"


def test_a_plain_tokenizer_ends_segments_at_sentences_unless_told_otherwise(byte_level):
    plain = PreTrainedTokenizerFast.from_pretrained(byte_level)
    for given, preset in ((None, "sentences"), ("lines", "lines"), ([".", "s"], [".", "s"])):
        expected = BipeTokenizer.from_tokenizer(plain, preset).separator_token_ids
        segmentation = open_segmentation(byte_level, separators=given)
        assert segmentation.config.separator_token_ids == sorted(expected)
        assert segmentation.config.max_segment_length == 1024
        assert segmentation.description == f"separators {preset}"
    GPT2Config(vocab_size=300).save_pretrained(byte_level)  # a model that knows no segments
    assert open_segmentation(byte_level).description == "separators sentences"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_checkpoint_is_refused_without_a_question(tmp_path, byte_level, file, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "yes")
    (tmp_path / "own").mkdir()
    shutil.copy(Path(byte_level, "tokenizer.json"), tmp_path / "own")
    settings = {"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig"}}
    if file == "tokenizer_config.json":
        settings = {"auto_map": {"AutoTokenizer": [None, "code.OwnTokenizer"]}}
    (tmp_path / "own" / file).write_text(json.dumps(settings))
    (tmp_path / "own" / "code.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"tokenizer: .*own cannot be loaded .*contains custom code"):
        open_segmentation(str(tmp_path / "own"))
    assert not asked


@pytest.mark.parametrize("text", [HOSTILE, "\n\nnewlines first", "ends in space  ", "\U0001f600", "a\r\nb\rc"])
def test_the_page_holds_the_text_exactly(byte_level, text):
    page = page_of(text, byte_level)
    assert page.texts == [text]
    shown = "".join(token["text"] for token in page.tokens)
    assert shown == re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", "", text)  # the others stand as codes


def test_nothing_on_the_page_runs_or_is_fetched(byte_level):
    page = page_of(HOSTILE, byte_level)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "p", "div", "span", "i")
    }
    names = {name for _, attributes in page.tags for name in attributes}
    assert names <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "dir", "id", "tabindex"),
        *("data-positions", "data-label", "data-code"),
    }
    policies = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not re.search(r"@import|url\(|src\(", page_module._STYLE)


@pytest.mark.parametrize("rule", [":root {", ":root { --page: #15181c"])
def test_contrast_is_seven_in_light_and_dark(rule):
    style = page_module._STYLE
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", style[style.index(rule) :].split("}")[0]))

    def luminance(name):
        parts = [int(colours[name][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, grounds in (("ink", ("page", "a", "b")), ("quiet", ("page",)), ("panel-ink", ("panel",))):
        for ground in grounds:
            low, high = sorted((luminance(ink), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 7, (ink, ground)
    for ground in ("page", "a", "b"):
        low, high = sorted((luminance("mark"), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, ("mark", ground)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")])
def test_a_browser_shows_the_page_as_it_is_meant(tmp_path, byte_level, scheme, background):
    """Chromium, in a window of 360 pixels; it comes with `pip install '.[browser]'`."""
    html = render_page([{"text": HOSTILE, "name": "a"}], open_segmentation(byte_level), "x", 9, "")
    page = tmp_path / "page.html"
    page.write_bytes(html.encode())
    command = [sys.executable, str(HELPERS.joinpath("browser.py")), str(page), scheme]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout)
    assert found["text"] == HOSTILE
    assert found["requests"] == [page.as_uri()]
    assert found["messages"] == []  # alerts and errors
    assert found["scripts"] == 0
    assert found["background"] == background
    assert found["too_wide"] == 0
    tokens = Page(html).tokens
    assert found["hovered"] == tokens[30]["data-positions"]
    assert found["focused"] == tokens[2]["data-positions"]  # the third one that the tab key reaches


def test_tokens_that_share_a_character_are_shown_together(byte_level):
    page = page_of("a\u65e5.", byte_level)
    letter, character, stop, end = page.tokens
    assert (letter["text"], character["text"], stop["text"], end["text"]) == ("a", "\u65e5", ".", "")
    ids = PreTrainedTokenizerFast.from_pretrained(byte_level).encode("\u65e5")
    assert len(ids) == 3
    assert character["data-positions"].split("\n") == [
        f"segment 0, position {at + 1}, token id {token_id} (part {at + 1} of 3)" for at, token_id in enumerate(ids)
    ]
    assert end["data-label"] == "<|endoftext|>"
    assert end["data-positions"] == "segment 1, position 0, token id 0"


def test_positions_beyond_the_table_say_what_they_are_encoded_as(byte_level):
    tokens = page_of("abcd", byte_level, max_segment_length=2).tokens
    assert "position 1, " in tokens[1]["data-positions"]
    assert "position 3 (encoded as 1), " in tokens[3]["data-positions"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 100])
def test_the_page_ends_between_characters_and_says_how_much_it_shows(byte_level, limit, monkeypatch):
    monkeypatch.setattr(page_module, "PAGE_TOKENS", limit)
    documents = [{"text": "a\u65e5b", "name": "1"}, {"text": "c", "name": "2"}]  # 1 + 3 + 1 tokens, end, 1 token, end
    html = render_page(documents, open_segmentation(byte_level), "x", 8, "")
    shown, texts = {
        1: (1, ["a"]),
        2: (1, ["a"]),
        3: (1, ["a"]),
        4: (4, ["a\u65e5"]),
        5: (5, ["a\u65e5b"]),
        6: (6, ["a\u65e5b"]),
        100: (8, ["a\u65e5b", "c"]),
    }[limit]
    assert Page(html).texts == texts
    assert ("Shown are all 8 tokens" if shown == 8 else f"Shown are the first {shown} of 8 tokens") in html


def test_no_character_is_lost_where_tokens_claim_none():
    text = "  one\ttwo  "
    pieces, rest = split_text(text, [(0, 0), (2, 5), (5, 5), (6, 9)])
    assert [piece.text for piece in pieces] == ["", "  one", "", "\ttwo"]
    assert rest == "  "


def test_tokenizers_of_other_kinds_are_shown_exactly(tmp_path):
    backend = Tokenizer(models.BPE({"\u2581": 0, "a": 1, "b": 2, "\u2581a": 3, ".": 4, "</s>": 5}, [("\u2581", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path / "metaspace")
    page = page_of("a b. a  b", str(tmp_path / "metaspace"))
    assert page.texts == ["a b. a  b"]
    segments = [int(re.search(r"segment (\d+)", token["data-positions"])[1]) for token in page.tokens]
    assert segments == sorted(segments)
    assert max(segments) == 1


def test_the_histogram_shows_the_share_of_each_length():
    lengths = np.array([1] * 5 + [2] * 3 + [4] * 2)
    axes = draw_histogram(lengths, 3, "title").axes[0]
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert bars == pytest.approx({1: 0.5, 2: 0.3, 3: 0.0, 4: 0.2})
    marks = {text.get_text() for text in axes.get_legend().get_texts()}
    assert marks == {"median 1.5", "mean 1.9", "95th percentile 4", "max_segment_length 3"}


def test_no_line_of_the_histogram_crosses_what_names_it():
    """Where the 95th percentile lies far right it used to."""
    figure = draw_histogram(np.arange(1, 101), 90, "title")
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 > axes.get_window_extent().x1
    assert legend.x1 <= figure.bbox.x1


def test_dollars_in_the_name_of_a_file_are_shown_as_they_are():
    r"""As a formula, `$\wrong$` cannot be drawn at all."""
    figure = draw_histogram(np.array([1, 2, 2, 3]), 3, r"$\wrong$: 4 segments")
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_title() == r"$\wrong$: 4 segments"


def test_the_longest_segments_share_one_bar():
    lengths = np.array([*range(1, 1000), 5000, 6000])
    figure = draw_histogram(lengths, 1024, "title")
    bars = figure.axes[0].patches
    assert len(bars) <= 52
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    longer = bars[-1]
    (note,) = [text for text in figure.axes[0].texts if text.get_text().startswith(">")]
    assert longer.get_height() == pytest.approx((lengths > int(note.get_text()[2:])).mean())
    edges = [bar.get_x() for bar in bars[:-1]]
    assert all(after - before == bars[0].get_width() for before, after in pairwise(edges))


def test_command_writes_and_prints_the_same_numbers(tmp_path, words, capsys):
    text = write(tmp_path / "text.txt", random_words(500, seed=0))
    output = tmp_path / "new" / "folder"
    assert main(["segments", text, "--tokenizer", words, "--lengths", "64,128", "--output", str(output)]) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        f"segments.{suffix}" for suffix in ("html", "json", "md", "png", "svg")
    ]
    content = json.loads((output / "segments.json").read_text())
    assert content["format"] == "bipe-hf segments 1"
    assert content["separator_token_ids"] == [3, 7, 11, 19]
    assert [block["length"] for block in content["statistics"]["blocks"]] == [64, 128]
    printed = capsys.readouterr().out
    mean = f"{content['statistics']['tokens_per_segment']['mean']:.2f}"
    assert re.search(rf"tokens per segment, mean +{re.escape(mean)}\n", printed)
    assert f"| tokens per segment, mean | {mean} |" in (output / "segments.md").read_text()
    assert str(output) in printed
    assert main(["segments", text, "--tokenizer", words, "--separators", '["w05"]']) == 0
    assert "separators ['w05']" in capsys.readouterr().out


def test_same_text_gives_the_same_page_and_picture(tmp_path, words):
    text = write(tmp_path / "text.txt", random_words(200, seed=0))
    for name in ("one", "two"):
        report_segments(text, tokenizer=words, output=tmp_path / name)
    for file in ("segments.html", "segments.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": []}, "lengths: give at least one"),
        ({"lengths": [128, 128]}, "lengths: the same one is given twice"),
        ({"lengths": [0]}, "lengths: 0 is less than 1"),
        ({"max_segment_length": 0}, "max_segment_length: 0 is less than 1"),
        ({"separators": "stanzas"}, "separators: .*'stanzas' is not accepted"),
        ({"separators": ["w99"]}, "separators: .*'w99' is not one token"),
        ({"tokenizer": "nowhere/nothing"}, "tokenizer: nowhere/nothing cannot be loaded"),
        ({"output": "a file"}, "output: nothing can be written in a file"),
    ],
)
def test_bad_argument_is_refused_before_the_text_is_read(tmp_path, words, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bipe_hf.lab.reports.run.all_documents", None)
    write(tmp_path / "a file", "")
    with pytest.raises(ValueError, match=message):
        report_segments("text.txt", **({"tokenizer": words} | options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "holds no text"),
        (b"\xff\xfe", "is UTF-16 text"),
        (b"caf\xe9 au lait", "is not UTF-8"),
        (None, "missing.txt"),
    ],
)
def test_text_that_cannot_be_read_is_named(tmp_path, words, content, message, capsys):
    text = tmp_path / ("missing.txt" if content is None else "text.txt")
    if content is not None:
        text.write_bytes(content)
    assert main(["segments", str(text), "--tokenizer", words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("existing", ["segments.html", "segments.json", "segments.md", "segments.png", "segments.svg"])
def test_existing_file_is_kept_without_overwrite(tmp_path, words, existing):
    text = write(tmp_path / "text.txt", "w00 w03 w01")
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=existing):
        report_segments(text, tokenizer=words, output=tmp_path)
    assert (tmp_path / existing).read_text() == "precious"
    report_segments(text, tokenizer=words, output=tmp_path, overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"precious"


def test_missing_matplotlib_names_the_extra(tmp_path, words, monkeypatch):
    text = write(tmp_path / "text.txt", "w00 w03 w01")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="output needs matplotlib, which is not installed.*lab"):
        report_segments(text, tokenizer=words, output=tmp_path)
    assert report_segments(text, tokenizer=words).statistics.segments == 2
