"""A model as programs of jax.export: what samples, encodes and decodes, for jax and numpy alone to run on any platform.

The weights lie beside the programs, and a script that puts them to use (`standalone.py`).
"""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.export import tensors
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.models.tree import Tree
from phenaki_jax.parallel import any_platform
from phenaki_jax.sampling.decoding import Sampler, Scales
from phenaki_jax.sampling.options import Sampling, chosen
from phenaki_jax.sampling.story import window_keys

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAMS = "programs.json"
SCRIPT = "generate.py"
# XLA's own on every platform, though jax.export vouches for it nowhere: bfloat16 products on CPUs need it.
SAFE_CALLS = (jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint"),)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function (arrays of its parts, **inputs) -> tuple of outputs.

    Attributes:
      parts: models by name, sorted. inputs: name -> dtype and shape, in which "B" stands for the rows. outputs: names.
    """
    function: Callable[..., tuple[jax.Array, ...]]
    parts: tuple[str, ...]
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    outputs: tuple[str, ...]


def write(config: Any, arrays: Mapping[str, Tree], folder: Path, *, batch_size: int | None = None) -> dict[str, Any]:
    """Writes programs, the weights that they take, programs.json and generate.py, which makes clips of them.

    Programs: `generate`, the sampler as `config.sampling` has it, where there is a generator; `encode` and `decode`;
    and all three for one frame, with `_image` behind their names. Scales of sampling are inputs, all else is fixed.

    Args:
      arrays: {"params", "variables"} of "tokenizer", "generator" and, for the order 'critic', "critic".
      batch_size: rows that a program takes; None for any. Where JAX cannot leave it open, it is 1.

    Returns:
      what programs.json holds, but for the names of the weights: batch_size (and, where it had to be fixed,
      batch_reason), sampling, and each program's file, bytes, parts, inputs and outputs.

    Raises: UserError where a critic is missing.
    """
    programs, reason = _programs(config, arrays), None
    try:
        exported = {name: _export(name, program, arrays, batch_size) for name, program in programs.items()}
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        batch_size, reason = 1, str(error).partition("\n")[0]
        exported = {name: _export(name, program, arrays, batch_size) for name, program in programs.items()}

    facts = {"jax": jax.__version__, "platforms": list(PLATFORMS), "batch_size": batch_size}
    facts |= ({"batch_reason": reason} if reason else {}) | _about(config, "generator" in arrays) | {"programs": {}}
    for name, program in programs.items():
        data, outputs = bytes(exported[name].serialize()), zip(program.outputs, exported[name].out_avals)
        (folder / f"{name}.stablehlo").write_bytes(data)
        facts["programs"][name] = {
            "file": f"{name}.stablehlo", "bytes": len(data), "parts": list(program.parts),
            "inputs": {key: {"dtype": dtype, "shape": _shape(shape, batch_size or "B")}
                       for key, (dtype, shape) in program.inputs.items()},
            "outputs": {key: {"dtype": aval.dtype.name,
                              "shape": [size if isinstance(size, int) else str(size) for size in aval.shape]}
                        for key, aval in outputs}}
    leaves = {part: _leaves(part, tree) for part, tree in arrays.items()}
    tensors.write(folder, {name: np.asarray(leaf) for part in leaves.values() for name, leaf in part.items()})
    weights = {part: list(part_leaves) for part, part_leaves in leaves.items()}
    (folder / PROGRAMS).write_text(json.dumps(facts | {"weights": weights}, indent=1) + "\n")
    shutil.copyfile(Path(__file__).with_name("standalone.py"), folder / SCRIPT)
    return facts


def _programs(config: Any, arrays: Mapping[str, Tree]) -> dict[str, Program]:
    tokenizer = make_tokenizer(config)
    sizes, found = tokenizer.module_config, {}
    if "generator" in arrays:
        options = dataclasses.replace(chosen(config.sampling), image_guidance_scale=1.0, noise_augmentation=0.0)
        judged = options.order == "critic"
        if judged and "critic" not in arrays:
            raise UserError("sampling.order='critic' needs a critic; export a critic's run, or choose another order")
        sampler = Sampler(make_generator(config), tokenizer, make_critic(config) if judged else None)
        parts = ("critic", "generator", "tokenizer")[not judged:]

    def encode(arrays, video):
        return (tokenizer.bind(**arrays["tokenizer"]).encode(video),)

    def decode(arrays, tokens):
        return (tokenizer.bind(**arrays["tokenizer"]).decode(tokens),)

    for name, frames in {"": sizes.frames, "_image": 1}.items() if sizes.frames > 1 else [("", 1)]:
        grid, video = (sizes.latent_frames(frames), *sizes.grid[1:]), (frames, sizes.height, sizes.width, 3)
        if "generator" in arrays:
            generate = functools.partial(_generate, sampler, options, grid, video)
            found["generate" + name] = Program(generate, parts, _asked(config), ("tokens", "video"))
        found["encode" + name] = Program(encode, ("tokenizer",), {"video": ("float32", ("B", *video))}, ("tokens",))
        found["decode" + name] = Program(decode, ("tokenizer",), {"tokens": ("int32", ("B", *grid))}, ("video",))
    return found


def _asked(config: Any) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """The inputs of `generate`."""
    text, conditions = config.text, config.generator.get("conditions", ())
    scales = {"seeds": ("uint32", ("B",)), "guidance_scale": ("float32", ()), "temperature": ("float32", ())}
    if conditions:
        scales["conditions"] = ("float32", ("B", len(conditions)))
    if text.encoder == "none":
        return scales
    if text.encoder == "bytes":
        return {"text": ("int32", ("B", text.length)), **scales}
    return {"text": ("float32", ("B", text.length, text.embed_dim)), "text_mask": ("bool", ("B", text.length)),
            **scales}


def _generate(sampler: Sampler, options: Sampling, grid: tuple[int, ...], video: tuple[int, ...], arrays, *, seeds,
              guidance_scale, temperature, text=None, text_mask=None, conditions=None):
    """What `PhenakiPipeline` makes of these seeds, its first window, with nothing given. Returns: tokens and video."""
    keys = window_keys(jax.vmap(jax.random.key)(seeds), 0)
    mask = text > 0 if text is not None and text_mask is None else text_mask
    scales = Scales.of(options)._replace(guidance=guidance_scale, temperature=temperature)
    return sampler(arrays, jnp.zeros((seeds.shape[0], *video)), text, mask, keys, options,
                   frozen=np.zeros(grid, bool), conditions=conditions, scales=scales)


def _export(name: str, program: Program, arrays: Mapping[str, Tree], batch_size: int | None) -> jax.export.Exported:
    """The program as one of a list of weights and its inputs in their order."""
    rows = batch_size or jax.export.symbolic_shape("B")[0]
    leaves, tree = jax.tree.flatten({part: arrays[part] for part in program.parts})

    def call(weights, *inputs):
        return program.function(jax.tree.unflatten(tree, weights), **dict(zip(program.inputs, inputs)))

    call.__name__ = name
    weights = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    inputs = [jax.ShapeDtypeStruct(_shape(shape, rows), dtype) for dtype, shape in program.inputs.values()]
    with any_platform(), _without_places():
        return jax.export.export(jax.jit(call), platforms=PLATFORMS, disabled_checks=SAFE_CALLS)(weights, *inputs)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Programs say of an operation in which file and line it stands, but not in which folder, nor who called it."""
    short = {"jax_include_full_tracebacks_in_locations": False, "jax_hlo_source_file_canonicalization_regex": ".*/"}
    before = {name: getattr(jax.config, name) for name in short}
    try:
        for name, value in short.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _shape(shape: tuple[int | str, ...], rows: Any) -> list[Any]:
    return [rows if size == "B" else size for size in shape]


def _leaves(part: str, tree: Tree) -> dict[str, Any]:
    """Arrays of a model by name, PART.params.a.b, in the order in which programs take them."""
    return {".".join([part, *(str(key.key) for key in path)]): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _about(config: Any, told: bool) -> dict[str, Any]:
    """What the script wants to know of a model: its sizes, and, where it generates, how."""
    sizes = make_tokenizer(config).module_config
    about = {"frames": sizes.frames, "height": sizes.height, "width": sizes.width, "codebook_size": sizes.codebook_size,
             "fps": config.data.fps}
    if not told:
        return about
    return about | {"sampling": dataclasses.asdict(chosen(config.sampling)), "text": {
        name: config.text[name] for name in ("encoder", "length", "embed_dim") if name in config.text},
        "conditions": list(config.generator.get("conditions", ()))}
