"""A number that a task gave of a model."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task, for one model.

    `request` is the name that was asked for, `task` the task that the number belongs to: they differ for the members
    of a group. `filter` is what the harness did to an answer before scoring it. `stderr` is None where the harness
    gives none, `samples` (documents scored) and `num_fewshot` where `task` is a group. `max_length` is the number of
    tokens of context and continuation that the harness left to a request, None where nothing is cut. `seconds` is wall
    time of the request. `part` says which part of a task was measured, where it is measured in parts: a length and a
    depth, a number of operators.
    """

    model: str
    name: str
    encoding: str
    train_length: int | None
    request: str
    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    samples: int | None
    num_fewshot: int | None
    max_length: int | None
    seconds: float
    model_fingerprint: str
    part: dict[str, float] = field(default_factory=dict)
