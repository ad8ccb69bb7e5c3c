"""The process that starts itself again so that its memory is kept."""

import gc
import os
import platform
import subprocess
import sys
import weakref

import pytest

from phenaki_jax import memory

PROGRAM = """
import os, sys
from phenaki_jax import memory
print(os.getpid(), flush=True)
memory.restart_keeping_memory()
print(os.environ.get("GLIBC_TUNABLES", ""), sys.executable, *sys.argv[1:])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose tunables these are")
def test_a_program_starts_again_once_in_its_place():
    def run(**more):
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | more
        command = [sys.executable, "-c", PROGRAM, "a b", "--c=d"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    first, again, last = run()
    assert first == again
    assert last == f"{memory.TUNABLES} {sys.executable} a b --c=d"
    for given in ("", "glibc.malloc.check=0"):
        assert len(run(GLIBC_TUNABLES=given)) == 2


class Circle:
    def __init__(self):
        self.own = self


def test_circles_wait_until_they_are_asked_for_and_all_is_as_before_afterwards():
    was_on = gc.isenabled()
    with pytest.raises(KeyError):
        with memory.unhurried_garbage() as collect:
            gone = weakref.ref(Circle())
            for _ in range(5000):  # far beyond what the collector lets pass
                Circle()
            assert gone() is not None
            assert collect() >= 5001 and gone() is None
            raise KeyError
    assert gc.isenabled() == was_on and gc.get_freeze_count() == 0
