"""The comparison itself: what is not trained yet is trained, what is not measured yet is measured."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ...hub.records import read_record
from ...model.errors_bipe import InputError, InputExistsError
from ..common.checkpoints import is_outdated, open_folder
from ..common.figures import require_matplotlib
from ..common.files import user_path
from ..common.messages import first_line
from ..common.results import describe_environment
from ..common.run_folder import differing_settings, read_stored_settings
from ..common.settings import RunSettings
from ..common.tables import require_tabulate
from .curves import learning_curve
from .entries import Comparison, Entry
from .experiments import EXPERIMENTS, Experiment
from .figures import draw_figures
from .losses import UnitLosses
from .results import ComparisonResults, earlier_losses, earlier_results, other_place, results_file
from .tables import markdown_tables


class Job(NamedTuple):
    """A model to train, or an entry to measure."""

    kind: str
    """`"training"` or `"measuring"`."""
    entry: Entry
    seed: int
    overwrite: bool = False
    """Whether a model in its folder is trained again."""


@dataclass
class Clock:
    """Seconds that jobs of each kind took, and from them the time that others will take."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"training": [], "measuring": []})

    def left(self, jobs: Sequence[Job]) -> str:
        """The time that `jobs` will take, if they are like those before them."""
        if not jobs:
            return "done"
        kinds = {job.kind for job in jobs}
        if not all(self.seconds[kind] for kind in kinds):
            return "time left: known after the first"
        minutes = sum(fmean(self.seconds[job.kind]) for job in jobs) / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def compare(
    comparison: Comparison,
    *,
    output: str | Path | None = None,
    only: Sequence[str] | None = None,
    overwrite: bool = False,
    command: str = "bipe_hf.lab.comparison.compare",
    on_result: Callable[[], None] = lambda: None,
) -> ComparisonResults:
    """Trains and measures every entry with every seed, as far as that is not done, and writes results as they come.

    Models go to `runs/compare/<name>/<entry>-seed<seed>`, where an interrupted training goes on. An entry that fails
    is recorded with its reason and does not stop the others; the next call tries it again. With `unit_tokens` the
    losses of the units of the text go to `losses.json`.

    Args:
        comparison: from [`read_comparison`].
        output: folder for `comparison.json`, `comparison.md` and the figures; None is that of the models.
        only: names of entries; the results of the others stay as they are.
        overwrite: drop the results in `output`, and train again what was trained with other settings or on other data.
        command: recorded in the results.
        on_result: called whenever an entry of a seed is measured, after the results are written.

    Returns:
        All results that `output` holds then.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: before anything is trained, for entries, data or lengths that
            cannot be used, and for models and results that are not of this comparison.
        KeyboardInterrupt: what is done is written.
    """
    if only and overwrite:
        raise InputError("only and overwrite exclude each other: overwrite drops the results of all entries")
    require_matplotlib("compare")
    require_tabulate("compare")
    output = comparison.folder if output is None else user_path(output)
    chosen = comparison.chosen(only)
    experiment = EXPERIMENTS[comparison.task](comparison)
    experiment.check()
    results = earlier_results(comparison, output, overwrite)
    losses = earlier_losses(comparison, output, results)
    text = experiment.prepare()
    if results is not None and results.results and results.text != text:
        differing = [key for key in text if results.text.get(key) != text[key]]
        raise InputError(
            f"{results_file(output)} is of another text or tokenizer ({', '.join(differing)}; {other_place()})"
        )
    jobs = _jobs(comparison, experiment, chosen, results, overwrite, output)
    results = ComparisonResults(
        calls=[] if results is None else results.calls,
        config=comparison.content,
        text=text,
        runs=[] if results is None else results.runs,
        failures=[] if results is None else [each for each in results.failures if _is_asked_for(each, comparison)],
        results=[] if results is None else results.results,
    )
    if jobs:
        results.begin_call(command, describe_environment(experiment.device(chosen[0]), "float32"))

    def save() -> None:
        if losses is not None:
            losses.save(output)  # before the results that they belong to
        results.save(output, markdown_tables(results, comparison))

    save()
    _work(jobs, comparison, experiment, results, losses, save, on_result)
    if results.results:
        draw_figures(results, comparison, output)
    return results


