"""The tokenizer's perceptual and adversarial terms: what they compare, which steps pay for them, what they weigh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from phenaki_jax.errors import UserError
from phenaki_jax.models.build import sized
from phenaki_jax.models.perceptual import (
    i3d_params, image_perceptual_distance, lpips_params, make_i3d, make_lpips, video_perceptual_distance)
from phenaki_jax.models.tree import Pure
from phenaki_jax.training.adversarial import (
    KINDS, balance, discriminator_loss, generator_loss, lecam, r1_penalty, ramp)
from phenaki_jax.weights import read_i3d, read_lpips

Tree = Any


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms (Phenaki, B.1: 1, 1, 0.1, 1, 0.1), and what they may cost.

    l2, quantizer, image_perceptual (LPIPS), video_perceptual (I3D; clips only), adversarial: 0 turns a term off, and
      then its network is neither loaded nor run.
    frames: of each clip, drawn anew every step, that LPIPS and a discriminator of images see; 0 for all.
    perceptual_size: rows and columns to which both are brought before LPIPS and I3D; 0 leaves them as they are.
    perceptual_every: the perceptual terms are taken at every so many steps, and count as many times there.
    kind: 'hinge' or 'non_saturating'. start, warmup: the step at which the adversary joins, and over how many steps
      its say in the tokenizer's loss rises.
    r1: gamma of the R1 penalty, taken at every `r1_every` steps and counted as many times there.
    lecam: weight of LeCam's penalty.
    adaptive: the adversarial term also weighs as much as makes it pull as hard as the terms that compare pixels and
      features (VQGAN, arXiv 2012.09841, section 3.1).
    discriminator_rate: learning rate of the discriminator, whose weights are scaled at use and want a large one
      (StyleGAN2's is 2e-3).
    """
    l2: float = 1.0
    quantizer: float = 1.0
    image_perceptual: float = 0.0
    video_perceptual: float = 0.0
    adversarial: float = 0.0
    frames: int = 0
    perceptual_size: int = 0
    perceptual_every: int = 1
    kind: str = "hinge"
    start: int = 0
    warmup: int = 0
    r1: float = 0.0
    r1_every: int = 16
    lecam: float = 0.0
    adaptive: bool = False
    discriminator_rate: float = 2e-3

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"loss.kind={self.kind!r} is unknown; it is one of {', '.join(KINDS)}")
        for field in dataclasses.fields(self):
            least = 1 if field.name in ("perceptual_every", "r1_every") else 0
            value = getattr(self, field.name)
            if not isinstance(value, str) and value < least:
                raise UserError(f"loss.{field.name}={value} must be at least {least}")
        if 0 < self.perceptual_size < 32:
            raise UserError(f"loss.perceptual_size={self.perceptual_size} is too small for the perceptual networks; "
                            "32 or more, or 0 for the clips' own size")


def loss_config(config) -> LossConfig:
    """The section `loss` of a run's config; a run without one has L_VQ + L_2 alone."""
    return sized(LossConfig, config.get("loss") or {}, "loss")


@dataclasses.dataclass(frozen=True)
class Perception:
    """The perceptual networks that a loss asks for: arrays by name, and the networks over them."""
    arrays: Tree
    networks: dict[str, Pure]

    @classmethod
    def load(cls, options: LossConfig) -> "Perception":
        """Raises: UserError where a network is asked for whose package is not installed."""
        arrays, networks = {}, {}
        if options.image_perceptual:
            arrays["lpips"], networks["lpips"] = lpips_params(read_lpips()), make_lpips()
        if options.video_perceptual:
            arrays["i3d"], networks["i3d"] = i3d_params(read_i3d()), make_i3d()
        return cls(arrays, networks)


def every(steps: int, step: jax.Array, value_of: Callable[[], jax.Array]) -> jax.Array:
    """`steps` * value_of() at steps 0, `steps`, 2 `steps`, ...; 0 at the others, which do not compute it."""
    if steps == 1:
        return value_of()
    return jax.lax.cond(step % steps == 0, lambda: steps * value_of(), lambda: jnp.zeros(()))


