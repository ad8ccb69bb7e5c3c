"""The tokenizer's terms of its reconstruction: what they compare, which steps pay for them, what they weigh.

They are functions of the reconstruction alone, so value and gradient are taken at it, once; `pulled` hands the gradient
on to the model. Metrics of terms that not every step takes are pairs (value, taken).
"""

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
    perceptual_clips: clips, and images, of a batch, drawn anew every step, that the perceptual networks see; 0 for all.
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
    perceptual_clips: int = 0
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


def every(steps: int, step: jax.Array, value_of: Callable[[], Tree], nothing: Tree) -> tuple[Tree, jax.Array]:
    """(value_of(), 1) at steps 0, `steps`, 2 `steps`, ...; at the others, which do not compute it, (nothing, 0)."""
    if steps == 1:
        return value_of(), jnp.ones(())
    taken = step % steps == 0
    return jax.lax.cond(taken, value_of, lambda: nothing), taken.astype(jnp.float32)


def pulled(value: jax.Array, gradient_BFYXC: jax.Array, reconstruction_BFYXC: jax.Array) -> jax.Array:
    """`value` with the gradient in the reconstruction that it is known to have."""
    still = jax.lax.stop_gradient
    return still(value) + jnp.sum(still(gradient_BFYXC) * (reconstruction_BFYXC - still(reconstruction_BFYXC)))


def some(x: jax.Array, count: int, axis: int, key: jax.Array) -> jax.Array:
    """`count` along an axis in random order, the same ones for equal keys; all, as they are, for 0 or too many."""
    if not 0 < count < x.shape[axis]:
        return x
    return jnp.take(x, jax.random.permutation(key, x.shape[axis])[:count], axis)


def _resize(video_BFYXC: jax.Array, size: int) -> jax.Array:
    B, F, Y, X, C = video_BFYXC.shape
    if size in (0, Y) and size in (0, X):
        return video_BFYXC
    return jax.image.resize(video_BFYXC, (B, F, size, size, C), "linear")


def comparison(options: LossConfig, perception: Perception, arrays: Tree, video_BFYXC: jax.Array,
               reconstruction_BFYXC: jax.Array, *, key: jax.Array,
               step: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """What compares pixels and features: l2 and the perceptual terms that are asked for.

    Images, of one frame, have no video_perceptual. A term that is taken at every n-th step counts n times there.

    Returns:
      The weighted sum; its gradient in the reconstruction, of its shape; each term, unweighted, as a metric.
    """
    def network(name):
        return perception.networks[name].bind(arrays[name], {})

    def l2(reconstruction):
        return jnp.mean(jnp.square(reconstruction - video_BFYXC))

    def image(reconstruction):
        a, b = (seen(some(x, options.frames, 1, key)) for x in (video_BFYXC, reconstruction))
        return image_perceptual_distance(network("lpips"), a, b)

    def video(reconstruction):
        return video_perceptual_distance(network("i3d"), seen(video_BFYXC), seen(reconstruction))

    def seen(x):
        return _resize(some(x, options.perceptual_clips, 0, jax.random.fold_in(key, 0)), options.perceptual_size)

    reconstruction = jax.lax.stop_gradient(reconstruction_BFYXC)
    value, gradient = jax.value_and_grad(l2)(reconstruction)
    metrics: dict[str, Any] = {"l2": value}
    total, pull = options.l2 * value, options.l2 * gradient
    terms = {"image_perceptual": image} if options.image_perceptual else {}
    if options.video_perceptual and video_BFYXC.shape[1] > 1:
        terms["video_perceptual"] = video
    for name, term in terms.items():
        (value, gradient), taken = every(options.perceptual_every, step,
                                         lambda term=term: jax.value_and_grad(term)(reconstruction),
                                         (jnp.zeros(()), jnp.zeros_like(reconstruction)))
        weight = options.perceptual_every * getattr(options, name)
        total, pull = total + weight * value, pull + weight * gradient
        metrics[name] = value, taken
    return total, pull, metrics


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
            frames = some(video_BFYXC, self.options.frames, 1, key)
            video_BFYXC = frames.reshape(-1, *frames.shape[2:])
        return self.pure.bind(params, {})(video_BFYXC)


def adversarial_terms(adversary: Adversary, video_BFYXC: jax.Array, reconstruction_BFYXC: jax.Array,
                      comparison_pull: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree, dict[str, Any]]:
    """(What both sides' losses add up to, LeCam's next averages, metrics); before the start 0, and none is computed.

    The tokenizer's side, which has gradients for the reconstruction alone, weighs what the options and the ramp say
    and, if adaptive, `balance` against the gradient of `comparison` (comparison_pull). The discriminator's, with its
    penalties, has gradients for the discriminator alone.

    Metrics: adversarial; discriminator, with LeCam's penalty and without R1; both unweighted; adversarial_weight;
    real_logit, fake_logit; r1, the mean squared norm of the gradient.
    """
    options, zero = adversary.options, jnp.zeros(())
    reconstruction = jax.lax.stop_gradient(reconstruction_BFYXC)

    def fooling(reconstruction):
        return generator_loss(options.kind, adversary.judge(reconstruction, key, learn=False))

    def play():
        adversarial, pull = jax.value_and_grad(fooling)(reconstruction)
        real, fake = (adversary.judge(video, key, learn=True) for video in (video_BFYXC, reconstruction))
        loss = discriminator_loss(options.kind, real, fake)
        penalty, averages = lecam(adversary.averages, real, fake)
        if options.lecam:
            loss += options.lecam * penalty
        weight = balance(comparison_pull, pull) if options.adaptive else jnp.ones(())
        found = {"adversarial": adversarial, "discriminator": loss, "adversarial_weight": weight,
                 "real_logit": real.mean(), "fake_logit": fake.mean()}
        r1 = zero, zero
        if options.r1:
            judge = lambda video: adversary.judge(video, key, learn=True)
            r1 = every(options.r1_every, adversary.step, lambda: r1_penalty(judge, video_BFYXC), zero)
        return found, r1, pull, averages

    def wait():
        names = ("adversarial", "discriminator", "adversarial_weight", "real_logit", "fake_logit")
        return dict.fromkeys(names, zero), (zero, zero), jnp.zeros_like(reconstruction), adversary.averages

    started = adversary.step >= options.start
    found, (penalty, penalised), pull, averages = jax.lax.cond(started, play, wait)
    weight = options.adversarial * ramp(adversary.step, options.start, options.warmup) * found["adversarial_weight"]
    found["adversarial_weight"] = weight
    total = (weight * pulled(found["adversarial"], pull, reconstruction_BFYXC) + found["discriminator"]
             + options.r1_every * options.r1 / 2 * penalty)
    metrics = {name: (value, started.astype(jnp.float32)) for name, value in found.items()}
    return total, averages, metrics | ({"r1": (penalty, penalised)} if options.r1 else {})
