"""Perplexity, or bits per byte, against test length, drawn from the files that `bipe-hf evaluate` writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.errors_bipe import InputError, InputExistsError, InputNotFoundError
from ..common.figures import (
    add_legend,
    dash,
    label_lengths,
    line_looks,
    mark_train_lengths,
    new_figure,
    pictures,
    require_matplotlib,
    save_figure,
)
from ..common.files import user_path
from ..common.lines import Line, draw_lines, fit_values, name_lines
from .results import Evaluation, Result, comparability_note


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    files: Sequence[str | Path],
    output: str | Path = "perplexity.png",
    *,
    bits_per_byte: bool = False,
    title: str | None = None,
    overwrite: bool = False,
) -> tuple[list[Path], str | None]:
    """Draws every model and protocol in results files as a line over test length.

    Args:
        files: written by `bipe-hf evaluate`, all on the same data and split.
        output: `.png` or `.svg`; both are written.
        bits_per_byte: draw bits per byte, which compare across tokenizers, instead of perplexity.
        title: None names the data.
        overwrite: replace existing pictures.

    Returns the two paths, and a note where the perplexities drawn do not compare with each other. Raises `ValueError`,
    `FileNotFoundError` or `FileExistsError` for files or arguments that do not fit, `ValueError` without matplotlib.
    """
    require_matplotlib("plot")
    output = user_path(output)
    if output.suffix not in (".png", ".svg"):
        raise InputError(f"output: {output} must end in .png or .svg (both are written)")
    for target in pictures(output):
        if target.exists() and not overwrite:
            raise InputExistsError(f"output: {target} exists (--overwrite replaces it)")
    if not output.parent.is_dir():
        raise InputNotFoundError(f"output: there is no folder {output.parent}")
    results, data = _read(files)
    if title is None:
        title = f"{Path(data['source']).name}, {data['split']} split"
    save_figure(draw(results, title, bits_per_byte=bits_per_byte), output)
    return pictures(output), None if bits_per_byte else comparability_note(results)


def _read(files: Sequence[str | Path]) -> tuple[list[Result], dict]:
    """The rows of all files and what data they measure."""
    origin, measured, results = {}, {}, []
    for file in files:
        evaluation = Evaluation.load(file)
        data = {key: evaluation.data.get(key) for key in ("source", "split", "sha256")}
        for earlier, other in measured.items():
            if not _is_same_text(other, data):
                raise InputError(f"{earlier} and {file} measure different texts: {other} and {data}")
        measured[file] = data
        for result in evaluation.results:
            if result.measurement in origin:
                what = f"{result.name}, {result.protocol} at length {result.length}"
                raise InputError(f"{what} is in both {origin[result.measurement]} and {file}")
            origin[result.measurement] = file
            results.append(result)
    if not results:
        raise InputError(f"there are no results in {', '.join(map(str, files))}")
    return results, data


def _is_same_text(one: dict, other: dict) -> bool:
    """By digest where both have one: the same text has many names, and a name may stand for many texts."""
    keys = ("source", "split") if None in (one["sha256"], other["sha256"]) else ("sha256",)
    return all(one[key] == other[key] for key in keys)


def draw(results: Sequence[Result], title: str, *, bits_per_byte: bool = False) -> "Figure":
    """The picture that `plot` saves, as a `matplotlib.figure.Figure`."""

    def value(result: Result) -> float:
        return result.bits_per_byte if bits_per_byte else result.perplexity

    names = {result.subject: f"{result.name} ({result.encoding})" for result in results}
    looks = line_looks(names)
    protocols = {(result.protocol, result.stride): _protocol_name(result) for result in results}
    measured: dict[tuple, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.length):
        measured.setdefault((result.subject, (result.protocol, result.stride)), []).append(result)
    lines = {}
    for (model, protocol), found in measured.items():
        name, look = names[model], looks[model]
        if len(protocols) > 1:
            # The dashes tell the protocols apart, and models differ in colour and marker.
            name = f"{name}, {protocols[protocol]}"
            look = look | {"linestyle": dash(list(protocols).index(protocol))}
        lengths = [result.length for result in found]
        lines[model, protocol] = Line(name, look, lengths, list(map(value, found)), [0.0] * len(found))

    figure, axes = new_figure([line.label for line in lines.values()])
    draw_lines(axes, list(lines.values()))
    label_lengths(axes, sorted({result.length for result in results}))
    height = mark_train_lengths(axes, sorted({result.train_length for result in results} - {None}))
    height = fit_values(axes, list(lines.values()), height)
    axes.set_xlabel("test length (tokens)")
    axes.set_ylabel("bits per byte" if bits_per_byte else "perplexity (per token)")
    if len(protocols) == 1:
        title = f"{title}, protocol {_protocol_name(results[0])}"
    axes.set_title(title, pad=8 + height, parse_math=False)
    if len(protocols) == 1:
        name_lines(axes, list(lines.values()))
    else:
        order = dict.fromkeys(model for model, _ in sorted(lines, key=lambda key: -lines[key].end))
        models = [(names[model], looks[model] | {"linestyle": "-"}) for model in order]
        styles = [(name, {"color": "0.35", "linestyle": dash(at)}) for at, name in enumerate(protocols.values())]
        add_legend(axes, models + styles)
    return figure


def _protocol_name(result: Result) -> str:
    return result.protocol if result.stride is None else f"{result.protocol} (stride {result.stride})"
