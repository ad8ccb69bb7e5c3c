"""The two sides of a comparison as processes: what is asked of them, and what ours answers with."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError

PRODUCT = 2048  # rows and columns of the float32 matrices whose product is this machine's peak
PEER_PROGRAM = configs.CHECKOUT / "launch" / "peer.py"
PEER_NEEDS = "an interpreter with torch and phenaki-pytorch 0.5.0 (docs/benchmarks.md)"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


def child_environment() -> dict[str, str]:
    """This process's, with the checkout where `python -m phenaki_jax…` finds it."""
    path = os.pathsep.join(p for p in (str(configs.CHECKOUT), os.environ.get("PYTHONPATH", "")) if p)
    return os.environ | {"PYTHONPATH": path}


class Side:
    """A process that answers in JSON, a line a question; `facts` are what it says of itself."""

    def __init__(self, command: list[str], sizes: Mapping[str, Any], environment: Mapping[str, str],
                 peer: str | None = None):
        self._peer, self._errors = peer, tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                             stderr=self._errors, env=dict(environment))
        except OSError as error:
            raise UserError(f"--peer={peer!r} cannot be run ({error.strerror}); it has to be {PEER_NEEDS}.") from None
        try:
            self.facts = self._exchange(sizes)
        except UserError:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def ask(self, what: str) -> dict[str, Any]:
        """A call or 'product': {"seconds", "cpu_seconds"}; 'memory': bytes by name."""
        return self._exchange({"do": what})

    def _exchange(self, question: Mapping[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line.startswith("{") else {}
        if answer and "error" not in answer:
            return answer
        self._errors.seek(0)
        said = answer.get("error") or (self._errors.read().strip().splitlines() or ["it ends at once"])[-1]
        if self._peer:
            raise UserError(f"--peer={self._peer!r} does not serve ({said}); it has to be {PEER_NEEDS}.")
        raise (UserError if answer else RuntimeError)(said)


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """This process, and those that it starts meanwhile, on one core.

    Raises: UserError where the system cannot do that.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--peer compares on one core, to which this system cannot bind a process; Linux can.")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Ours:
    """What every subject of ours has beside the calls that are timed, which are methods of its subclasses.

    Attributes:
      parameters: how many; devices: that compute.
      flops: of the matrix products of each call; tokens, frames: that each call goes through.
    """
    parameters: int
    devices: list
    flops: Mapping[str, int]
    tokens: Mapping[str, int]
    frames: Mapping[str, int]

    def __init__(self):
        import jax

        self._product = jax.jit(lambda a, b: a @ b)
        self._factors = [jax.random.normal(jax.random.key(seed), (PRODUCT, PRODUCT)) for seed in (0, 1)]

    def facts(self) -> dict[str, Any]:
        """Sizes, version and devices."""
        import jax

        return {
            "parameters": self.parameters, "flops": self.flops, "tokens": self.tokens, "frames": self.frames,
            "versions": {"jax": jax.__version__},
            "device": f"{len(self.devices)} × {self.devices[0].device_kind}",
        }

    def product(self) -> None:
        self._product(*self._factors).block_until_ready()

    def memory(self) -> dict[str, int]:
        """peak_bytes: of this process, compiling included; peak_device_bytes: of its first device, where it counts."""
        from phenaki_jax.evaluation.report import peak_memory_gb

        stats = self.devices[0].memory_stats() or {}
        device = {"peak_device_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}
        return {"peak_bytes": round(1e9 * peak_memory_gb())} | device


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
      stage: of the configs that it takes. calls: what is timed, in this order.
      make: config -> our side.
      peer_has: config -> {field: value}, what fields need to be beside a peer, whose model and step have no choice.
      peer_sizes: config -> what launch/peer.py is told beside what it always is.
    """
    stage: str
    calls: tuple[str, ...]
    make: Callable[[Any], Ours]
    peer_has: Callable[[Any], Mapping[str, Any]]
    peer_sizes: Callable[[Any], Mapping[str, Any]]


class Training:
    """A stage's training step on one batch, again and again: the loop's own step, compiled alike, its state donated.

    The first call compiles, and hands back what the compiler no longer needs before it takes a step.
    """

    def __init__(self, config: Any, stage: Any, batch: Any):
        import jax

        from phenaki_jax.parallel import shard_batch
        from phenaki_jax.training.state import create_state

        self.stage = stage
        optimizer, self._mesh, step = training_step(config, stage)
        self.devices = list(self._mesh.devices.flat)
        with jax.set_mesh(self._mesh):
            self.state = create_state(stage, optimizer, self._mesh, config.seed)
            places = jax.tree.map(lambda x: x.sharding, self.state)
            self._step = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
            self.batch = shard_batch(self._mesh, batch)
        self._compiled = None

    def model(self) -> tuple[Any, Any]:
        """Params and variables as they are now; the next step gives them away."""
        return self.stage.model_part(self.state.params), self.stage.model_part(self.state.variables)

    def __call__(self) -> None:
        import jax

        from phenaki_jax.parallel import free_unused_memory

        with jax.set_mesh(self._mesh):
            if self._compiled is None:
                self._compiled = self._step.lower(self.state, self.batch).compile()
                free_unused_memory()
            self.state, metrics = self._compiled(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))


def training_step(config: Any, stage: Any) -> tuple:
    """(optimizer, mesh, step) as the training loop makes them."""
    from phenaki_jax.parallel import make_mesh
    from phenaki_jax.training.optimizer import make_optimizer
    from phenaki_jax.training.state import make_step

    optimizer, schedule = make_optimizer(config, stage.axes, stage.aids)
    return optimizer, make_mesh(config.mesh), make_step(stage, optimizer, schedule, config)


def training_flops(config: Any, stage: Any, batch: Any) -> int:
    """Of the matrix products of a training step on a batch of shapes; nothing is computed."""
    import jax

    from phenaki_jax.parallel import flops_of
    from phenaki_jax.training.state import abstract_state

    optimizer, mesh, step = training_step(config, stage)
    with jax.set_mesh(mesh):
        return flops_of(step, abstract_state(stage, optimizer, mesh), batch)


def serve(make: Callable[[Any], Ours]) -> None:
    """Our side as a process: the config in the first line, then a question a line; see `Side`."""
    from phenaki_jax.parallel import free_unused_memory

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        ours = make(configs.from_json(sys.stdin.readline()))
    except UserError as error:
        return answer({"error": str(error)})
    answer(ours.facts())
    compiled = set()
    for line in sys.stdin:
        do = json.loads(line)["do"]
        if do == "memory":
            answer(ours.memory())
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        getattr(ours, do)()
        answer({"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu})
        if do not in compiled:
            compiled.add(do)
            free_unused_memory()
