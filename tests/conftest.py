"""What all tests share: eight fake devices on the CPU, compiled programs kept between runs, the checkout importable."""

import gc
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Before jax is imported anywhere: these are read once.
# Most of a test's time goes into compiling tiny programs, which takes LLVM half as long when it does not optimise them.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if _FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# Programs that tests start (`python -m phenaki_jax …`) find the checkout as well.
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)

MOST_MEMORY = 2.5e9  # bytes that a process may hold when a file of tests is done


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """A thousand tiny programs stay compiled in memory, 6 GB by the end of all tests; they lie on the disk as well."""
    yield
    if "jax" in sys.modules and resident_bytes() > MOST_MEMORY:
        import jax

        from phenaki_jax.parallel import free_unused_memory
        jax.clear_caches()
        gc.collect()
        free_unused_memory()


def resident_bytes() -> int:
    """What this process holds, where Linux tells it; else 0."""
    file = pathlib.Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.is_file() else 0
