"""Names, ids and weights of labels."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from datasets import ClassLabel, Value
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ...model.errors_bipe import InputError, did_you_mean


class Labels(NamedTuple):
    """The labels of a data set: a value `v` of a column has the id `ids[v]` and the name `names[ids[v]]`."""

    names: list[str]
    ids: dict[Any, int]


def find_labels(column: str, feature: Any, values: Iterable[Any]) -> Labels:
    """The labels of a column of the type `feature`: its own names where it has them, or else its `values`, sorted.

    Raises:
        ValueError: no labels (fractions, lists, unlabelled rows), or fewer than two.
    """
    if isinstance(feature, ClassLabel):
        values = set(values)
        labels = Labels(list(feature.names), {index: index for index in range(len(feature.names))})
        if not values <= labels.ids.keys():
            raise InputError(f"{column}: the data holds {min(values - labels.ids.keys())}, which stands for no label")
    elif isinstance(feature, Value) and feature.dtype.startswith(("string", "large_string", "int", "uint", "bool")):
        found = sorted(set(values))
        labels = Labels([str(value) for value in found], {value: index for index, value in enumerate(found)})
    else:
        raise InputError(f"{column}: labels are strings or whole numbers, this column holds {feature}")
    if len(labels.names) < 2:
        raise InputError(f"{column}: at least 2 labels are needed, the data has {labels.names}")
    return labels


def weigh_labels(
    class_weights: str | Mapping[Any, float] | None, labels: Labels, counts: Counter
) -> torch.Tensor | None:
    """Weight of each label by its id, in float32 of shape `(labels,)`.

    Args:
        class_weights: `"balanced"` (total / (labels * count), as in scikit-learn; 1 where a label never occurs), a
            mapping from names to weights, or `None`.
        labels: of the data.
        counts: how often each id occurs in what is trained on.

    Raises:
        ValueError: a name that is no label, or a weight that is no finite number of at least 0.
    """
    if class_weights is None:
        return None
    if class_weights == "balanced":
        total = counts.total() / len(labels.names)
        return torch.tensor([total / counts[index] if counts[index] else 1.0 for index in range(len(labels.names))])
    weights = torch.ones(len(labels.names))
    for name, weight in class_weights.items():
        if str(name) not in labels.names:
            raise InputError(f"class_weights: {name!r} is no label of the data{did_you_mean(str(name), labels.names)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"class_weights: {weight!r} given for {name}, a finite number of at least 0 is needed")
        weights[labels.names.index(str(name))] = weight
    return weights


def classification_loss(weights: torch.Tensor | None) -> Callable:
    """Cross entropy for `Trainer(compute_loss_func=...)`: the weighted sum over the labels of a batch, divided by the
    number of all labels between two optimizer steps, or of those of the batch where it is not given.

    So a label weighs the same in every batch. The weighted mean of `torch` divides by the weights of the batch at
    hand, which cancel where all its labels are equal. The classifiers of transformers give the mean of each batch,
    whose gradients would add up over accumulated batches.
    """

    def loss(
        outputs: ModelOutput, labels: torch.LongTensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        total = label_losses(outputs.logits, labels, weights).sum()
        return total / ((labels != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    return loss


def label_losses(logits: torch.Tensor, labels: torch.LongTensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Weighted cross entropy of each label.

    Args:
        logits: of the shape of `labels` and the number of labels.
        labels: ids, -100 where there is none.
        weights: of each label, or `None` for 1.

    Returns:
        float32 of the shape of `labels`, 0 where the label is -100.
    """
    weights = None if weights is None else weights.to(logits.device)
    losses = F.cross_entropy(
        logits.flatten(end_dim=-2).float(), labels.flatten(), weight=weights, reduction="none", ignore_index=-100
    )
    return losses.view_as(labels)
