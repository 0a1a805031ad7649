"""Time and memory of BiPE beside the stock models of transformers and beside the authors' way, with ratios.

    python scripts/benchmark.py --output results/benchmark.json

All models of a comparison have the same shape, weights of the same size, dtype and attention backend (`sdpa`). They
are timed in turns, another model first in each round, and every time stands in the file. The number of rounds follows
from what a round takes; `--rounds` sets it.

The ratio that counts is the median over rounds of the ratio within a round: both times of such a ratio were taken
close to each other, so what slows the machine for minutes cancels, and the median leaves out the rounds that something
else disturbed. The ratio of the two least times, which stands beside it, hangs on two single runs: where the speed of
the machine drifts by a tenth, they may come from its best minute and from an ordinary one.

Peak memory is that of one training step or forward in a process of its own, weights and Python not counted. On a GPU
it is what the allocator reports. Each comparison of times has a process of its own too. These processes run with
settings of glibc's allocator that take chance out of both, given below.

The machine should have nothing else to do: two processes that share a processor wait for each other's threads, which
takes many times the work itself, alike for all models. A row says what share of the processors others used.

The file is written after every measurement. The same command goes on with what is missing, provided that machine,
versions, model code and settings are the same; `--fresh` measures again. All of it takes about an hour, the
longest row twelve.

The model code is known by a hash of the files that travel with a checkpoint, without their comments and docstrings. A
test compares that of results/benchmark.json with the code. After a change of the code either measure again, or note in
the file, and so above its tables, what has changed since:

    python scripts/benchmark.py --output results/benchmark.json --code-changed "the wording of two errors"
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from benchmarking.code import code_hash
from benchmarking.measurements import (
    MEASUREMENTS,
    NotMeasurableError,
    PeakMemory,
    compare_memory,
    compare_times,
)
from benchmarking.models import FAMILIES, SHAPES, Setting
from benchmarking.report import document, over_limit

import bipe_hf


# glibc keeps some freed blocks and gives others back, by rules that follow from all that was allocated before.
# Peak memory scattered by a tenth between runs before everything was given back at once, with no arenas for threads.
ALLOCATOR_OF_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
# A step of decoding at 8192 tokens took up to 7000 page faults, in one model and not in another, before nothing was
# given back but blocks of 32 MiB and more (which glibc cannot keep).
ALLOCATOR_OF_TIMES = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    add("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=f"measure only {', '.join(MEASUREMENTS)}")
    add("--shape", choices=SHAPES, default="paper")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--rounds", type=int, help="rounds of every comparison of times (default: by what a round takes)")
    add("--output", type=Path, help="JSON file to write and to go on with; Markdown tables go beside it")
    add("--fresh", action="store_true", help="measure again what the file has; one of other settings is started over")
    add("--code-changed", metavar="NOTE", help="measure nothing; note what of the model code changed since --output")
    add("--measure-here", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.measure_here:
        print(json.dumps(measure_here(options, *options.measure_here)))
        return

    if options.code_changed:
        if not options.output:
            parser.error("--code-changed needs --output, the file to note it in")
        try:
            note_change(options.output, options.code_changed)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return

    selected = [
        (family, name)
        for family in options.family
        for name in options.only or MEASUREMENTS
        if family in MEASUREMENTS[name].families
    ]
    if not selected:
        parser.error(f"--only {' '.join(options.only)} is not measured for {', '.join(options.family)}")
    settings = {key: vars(options)[key] for key in ("shape", "device", "dtype", "rounds")}
    record = {"settings": settings, "environment": environment(options.device), "results": {}}
    if options.output and options.output.exists():
        try:
            record["results"] = results_to_go_on_with(options.output, record)
        except ValueError as error:
            if not options.fresh:
                parser.error(f"{error} --fresh starts over; --output takes another file")
    if options.fresh:
        for family, name in selected:
            record["results"].get(family, {}).pop(name, None)
    failed = measure_all(selected, record, options.output, lambda family, name: measure(options, family, name))

    print(document(record))
    for line in over_limit(record["results"]):
        print(f"over the limit: {line}", file=sys.stderr)
    if failed:
        sys.exit(f"not measured, see above: {', '.join(failed)}; the same command tries again")


def environment(device: str) -> dict[str, str | int]:
    """What times and memory depend on besides the settings."""
    return {
        "machine": platform.machine(),
        "processor": torch.cuda.get_device_name() if device != "cpu" else f"{os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bipe_hf": bipe_hf.__version__,
        "model code": code_hash(),
    }


def results_to_go_on_with(path: Path, record: dict) -> dict[str, dict[str, dict]]:
    """What the file holds.

    Raises:
        ValueError: if it was measured elsewhere or otherwise than `record` says.
    """
    found = read(path)
    for part in ("settings", "environment"):
        for key, value in record[part].items():
            if found[part].get(key) != value:
                raise ValueError(f"{path} was measured with {key} {found[part].get(key)}, this is {value}.")
    return found["results"]


def read(path: Path) -> dict:
    """The record that the file holds.

    Raises:
        ValueError: if it is none of this benchmark.
    """
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(found, dict) or not {"settings", "environment", "results"} <= set(found):
        raise ValueError(f"{path} is not a file of this benchmark.")
    return found


def write(path: Path, record: dict) -> None:
    """Writes the record, and its tables beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    path.with_suffix(".md").write_text(document(record) + "\n")


