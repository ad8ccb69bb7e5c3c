"""Batches made ahead of the step that wants them: by a thread, or by processes that may die or stall.

Both say what is being read when nothing comes of it, so that a run on a broken disk or a hanging mount ends with the
name of the file instead of standing still.
"""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from phenaki_jax.errors import DataError, UserError
from phenaki_jax.input.schema import Batch

PATIENCE = 45.0  # seconds
STARTING = 120.0  # seconds more that a process may take to start
ENDING = 5.0  # seconds that a killed process may take to be gone
TEXT_BYTES = 1024
SLOTS = 2  # batches that a process has ready, or in the making
TRIES = 2  # how often a batch is begun before the run ends
ALIGNED = 64


class Watch:
    """What is being read, told by who reads and seen by who waits."""

    def __init__(self, text: Any = None, count: Any = None):
        self._text = text if text is not None else ctypes.create_string_buffer(TEXT_BYTES)
        self._count = count if count is not None else ctypes.c_uint64()
        self._seen, self._since = -1, time.monotonic()

    def __call__(self, text: str) -> None:
        """Told before each record is read."""
        data = text.encode("utf-8", "replace")[:TEXT_BYTES - 1]
        self._text.raw = data + b"\0" * (TEXT_BYTES - len(data))
        self._count.value += 1

    @property
    def text(self) -> str:
        return self._text.value.decode("utf-8", "replace") or "the first record"

    def stalled(self, patience: float) -> bool:
        """Whether nothing was told for so long; who has told nothing yet may still be starting."""
        now = self._count.value
        patience += 0 if now else STARTING
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since > patience

    def awaited(self) -> None:
        """Somebody begins to wait; time that nobody waited for does not count."""
        self._since = time.monotonic()


# ------------------------------------------------------------------------------------------------- a thread

