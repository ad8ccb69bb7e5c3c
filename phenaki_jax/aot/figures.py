"""What a compiled step needs and how long it should take: memory, FLOPs, collectives, an estimated time and MFU.

The time is the compiler's own (`optimal_seconds`, else a roofline of its FLOPs and bytes), of programs of one and of
two layers, unrolled, because it counts the body of a scan once: one + (layers - 1) (two - one). Of attention by a
Pallas kernel it knows nothing; that is added as the kernel's FLOPs at the share of the peak that heads so narrow leave
of a matrix unit. All of this is an estimate, to rank and to gate, and no measurement.
"""

import concurrent.futures
import functools
import math
import multiprocessing
from collections.abc import Mapping
from typing import Any

import jax

from phenaki_jax import config as configs
from phenaki_jax.aot.collectives import collectives
from phenaki_jax.aot.program import make_program, topology_devices
from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import plain_attention
from phenaki_jax.parallel import enable_compilation_cache, flops_of
from phenaki_jax.parallel.chips import Chip, chip_of
from phenaki_jax.training.metrics import quiet_stderr

SPARE = 0.1  # of a chip's memory, that ought to be left
UNITS = {"TPU v6 lite": 256, "TPU7x": 256}  # rows of a matrix unit; 128 of all others
# Collectives that are spread over other operations, or over the turns of a loop beside the product that they feed, are
# written down once only where this is off.
PLAINLY = {"xla_tpu_enable_async_collective_fusion": "false", "xla_tpu_enable_windowed_einsum_for_all_gather": "false",
           "xla_tpu_enable_windowed_einsum_for_reduce_scatter": "false"}
LAYERS = {"generator": ("generator",), "critic": ("critic",), "tokenizer": ()}  # sections whose layers are told apart


def figures(config: Any, topology: str, slices: int = 1, estimate: bool = True) -> dict[str, Any]:
    """All that is known of a config's step on a topology.

    Args:
      estimate: also the time, which takes two more compilations.

    Returns:
      {"topology", "chips", "mesh", "rows", "parameters", "fits", "reason", "memory": bytes a chip by kind, "flops": of
      all chips, "collectives": {kind: {"count", "bytes"}} a chip and step, "outside": the largest all-gather that is in
      no loop, "estimate": {"seconds", "mfu", ...}}, as far as it was asked for or compiles.
    """
    devices = topology_devices(topology, slices)
    program = make_program(config, devices)
    chip, kind = chip_of(devices[0].device_kind), devices[0].device_kind
    found: dict[str, Any] = {
        "topology": topology, "slices": slices, "chips": len(devices), "device_kind": kind,
        "mesh": {axis: size for axis, size in program.mesh.shape.items()},
        "rows": {stream: arrays["text"].shape[0] for stream, arrays in program.batch.items()},
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.state.params)),
        "hbm_bytes": chip.memory if chip else None, "flops": flops(config, devices)}
    told = compiled(config, topology, slices, "memory")
    found |= told
    if "memory" not in told:
        return found
    if chip:
        share = found["memory"]["peak"] / chip.memory
        found |= {"fits": share <= 1, "spare": 1 - share}
    found |= compiled(config, topology, slices, "sent")
    if estimate and chip:
        found["estimate"] = estimated(config, devices, topology, slices, chip, found)
    return found


def compiled(config: Any, topology: str, slices: int, what: str) -> dict[str, Any]:
    """What is to be known of the compiled step: "memory", "sent" or "cost", see `of_compiled`.

    A TPU's program is compiled in a process of its own: libtpu keeps the gigabytes that each one takes.
    """
    task = functools.partial(of_compiled, configs.to_json(config), topology, slices, what)
    if topology == "local":
        return task()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task).result()


