"""Text to choose learning rates on, of which the map of kinds measures nothing: a part of its training texts.

    python scripts/kinds_learning_rate_text.py --kinds runs/kinds_of_text --output runs/kinds_of_text/learning_rate

Of tables, JSON lines, logs, novels and Python sources every fifth source (a table, a system, a book) is held out,
since the map measures on sources that no model has seen. Every fourth document of the others is trained on; every
eighth of those held out is kept.
"""

import argparse
import re
import shutil
from pathlib import Path


KINDS = ("tables", "json_lines", "logs_unseen", "novels", "python")
HELD_OUT_EVERY = 5
KEPT = {"train": 4, "validation": 8}


def source(document: Path) -> str:
    """Name of what a document is a piece of: `middlemarch` of `middlemarch.004.txt`."""
    return re.sub(r"(\.\d+)?\.txt$", "", document.name)


def documents(folder: Path) -> dict[str, list[Path]]:
    """The training documents of one kind that are kept, by split."""
    paths = sorted(folder.glob("*.txt"))
    held_out = set(sorted({source(path) for path in paths})[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return {
        split: [path for path in paths if (source(path) in held_out) == (split == "validation")][::every]
        for split, every in KEPT.items()
    }


def main() -> None:
    """Copies the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=Path, required=True, help="folder that scripts/kinds_of_text.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"--output: {options.output} exists; give a new folder")
    missing = [kind for kind in KINDS if not (options.kinds / kind / "train").is_dir()]
    if missing:
        parser.error(f"--kinds: {options.kinds} has no training text of {', '.join(missing)}")
    for kind in KINDS:
        for split, paths in documents(options.kinds / kind / "train").items():
            folder = options.output / split
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.copyfile(path, folder / f"{kind}-{path.name}")
            print(f"{kind}: {len(paths)} documents for {split}, {sum(path.stat().st_size for path in paths):,} bytes")


if __name__ == "__main__":
    main()
