"""What the pictures show, and what `bipe-hf plot` refuses."""

import itertools
import json
import math
import struct
import sys
import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Annotation, Text

from bipe_hf.commands import main
from bipe_hf.lab.common.figures import dash, new_figure, save_figure
from bipe_hf.lab.common.lines import spread_out
from bipe_hf.lab.evaluation import Evaluation, Result
from bipe_hf.lab.evaluation.plot import draw, plot


# One line that lies far above the others and one that leaves them.
SQUEEZING = {
    "a": {128: 20.0, 1024: 21.0},
    "b": {128: 19.0, 1024: 18.0},
    "far": {128: 147.52, 1024: 1431.28},
    "leaving": {128: 20.0, 1024: 65.42},
    "e": {128: 22.0, 1024: 23.0},
}
PERPLEXITIES = {"rope": {256: 20.0, 512: 90.0, 1024: 400.0}, "bipe_rope": {256: 21.0, 512: 19.5, 1024: 20.25}}


def build_result(model, length, perplexity, protocol="blocks", stride=None, train_length=256, text="same"):
    return Result(
        model=f"runs/{model}",
        name=model,
        encoding=model.upper(),
        train_length=train_length,
        protocol=protocol,
        length=length,
        stride=stride,
        tokens_scored=1000,
        blocks=10,
        segments_per_block=None,
        nll=math.log(perplexity),
        perplexity=perplexity,
        bits_per_byte=math.log2(perplexity) / 4,
        seconds=1.0,
        text_documents=1,
        text_tokens=2048,
        text_sha256=text,
        bytes_per_token=4.0,
        model_fingerprint="",
    )


def build_results(perplexities=PERPLEXITIES, **fields):
    return [build_result(model, *point, **fields) for model, line in perplexities.items() for point in line.items()]


def write(path, results, source="python", split="validation", **data):
    data |= {"source": source, "split": split}
    Evaluation("2025-01-01T00:00:00+00:00", "", {}, data, results).save(path)
    return path


def lines_of(figure):
    """Lengths and values of each line that has a marker."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].get_lines()
        if line.get_marker() != "None"
    ]


def names_at_ends(figure):
    """The texts that are connected to the ends of lines, from the top down."""
    texts = [text for text in figure.findobj(Annotation) if text.arrow_patch is not None]
    return sorted(texts, key=lambda text: -text.xyann[1])


def shown_texts(figure):
    """Every text that is visible, with where it lies in pixels; all must lie in the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    beyond = set()  # labels of ticks outside the axes, which are not drawn
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    boxes = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and text not in beyond:
            box = Text.get_window_extent(text, canvas.get_renderer())  # without what connects it to a line
            assert figure.bbox.x0 <= box.x0, text
            assert figure.bbox.y0 <= box.y0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
            boxes.append((text.get_text(), box))
    return boxes


def test_each_model_is_a_line_through_its_results():
    figure = draw(build_results()[::-1], "title")
    assert sorted(lines_of(figure)) == sorted((list(line), list(line.values())) for line in PERPLEXITIES.values())
    names = names_at_ends(figure)
    assert [text.get_text() for text in names] == ["rope (ROPE)", "bipe_rope (BIPE_ROPE)"]  # from the top down
    drawn = {
        line.get_color(): line.get_ydata()[-1] for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3
    }
    assert [drawn[to_hex(text.arrow_patch.get_edgecolor()).upper()] for text in names] == [400.0, 20.25]
    assert [text.xy for text in names] == [(1024, 400.0), (1024, 20.25)]


def test_bits_per_byte_are_drawn_on_request():
    results = build_results()
    figure = draw(results, "title", bits_per_byte=True)
    assert figure.axes[0].get_ylabel() == "bits per byte"
    values = {value for _, line in lines_of(figure) for value in line}
    assert values == {result.bits_per_byte for result in results}


def test_axes_carry_the_lengths_evaluated_and_plain_numbers():
    figure = draw(build_results(), "title")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "512", "1024"]
    assert axes.get_xlabel() == "test length (tokens)"
    assert axes.get_ylabel().startswith("perplexity")
    assert axes.get_yscale() == "log"
    numbers = [float(text) for text, _ in shown_texts(figure) if text.replace(".", "").isdecimal()]
    low, high = axes.get_ylim()
    assert len([number for number in numbers if low <= number <= high]) >= 5