def _is_asked_for(failure: dict[str, Any], comparison: Comparison) -> bool:
    entry = comparison.entries.get(failure["entry"])
    return entry is not None and failure["seed"] in entry.seeds


def _jobs(
    comparison: Comparison,
    experiment: Experiment,
    chosen: Sequence[Entry],
    results: ComparisonResults | None,
    overwrite: bool,
    output: Path,
) -> list[Job]:
    """What is left to do, seed by seed. Raises `ValueError` for models that are not of this comparison.

    Results whose model is gone stay, so that an entry can be added to results that came without models, as those of a
    repository; but nothing more can be measured of such a model, as one trained again is another one.
    """
    trainings, measurings = [], []
    seeds = list(dict.fromkeys(seed for entry in comparison.entries.values() for seed in entry.seeds))
    rows = [] if results is None else results.results
    folders = {comparison.model_folder(comparison.entries[row.entry], row.seed) for row in rows}
    gone = {folder for folder in folders if not folder.exists()}
    for seed in seeds:
        for entry in comparison.entries.values():
            if seed not in entry.seeds:
                continue
            folder = comparison.model_folder(entry, seed)
            measured = [row for row in rows if (row.entry, row.seed) == (entry.name, seed)]
            is_measured = {row.size for row in measured} == set(comparison.measure.sizes)
            if folder in gone:
                if entry in chosen and not is_measured:
                    raise InputError(
                        f"{entry.name!r}, seed {seed}, cannot be measured: the model in {folder}, which"
                        f" {results_file(output)} has results of, is gone ({other_place()})"
                    )
                continue
            job = _training_job(comparison, experiment, entry, seed, overwrite)
            if job is None and any(is_outdated(row.model_fingerprint) for row in measured):
                if entry in chosen:
                    print(
                        f"{results_file(output)}: the results of {entry.name!r}, seed {seed}, tell their model by the"
                        " time of its files, as earlier versions did, not by its weights: it is measured again",
                        file=sys.stderr,
                    )
                    results.results = [row for row in results.results if row not in measured]
                    is_measured = False
            elif measured and (job is not None or _fingerprint(entry, folder) != measured[0].model_fingerprint):
                raise InputError(
                    f"{results_file(output)} has results of {entry.name!r}, seed {seed}, that are not of the model in"
                    f" {folder} ({other_place()})"
                )
            if entry not in chosen:
                continue
            if job is not None and job not in trainings:
                trainings.append(job)
            if not is_measured:
                measurings.append(Job("measuring", entry, seed))
    # Each model is measured as soon as it is there.
    jobs = []
    for measuring in measurings:
        model = comparison.model_of(measuring.entry)
        jobs += [job for job in trainings if (job.entry, job.seed) == (model, measuring.seed) and job not in jobs]
        jobs.append(measuring)
    return jobs


def _training_job(
    comparison: Comparison, experiment: Experiment, entry: Entry, seed: int, overwrite: bool
) -> Job | None:
    """The training that the model of `entry` needs, None where it is there."""
    model, folder = comparison.model_of(entry), comparison.model_folder(entry, seed)
    if not folder.exists() or not any(folder.iterdir()):
        return Job("training", model, seed)
    settings_file, result_file = folder / experiment.files.settings, folder / experiment.files.result
    if not settings_file.is_file():
        raise InputExistsError(f"{folder} is not empty and holds no training run (no {settings_file.name})")
    if not result_file.is_file() and not any(folder.glob("checkpoint-*")):
        return Job("training", model, seed)  # a run that ended before its first checkpoint starts over
    try:
        stored = read_stored_settings(settings_file)
        if stored is None:
            raise InputError(f"its {settings_file.name} cannot be read")
        differences = differing_settings(stored, _run_settings(comparison, model, seed).stored())
        if differences:
            raise InputError(f"it was trained with other settings: {', '.join(differences)}")
        experiment.check_model(folder)
    except InputError as error:
        if overwrite:
            return Job("training", model, seed, overwrite=True)
        raise InputError(f"{folder}: {error} ({other_place()})") from error
    if not result_file.is_file():
        return Job("training", model, seed)
    has_diverged = _record(result_file)["eval_loss"] is None
    return Job("training", model, seed, overwrite=True) if has_diverged else None


