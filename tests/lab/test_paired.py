"""Ratios of perplexities and their intervals: cases worked out by hand, a plain loop, known distributions."""

import random
from math import exp, inf, log

import numpy as np
import pytest

import bipe_hf.lab.comparison.paired as paired
from bipe_hf.lab.comparison.losses import UnitLosses
from bipe_hf.lab.comparison.paired import PairedRatios


def ratios(tokens, nats) -> PairedRatios:
    """Of entries and seeds at one length, 16: `nats` is by entry and seed."""
    by_key = {(entry, seed, 16): np.array(sums, dtype=float) for (entry, seed), sums in nats.items()}
    return PairedRatios(UnitLosses(4096, {16: np.array(tokens)}, by_key))


def test_every_token_weighs_the_same():
    found = ratios([1, 3], {("A", 1): [2, 3], ("B", 1): [1, 3]})
    assert found.loss("A", 16) == 5 / 4  # not the mean of 2 and 1
    assert found.ratio("A", "B", 16).value == pytest.approx(exp(1 / 4))


def test_few_units_make_no_difference():
    """Those of one unit would all be the same, and exclude 1."""
    found = ratios([10] * 9, {("A", 1): [20] * 9, ("B", 1): [10] * 9}).ratio("A", "B", 16)
    assert found == (pytest.approx(exp(1)), 0, inf)
    assert not found.is_difference
    assert ratios([10] * 10, {("A", 1): [20] * 10, ("B", 1): [10] * 10}).ratio("A", "B", 16).is_difference


def test_how_hard_a_unit_is_drops_out():
    """A loses a tenth of a nat more on each token, whatever else the units are."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(1, 4096, 40)
    hard = tokens * draw.lognormal(0, 2, 40)
    found = ratios(tokens, {("A", 1): hard + tokens / 10, ("B", 1): hard}).ratio("A", "B", 16)
    assert found == pytest.approx([exp(0.1)] * 3)
    assert found.is_difference


def test_interval_is_that_of_the_binomial_distribution():
    """Of ten units of a token, A is a nat behind on five. A resample has X of these, binomial with n 10 and p 1/2: 2
    and 8 are the percentiles 2.5 and 97.5 (P(X <= 1) = 11/1024, P(X <= 2) = 56/1024)."""
    found = ratios([1] * 10, {("A", 1): [1, 0] * 5, ("B", 1): [0] * 10}).ratio("A", "B", 16)
    assert found == pytest.approx([exp(0.5), exp(0.2), exp(0.8)])
    assert found.is_difference
    back = ratios([1] * 10, {("A", 1): [1, 0] * 5, ("B", 1): [0] * 10}).ratio("B", "A", 16)
    assert back == pytest.approx([exp(-0.5), exp(-0.8), exp(-0.2)])
    even = ratios([1] * 10, {("A", 1): [1, 0] * 5, ("B", 1): [0, 1] * 5}).ratio("A", "B", 16)
    assert even.value == 1
    assert not even.is_difference


def test_interval_is_that_of_a_plain_loop():
    """Units of several sizes: numerator and denominator of the mean are resampled together."""
    draw = random.Random(0)
    tokens = [draw.randrange(1, 400) for _ in range(15)]
    a, b = ([n * (2 + draw.gauss(0, 0.5)) for n in tokens] for _ in range(2))
    differences = []
    for _ in range(20_000):
        chosen = draw.choices(range(15), k=15)
        scored = sum(tokens[at] for at in chosen)
        differences.append(sum(a[at] for at in chosen) / scored - sum(b[at] for at in chosen) / scored)
    differences.sort()
    low, high = differences[500], differences[-501]
    found = ratios(tokens, {("A", 1): a, ("B", 1): b}).ratio("A", "B", 16)
    assert log(found.low) == pytest.approx(low, abs=0.03 * (high - low))
    assert log(found.high) == pytest.approx(high, abs=0.03 * (high - low))


def test_one_chunk_of_draws_or_many_give_the_same(monkeypatch):
    draw = np.random.default_rng(2)
    nats = {(entry, 1): draw.lognormal(size=30) for entry in "AB"}
    whole = ratios([1] * 30, nats).ratio("A", "B", 16)
    monkeypatch.setattr(paired, "DRAWS_AT_ONCE", 30 * 7)
    assert ratios([1] * 30, nats).ratio("A", "B", 16) == pytest.approx(whole, rel=1e-12)


def test_entries_with_the_same_seeds_draw_the_same():
    """Each seed is otherwise good, and A a tenth of a nat behind with each."""
    same = {("A", seed): [seed + 0.1] * 10 for seed in (1, 2, 3)} | {("B", seed): [seed] * 10 for seed in (1, 2, 3)}
    assert ratios([1] * 10, same).ratio("A", "B", 16) == pytest.approx([exp(0.1)] * 3)
    other = {("A", seed): [seed + 0.1] * 10 for seed in (1, 2, 3)} | {("B", 3 + at): [at] * 10 for at in (1, 2, 3)}
    found = ratios([1] * 10, other).ratio("A", "B", 16)
    assert found.value == pytest.approx(exp(0.1))
    assert not found.is_difference


def test_several_seeds_are_resampled_against_one():
    """A mean of two draws from 0 and 1 is 0, 1/2, 1/2 or 1, equally often; B has 1/2."""
    nats = {("A", 1): [0] * 10, ("A", 2): [1] * 10, ("B", 1): [0.5] * 10}
    found = ratios([1] * 10, nats).ratio("A", "B", 16)
    assert found == pytest.approx([1, exp(-0.5), exp(0.5)])


def test_each_length_has_its_own_tokens():
    tokens = {16: np.full(10, 2), 64: np.full(10, 4)}
    sums = {("A", 1, 16): 4, ("A", 1, 64): 4, ("B", 1, 16): 2, ("B", 1, 64): 6}
    found = PairedRatios(UnitLosses(4096, tokens, {key: np.full(10, each) for key, each in sums.items()}))
    assert found.ratio("A", "B", 16) == pytest.approx([exp(1)] * 3)
    assert found.ratio("A", "B", 64) == pytest.approx([exp(-0.5)] * 3)


def test_nineteen_intervals_of_twenty_hold_the_true_ratio(monkeypatch):
    """Documents of many sizes from a distribution in which A is 3 % behind, and one in which it is not."""
    monkeypatch.setattr(paired, "RESAMPLES", 500)
    draw = np.random.default_rng(3)
    trials, held, called = 400, 0, 0
    for _ in range(trials):
        tokens = draw.integers(200, 4096, 60)
        hard = draw.normal(3, 0.5, 60)
        a, b, c = (tokens * (hard + behind + draw.normal(0, 0.1, 60)) for behind in (log(1.03), 0, 0))
        found = ratios(tokens, {("A", 1): a, ("B", 1): b, ("C", 1): c})
        held += found.ratio("A", "B", 16).low <= 1.03 <= found.ratio("A", "B", 16).high
        called += found.ratio("C", "B", 16).is_difference
    assert 0.91 < held / trials < 0.98  # a little below 0.95, as percentiles of 60 units are
    assert 0.02 < called / trials < 0.09
