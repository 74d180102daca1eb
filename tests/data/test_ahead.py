"""Reading ahead keeps the order, raises an error in its place, and stops when nobody listens any more."""

import threading

import pytest

from anyres.data.ahead import read_ahead


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_in_order(depth, threads):
    found = list(read_ahead(lambda n: n * n, range(20), depth=depth, threads=threads))
    assert found == [(n, n * n) for n in range(20)]


def test_reads_while_the_caller_computes():
    second_was_read = threading.Event()

    def read(item):
        if item == 1:
            second_was_read.set()
        return item

    for item, _ in read_ahead(read, range(4)):
        if item == 0:
            assert second_was_read.wait(10)


def test_an_error_comes_in_its_place():
    def read(item):
        if item == 2:
            raise OSError("broken")
        return item

    seen = []
    with pytest.raises(OSError, match="broken"):
        for item, _ in read_ahead(read, range(5)):
            seen.append(item)
    assert seen == [0, 1]


def test_no_more_is_read_after_closing():
    read = []
    found = read_ahead(lambda n: read.append(n), range(100), depth=2)
    next(found)
    found.close()
    assert len(read) <= 4
