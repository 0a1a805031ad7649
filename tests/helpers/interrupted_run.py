"""`bipe-hf pretrain` in every process of a launch, interrupted in step 3 and given again, which resumes it.

accelerate launch --config_file FILE --num_processes 2 tests/helpers/interrupted_run.py CONFIG.yaml --key value ...
"""

import sys

from sharding_on_cpu import shard_on_cpu

from bipe_hf.commands import main
from bipe_hf.lab.common.session import CurrentIntervals


def interrupt(self, args, state, control, **kwargs):
    if state.global_step == 3:
        del CurrentIntervals.on_step_end
        raise KeyboardInterrupt


if __name__ == "__main__":
    shard_on_cpu()
    CurrentIntervals.on_step_end = interrupt
    status = main(["pretrain", *sys.argv[1:]])
    sys.exit(main(["pretrain", *sys.argv[1:]]) if status == 130 else status)