def note_change(path: Path, note: str) -> None:
    """Adds to the file what has changed in the model code since its numbers were measured, and the hash of today's.

    A note stands once: one of the same words is now of today's code.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is none of this benchmark, or the code is the one that it has.
    """
    record = read(path)
    if measured_or_noted(record) == code_hash():
        raise ValueError(f"{path} has the model code as it is ({code_hash()}): there is no change to note.")
    notes = [each for each in record.get("code changed", []) if each["note"] != note]
    record["code changed"] = [*notes, {"note": note, "model code": code_hash()}]
    write(path, record)


def measured_or_noted(record: dict) -> str:
    """The hash of the last model code that the record speaks of."""
    return record.get("code changed", [record["environment"]])[-1]["model code"]


def measure_all(
    selected: list[tuple[str, str]],
    record: dict,
    output: Path | None,
    measure_one: Callable[[str, str], dict],
) -> list[str]:
    """Measures what `record` lacks of the selection, and writes it to `output` after each.

    Returns:
        What failed.
    """
    failed = []
    for number, (family, name) in enumerate(selected, start=1):
        results = record["results"].setdefault(family, {})
        title = f"[{number}/{len(selected)}] {family} {name}"
        if "models" in results.get(name, {}):
            print(f"{title}: in {output} already", file=sys.stderr)
            continue
        print(title, file=sys.stderr)
        start = time.monotonic()
        try:
            results[name] = measure_one(family, name)
        except subprocess.CalledProcessError as error:
            reason = (
                "killed, perhaps for want of memory" if error.returncode < 0 else f"exit status {error.returncode}"
            )
            print(f"{title} failed: {reason}", file=sys.stderr)
            failed.append(f"{family} {name}")
            continue
        print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
        if output:
            write(output, record)
    return failed


def measure(options: argparse.Namespace, family: str, name: str) -> dict:
    """The record of one measurement, made in processes of its own.

    Raises:
        subprocess.CalledProcessError: if one of them ended badly.
    """
    measurement = MEASUREMENTS[name]
    try:
        if isinstance(measurement, PeakMemory):
            peaks = {model: in_a_process(options, family, name, model) for model in measurement.models}
            return {"models": compare_memory(peaks, measurement.against)}
        measured = in_a_process(options, family, name)
        return {"models": compare_times(measured["times"], measurement.against), "others": measured["others"]}
    except NotMeasurableError as error:
        return {"not_measured": str(error)}


def in_a_process(options: argparse.Namespace, *measure_here: str) -> int | dict:
    """Runs this file again, to measure and no more; what it measured.

    Raises:
        NotMeasurableError: if this machine cannot measure it.
        subprocess.CalledProcessError: if the process ended badly.
    """
    command = [sys.executable, __file__, "--measure-here", *measure_here]
    command += ["--shape", options.shape, "--device", options.device, "--dtype", options.dtype]
    if options.rounds is not None:
        command += ["--rounds", str(options.rounds)]
    is_memory = isinstance(MEASUREMENTS[measure_here[1]], PeakMemory)
    variables = {**os.environ, **(ALLOCATOR_OF_MEMORY if is_memory else ALLOCATOR_OF_TIMES)}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    answer = json.loads(result.stdout.splitlines()[-1])
    if "not_measured" in answer:
        raise NotMeasurableError(answer["not_measured"])
    return answer["measured"]


def measure_here(options: argparse.Namespace, family: str, name: str, *model: str) -> dict:
    """What `in_a_process` reads: peak bytes of one model, or the times of all and what others did meanwhile."""
    setting = Setting(family, options.shape, options.device, options.dtype)
    measurement = MEASUREMENTS[name]
    try:
        if isinstance(measurement, PeakMemory):
            return {"measured": measurement.measure(setting, *model)}
        times, others = measurement.measure(setting, options.rounds)
        return {"measured": {"times": times, "others": others}}
    except NotMeasurableError as error:
        return {"not_measured": str(error)}


if __name__ == "__main__":
    main()
