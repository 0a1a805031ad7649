"""Text to choose learning rates on, of which the map of kinds measures nothing: a part of its training texts.

    python scripts/kinds_learning_rate_text.py --kinds runs/kinds_of_text --output runs/kinds_of_text/learning_rate

Every eighth training document of tables, JSON lines, logs, novels and Python sources; one in ten is held out.
"""

import argparse
import shutil
from pathlib import Path


KINDS = ("tables", "json_lines", "logs_seen", "novels", "python")
EVERY, HELD_OUT_EVERY = 8, 10


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
    documents = [
        (kind, path) for kind in KINDS for path in sorted((options.kinds / kind / "train").glob("*.txt"))[::EVERY]
    ]
    for at, (kind, path) in enumerate(documents):
        split = "validation" if at % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        target = options.output / split / f"{kind}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    print(f"{len(documents)} documents in {options.output}")


if __name__ == "__main__":
    main()
