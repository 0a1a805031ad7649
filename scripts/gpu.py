"""Everything that only a GPU can say, in one command: what is equal there, how fast it is, and on how many devices.

    python scripts/gpu.py --dry-run --output runs/gpu

It needs torch and transformers in the versions of pyproject.toml and a clone, no network and no installation: `make
gpu` calls it for `results/gpu`. A call takes at most eight minutes, and the same command goes on with what is missing;
every row is in its file as soon as it is found: `checks.json`, `speed.json`, `parallel.json`. Where a machine keeps
nothing between calls, copy these files into the folder of the next one (`make gpu ARGS="--output FOLDER"`). `--dry-
run` does all of it on a CPU at sizes of no interest, to see that it runs.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from on_gpu import checks, parallel, speed
from on_gpu.record import DeviceLostError, Machine, Part, Row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the files")
    parser.add_argument("--minutes", type=float, default=8, help="of this call; no row begins that might not end")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="rows whose names hold one of these")
    parser.add_argument("--fresh", action="store_true", help="find again what the files have")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at tiny sizes")
    options = parser.parse_args(arguments)
    if not (options.dry_run or torch.cuda.is_available()):
        parser.error("torch sees no GPU; --dry-run does all of it on a CPU, at tiny sizes")
    end = time.monotonic() + 60 * options.minutes
    machine = Machine("cpu" if options.dry_run else "cuda")
    rows = {"checks": checks.rows(), "speed": speed.rows(machine), "parallel": parallel.rows()}
    selected = [
        (name, row)
        for name, own in rows.items()
        for row in own
        if not options.only or any(text in row.name for text in options.only)
    ]
    if not selected:
        parser.error(f"--only {' '.join(options.only)}: no row is called so")
    try:
        parts = {name: Part(options.output / f"{name}.json", machine, options.fresh) for name in rows}
    except ValueError as error:
        parser.error(str(error))
    if options.fresh:
        for name, row in selected:
            parts[name].rows.pop(row.name, None)
    left = 0
    for name, row in sorted(selected, key=lambda each: each[1].turn):
        if not parts[name].lacks(row):
            continue
        if time.monotonic() + row.most_seconds > end:
            left += 1
            continue
        try:
            print(line(row, parts[name].find(row, machine)), flush=True)
        except DeviceLostError as error:
            sys.exit(f"the device is lost: {error}; the same command goes on")
    if left:
        print(f"{left} rows are left: the same command goes on", file=sys.stderr)
    wrong = [row.name for name, row in selected if parts[name].rows.get(row.name, {}).get("ok") is False]
    if wrong:
        sys.exit(f"not as it should be: {'; '.join(wrong)}")


def line(row: Row, found: dict) -> str:
    """What is shown of a row."""
    if "not_run" in found:
        return f"  --  {row.name}: not run, {found['not_run']}"
    mark = " ok " if found["ok"] else "FAIL"
    if "error" in found:
        return f"{mark}  {row.name}: {found['error']}"
    if "difference" in found:
        return f"{mark}  {row.name}: {found['difference']:.2e}, at most {found['limit']:.2e}"
    if "efficiency" in found:
        return f"{mark}  {row.name}: {found['efficiency']:.2f} of {found['devices']} devices"
    ratios = (f"{name} {each['ratio']:.3f}" for name, each in found["models"].items() if "ratio" in each)
    return f"{mark}  {row.name}: {', '.join(ratios)}"


if __name__ == "__main__":
    main()
