"""Latency: how many calls are made, and what is made of their times."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from anyres.costs import timing
from anyres.costs.timing import latency, percentile


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.integers(0, 100))
def test_percentile_is_numpys(values, percent):
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


class Clock:
    """A clock on which the n-th call of the function takes `seconds[n]`."""

    def __init__(self, seconds):
        self.now, self.seconds, self.calls = 0.0, seconds, 0

    def perf_counter(self):
        return self.now

    def work(self):
        self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


@pytest.fixture
def clock(monkeypatch):
    def make(*seconds):
        made = Clock(seconds)
        monkeypatch.setattr(timing, "time", made)
        return made

    return make


def test_warm_up_is_not_counted(clock):
    made = clock(9.0, 9.0, 0.001, 0.002, 0.003)
    assert latency(made.work, runs=3, warmup=2, budget_seconds=100) == pytest.approx((2.0, 2.9, 3))
    assert made.calls == 5


def test_budget_ends_it_early_but_one_run_is_timed(clock):
    made = clock(5.0)
    assert latency(made.work, runs=50, warmup=3, budget_seconds=1).runs == 1
    assert made.calls == 2
    made = clock(0.25)
    assert latency(made.work, runs=50, warmup=1, budget_seconds=1).runs == 3


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"budget_seconds": 0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="allowed"):
        latency(lambda: None, **wrong)
