"""Scores as SCROLLS reports them, by libraries that are kept: torchmetrics and Google's `rouge_score`."""

import importlib.util
from collections.abc import Sequence
from statistics import fmean, geometric_mean

from ....model.errors_bipe import InputError
from ...common.messages import install_hint


_PACKAGES = {"f1": "torchmetrics", "exact_match": "torchmetrics", "rouge": "rouge_score"}
_ROUGE = ("rouge1", "rouge2", "rougeL")


def check_installed(metric: str) -> None:
    """Raises `ValueError` where the library of the metric is missing."""
    if importlib.util.find_spec(_PACKAGES[metric]) is None:
        raise InputError(
            f"scores need {_PACKAGES[metric]}, which is not installed (predictions alone,"
            f" --predict-only, do without); {install_hint('finetune')}"
        )


def score(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores in percent: the best over the references of each example, the mean over examples.

    They are those of SCROLLS (Shaham et al. 2022, arXiv 2201.03533).

    Args:
        metric: `f1`, of the words that prediction and reference share, and `exact_match`, both without regard to case,
            punctuation, articles and white space, as in SQuAD; `rouge` (F1 of unigrams, bigrams and the longest common
            subsequence, without stemming), for which each of the three takes the best reference by itself.
        predictions: a text for each example.
        references: the right answers of each example, one or more.

    Returns:
        The metric by its name; for `rouge`: `rouge1`, `rouge2`, `rougeL` and `rouge_geometric_mean`, the geometric
        mean of these three means, which is what SCROLLS averages over tasks.
    """
    if metric == "rouge":
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(_ROUGE)
        each = [scorer.score_multi(right, text) for text, right in zip(predictions, references, strict=True)]
        scores = {name: 100 * fmean(scores[name].fmeasure for scores in each) for name in _ROUGE}
        mean = geometric_mean(scores.values()) if all(scores.values()) else 0.0
        return scores | {"rouge_geometric_mean": mean}
    from torchmetrics.functional.text import squad

    scores = squad(
        [{"prediction_text": text, "id": str(at)} for at, text in enumerate(predictions)],
        [{"answers": {"text": list(right)}, "id": str(at)} for at, right in enumerate(references)],
    )
    return {metric: scores[metric].item()}
