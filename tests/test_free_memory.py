"""Memory that was freed goes back to the system."""

import sys

import numpy as np
import pytest

from anyres.free_memory import give_back_free_memory


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_what_is_freed_between_arrays_that_stay_is_returned():
    """Arrays small enough for the heap, every other one of which stays."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    arrays = [np.ones(12_000) for _ in range(600)]  # 96 kB each: below what glibc maps by itself
    kept, count = arrays[::2], len(arrays)
    before = resident()
    del arrays
    give_back_free_memory()
    assert len(kept) == count // 2
    assert before - resident() > 20e6  # of the 29 MB that were freed


def test_it_may_be_called_at_any_time():
    give_back_free_memory()
    give_back_free_memory()
