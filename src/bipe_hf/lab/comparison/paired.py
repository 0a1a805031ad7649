"""How far apart two entries are: ratios of perplexities with confidence intervals, by a bootstrap over units.

Each resample draws as many units of the text as there are, with replacement, the same for every entry, seed and
length: the difficulty of a unit, which entries share, drops out of the ratio of two. Where an entry has several seeds,
a resample draws as many of these, with replacement, too, and entries with the same seeds draw the same ones, since
models of a seed began with the same weights and saw the same blocks. With one seed the interval says nothing of how
another seed would do; with a few, resampling them understates it: the variance of a mean of n by the factor
(n - 1) / n.

The intervals are between percentiles of the resamples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13).
"""

from math import exp, inf
from typing import NamedTuple

import numpy as np

from .losses import UnitLosses


RESAMPLES = 10_000
CONFIDENCE = 0.95
# With fewer units there is no interval: percentiles of their resamples would be too narrow.
FEWEST_UNITS = 10
# Numbers of draws that are held at once.
DRAWS_AT_ONCE = 2**23


class Ratio(NamedTuple):
    """The perplexity of an entry divided by that of another, and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_difference(self) -> bool:
        """Whether the interval excludes 1: only then the two are called different."""
        return not self.low <= 1 <= self.high


class PairedRatios:
    """Ratios of the perplexities of entries on one text.

    The perplexity of an entry is `exp` of its mean loss in nats per token scored, where each token weighs the same;
    the mean over its seeds is taken of these losses.
    """

    def __init__(self, losses: UnitLosses):
        self.units = len(next(iter(losses.tokens.values()), ()))
        keys = list(losses.nats)
        tokens = {length: counts.sum() for length, counts in losses.tokens.items()}
        self._means = {key: losses.nats[key].sum() / tokens[key[2]] for key in keys}
        self._resampled = _resample(losses) if self.units >= FEWEST_UNITS else {}
        self._seeds = {
            (entry, length): sorted(seed for name, seed, at in keys if (name, at) == (entry, length))
            for entry, _, length in keys
        }

    def loss(self, entry: str, length: int) -> float:
        """The mean loss in nats per token, over the seeds that are there."""
        return float(np.mean([self._means[entry, seed, length] for seed in self._seeds[entry, length]]))

    def ratio(self, entry: str, other: str, length: int) -> Ratio:
        """The perplexity of `entry` divided by that of `other`; the interval is infinite below `FEWEST_UNITS`."""
        value = exp(self.loss(entry, length) - self.loss(other, length))
        if not self._resampled:
            return Ratio(value, 0.0, inf)
        differences = self._resampled_loss(entry, length) - self._resampled_loss(other, length)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.exp(np.quantile(differences, [tail, 1 - tail]))
        return Ratio(value, float(low), float(high))

    def _resampled_loss(self, entry: str, length: int) -> np.ndarray:
        """The mean loss in each resample of units and seeds (float64, `(resamples,)`)."""
        seeds = self._seeds[entry, length]
        losses = np.stack([self._resampled[entry, seed, length] for seed in seeds], axis=1)
        if len(seeds) == 1:
            return losses[:, 0]
        return np.take_along_axis(losses, _drawn(seeds), axis=1).mean(axis=1)


def _resample(losses: UnitLosses) -> dict[tuple[str, int, int], np.ndarray]:
    """The mean loss of each entry, seed and length in each resample of units (float64, `(resamples,)`)."""
    lengths, keys = list(losses.tokens), list(losses.nats)
    columns = np.stack([*losses.tokens.values(), *losses.nats.values()], axis=1).astype(float)
    units = len(columns)
    draw = np.random.default_rng(0)
    some = max(1, DRAWS_AT_ONCE // units)
    sums = []
    for start in range(0, RESAMPLES, some):
        counts = draw.multinomial(units, np.full(units, 1 / units), size=min(some, RESAMPLES - start))
        sums.append(counts.astype(float) @ columns)
    sums = np.concatenate(sums)
    tokens = dict(zip(lengths, sums.T, strict=False))
    return {key: nats / tokens[key[2]] for key, nats in zip(keys, sums.T[len(lengths) :], strict=True)}


def _drawn(seeds: list[int]) -> np.ndarray:
    """The indices of the seeds in each resample (long, `(resamples, seeds)`), the same for the same seeds."""
    return np.random.default_rng(seeds).integers(0, len(seeds), (RESAMPLES, len(seeds)))