@pytest.mark.parametrize(("highest", "scale"), [(60.0, "linear"), (61.0, "log")])
def test_values_are_logarithmic_beyond_a_factor_of_three(highest, scale):
    figure = draw(build_results({"one": {256: 20.0, 512: highest}}), "title")
    assert figure.axes[0].get_yscale() == scale


def test_forty_lines_all_look_different():
    figure = draw(build_results({f"model {at}": {256: 20.0 + at, 512: 25.0 + at / 2} for at in range(40)}), "title")
    lines = [line for line in figure.axes[0].get_lines() if line.get_marker() != "None"]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 40
    colours = [line.get_color() for line in lines]
    assert all(one != other for one, other in itertools.pairwise(colours))
    assert len(names_at_ends(figure)) == 40


def test_models_differ_by_colour_and_marker_whatever_the_protocol():
    """The dashes are taken: they tell the protocols apart."""
    names = [f"model {at}" for at in range(40)]
    results = []
    for stride in (None, 64, 128, 192, 256, 320):
        protocol = "blocks" if stride is None else "sliding"
        results += build_results({name: {256: 20.0} for name in names}, protocol=protocol, stride=stride)
    lines = draw(results, "title").axes[0].get_lines()
    looks = {(line.get_color(), line.get_marker()) for line in lines if line.get_marker() != "None"}
    assert len(looks) == 40
    assert len({str(dash(at)) for at in range(6)}) == 6


def test_outliers_are_written_above_the_axes_and_the_others_have_them():
    figure = draw(build_results(SQUEEZING), "title")
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    low, high = axes.get_ylim()
    assert 17 < low < 18
    assert 23 < high < 24
    texts = dict(shown_texts(figure))
    top = axes.get_window_extent().y1
    for number in ("↑ 148", "↑ 1431", "↑ 65.4"):
        assert texts[number].y0 > top
    for name, number in (("far (FAR)", "↑ 1431"), ("leaving (LEAVING)", "↑ 65.4")):
        assert texts[name].y0 < (texts[number].y0 + texts[number].y1) / 2 < texts[name].y1  # in one row
    assert [text.get_text() for text in names_at_ends(figure)] == ["e (E)", "a (A)", "b (B)"]
    # A marker at each number, of the line that it belongs to.
    colours = {line.get_ydata()[-1]: line.get_color() for line in axes.get_lines() if line.get_marker() != "None"}
    marks = [(mark.get_offsets()[0][0], to_hex(mark.get_facecolor()[0]).upper()) for mark in axes.collections]
    assert sorted(marks) == sorted([(128, colours[1431.28]), (1024, colours[1431.28]), (1024, colours[65.42])])


def test_half_of_the_lines_are_no_outliers():
    figure = draw(build_results(), "title")  # 400 and 20.25 at the end
    assert figure.axes[0].get_ylim()[1] > 400


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "↑ inf")])
def test_values_that_are_no_number_are_written_above_the_axes(value, text):
    figure = draw(build_results({"a": {256: 20.0, 512: value}, "b": {256: value, 512: value}}), "title")
    texts = [each for each, _ in shown_texts(figure)]
    assert texts.count(text) == 3
    assert {"a (A)", "b (B)"} <= set(texts)


@pytest.mark.parametrize("wanted", [[90, 50, 10], [50, 50, 50], [52, 50, 30], [99, 98, 2], [3, 2, 1], [99, 99, 60]])
def test_texts_are_spread_out_as_little_as_it_takes(wanted):
    heights, room = [10, 20, 10], 100
    gaps = [15, 15]
    found = spread_out(wanted, heights, room)
    assert found[0] <= 95
    assert found[-1] >= 5
    assert all(
        above - below >= gap - 1e-9 for (above, below), gap in zip(itertools.pairwise(found), gaps, strict=True)
    )

    def cost(places):
        return sum((place - centre) ** 2 for place, centre in zip(places, wanted, strict=True))

    every = itertools.product(range(5, 96), repeat=3)
    least = min(cost(places) for places in every if places[0] - places[1] >= 15 and places[1] - places[2] >= 15)
    assert cost(found) <= least + 1e-9
    assert spread_out(wanted, heights, 40) == [35, 20, 5]


def test_train_lengths_are_marked_and_labelled():
    results = build_results({"a": PERPLEXITIES["rope"]}, train_length=256)
    results += build_results({"b": PERPLEXITIES["rope"]}, train_length=384)
    figure = draw(results, "title")
    marked = {line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "None"}
    assert marked == {256, 384}
    assert {"train length 256", "train length 384"} <= {text for text, _ in shown_texts(figure)}


