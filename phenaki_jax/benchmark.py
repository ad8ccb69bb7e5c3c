"""`phenaki benchmark tokenizer`: how fast C-ViViT trains, encodes and decodes here, and in how much memory.

Each side is a process of its own, so that its memory is its own, and is asked for one call at a time: ours
(`python -m phenaki_jax.benchmark`) and, with a peer, phenaki-pytorch's (launch/peer_tokenizer.py), call by call in
turn, on one and the same core with one thread each. Whatever else the machine does then slows both alike.
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phenaki_jax import config as configs
from phenaki_jax import media
from phenaki_jax.errors import UserError

CALLS = ("train", "encode", "decode")
PRODUCT = 2048  # rows and columns of the float32 matrices whose product is this machine's peak
PEER_PROGRAM = configs.CHECKOUT / "launch" / "peer_tokenizer.py"
PEER_NEEDS = "an interpreter with torch and phenaki-pytorch 0.5.0 (docs/benchmarks.md)"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
PEERS = {"peer": "phenaki-pytorch", "peer_autocast": "phenaki-pytorch, bfloat16 autocast"}
# What phenaki-pytorch's model and step have, without a choice.
PEER_HAS = {"tokenizer.quantizer": "vq", "tokenizer.dtype": "float32", "tokenizer.stem": (), "tokenizer.rotary": False,
            "tokenizer.blocks": "sequential", "optimizer.name": "adamw",
            "loss.image_perceptual": 0.0, "loss.video_perceptual": 0.0, "loss.adversarial": 0.0, "train.accumulate": 1}


def main(config: Any, peer: str | None, rounds: int, report: str | None) -> int:
    """Measures, prints a table and writes the report; returns the exit code, 0.

    Args:
      config: a resolved config whose stage is 'tokenizer', such as configs/benchmark.py's.
      peer: a Python interpreter with phenaki-pytorch, to be measured side by side; or None.
      rounds: timed calls of each kind; medians count.
      report: FILE.json for all figures; or None.

    Raises: UserError for a config, interpreter, number or file that cannot serve.
    """
    if rounds < 1:
        raise UserError(f"--rounds={rounds} has to be at least 1.")
    check_report(report)
    if config.stage != "tokenizer":
        raise UserError(f"Config field 'stage' is {config.stage!r}; this benchmark needs a tokenizer's config.")
    figures = measure(config, peer, rounds)
    print(table(figures))
    write_report(figures, report)
    return 0


def check_report(report: str | None) -> None:
    """Raises: UserError where a report's name is no FILE.json."""
    if report is not None and Path(report).suffix != ".json":
        raise UserError(f"--report={report!r} has to end in .json.")


def write_report(figures: Mapping[str, Any], report: str | None) -> None:
    """Writes figures to a report that is asked for, and says where."""
    if report is not None:
        media.write_text(Path(report), json.dumps(figures, indent=1) + "\n")
        print(report)


def child_environment() -> dict[str, str]:
    """This process's, with the checkout where `python -m phenaki_jax…` finds it."""
    path = os.pathsep.join(p for p in (str(configs.CHECKOUT), os.environ.get("PYTHONPATH", "")) if p)
    return os.environ | {"PYTHONPATH": path}


def measure(config: Any, peer: str | None, rounds: int) -> dict[str, Any]:
    """Figures of each side, {"ours": ..., "peer": ..., "ratios": ..., "circumstances": ..., "config": ...}.

    A side has `parameters`, `memory` (peak_bytes of its process, compiling included) and, for each of CALLS, what
    `figures_of` gives. A peer is there twice, as it comes and under torch's autocast to bfloat16 (peer_autocast);
    "ratios" has `ratios` of each.
    """
    from phenaki_jax.evaluation.report import circumstances

    if peer is not None:
        check_comparable(config)
    how = circumstances() | {"rounds": rounds, "one_core": peer is not None, "load": [os.getloadavg()[0]]}
    with contextlib.ExitStack() as stack:
        if peer is not None:
            stack.enter_context(on_one_core())
        environment = child_environment() | (ONE_THREAD if peer is not None else {})
        ours = stack.enter_context(Side([sys.executable, "-m", "phenaki_jax.benchmark"], config.to_dict(),
                                        environment))
        sides = {"ours": ours}
        if peer is not None:
            for name in PEERS:
                sizes = peer_sizes(config) | {"autocast": name == "peer_autocast"}
                sides[name] = stack.enter_context(Side([peer, str(PEER_PROGRAM)], sizes, environment, peer))
        first = {name: {call: side.ask(call)["seconds"] for call in CALLS} for name, side in sides.items()}
        times: dict[str, dict[str, list]] = {name: {call: [] for call in (*CALLS, "product")} for name in sides}
        for index in range(rounds + 1):
            for call in (*CALLS, "product"):
                for name, side in sides.items():
                    answer = side.ask(call)
                    if index:  # the first round only warms up
                        times[name][call].append(answer)
        memory = {name: side.ask("memory") for name, side in sides.items()}

    figures: dict[str, Any] = {}
    for name, side in sides.items():
        flops = side.facts.pop("flops", {})
        product = figures_of(times[name]["product"], 2 * PRODUCT**3)
        tokens, frames = config.batch_size * ours.facts["tokens_per_clip"], config.batch_size * config.tokenizer.frames
        calls = {call: figures_of(times[name][call], flops.get(call), tokens, frames) for call in CALLS}
        for call, values in calls.items():
            values["first_seconds"] = first[name][call]
            if "flops_per_second" in values:
                values["share_of_peak"] = values["flops_per_second"] / product["flops_per_second"]
        figures[name] = side.facts | {"memory": memory[name], "product": product} | calls
    figures["ratios"] = {name: ratios(figures[name], figures["ours"]) for name in sides if name in PEERS}
    how["load"].append(os.getloadavg()[0])
    return figures | {"circumstances": how, "config": config.to_dict()}


