"""Jobs in processes of their own: none of them outlives this one, and one that is killed is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

Job = TypeVar("Job")

_PAUSE = 0.5  # seconds between two looks at the progress

# "fork" would copy the locks of torch's threads in whatever state they are.
_CONTEXT = multiprocessing.get_context("spawn")


def run_side_by_side(
    function: Callable[[Job], Any],
    jobs: Sequence[Job],
    workers: int,
    *,
    name: Callable[[Job], str],
    follow: Callable[[Sequence[Job], int], object],
    remedy: str,
) -> list[Any]:
    """function(job) of each job, so many at a time, in the order of the jobs.

    A job is handed out whenever a process is free: what was not begun when one of them fails is never begun, and
    those that run then are waited for.

    Args:
        function: importable by its name, as are the results and the jobs.
        name: of a job, for messages.
        follow: is told about twice a second which jobs run, and how many are done.
        remedy: what to do after a process was killed; ends the message.

    Raises:
        ChildProcessError: a process was killed, or ended by itself; names its job. The others are ended.
        Exception: whatever `function` raised, with its traceback in the process as a note.
    """
    team = [_Worker(function) for _ in range(min(workers, len(jobs)))]
    waiting, idle = list(range(len(jobs)))[::-1], list(team)
    running: dict[Connection, tuple[_Worker, int]] = {}
    results: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, place = idle.pop(), waiting.pop()
                worker.begin(jobs[place])
                running[worker.pipe] = worker, place
            for pipe in connection.wait(list(running), timeout=_PAUSE):
                worker, place = running[pipe]  # type: ignore[index]
                try:
                    results[place] = worker.result()
                except EOFError:  # it has closed its end without an answer
                    for other in team:
                        other.process.terminate()
                    raise ChildProcessError(f"the process of {name(jobs[place])} {worker.end()}. {remedy}") from None
                del running[worker.pipe]
                idle.append(worker)
            follow([jobs[place] for _, place in running.values()], len(results))
    finally:
        for worker in team:
            worker.pipe.close()
        for worker in team:
            worker.process.join()
    return [results[place] for place in range(len(jobs))]


class _Worker:
    """A process that answers jobs one after the other until its pipe is closed."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(function, theirs))
        with _interrupts_wait():
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def begin(self, job: object) -> None:
        with suppress(BrokenPipeError):  # killed while it was idle, which `result` says
            self.pipe.send(job)

    def result(self) -> Any:
        """EOFError if the process ended without one."""
        try:
            error, result = self.pipe.recv()
        except ConnectionError as broken:
            raise EOFError from broken
        if error is not None:
            raise error
        return result

    def end(self) -> str:
        """How the process came to its end."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed (signal {-code}), perhaps for want of memory" if code < 0 else f"ended with code {code}"


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Holds back Ctrl-C, also in a process that is started in here: it gets to it in `_serve`, where that is foreseen,
    and not somewhere in the midst of its imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # with the first process multiprocessing would start it, and unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker. It ends without a word when there are no more jobs, or nobody who waits for an answer; and
    where all processes are stopped while this one has no job, which its parent says already."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `_interrupts_wait`
        while True:
            pipe.send_bytes(_packed(_answer(function, pipe.recv())))


def _answer(function: Callable[[Any], Any], job: object) -> tuple[BaseException | None, Any]:
    """What a job raises, or what it returns."""
    try:
        return None, function(job)
    except BaseException as error:  # also KeyboardInterrupt, which a run that was stopped raises after saving
        error.add_note("".join(traceback.format_exception(error)))
        return error, None


def _packed(answer: tuple[BaseException | None, Any]) -> bytes:
    """An answer as bytes that can be read again; in words where it cannot be handed over itself."""
    try:
        packed = bytes(ForkingPickler.dumps(answer))
        ForkingPickler.loads(packed)  # some errors can be written and not be read
        return packed
    except Exception as error:
        told = RuntimeError(f"{answer[0] or answer[1]!r} cannot be handed over: {error}")
        return bytes(ForkingPickler.dumps((told, None)))


def _end_with_parent() -> None:
    """A worker must not go on writing to a run that a new call may already have taken up."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
