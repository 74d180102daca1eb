"""Jobs in processes: results in order, errors and killed processes named, none left behind.

The jobs are expressions, since processes that start anew import the function by its name, which `eval` has everywhere.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anyres.processes import run_side_by_side

PID = "__import__('os').getpid()"
SLEEP = "__import__('time').sleep(600)"


def run(jobs, workers, follow=lambda running, done: None):
    return run_side_by_side(eval, jobs, workers, name=lambda job: f"<{job}>", follow=follow, remedy="Try again.")


def test_results_come_in_the_order_of_the_jobs_from_processes_that_are_used_again():
    seen = []
    found = run(["1 + 1", PID, PID, PID], 2, lambda running, done: seen.append((len(running), done)))
    assert found[0] == 2 and len(set(found[1:])) <= 2 and os.getpid() not in found
    assert seen[-1] == (0, 4) and max(number for number, _ in seen) <= 2


def test_an_error_is_raised_as_it_is_with_where_it_came_from():
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        run(["1 / 0", "2"], 1)
    assert "processes.py" in "".join(caught.value.__notes__)


def test_what_cannot_be_handed_over_is_told_in_words():
    with pytest.raises(RuntimeError, match="lambda.*cannot be handed over"):
        run(["lambda: 1"], 1)


def test_a_killed_process_is_named_and_the_others_are_ended():
    killed = "__import__('os').kill(__import__('os').getpid(), 9)"
    start = time.monotonic()
    with pytest.raises(ChildProcessError, match=r"the process of <.*kill.*> was killed \(signal 9\), .*\. Try again\."):
        run([SLEEP, killed], 2)
    assert time.monotonic() - start < 60
    with pytest.raises(ChildProcessError, match=r"the process of <.*> ended with code 3\. Try again\."):
        run(["__import__('os')._exit(3)"], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_no_process_outlives_the_one_that_started_it():
    show = f"__import__('os').write(1, b'%d\\n' % {PID})"
    code = (
        "from anyres.processes import run_side_by_side as run\n"
        f"run(eval, [{show!r}, {SLEEP!r}], 1, name=str, follow=lambda running, done: None, remedy='')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups")
def test_all_end_when_all_are_interrupted():
    """As Ctrl-C in a terminal does it."""
    show = f"__import__('os').write(1, b'%d\\n' % {PID})"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell began this
        "from anyres.processes import run_side_by_side as run\n"
        f"run(eval, [{show!r}, {SLEEP!r}], 1, name=str, follow=lambda running, done: None, remedy='')\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        parent.stdout.readline()
        time.sleep(0.5)  # the second job has begun
        os.killpg(parent.pid, signal.SIGINT)
        said = parent.stderr.read().decode()
        assert parent.wait(timeout=60) != 0
    assert said.count("Traceback") == 1 and "KeyboardInterrupt" in said  # the parent's alone
