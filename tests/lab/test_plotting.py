"""What the pictures show, and what `bipe-hf plot` refuses."""

import itertools
import json
import math
import struct
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bipe_hf.commands import main
from bipe_hf.lab.evaluation import Evaluation, Result
from bipe_hf.lab.evaluation.plot import draw, plot


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


def write(path, results, source="python", split="validation"):
    Evaluation("2025-01-01T00:00:00+00:00", "", {}, {"source": source, "split": split}, results).save(path)
    return path


def lines_of(figure):
    """Lengths and values of each line that has a marker."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].get_lines()
        if line.get_marker() != "None"
    ]


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
            box = text.get_window_extent(canvas.get_renderer())
            assert figure.bbox.x0 <= box.x0, text
            assert figure.bbox.y0 <= box.y0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
            boxes.append((text.get_text(), box))
    return boxes


def test_each_model_is_a_line_through_its_results():
    figure = draw(build_results()[::-1], "title")
    assert sorted(lines_of(figure)) == sorted((list(line), list(line.values())) for line in PERPLEXITIES.values())
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["rope (ROPE)", "bipe_rope (BIPE_ROPE)"]  # in the order of the right ends
    colours = [handle.get_color() for handle in figure.axes[0].get_legend().legend_handles]
    drawn = {
        line.get_color(): line.get_ydata()[-1] for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3
    }
    assert [drawn[colour] for colour in colours] == [400.0, 20.25]


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
    assert legend[2:] == ["blocks", "sliding (stride 128)", "sliding (stride 256)"]


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
    with pytest.raises(ValueError, match=r"bipe-hf\[plot\]"):
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
