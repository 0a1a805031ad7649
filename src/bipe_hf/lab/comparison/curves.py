"""Learning curves: what a training logged on its way, as results keep it, and their figure."""

from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from ..common.figures import line_looks, new_figure
from ..common.lines import Line, draw_lines, fit_values, name_lines


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .entries import Comparison
    from .results import ComparisonResults


# The losses that are logged, and how many decimals are kept of them.
LOSSES = {"training": "loss", "validation": "eval_loss"}
DECIMALS = 4


def learning_curve(folder: Path) -> dict[str, dict[str, list[float]]]:
    """The losses that the training in `folder` logged: `steps` and `losses` (nats per token), of the `training` since
    the step before and of the `validation`; nothing of a folder without a log."""
    log = folder / "trainer_state.json"
    history = TrainerState.load_from_json(str(log)).log_history if log.is_file() else []
    curve = {}
    for name, key in LOSSES.items():
        points = {row["step"]: round(row[key], DECIMALS) for row in history if key in row and isfinite(row[key])}
        curve[name] = {"steps": list(points), "losses": list(points.values())}
    return curve


def has_curves(results: "ComparisonResults") -> bool:
    """Whether a training logged enough for a line."""
    return any(len(_points(run, "validation")) > 1 for run in results.runs)


def draw_learning_curves(results: "ComparisonResults", comparison: "Comparison", title: str) -> "Figure":
    """Validation loss by step, with the training loss as a thin line of the same colour: means over seeds."""
    looks = line_looks(comparison.entries)
    lines, thin = [], []
    for name, look in looks.items():
        runs = [run for run in results.runs if run["entry"] == name]
        training, validation = (_mean_curve(runs, kind) for kind in LOSSES)
        if validation:
            lines.append(Line(name, look, list(validation), list(validation.values()), [0.0] * len(validation)))
            thin.append((look["color"], training))
    figure, axes = new_figure([line.label for line in lines])
    draw_lines(axes, lines)
    height = fit_values(axes, lines)
    for colour, training in thin:
        axes.plot(list(training), list(training.values()), color=colour, linewidth=0.6, alpha=0.6, zorder=2)
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss (nats per token); thin: training")
    axes.set_title(title, pad=8 + height, parse_math=False)
    name_lines(axes, lines)
    return figure


def _points(run: dict[str, Any], kind: str) -> dict[int, float]:
    """Loss by step; results of earlier versions have none."""
    curve = run.get("learning_curve", {}).get(kind, {"steps": [], "losses": []})
    return dict(zip(curve["steps"], curve["losses"], strict=True))


def _mean_curve(runs: list[dict[str, Any]], kind: str) -> dict[int, float]:
    """The mean over runs, at the steps that all of them logged."""
    curves = [_points(run, kind) for run in runs]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)] if curves else []
    return {step: fmean(curve[step] for curve in curves) for step in steps}
