"""How a run is asked to end: by a signal, to any of its processes."""

import signal
import threading

import jax
import numpy as np

EVERY = 10  # steps between two agreements of several processes


class Stop:
    """SIGTERM and the first Ctrl-C ask the loop to save and end; a second Ctrl-C ends at once.

    Attributes: signal: the one that asked, in this process; None where none did.
    """

    def __enter__(self):
        self._asked, self._previous, self.signal = False, {}, None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number, frame):
        self._asked, self.signal = True, number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def ask(self) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; with several processes all have to agree, so they ask each other."""
        if jax.process_count() == 1:
            return self._asked
        if step % EVERY:
            return False
        from jax.experimental import multihost_utils

        if not multihost_utils.process_allgather(np.asarray(self._asked)).any():
            return False
        self.signal = self.signal or signal.SIGTERM  # another process's
        return True

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