def some_frames(video_BFYXC: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """`count` of the frames in random order, the same ones for equal keys; all, as they are, for 0 or too many."""
    frames = video_BFYXC.shape[1]
    if not 0 < count < frames:
        return video_BFYXC
    return video_BFYXC[:, jax.random.permutation(key, frames)[:count]]


def _resize(video_BFYXC: jax.Array, size: int) -> jax.Array:
    B, F, Y, X, C = video_BFYXC.shape
    if size in (0, Y) and size in (0, X):
        return video_BFYXC
    return jax.image.resize(video_BFYXC, (B, F, size, size, C), "linear")


def perceptual_terms(options: LossConfig, perception: Perception, arrays: Tree, video_BFYXC: jax.Array,
                     reconstruction_BFYXC: jax.Array, *, key: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
    """The perceptual terms that are asked for, unweighted. Images, of one frame, have no video_perceptual."""
    pair, terms = (video_BFYXC, reconstruction_BFYXC), {}

    def network(name):
        return perception.networks[name].bind(arrays[name], {})

    def image():
        a, b = (_resize(some_frames(x, options.frames, key), options.perceptual_size) for x in pair)
        return image_perceptual_distance(network("lpips"), a, b)

    def video():
        a, b = (_resize(x, options.perceptual_size) for x in pair)
        return video_perceptual_distance(network("i3d"), a, b)

    if options.image_perceptual:
        terms["image_perceptual"] = every(options.perceptual_every, step, image)
    if options.video_perceptual and video_BFYXC.shape[1] > 1:
        terms["video_perceptual"] = every(options.perceptual_every, step, video)
    return terms


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator at a step: its arrays, LeCam's running averages, and what the loss wants of it."""
    options: LossConfig
    pure: Pure
    params: Tree
    averages: Tree
    step: jax.Array

    def judge(self, video_BFYXC: jax.Array, key: jax.Array, *, learn: bool) -> jax.Array:
        """Logits of clips, or of some frames of each; gradients reach the discriminator's arrays only with `learn`."""
        params = self.params if learn else jax.lax.stop_gradient(self.params)
        if self.pure.module_config.form == "image":
            frames = some_frames(video_BFYXC, self.options.frames, key)
            video_BFYXC = frames.reshape(-1, *frames.shape[2:])
        return self.pure.bind(params, {})(video_BFYXC)


def adversarial_terms(adversary: Adversary, video_BFYXC: jax.Array, reconstruction_BFYXC: jax.Array,
                      key: jax.Array) -> tuple[dict[str, jax.Array], Tree, dict[str, jax.Array]]:
    """({"adversarial", "discriminator"}, LeCam's next averages, {"real_logit", "fake_logit"}); all 0 before the start.

    adversarial, unweighted, has gradients for the reconstruction alone; discriminator, with its penalties, for the
    discriminator alone. Before the start neither is computed.
    """
    options = adversary.options

    def play(video, reconstruction):
        fooled = adversary.judge(reconstruction, key, learn=False)
        real = adversary.judge(video, key, learn=True)
        fake = adversary.judge(jax.lax.stop_gradient(reconstruction), key, learn=True)
        loss = discriminator_loss(options.kind, real, fake)
        penalty, averages = lecam(adversary.averages, real, fake)
        if options.lecam:
            loss += options.lecam * penalty
        if options.r1:
            judge = lambda video: adversary.judge(video, key, learn=True)
            loss += every(options.r1_every, adversary.step, lambda: options.r1 / 2 * r1_penalty(judge, video))
        terms = {"adversarial": generator_loss(options.kind, fooled), "discriminator": loss}
        return terms, averages, {"real_logit": real.mean(), "fake_logit": fake.mean()}

    def wait(video, reconstruction):
        zero = jnp.zeros(())
        return (dict(adversarial=zero, discriminator=zero), adversary.averages,
                dict(real_logit=zero, fake_logit=zero))

    return jax.lax.cond(adversary.step >= options.start, play, wait, video_BFYXC, reconstruction_BFYXC)


def adversarial_weight(adversary: Adversary, compare: Callable[[jax.Array], dict], video_BFYXC: jax.Array,
                       reconstruction_BFYXC: jax.Array, key: jax.Array) -> jax.Array:
    """What the adversarial term weighs at this step: its weight, its ramp and, if adaptive, `balance`.

    compare: the perceptual terms of a reconstruction.
    """
    options = adversary.options
    weight = options.adversarial * ramp(adversary.step, options.start, options.warmup)
    if not options.adaptive:
        return weight

    def pixels_and_features(reconstruction):
        terms = {"l2": jnp.mean(jnp.square(reconstruction - video_BFYXC))} | compare(reconstruction)
        return sum(getattr(options, name) * value for name, value in terms.items())

    def fooling(reconstruction):
        return generator_loss(options.kind, adversary.judge(reconstruction, key, learn=False))

    def balanced(reconstruction):
        return balance(jax.grad(pixels_and_features)(reconstruction), jax.grad(fooling)(reconstruction))

    reconstruction = jax.lax.stop_gradient(reconstruction_BFYXC)
    started = adversary.step >= options.start
    return weight * jax.lax.cond(started, balanced, lambda _: jnp.zeros(()), reconstruction)
