r"""Holds the encodings of the package against numbers that their authors computed, folder by folder.

    python scripts/check_relatives.py tests/golden_relatives

Each folder in the given one has a `config.json`, which names the system, its shapes and a tolerance, and the tensors
of `golden.safetensors`: what goes in, parameters, and what comes out. Shapes and options are read from there. Both
model families compute it, where they have such shapes. For every tensor that comes out a line has the largest relative
difference, `max |got - expected| / max(1, max |expected|)`, of whole numbers 0 or infinite. What the package has no
part for is named.

The exit status is 1 if a difference is above the tolerance of its folder, if a folder cannot be read or has a system
of which nothing is known here, and if nothing of a folder can be compared. A new system is one function and one line
in `relatives/checkers.py`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from relatives.checkers import CHECKERS
from relatives.golden import Golden, UnsupportedError
from relatives.one_layer import FAMILIES


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that holds the folders")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    folders = sorted(each for each in options.folder.iterdir() if each.is_dir())
    if not folders:
        parser.error(f"{options.folder} holds no folders")
    failures = [failure for folder in folders for failure in check(folder)]
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{len(folders)} folders, {len(failures)} failures")
    return 1 if failures else 0


def check(folder: Path) -> list[str]:
    """Prints what is found in a folder, and gives what fails."""
    print(folder.name)
    try:
        golden = Golden(folder)
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder.name}: cannot be read, {error}"]
    if golden.system not in CHECKERS:
        return [f"{folder.name}: no checker for {golden.system!r}, there are {', '.join(CHECKERS)}"]
    failures, is_compared = [], False
    for family in FAMILIES:
        try:
            differences = golden.differences(CHECKERS[golden.system](golden, family))
        except UnsupportedError as error:
            print(f"  {family}: not compared, {error}")
            continue
        except (KeyError, RuntimeError, ValueError) as error:
            failures.append(f"{folder.name}, {family}: {type(error).__name__}: {error}")
            continue
        is_compared = is_compared or bool(differences)
        for name, difference in differences.items():
            is_near = difference <= golden.tolerance
            print(f"  {family} {name} {difference:.1e}{'' if is_near else ' FAILED'}")
            if not is_near:
                failures.append(f"{folder.name}, {family}, {name}: {difference:.1e} above {golden.tolerance:.1e}")
    for name in golden.unread():
        print(f"  not covered: {name}")
    if not is_compared and not failures:
        failures.append(f"{folder.name}: nothing was compared")
    return failures


if __name__ == "__main__":
    sys.exit(main())