def of_compiled(config: str, topology: str, slices: int, what: str) -> dict[str, Any]:
    """Compiles the step of a config, as `config.to_json` writes it.

    Returns:
      For "memory" {"memory": bytes a chip by kind}, or {"fits": False, "reason"} where it does not fit; for "sent"
      {"collectives", "outside"}, {} where the program's text cannot be had; for "cost" what the compiler says of it.
    """
    if topology != "local":
        jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    program = make_program(configs.from_json(config), topology_devices(topology, slices))
    lowered, plainly = program.lower(), what == "sent" and topology != "local"
    try:
        with quiet_stderr():
            step = lowered.compile(compiler_options=PLAINLY if plainly else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "reason": " ".join(str(error).split("See http")[0].split())}
    if what == "memory":
        return {"memory": memory(step)}
    if what == "cost":
        return {name: value for name, value in step.cost_analysis().items()
                if name in ("optimal_seconds", "flops", "bytes accessed")}
    try:
        with quiet_stderr():
            return sent(step.as_text())
    except jax.errors.JaxRuntimeError:  # of some TPUs libtpu writes what it cannot read back
        return {}


def memory(step: Any) -> dict[str, int]:
    """Bytes a chip: arguments (the state and the batch), what of the result is no argument's place, temporaries, the
    program, and the peak of all together."""
    stats = step.memory_analysis()
    parts = {"arguments": stats.argument_size_in_bytes, "temporaries": stats.temp_size_in_bytes,
             "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
             "program": stats.generated_code_size_in_bytes}
    return parts | {"peak": getattr(stats, "peak_memory_in_bytes", 0) or sum(parts.values())}


def flops(config: Any, devices: Any) -> dict[str, int]:
    """Of a step on all chips: "model", what the model asks for, and "computed", with what is made anew (remat)."""
    counts = {}
    for name in ("model", "computed"):
        program = make_program(config, devices)  # anew, for JAX keeps what it has traced
        with plain_attention(remat=name == "computed"):
            counts[name] = flops_of(program.pure_step, program.state, program.batch)
    return counts


def sent(text: str) -> dict[str, Any]:
    """What chips send each other a step: {"collectives", "outside"}. text: of the compiled program."""
    all_of_them = collectives(text)
    kinds: dict[str, dict[str, int]] = {}
    for one in all_of_them:
        entry = kinds.setdefault(one.kind, {"count": 0, "bytes": 0})
        entry["count"] += one.times
        entry["bytes"] += one.bytes * one.times
    outside = max((one.bytes for one in all_of_them if one.kind == "all-gather" and one.times == 1), default=0)
    return {"collectives": kinds, "outside": outside}


def estimated(config: Any, devices: Any, topology: str, slices: int, chip: Chip,
              found: Mapping[str, Any]) -> dict[str, Any]:
    """{"seconds": a step, "mfu", "compiler_flops": a chip, "kernel_seconds": of them, "method"}."""
    sections = LAYERS[config.stage]
    layers = max((config[section].layers for section in sections), default=1)
    times, counted, by_roofline = [], [], False
    for count in ((1, 2) if layers > 1 else (layers,)):
        cost = compiled(changed(config, {"unroll": True}, {section: {"layers": count} for section in sections}),
                        topology, slices, "cost")
        seconds = cost.get("optimal_seconds", -1.0)
        if seconds <= 0:
            by_roofline = True
        times.append((seconds, max(cost["flops"] / chip.flops, cost["bytes accessed"] / chip.bandwidth)))
        counted.append(cost["flops"])
    chosen = [roofline if by_roofline else seconds for seconds, roofline in times]
    along = lambda values: values[0] + (layers - 1) * (values[-1] - values[0])
    kernels = kernel_flops(config, devices)
    unit = next((rows for part, rows in UNITS.items() if part in devices[0].device_kind), 128)
    filled = min(1.0, _head_dim(config) / unit)
    kernel_seconds = kernels / chip.flops / filled
    seconds = along(chosen) + kernel_seconds
    return {
        "seconds": seconds, "mfu": found["flops"]["model"] / len(devices) / chip.flops / seconds,
        "compiler_flops": along(counted) + kernels, "kernel_seconds": kernel_seconds, "peak_flops": chip.flops,
        "method": ("a roofline of the compiler's FLOPs and bytes" if by_roofline else "the compiler's optimal_seconds")
        + (f", of one and two unrolled layers of {layers}" if layers > 1 else "")
        + (f"; kernels at {filled:.0%} of the peak" if kernels else "")}


