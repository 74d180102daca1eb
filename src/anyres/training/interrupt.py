"""Ctrl-C and SIGTERM as a request that the training loop reads between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Inside `with StopRequest() as stop:` the first signal only sets `stop.is_set`; the second interrupts at once.

    A step is thus never torn apart: weights, optimiser and average always belong to the same step when they are
    saved. Worker processes inherit the handler, so a Ctrl-C in the terminal does not kill them under the loop.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._pid = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker: Ctrl-C is the parent's matter, being terminated is not
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
        # Not print: a handler may run in the middle of another write to the same stream.
        os.write(2, b"\nStopping after this step and saving; once more to stop at once, without saving.\n")