def by_thread(batch: Callable[[int, Watch], Batch], start: int, prefetch: int = 2,
              patience: float = PATIENCE) -> Iterator[Batch]:
    """batch(start, watch), batch(start + 1, watch), ..., made ahead by a thread that ends with the iterator.

    Raises: DataError where a record takes longer than `patience` seconds.
    """
    ready: queue.Queue = queue.Queue(maxsize=prefetch)
    stopped, watch = threading.Event(), Watch()

    def hand(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in itertools.count(start):
                if not hand(batch(step, watch)):
                    return
        except BaseException as error:  # noqa: BLE001  raised again where the batch is awaited
            hand(error)

    threading.Thread(target=work, name="loader", daemon=True).start()
    try:
        while True:
            watch.awaited()
            while True:
                try:
                    item = ready.get(timeout=min(1.0, patience))
                    break
                except queue.Empty:
                    if watch.stalled(patience):
                        raise DataError(f"reading {watch.text} has stalled for {patience:g} seconds") from None
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


# ------------------------------------------------------------------------------------------------- processes

def by_processes(loader: Any, start: int, workers: int, patience: float = PATIENCE,
                 say: Callable[[str], None] = print) -> Iterator[Batch]:
    """loader.batch(start), loader.batch(start + 1), ..., each made by one of `workers` processes.

    A process that dies, or stalls for longer than `patience` seconds, is replaced once for a batch.

    Args:
      loader: has `batch(step, watch=)`, `nbytes`, what a batch takes at most, and `bad`, a `BadRecords`; is pickled.
      say: told of every process that is replaced.

    Raises: DataError where the same batch ends or stalls its process again; what `batch` raises.
    """
    hands: list[_Worker] = []
    try:
        for index in range(workers):
            hands.append(_Worker(loader, start + index, workers))
        for step in itertools.count(start):
            index, tries = (step - start) % workers, 1
            while True:
                batch, why = hands[index].take(patience)
                if batch is not None:
                    loader.bad.merge(hands[index].bad)
                    break
                hands[index].stop()
                if tries == TRIES:
                    raise DataError(f"{why}, {tries} times")
                say(f"{why}; its process is replaced")
                hands[index], tries = _Worker(loader, step, workers), tries + 1
            yield batch
    finally:
        for hand in hands:
            hand.stop()


class _Worker:
    """A process that makes every `stride`-th batch from `first` on."""

    def __init__(self, loader: Any, first: int, stride: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._memory = [_memory(max(1, loader.nbytes)) for _ in range(SLOTS)]
        text, count = context.RawArray("c", TEXT_BYTES), context.RawValue("Q", 0)
        self._watch, self.bad = Watch(text, count), None
        self._process = context.Process(target=_work, daemon=True, args=(
            theirs, loader, first, stride, [memory.name for memory in self._memory], text, count))
        self._process.start()
        theirs.close()

    def take(self, patience: float) -> tuple[Batch | None, str]:
        """The next batch, or why there is none. Raises: what making it raised."""
        self._watch.awaited()
        try:
            while not self._pipe.poll(0.5):
                if self._watch.stalled(patience):
                    return None, f"reading {self._watch.text} has stalled for {patience:g} seconds"
            slot, layout, self.bad = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return None, f"who read {self._watch.text} has died (exit code {self._process.exitcode})"
        if isinstance(layout, BaseException):
            raise layout
        batch: Batch = {}
        for stream, name, dtype, shape, begin in layout:
            view = np.ndarray(shape, dtype, self._memory[slot].buf, begin)
            batch.setdefault(stream, {})[name] = view.copy()
        with contextlib.suppress(OSError):  # it may have died since; the next batch will tell
            self._pipe.send(slot)
        return batch, ""

    def stop(self) -> None:
        self._process.kill()
        self._process.join(ENDING)  # one that waits for a dead disk cannot even be killed; it is left behind
        self._pipe.close()
        while self._memory:
            memory = self._memory.pop()
            memory.close()
            memory.unlink()


def _memory(size: int) -> shared_memory.SharedMemory:
    """Shared memory that is really there. Raises: UserError where there is too little of it, as in many containers."""
    memory = shared_memory.SharedMemory(create=True, size=size)
    if hasattr(os, "posix_fallocate") and hasattr(memory, "_fd"):
        try:
            os.posix_fallocate(memory._fd, 0, size)
        except OSError as error:
            memory.close()
            memory.unlink()
            raise UserError(f"data.workers want {size / 1e6:.0f} MB of shared memory for each of {SLOTS} batches, and "
                            f"there is less ({error.strerror}); give the container more (docker --shm-size), or "
                            "data.workers=0") from None
    return memory


def _work(pipe: Any, loader: Any, first: int, stride: int, names: list[str], text: Any, count: Any) -> None:
    """A process: batches go to shared memory, where in it they lie through the pipe; freed slots come back."""
    for number in (signal.SIGINT, signal.SIGTERM):  # who awaits the batches stops for them, saves, and kills these
        signal.signal(number, signal.SIG_IGN)
    memory, watch = [shared_memory.SharedMemory(name) for name in names], Watch(text, count)
    loader.bad.taken()  # what the other process had noted before
    free = list(range(SLOTS))
    try:
        for step in itertools.count(first, stride):
            while not free or pipe.poll():
                free.append(pipe.recv())
            slot = free.pop()
            try:
                batch, layout, begin = loader.batch(step, watch=watch), [], 0
                for stream, arrays in batch.items():
                    for name, array in arrays.items():
                        np.ndarray(array.shape, array.dtype, memory[slot].buf, begin)[...] = array
                        layout.append((stream, name, array.dtype, array.shape, begin))
                        begin += -(-array.nbytes // ALIGNED) * ALIGNED
            except Exception as error:  # noqa: BLE001  raised again where the batch is awaited
                layout = error
            pipe.send((slot, layout, loader.bad.taken()))
    except (EOFError, BrokenPipeError):
        return  # nobody wants any more