def test_models_without_a_train_length_mark_none():
    figure = draw(build_results(train_length=None), "title")
    assert all(line.get_marker() != "None" for line in figure.axes[0].get_lines())


def test_dollars_in_names_are_shown_as_they_are():
    r"""As a formula, `$\wrong$` cannot be drawn at all."""
    name = r"$\wrong$"
    figure = draw(build_results({name: PERPLEXITIES["rope"]}), f"data of {name}")
    texts = [text for text, _ in shown_texts(figure)]
    assert f"{name} ({name.upper()})" in texts
    assert f"data of {name}, protocol blocks" in texts


def test_protocols_are_told_apart_by_their_dashes():
    results = build_results()
    results += build_results(protocol="sliding", stride=128) + build_results(protocol="sliding", stride=256)
    figure = draw(results, "title")
    assert len(lines_of(figure)) == 6
    looks = {
        (line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines() if line.get_marker() != "None"
    }
    assert len(looks) == 6
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [
        "rope (ROPE)",
        "bipe_rope (BIPE_ROPE)",
        "blocks",
        "sliding (stride 128)",
        "sliding (stride 256)",
    ]


def test_one_protocol_is_named_in_the_title():
    assert draw(build_results(protocol="tail"), "books").axes[0].get_title() == "books, protocol tail"


@pytest.mark.parametrize(
    "results",
    [
        build_results(),
        build_results({"a": {2**at: 10.0 + at for at in range(6, 18)}}),
        build_results({"a": {896: 5.0, 1024: 5.1, 1152: 5.2, 1280: 5.3}}),
        build_results({"a model with a rather long name": PERPLEXITIES["rope"], "b": PERPLEXITIES["bipe_rope"]}),
        [
            build_result(f"model{at}", length, 20.0 + at, protocol, train_length=2**at)
            for at in range(8, 11)
            for protocol in ("blocks", "tail")
            for length in (256, 512, 1024, 2048)
        ],
        build_results({"a": {256: 30.0, 512: 3e7}}),
        build_results({"a": {256: 30.0}}),
        build_results({"a": {256: 30.0}, "b": {256: 30.0}}, train_length=None),  # equal in all
        build_results({f"model {at}": {256: 20.0 + at / 100, 4096: 30.0} for at in range(40)}),
        build_results(SQUEEZING) + build_results({"c": {128: 21.0, 1024: 20.0}}, train_length=1024),
        build_results({**SQUEEZING, "a": {2**at: 1e8 for at in range(6, 18)}}),  # twelve numbers stand upright
        build_results({name: {256: 20.0, 512: math.inf} for name in "ab"}),
        build_results({"a word " * 20 + str(at): {256: 20.0, 512: 21.0} for at in range(9)}),
        build_results({"кириллица $x$": {256: 20.0, 512: 21.0}, "ελληνικά_1": {256: 20.0, 512: 21.0}}),
    ],
)
def test_no_text_lies_over_another_or_beyond_the_picture(results):
    texts = shown_texts(draw(results, "python, validation split"))
    assert len(texts) > 5
    for (one, box), (other, other_box) in itertools.combinations(texts, 2):
        assert not box.overlaps(other_box), (one, other)


def test_both_formats_are_written_with_enough_pixels(tmp_path):
    file = write(tmp_path / "results.json", build_results())
    written, note = plot([file], tmp_path / "picture.png")
    assert written == [tmp_path / "picture.png", tmp_path / "picture.svg"]
    assert note is None
    png = written[0].read_bytes()
    assert png.startswith(b"\x89PNG")
    at = png.index(b"pHYs") + 4
    assert struct.unpack(">I", png[at : at + 4])[0] * 0.0254 >= 150  # dots per inch
    assert struct.unpack(">I", png[16:20])[0] >= 1200
    assert "<svg" in written[1].read_text()[:600]


def test_same_results_give_the_same_svg(tmp_path):
    file = write(tmp_path / "results.json", build_results())
    for name in ("one", "two"):
        plot([file], tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_several_files_share_one_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "bipe_hf.lab.evaluation.plot.draw", lambda results, *rest, **more: drawn.extend(results) or draw(results, "x")
    )
    files = [write(tmp_path / f"{model}.json", build_results({model: line})) for model, line in PERPLEXITIES.items()]
    plot(files, tmp_path / "picture.png")
    assert drawn == build_results()


def test_other_tokens_are_noted_for_perplexity_only(tmp_path):
    results = build_results() + build_results({"other": PERPLEXITIES["rope"]}, text="other")
    file = write(tmp_path / "results.json", results)
    assert "compare bits per byte" in plot([file], tmp_path / "one.png")[1]
    assert plot([file], tmp_path / "two.png", bits_per_byte=True)[1] is None


@pytest.mark.parametrize("existing", ["picture.png", "picture.svg"])
def test_existing_picture_is_kept_without_overwrite(tmp_path, existing):
    file = write(tmp_path / "results.json", build_results())
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=existing):
        plot([file], tmp_path / "picture.png")
    assert (tmp_path / existing).read_text() == "precious"
    plot([file], tmp_path / "picture.png", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no results file"),
        ("{", "not valid JSON"),
        ('{"results": []}', "was not written by"),
        ('{"format": "bipe-hf evaluation 1", "results": [{"model": "x"}]}', "does not hold"),
    ],
)
def test_file_that_holds_no_results_is_refused(tmp_path, content, message):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        plot([file], tmp_path / "picture.png")
    assert str(file) in str(error.value)
    assert not (tmp_path / "picture.png").exists()


