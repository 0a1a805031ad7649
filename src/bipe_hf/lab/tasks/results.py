"""A number that a task gave of a model."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task, for one model.

    Args:
        model: folder or name on the Hub, as it was given.
        name: a short one, for tables.
        encoding: what the field calls its positional encoding.
        train_length: in tokens; None where it is not known.
        request: name that was asked for.
        task: that the number belongs to, another one for the members of a group.
        metric: its name.
        filter: what the harness did to an answer before scoring it.
        value: of the metric.
        stderr: its standard error; None where the harness gives none.
        samples: documents scored; None where `task` is a group.
        num_fewshot: solved examples in front of a question; None where `task` is a group.
        max_length: tokens of context and continuation that the harness left to a request; None where nothing is cut.
        seconds: wall time of the request.
        model_fingerprint: that `Checkpoint.fingerprint` gives.
        part: which part of a task was measured, where it is measured in parts: a length and a depth, a number of
            operators.
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
