"""Moving the positional encoding while a model trains: from that of the weights it starts with to another."""

import math
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from ...model.errors_bipe import InputError, did_you_mean


MOVING_FIELDS = ("token_share", "hybrid_alibi_scale")
"""Fields that no weight depends on; [`BipeModelMixin.move_fields`] sets them."""


class EncodingSchedule(TrainerCallback):
    """Moves fields of the encoding in a straight line over the first steps, for `Trainer` and what is made of it.

    What a step uses follows from its number alone, so there is no state to restore when training resumes.

    ```python
    trainer.add_callback(EncodingSchedule(model, {"token_share": (1.0, 0.0)}))
    ```

    Args:
        model: a BiPE model, with or without a head. Under an adapter of PEFT its own model.
        schedule: the first and the last value of each field.
        steps: over which they move; by default the first half of the training.

    Raises:
        ValueError: a field that there is not, values that are none of it, or that cannot move in this model.
    """

    def __init__(
        self, model: PreTrainedModel, schedule: dict[str, tuple[float, float]], steps: int | None = None
    ) -> None:
        check_schedule(schedule)
        self.model = model.base_model
        self.schedule = schedule
        self.steps = steps
        present = {name: getattr(model.config, name) for name in schedule}
        for progress in (0.0, 1.0):  # refuses what cannot be
            self.model.move_fields(**values_at(schedule, progress))
        self.model.move_fields(**present)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.move(state.global_step, state.max_steps)

    def move(self, step: int, max_steps: int) -> None:
        """Moves to what step number `step`, the first is 0, of `max_steps` uses: for a loop without a Trainer."""
        steps = self.steps or math.ceil(max_steps / 2)
        self.model.move_fields(**values_at(self.schedule, (step + 1) / steps))


def values_at(schedule: dict[str, tuple[float, float]], progress: float) -> dict[str, float]:
    """The values after this share of the schedule; the last ones from 1 on."""
    progress = min(progress, 1.0)
    return {name: first + (last - first) * progress for name, (first, last) in schedule.items()}


def first_values(schedule: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The values before the first step."""
    return values_at(schedule, 0.0)


def check_schedule(schedule: Any) -> None:
    """Refuses what is no mapping from fields to two numbers.

    Raises:
        ValueError: names what is wrong.
    """
    if not isinstance(schedule, dict) or not schedule:
        raise InputError(
            f'encoding_schedule: {schedule!r} given, a mapping such as {{"token_share": [1.0, 0.0]}} is accepted'
            " (docs/from_stock.md)"
        )
    for name, values in schedule.items():
        if name not in MOVING_FIELDS:
            hint = did_you_mean(str(name), MOVING_FIELDS) or f", among {', '.join(MOVING_FIELDS)}"
            raise InputError(f"encoding_schedule: {name!r} is no field that moves{hint}")
        is_pair = isinstance(values, list | tuple) and len(values) == 2
        if not is_pair or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise InputError(f"encoding_schedule: {name} has {values!r}, its first and its last value are needed")