def figures_of(answers: list[dict], flops: float | None, tokens: int = 0, frames: int = 0) -> dict[str, float]:
    """Medians of timed calls: seconds (wall clock), with fastest and slowest, cpu_seconds; and what follows from them.

    That is flops and flops_per_second of their matrix products, tokens_per_second and frames_per_second, where given.
    """
    seconds = [answer["seconds"] for answer in answers]
    median = statistics.median(seconds)
    result = {"seconds": median, "fastest": min(seconds), "slowest": max(seconds),
              "cpu_seconds": statistics.median(answer["cpu_seconds"] for answer in answers)}
    if flops:
        result |= {"flops": flops, "flops_per_second": flops / median}
    if tokens:
        result |= {"tokens_per_second": tokens / median, "frames_per_second": frames / median}
    return result


def ratios(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The peer's median times over ours, its memory over ours and, in `cpu`, its CPU times over ours."""
    return ({call: peer[call]["seconds"] / ours[call]["seconds"] for call in CALLS}
            | {"memory": peer["memory"]["peak_bytes"] / ours["memory"]["peak_bytes"],
               "cpu": {call: peer[call]["cpu_seconds"] / ours[call]["cpu_seconds"] for call in CALLS}})


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text, a row a call of each side."""
    lines = []
    names = {"ours": "phenaki_jax"} | PEERS
    for side in (name for name in names if name in figures):
        part = figures[side]
        versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
        lines += [f"{names[side]}: {part['parameters']:,} parameters; {versions}; {part['device']}",
                  f"  {'':8} {'s':>8} {'fastest':>8} {'slowest':>8} {'CPU s':>8} {'tokens/s':>9} {'frames/s':>9} "
                  f"{'of peak':>8} {'first s':>8}"]
        for call in CALLS:
            row = part[call]
            share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
            lines.append(f"  {call:8} {row['seconds']:8.3f} {row['fastest']:8.3f} {row['slowest']:8.3f} "
                         f"{row['cpu_seconds']:8.3f} {row['tokens_per_second']:9.0f} {row['frames_per_second']:9.1f} "
                         f"{share:>8} {row['first_seconds']:8.2f}")
        memory = ", ".join(f"{what.removesuffix('_bytes')} {n / 1e9:.2f} GB" for what, n in part["memory"].items())
        peak = part["product"]["flops_per_second"] / 1e9
        lines.append(f"  matrix-product peak {peak:,.0f} GFLOP/s ({PRODUCT}³, float32); memory: {memory}")
    for name, ratio in figures["ratios"].items():
        lines.append(f"times as fast as {names[name]}: " + ", ".join(
            f"{call} {ratio[call]:.2f} (by CPU time {ratio['cpu'][call]:.2f})" for call in CALLS)
            + f"; its memory over ours: {ratio['memory']:.2f}")
    return "\n".join(lines)


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

    def ask(self, what: str) -> dict[str, Any]:
        """One of CALLS or 'product': {"seconds", "cpu_seconds"}; 'memory': bytes by name."""
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


def check_comparable(config: Any) -> None:
    """Raises: UserError where the config asks for what phenaki-pytorch's model or step does not have."""
    for name, value in (PEER_HAS | {"tokenizer.mlp_dim": 4 * config.tokenizer.embed_dim}).items():
        given = dict(configs.fields(config)).get(name, value)
        if given != value:
            raise UserError(f"Config field {name!r} is {given!r}; beside a peer it has to be {value!r}.")


def peer_sizes(config: Any) -> dict[str, Any]:
    """What launch/peer_tokenizer.py is told."""
    names = "frames height width patch embed_dim heads spatial_layers temporal_layers codebook_size".split()
    return ({name: config.tokenizer[name] for name in names}
            | {"batch": config.batch_size, "threads": 1, "product": PRODUCT})


class Ours:
    """Our tokenizer of a config with random clips; `train`, `encode`, then `decode` and `product` are what is timed.

    The step is the training loop's: the same state, made and placed alike, donated, with clipping, metrics and the
    average of the weights. Clips are uint8 and lie on the device, as the loop has them by the time of a step.
    The first `train` compiles, and hands back what the compiler no longer needs before it takes a step.
    """

    def __init__(self, config: Any):
        import jax
        import numpy as np

        from phenaki_jax.models.build import make_tokenizer
        from phenaki_jax.parallel import shard_batch
        from phenaki_jax.pipeline import Tokenizer
        from phenaki_jax.training.state import create_state

        self._stage, optimizer, self._mesh, step, shape = training_step(config)
        video = np.random.default_rng(config.seed).integers(0, 256, shape, dtype=np.uint8)
        with jax.set_mesh(self._mesh):
            self._state = create_state(self._stage, optimizer, self._mesh, config.seed)
            places = jax.tree.map(lambda x: x.sharding, self._state)
            self._step = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
            self._batch = shard_batch(self._mesh, {"video": {"video": video}})
        self._tokenizer = Tokenizer(make_tokenizer(config), *self._model())
        self._compiled = self._tokens = None
        self._flops = matrix_flops(config)
        self._product = jax.jit(lambda a, b: a @ b)
        self._factors = [jax.random.normal(jax.random.key(seed), (PRODUCT, PRODUCT)) for seed in (0, 1)]

    def _model(self):
        return self._stage.model_part(self._state.params), self._stage.model_part(self._state.variables)

    def facts(self) -> dict[str, Any]:
        """Sizes, floating-point operations of the matrix products of each call, version and devices."""
        import jax

        return {
            "parameters": sum(x.size for x in jax.tree.leaves(self._model()[0])),
            "tokens_per_clip": math.prod(self._tokenizer.config.grid),
            "flops": self._flops,
            "versions": {"jax": jax.__version__},
            "device": f"{self._mesh.size} × {self._mesh.devices.flat[0].device_kind}",
        }

    def train(self) -> None:
        import jax

        from phenaki_jax.parallel import free_unused_memory

        with jax.set_mesh(self._mesh):
            if self._compiled is None:
                self._compiled = self._step.lower(self._state, self._batch).compile()
                free_unused_memory()
            self._state, metrics = self._compiled(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))

    def encode(self) -> None:
        self._tokenizer.params, self._tokenizer.variables = self._model()  # a step gave the old ones away
        self._tokens = self._tokenizer.encode(self._batch["video"]["video"]).block_until_ready()

    def decode(self) -> None:
        self._tokenizer.params, self._tokenizer.variables = self._model()
        self._tokenizer.decode(self._tokens).block_until_ready()

    def product(self) -> None:
        self._product(*self._factors).block_until_ready()

    def memory(self) -> dict[str, int]:
        """peak_bytes: of this process, compiling included; peak_device_bytes: of its first device, where it counts."""
        from phenaki_jax.evaluation.report import peak_memory_gb

        stats = self._mesh.devices.flat[0].memory_stats() or {}
        device = {"peak_device_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}
        return {"peak_bytes": round(1e9 * peak_memory_gb())} | device


def training_step(config: Any) -> tuple:
    """(stage, optimizer, mesh, step) as the training loop makes them, and the [B, F, Y, X, 3] of a batch."""
    from phenaki_jax.parallel import make_mesh
    from phenaki_jax.training.optimizer import make_optimizer
    from phenaki_jax.training.state import make_step
    from phenaki_jax.training.tokenizer_stage import make_stage

    mesh, stage = make_mesh(config.mesh), make_stage(config)
    optimizer, schedule = make_optimizer(config, stage.axes, stage.aids)
    sizes = config.tokenizer
    shape = (config.batch_size, sizes.frames, sizes.height, sizes.width, 3)
    return stage, optimizer, mesh, make_step(stage, optimizer, schedule, config), shape


def matrix_flops(config: Any) -> dict[str, int]:
    """Floating-point operations of the matrix products of each of CALLS for a whole batch; nothing is computed."""
    import jax

    from phenaki_jax.models.build import make_tokenizer
    from phenaki_jax.parallel import product_flops
    from phenaki_jax.training.state import abstract_state

    (stage, optimizer, mesh, step, shape), pure = training_step(config), make_tokenizer(config)
    batch = {"video": {"video": jax.ShapeDtypeStruct(shape, "uint8")}}
    with jax.set_mesh(mesh):
        state = abstract_state(stage, optimizer, mesh)
        traced = {"train": jax.make_jaxpr(step)(state, batch)}
    given = {"encode": jax.ShapeDtypeStruct(shape, "float32"),
             "decode": jax.ShapeDtypeStruct((shape[0], *pure.module_config.grid), "int32")}
    for method, x in given.items():
        run = lambda params, variables, x: getattr(pure.bind(params, variables), method)(x)
        traced[method] = jax.make_jaxpr(run)(stage.model_part(state.params), stage.model_part(state.variables), x)
    return {call: product_flops(program.jaxpr) for call, program in traced.items()}


def serve() -> None:
    """Our side as a process: the config in the first line, then a question a line; see `Side`."""
    from phenaki_jax.parallel import free_unused_memory

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        ours = Ours(configs.from_json(sys.stdin.readline()))
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


if __name__ == "__main__":
    serve()
