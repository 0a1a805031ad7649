"""`python -m bipe_hf` is `bipe-hf`."""

import sys

from .commands import main


sys.exit(main())
