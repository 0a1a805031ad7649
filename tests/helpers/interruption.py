"""Ctrl-C in the middle of a training."""

import pytest

from bipe_hf.lab.common.session import CurrentIntervals


def interrupt(train, settings, step):
    """Runs `train` until Ctrl-C at the end of `step`, before anything is saved there."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurrentIntervals, "on_step_end", on_step_end, raising=False)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
