"""Where the repository is."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
GOLDEN_RELATIVES = ROOT / "tests" / "golden_relatives"
HELPERS = ROOT / "tests" / "helpers"
