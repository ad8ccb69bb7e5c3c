"""Memory that is kept between steps: what XLA gives back and asks for anew costs a CPU a tenth to a fifth of a step."""

import contextlib
import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator

GB = 1 << 30
# No mmap below 4 GB, nothing trimmed below 8, huge pages: the defaults hand XLA's temporaries back to the system at
# every step, and 60,000 page faults bring them again (docs/results/quickstart.md).
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in (
    ("hugetlb", 1), ("top_pad", GB // 4), ("mmap_threshold", 4 * GB), ("trim_threshold", 8 * GB)))


@contextlib.contextmanager
def unhurried_garbage() -> Iterator[Callable[[], int]]:
    """Python's collector runs only when what this gives is called, and passes over all that is there already: else it
    stops a process at any moment, and with it all that wait for its part of a step."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def restart_keeping_memory() -> None:
    """Runs this process's command line again, in its place, with $GLIBC_TUNABLES; returns where that is not needed.

    Those are read before a program begins, so a running one cannot set them. Nothing happens where the variable is set
    already, be it to nothing, or where glibc is not the C library.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
