"""Time to import this package beside the time to import the Llama of transformers, with the ratio.

    python scripts/import_time.py --output results/import_time.json

Processor time of fresh processes, in turns: what else the machine does hardly counts. The ratio is the median over
rounds of the ratio within a round; the limit that we hold ourselves to is 1.10.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tqdm import tqdm


IMPORTS = {"transformers": "from transformers import LlamaForCausalLM", "bipe_hf": "import bipe_hf"}


def processor_seconds(code: str) -> float:
    """Of a new Python process that runs `code`, user and system time together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="each import once in every round (default: 15)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: at least 1 is needed")
    for code in IMPORTS.values():  # fills the caches of files and byte code
        processor_seconds(code)
    seconds = {name: [] for name in IMPORTS}
    for number in tqdm(range(arguments.rounds), unit="round"):
        for name in sorted(IMPORTS, reverse=bool(number % 2)):
            seconds[name].append(processor_seconds(IMPORTS[name]))
    ratio = median(ours / theirs for theirs, ours in zip(*seconds.values(), strict=True))
    versions = {"python": platform.python_version()} | {n: version(n) for n in ("bipe-hf", "torch", "transformers")}
    result = {"ratio": ratio, "medians": {name: median(each) for name, each in seconds.items()}}
    content = {**result, "seconds": seconds, "imports": IMPORTS, "versions": versions}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"bipe_hf / transformers: {ratio:.3f} ({', '.join(f'{n} {s:.2f} s' for n, s in result['medians'].items())})")


if __name__ == "__main__":
    main()
