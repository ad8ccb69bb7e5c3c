"""The windows that all ways of generating are made of: what is asked for, checked, and handed to the sampler."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError, at_least
from phenaki_jax.input.motion import LEVELS
from phenaki_jax.media import to_uint8
from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.parallel import shard_batch
from phenaki_jax.prompts import Prompt
from phenaki_jax.sampling.options import chosen
from phenaki_jax.sampling.scenes import check_seed


class Windows:
    """What `PhenakiPipeline`, which has the models, makes of a call's options."""

    def _sized(self, height: int | None, width: int | None) -> CViViTConfig:
        """The tokenizer's sizes for clips of this height and width."""
        sizes, groups = self.tokenizer.config, self.generator.config.group if self.generator else (1, 1)
        for name, value, patch, group in zip(("height", "width"), (height, width), sizes.patch[1:], groups):
            if value is None:
                continue
            at_least(name, value, 1)
            most, step = getattr(sizes, name), patch * group
            if value > most or value % step:
                raise UserError(f"{name}={value} has to be a multiple of {step}, and at most {most}")
            sizes = dataclasses.replace(sizes, **{name: value})
        return sizes

    @property
    def mask_id(self) -> int:
        """The token that stands where none is decided yet."""
        return self.tokenizer.codebook_size

    def _keys(self, seed: int | Sequence[int], count: int) -> jax.Array:
        """A random key for each of `count` videos."""
        return jax.vmap(jax.random.key)(np.asarray(seeds_of(seed, count), np.uint32))

    def _window(self, prompts: Sequence[Prompt], negative: list[str] | None, preset: str | None,
                sampling: Mapping[str, Any], every: int | None = None) -> Callable:
        """(given float [B, F, Y, X, 3], prompts, keys, frozen [T, H, W]) -> (tokens, frames uint8).

        `prompts` are all that will be asked for, and are checked beforehand. With `every` it gives an iterator of
        previews, each (tokens, frames).
        """
        sampling = dict(sampling)
        told = self._told(sampling.pop("motion", None), sampling.pop("fps", None))
        watch = self._watch(sampling.pop("callback_on_step_end", None))
        options, read = chosen(self.config.sampling, preset, **sampling), self.read
        read.check(prompts, negative)
        self.refuse(prompts)
        if not self.generator.config.is_told and sampling.get("guidance_scale"):
            raise UserError(f"guidance_scale={sampling['guidance_scale']} weighs a prompt; this model was trained "
                            "without text (text.encoder='none'), so leave it out")
        if negative is not None and not options.guided:
            raise UserError("negative_prompt needs a guidance_scale other than 0")
        if options.order == "critic" and self.critic is None:
            raise UserError("order='critic' needs a critic; give the folder of a critic's run, or another order")
        if options.noise_augmentation and "noise" not in told:
            raise UserError(f"noise_augmentation={options.noise_augmentation} needs a model with the condition "
                            f"'noise'; this one has generator.conditions={tuple(told)}")
        arrays = {name: {"params": model.params, "variables": model.variables} for name, model in (
            ("generator", self.generator), ("tokenizer", self.tokenizer), ("critic", self.critic)) if model}
        away = None if negative is None else read(negative)

        known: list[Any] = [None, None]  # the last prompts, and how they are read

        def window(given, prompts, keys, frozen):
            numbers = {**told, "noise": options.noise_augmentation if frozen.any() else np.nan}
            conditions = np.tile(np.float32([numbers[name] for name in told]), (len(prompts), 1)) if told else None
            if prompts is not known[0]:  # the windows of a scene have the same ones
                known[:] = prompts, read(prompts)
            args, rows = self._spread((given, *known[1], keys, away, conditions)), len(prompts)
            static = self._sampler.static(options, frozen)
            self._tell_of((np.shape(args[0]), *static.values(), every is None, watch is None, away is None))
            *args, negative, conditions = args
            args, more = (arrays, *args, options), dict(frozen=frozen, negative=negative, conditions=conditions)
            if every is not None:
                states = self._sampler.stream(*args, every=every, **more)
                return ((tokens[:rows], to_uint8(video[:rows])) for _, tokens, video in states)
            with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
                tokens, video = self._sampler(*args, **more, watch=watch)
            return np.asarray(tokens)[:rows], to_uint8(video)[:rows]

        return window

    def _spread(self, rows: Any) -> Any:
        """Arrays of B rows on the mesh's devices, the last row repeated until each device has as many."""
        if self.mesh is None:
            return rows
        share = self.mesh.shape["data"] * self.mesh.shape["fsdp"]

        def padded(x):
            missing = -len(x) % share
            return x if not missing else jnp.concatenate([jnp.asarray(x), jnp.repeat(jnp.asarray(x[-1:]), missing, 0)])

        return shard_batch(self.mesh, jax.tree.map(padded, rows))

    def _tell_of(self, program: tuple) -> None:
        """Says that a program is compiled, before its first use."""
        if self.say is not None and program not in self._compiled:
            (B, F, Y, X, _), steps, _, plan = program[:4]
            given = f", {steps} latent steps given" if steps else ""
            self.say(f"compiling for {B} x {F} frames of {Y} x {X}{given}, {plan.num_inference_steps} passes; once for "
                     "each such shape")
        self._compiled.add(program)

    def refuse(self, prompts: Sequence[Prompt]) -> None:
        """Raises: UserError for the first prompt that the filter refuses."""
        for text in prompts if self.prompt_filter else ():
            if isinstance(text, str) and (reason := self.prompt_filter(text)) is not None:
                raise UserError(f"prompt {text[:40]!r} is refused: {reason}")

    def _watch(self, callback: Callable | None) -> Callable | None:
        """`callback_on_step_end` as the sampler's `watch`."""
        if callback is None:
            return None

        def watch(done, steps, tokens, log_probability):
            given = {"tokens": np.array(tokens), "confidence": np.exp(log_probability)}
            found = callback(self, done - 1, steps, given)
            if not isinstance(found, (Mapping, type(None))):
                raise UserError(f"callback_on_step_end gave a {type(found).__name__}; it has to be None, or a dict "
                                "that may have 'tokens'")
            if found is None or found.get("tokens") is None:
                return None
            found = np.asarray(found["tokens"])
            if found.shape != tokens.shape or found.dtype.kind not in "iu" or not (
                    0 <= found.min() and found.max() <= self.mask_id):
                raise UserError(f"callback_on_step_end gave tokens {found.dtype} {list(found.shape)}; they have to be "
                                f"whole numbers from 0 to {self.mask_id} of shape {list(tokens.shape)}")
            return jnp.asarray(found, jnp.int32)

        return watch

    def _told(self, motion: str | float | None, fps: float | None) -> dict[str, float]:
        """The model's conditions in their order, NaN where nothing is told."""
        if self.generator is None:
            raise UserError("this run is a tokenizer's and can reconstruct only; to generate, give a generator's run")
        names = self.generator.config.conditions
        told = dict.fromkeys(names, np.nan)
        words = f", or one of {', '.join(LEVELS)}"
        for name, value, least, more in (("motion", motion, 0, words), ("fps", fps, 1, "")):
            if value is None:
                continue
            if name not in told:
                raise UserError(f"{name}={value!r} has no effect: this model was trained with generator.conditions="
                                f"{names}; leave it out, or train one with {name!r} among them")
            number = LEVELS.get(value, value) if more and isinstance(value, str) else value
            is_number = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
            if not (is_number and least <= number < np.inf):
                raise UserError(f"{name}={value!r} must be a number of at least {least}{more}")
            told[name] = float(number)
        return told


def seeds_of(seed: int | Sequence[int], count: int) -> Sequence[int]:
    """A seed for each of `count` videos: those that are given, or counted up from the one. Raises: UserError."""
    if np.ndim(seed) == 0:
        check_seed(seed)
        seed = range(seed, seed + count)
    if len(seed) != count:
        raise UserError(f"seed has {len(seed)} numbers; there are {count} videos")
    for number in seed:
        check_seed(number)
    return seed
