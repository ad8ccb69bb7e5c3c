"""StyleGAN2's discriminator for images and for clips, with blur resampling (Phenaki, arXiv 2210.02399, B.1)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.convolution import convolve
from phenaki_jax.layers.products import project

RANKS = {"image": 2, "video": 3}  # axes between the batch and the channels


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator; the defaults are the paper's at 128 x 128 pixels.

    form: "image" judges [N, Y, X, 3], "video" [N, F, Y, X, 3] by convolutions over time too.
    base_channels, multiplier, max_channels: width at full resolution, base_channels * multiplier, which doubles with
      every level up to max_channels. StyleGAN2's table by resolution, with its channel multiplier 1, is 128 at 128
      pixels and 512 from 32 pixels down.
    levels: how often the resolution is halved; pictures of 4 * 2**levels pixels come down to StyleGAN2's last 4 x 4.
    stddev_group: rows of the batch that are compared for variety (minibatch standard deviation); 0 for no comparison.
    blur: the filter that smooths before every halving, along each axis; normalised to sum 1.
    """
    form: str = "image"
    base_channels: int = 128
    multiplier: float = 1.0
    max_channels: int = 512
    levels: int = 5
    stddev_group: int = 4
    blur: tuple[int, ...] = (1, 3, 3, 1)
    dtype: str = "float32"

    def __post_init__(self):
        if self.form not in RANKS:
            raise UserError(f"discriminator.form={self.form!r} is unknown; it is one of {', '.join(RANKS)}")
        for name in ("base_channels", "levels"):
            if getattr(self, name) < 1:
                raise UserError(f"discriminator.{name}={getattr(self, name)} must be at least 1")
        first = round(self.base_channels * self.multiplier)
        if first < 1:
            raise UserError(f"discriminator.multiplier={self.multiplier} leaves no channel of "
                            f"discriminator.base_channels={self.base_channels}; 1 keeps them all")
        if self.max_channels < first:
            raise UserError(f"discriminator.max_channels={self.max_channels} is less than the first width; "
                            f"{first} or more would do")
        if self.stddev_group < 0 or self.stddev_group == 1:
            raise UserError(f"discriminator.stddev_group={self.stddev_group} compares nothing; "
                            "2 or more compare rows, 0 turns it off")
        if not self.blur or min(self.blur) <= 0:
            raise UserError(f"discriminator.blur={self.blur} must be positive weights, such as (1, 3, 3, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"discriminator.dtype={self.dtype!r} is unknown; it is one of float32, bfloat16")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at full resolution and after each level."""
        first = round(self.base_channels * self.multiplier)
        return tuple(min(first * 2**level, self.max_channels) for level in range(self.levels + 1))


def activate(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps the mean square of a normal input (1.04 of it)."""
    return jax.nn.leaky_relu(x, 0.2) * math.sqrt(2)


def blur_matrix(length: int, blur: tuple[int, ...]) -> np.ndarray:
    """float32 [ceil(length / 2), length]: row i averages what lies around value 2i + 1/2 (an even blur) or 2i (an odd
    one), weighted by the blur.

    Beyond the border the last value goes on, so that a constant stays one, also along two or three frames.
    """
    matrix = np.zeros(((length + 1) // 2, length), np.float32)
    for row, taps in enumerate(matrix):
        for k, weight in enumerate(blur):
            taps[min(max(2 * row + k - (len(blur) - 1) // 2, 0), length - 1)] += weight / sum(blur)
    return matrix


def blur_and_halve(x: jax.Array, blur: tuple[int, ...]) -> jax.Array:
    """[N, ..., C], every axis of length L > 1 between the two -> smoothed, of length ceil(L / 2).

    Matrix products, small beside the convolutions': a grouped convolution, one filter a channel, takes many times as
    long on CPUs.
    """
    for axis in range(1, x.ndim - 1):
        if x.shape[axis] > 1:
            matrix = jnp.asarray(blur_matrix(x.shape[axis], blur), x.dtype)
            lines = jnp.einsum("ol,nlr->nor", matrix, x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1))
            x = lines.reshape(*x.shape[:axis], len(matrix), *x.shape[axis + 1:])
    return x


class Equalised(nnx.Module):
    """x * w / sqrt(fan in) + b with w from N(0, 1), so that all weights learn at one rate (arXiv 1710.10196, 4.1).

    window: () is a product over channels, (3, 3) and (3, 3, 3) are convolutions with zeros beyond the border.
    axes: logical names of the channels that come in and go out.
    """

    def __init__(self, window: tuple[int, ...], inputs: int, outputs: int, axes: tuple[str | None, str | None], *,
                 bias: bool = True, rngs: nnx.Rngs):
        shape = (*window, inputs, outputs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape), axes=(*(None,) * len(window), *axes))
        self.bias = nnx.Param(jnp.zeros((outputs,)), axes=axes[1:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...] * math.prod(self.kernel.shape[:-1]) ** -0.5
        if kernel.ndim == 5:  # frames beyond a clip's ends are zeros too
            x, kernel = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))), kernel.transpose(1, 2, 0, 3, 4)
        y = project(x, kernel) if kernel.ndim == 2 else convolve(x, kernel.astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Block(nnx.Module):
    """(convolve, blur and halve, convolve + a linear skip) / sqrt(2): StyleGAN2's residual block, one level.

    The second convolution runs on the halved grid; StyleGAN2's runs over the blurred full grid with stride 2, as many
    products with a blur of 2**axes times the work.
    """

    def __init__(self, window: tuple[int, ...], inputs: int, outputs: int, blur: tuple[int, ...], *, rngs: nnx.Rngs):
        self.blur = blur
        self.first = Equalised(window, inputs, inputs, ("embed", "mlp"), rngs=rngs)
        self.second = Equalised(window, inputs, outputs, ("mlp", "embed"), rngs=rngs)
        self.skip = Equalised((), inputs, outputs, ("embed", "embed"), bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = activate(self.second(blur_and_halve(activate(self.first(x)), self.blur)))
        return (y + self.skip(blur_and_halve(x, self.blur))) * math.sqrt(0.5)


def variety(x: jax.Array, group: int) -> jax.Array:
    """[N, ..., C] -> float32 [N]: the standard deviation of each row and the group - 1 before it, averaged over all
    else.

    The rows wrap around, so any batch will do, also one that the group does not divide or is longer than (StyleGAN2's
    groups lie side by side); it is about 0 for a batch of one.
    """
    rows = jnp.stack([jnp.roll(x.astype(jnp.float32), k, axis=0) for k in range(min(group, len(x)))])
    deviation = jnp.sqrt(jnp.var(rows, axis=0) + 1e-8)
    return deviation.mean(axis=tuple(range(1, x.ndim)))


class Discriminator(nnx.Module):
    """StyleGAN2's residual discriminator (arXiv 1912.04958, section 4.1): pictures or clips -> one logit each.

    An axis of length 1 is never halved, so any number of frames and any height and width will do. Where StyleGAN2
    flattens its last 4 x 4 into a matrix, the places are averaged here: no resolution is built in, and the paper's
    square powers of two are no limit. Real and generated rows belong into calls of their own, or the variety of the
    one is that of the other.
    """

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        window, widths = (3,) * RANKS[config.form], config.widths
        last = widths[-1]
        self.from_pixels = Equalised((), 3, widths[0], ("pixels", "embed"), rngs=rngs)
        for level in range(config.levels):
            setattr(self, f"block_{level}", Block(window, widths[level], widths[level + 1], config.blur, rngs=rngs))
        self.last = Equalised(window, last + (config.stddev_group > 0), last, ("embed", "mlp"), rngs=rngs)
        self.hidden = Equalised((), last, last, ("mlp", "embed"), rngs=rngs)
        self.logit = Equalised((), last, 1, ("embed", None), rngs=rngs)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Float [N, Y, X, 3] or, in the video form, [N, F, Y, X, 3], in [-1, 1] -> logits float32 [N].

        A logit is large for what looks real. Raises: UserError for a shape of the other form.
        """
        config = self.config
        if pictures.ndim != RANKS[config.form] + 2 or pictures.shape[-1] != 3:
            layout = "N, Y, X, 3" if config.form == "image" else "N, F, Y, X, 3"
            raise UserError(f"an array of shape {list(pictures.shape)} does not fit "
                            f"discriminator.form={config.form!r}, which takes [{layout}]")
        x = activate(self.from_pixels(pictures.astype(config.dtype)))
        for level in range(config.levels):
            x = getattr(self, f"block_{level}")(x)
        if config.stddev_group:
            rows = variety(x, config.stddev_group).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
            x = jnp.concatenate([x, jnp.broadcast_to(rows, (*x.shape[:-1], 1))], axis=-1)
        x = activate(self.last(x)).astype(jnp.float32).mean(axis=tuple(range(1, x.ndim - 1)))
        return self.logit(activate(self.hidden(x)))[:, 0]