def kernel_flops(config: Any, devices: Any) -> int:
    """Of Pallas kernels, a chip and step."""
    program = make_program(config, devices)
    with jax.set_mesh(program.mesh):
        return flops_of(program.pure_step, program.state, program.batch, only_kernels=True)


def _head_dim(config: Any) -> int:
    section = config[config.stage]
    return section.embed_dim // section.heads


def changed(config: Any, everywhere: Mapping[str, Any], sections: Mapping[str, Mapping] | None = None) -> Any:
    """A copy of a config, with fields of how layers are computed changed wherever there are layers."""
    config = configs.from_dict(config.to_dict())
    for name in ("tokenizer", "generator", "critic"):
        if config.get(name) is not None:
            config[name].update(everywhere)
    if config.text.get("encoder") == "bytes" and "unroll" in everywhere:
        config.text.unroll = everywhere["unroll"]
    for name, fields in (sections or {}).items():
        config[name].update(fields)
    return config


def report(found: Mapping[str, Any]) -> list[str]:
    """The lines that tell of it."""
    gib = lambda count: f"{count / 2**30:,.2f} GiB"
    mesh = " × ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
    rows = ", ".join(f"{count} {stream}" for stream, count in found["rows"].items())
    slices = f" × {found['slices']} slices" if found["slices"] > 1 else ""
    lines = [f"{found['topology']}{slices}: {found['chips']} × {found['device_kind']}, mesh {mesh}; {rows} rows",
             f"parameters      {found['parameters']:,}",
             f"FLOPs a step    {found['flops']['model']:.4g} of the model, {found['flops']['computed']:.4g} with what "
             "is made anew"]
    if "memory" in found:
        parts = ", ".join(f"{name} {gib(count)}" for name, count in found["memory"].items() if name != "peak")
        lines.append(f"memory a chip   {parts}; peak {gib(found['memory']['peak'])}")
    if "collectives" in found:
        parts = ", ".join(f"{entry['count']} {kind} {gib(entry['bytes'])}"
                          for kind, entry in sorted(found["collectives"].items()))
        lines.append(f"sent a chip     {parts or 'nothing'}; largest all-gather outside of a loop "
                     f"{gib(found['outside'])}")
    elif "memory" in found:
        lines.append("sent a chip     not known: libtpu cannot write this program down")
    if "estimate" in found:
        one = found["estimate"]
        lines += [f"compiler's FLOPs {one['compiler_flops'] * found['chips']:.4g}",
                  f"estimated time  {one['seconds'] * 1e3:,.0f} ms a step, MFU {one['mfu']:.0%} of "
                  f"{one['peak_flops'] / 1e12:,.0f} TFLOP/s (by {one['method']})"]
    return [*lines, verdict(found)]


def verdict(found: Mapping[str, Any]) -> str:
    """Fits or not, in a line."""
    if "memory" not in found:
        return f"does not fit: {found['reason']}"
    peak = f"{found['memory']['peak'] / 2**30:.2f} GiB"
    if found["hbm_bytes"] is None:
        return f"compiles: {peak} a device, whose memory is not in the table of chips"
    hbm = f"{found['hbm_bytes'] / 2**30:.0f} GiB"
    if not found["fits"]:
        return f"does not fit: {peak} of {hbm}"
    return f"fits: {peak} of {hbm} a chip, {found['spare']:.0%} spare" + (
        "" if found["spare"] >= SPARE else f", less than the {SPARE:.0%} that ought to be")


def rows_a_chip(config: Any, rows: int, chips: int) -> Any:
    """The config with a batch of so many rows a chip."""
    if rows < 1:
        raise UserError(f"--rows_a_chip={rows} must be at least 1")
    config = configs.from_dict(config.to_dict())
    config.batch_size = rows * chips
    return config
