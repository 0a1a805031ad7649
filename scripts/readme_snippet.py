"""Runs the Python of the README and prints what it prints; the demo has made the model that it loads.

python scripts/readme_snippet.py > results/demo/generated.txt
"""

import re
from pathlib import Path


ROOT = Path(__file__).parents[1]


def main() -> None:
    """Runs the first block."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)[1]
    exec(compile(block, "README.md", "exec"), {})


if __name__ == "__main__":
    main()
