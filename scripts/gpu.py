"""Everything that only a GPU can say, in one command: what is equal there, how fast it is, and on how many devices.

    python scripts/gpu.py --dry-run --output runs/gpu

It needs torch, transformers and a clone, no network and no installation: `make gpu` calls it for `results/gpu`. A call
takes at most eight minutes, and the same command goes on with what is missing; every row is in its file as soon as it
is found: `checks.json`, `speed.json`, `parallel.json`. `--dry-run` does all of it on a CPU at sizes of no interest, to
see that it runs.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from on_gpu import checks, parallel, speed
from on_gpu.record import Machine, Part, Row


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
    parts = {"checks": checks.rows(), "speed": speed.rows(machine), "parallel": parallel.rows()}
    selected = {
        name: [row for row in rows if not options.only or any(text in row.name for text in options.only)]
        for name, rows in parts.items()
    }
    if not any(selected.values()):
        parser.error(f"--only {' '.join(options.only)}: no row is called so")
    left, wrong = 0, []
    for name, rows in selected.items():
        try:
            part = Part(options.output / f"{name}.json", machine, options.fresh)
        except ValueError as error:
            parser.error(str(error))
        for row in rows:
            if row.name not in part.rows:
                if time.monotonic() + row.most_seconds > end:
                    left += 1
                    continue
                print(line(row, part.find(row, machine)), flush=True)
            if part.rows[row.name].get("ok") is False:
                wrong.append(row.name)
    if left:
        print(f"{left} rows are left: the same command goes on", file=sys.stderr)
    if wrong:
        sys.exit(f"over the limit: {'; '.join(wrong)}")


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