def _record(file: Path) -> dict[str, Any]:
    """What a training recorded."""
    record = read_record(file)
    if record is None or "eval_loss" not in record:
        raise InputError(f"{file} is no record of a training: move {file.parent} away to train again")
    return record


def _run_settings(comparison: Comparison, entry: Entry, seed: int) -> RunSettings:
    return entry.settings.with_training(seed=seed, output_dir=str(comparison.model_folder(entry, seed)))


def _fingerprint(entry: Entry, folder: Path) -> str:
    return open_folder(folder, entry.evaluate_with).fingerprint


def _work(
    jobs: list[Job],
    comparison: Comparison,
    experiment: Experiment,
    results: ComparisonResults,
    losses: UnitLosses | None,
    save: Callable[[], None],
    on_result: Callable[[], None],
) -> None:
    clock = Clock()
    clock.seconds["training"] += [run["seconds"] for run in results.runs]
    broken = {}  # models that could not be trained, and why
    with tqdm(total=len(jobs), unit="job", bar_format="{desc} |{bar}| {n_fmt} of {total_fmt}{postfix}") as bar:
        for at, job in enumerate(jobs):
            bar.set_description_str(f"{job.kind} {job.entry.name}, seed {job.seed}", refresh=False)
            bar.set_postfix_str(clock.left(jobs[at:]))
            start = time.perf_counter()
            model = (comparison.model_of(job.entry).name, job.seed)
            try:
                if model in broken:
                    raise RuntimeError(broken[model])
                if job.kind == "training":
                    _train(job, comparison, experiment)
                else:
                    _measure(job, comparison, experiment, results, losses, save)
                results.settle(job.entry.name, job.seed)
            except Exception as error:  # whatever it is: one entry must not lose the others
                reason = broken.get(model) or f"{job.kind}: {type(error).__name__}: {first_line(error)}"
                if job.kind == "training":
                    broken[model] = reason
                results.settle(job.entry.name, job.seed, reason)
                print(f"{job.entry.name}, seed {job.seed}: {reason}", file=sys.stderr)
            else:
                clock.seconds[job.kind].append(time.perf_counter() - start)
            save()
            if job.kind == "measuring":
                on_result()
            bar.set_postfix_str(clock.left(jobs[at + 1 :]), refresh=False)
            bar.update()


def _train(job: Job, comparison: Comparison, experiment: Experiment) -> None:
    loss = experiment.run(_run_settings(comparison, job.entry, job.seed), job.overwrite)["eval_loss"]
    if not loss < float("inf"):  # nan included
        raise InputError(f"the training diverged, its validation loss is {loss}")


def _measure(
    job: Job,
    comparison: Comparison,
    experiment: Experiment,
    results: ComparisonResults,
    losses: UnitLosses | None,
    save: Callable[[], None],
) -> None:
    entry, seed = job.entry.name, job.seed
    folder = comparison.model_folder(job.entry, seed)
    # Read from the folder: the model may have been trained by another call, for other results.
    record = _record(folder / experiment.files.result) | {"learning_curve": learning_curve(folder)}
    results.add_run(comparison.model_of(job.entry).name, seed, folder, record)
    fingerprint = _fingerprint(job.entry, folder)
    done = {row.size for row in results.results if (row.entry, row.seed) == (entry, seed)}
    missing = [size for size in comparison.measure.sizes if size not in done]
    for measured in experiment.results(job.entry, folder, missing):
        results.add(entry, seed, measured.size, measured.value, fingerprint, measured.found)
        if losses is not None:
            losses.add(entry, seed, measured.size, measured.units)
        save()
