"""Processes that load: killed ones are named, and errors are what they were."""

import os
import signal

import pytest

from anyres.data.workers import Numbered, lost_worker, run_in_order


def killed(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_named():
    found = []
    with pytest.raises(ChildProcessError, match=r"\(pid \d+\) was killed by signal: Killed, .*fewer num_workers"):
        found += run_in_order(Numbered(killed), range(5), 1)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "a.pt"), MemoryError("no room for 9 bytes")])
def test_conditions_of_the_machine_travel_as_they_are(num_workers, error):
    def fail(number):
        raise error

    with pytest.raises(type(error)) as caught:
        list(run_in_order(Numbered(fail), range(2), num_workers))
    assert str(caught.value) == str(error)


def test_other_errors_are_none_of_it():
    assert lost_worker(RuntimeError("shapes differ")) is None and lost_worker(ValueError("DataLoader worker")) is None
