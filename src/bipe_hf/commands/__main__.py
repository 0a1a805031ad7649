"""`python -m bipe_hf.commands` is `bipe-hf`, for launchers that take a module, such as `accelerate launch -m`."""

import sys

from . import main


sys.exit(main())
