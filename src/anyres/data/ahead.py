"""Reading ahead of computing."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 2, threads: int = 1
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with what `read` gives of it, in order; up to `depth` of them are read in other threads meanwhile.

    An error of `read` is raised in its place. Close the generator if it is not run to its end.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > depth:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