def test_a_character_takes_a_font_that_has_it_or_a_warning_names_it(tmp_path):
    def draw(label):
        figure, axes = new_figure([label])
        axes.set_title(label, parse_math=False)
        save_figure(figure, tmp_path / "figure.png")
        return axes.title.get_fontfamily()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = draw("Базовая, ROPÉ")
        assert draw("plain") == plain
    has_all = set(map(chr, get_font(findfont(FontProperties())).get_charmap()))
    others = {
        char: font.name
        for font in fontManager.ttflist
        for char in map(chr, get_font(font.fname).get_charmap())
        if "Last Resort" not in font.name and char not in has_all and char.isprintable() and not char.isspace()
    }
    if others:
        char = min(others)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(draw(f"line {char}")) > 1
    absent = next(chr(code) for code in range(0x10FFFD, 0, -1) if chr(code) not in has_all | others.keys())
    with pytest.warns(UserWarning, match=f"no installed font has {absent}") as caught:
        draw(f"line {absent}")
    assert len(caught) == 1


def test_the_digest_of_a_text_decides_whether_results_belong_in_one_picture(tmp_path):
    first = write(tmp_path / "first.json", build_results(), sha256="1" * 64)
    other_name = write(
        tmp_path / "name.json", build_results({"x": {256: 3.0}}), source="/elsewhere/renamed", sha256="1" * 64
    )
    other_text = write(tmp_path / "text.json", build_results({"x": {256: 3.0}}), sha256="2" * 64)
    plot([first, other_name], tmp_path / "picture.png")
    with pytest.raises(ValueError, match="different texts"):
        plot([first, other_text], tmp_path / "other.png")


def test_results_that_do_not_belong_in_one_picture_are_refused(tmp_path):
    one = write(tmp_path / "one.json", build_results())
    other = write(tmp_path / "other.json", build_results({"x": {256: 3.0}}), source="books")
    twice = write(tmp_path / "twice.json", build_results()[:1])
    empty = write(tmp_path / "empty.json", [])
    with pytest.raises(ValueError, match="different texts"):
        plot([one, other], tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"rope, blocks at length 256 is in both .*one.* and .*twice"):
        plot([one, twice], tmp_path / "picture.png")
    with pytest.raises(ValueError, match="no results in"):
        plot([empty], tmp_path / "picture.png")


@pytest.mark.parametrize(("output", "message"), [("picture.jpg", "must end in"), ("nowhere/picture.png", "no folder")])
def test_output_that_cannot_be_written_is_refused(tmp_path, output, message):
    file = write(tmp_path / "results.json", build_results())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plot([file], tmp_path / output)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    file = write(tmp_path / "results.json", build_results())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="plot needs matplotlib, which is not installed.*lab"):
        plot([file], tmp_path / "picture.png")


def test_command_draws_and_says_where(tmp_path, capsys):
    file = write(tmp_path / "results.json", build_results() + build_results({"y": {256: 9.0}}, text="other"))
    output = tmp_path / "picture.png"
    assert main(["plot", str(file), "--output", str(output), "--title", "A heading"]) == 0
    captured = capsys.readouterr()
    assert str(output) in captured.out
    assert captured.err.startswith("note: ")
    assert "A heading" in json.dumps(output.with_suffix(".svg").read_text())
    assert main(["plot", str(file), "--output", str(output)]) == 2
    assert capsys.readouterr().err.startswith("bipe-hf: error: output: ")
