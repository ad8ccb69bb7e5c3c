"""Inception v3 as the Fréchet inception distance knows it: TensorFlow's graph of December 2015, up to its pool3.

Float32 throughout. As pure functions over the weights that `phenaki_jax.weights` reads:

    network = make_inception().bind(inception_params(weights.read_inception()), {})
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.models.tree import Pure

Tree = Any
SIDE, FEATURES = 299, 2048


class Conv(NamedTuple):
    """Features, rows and columns of the window, stride; padded with zeros ("SAME"), or, over 3 x 3, not ("VALID")."""
    features: int
    rows: int = 1
    columns: int = 1
    stride: int = 1
    padding: str = "SAME"


class Fork(NamedTuple):
    """Several convolutions of one input, side by side in the channels."""
    convs: tuple[Conv, ...]


AVERAGE, MAX, HALVE = "average", "max", "halve"  # poolings over 3 x 3; the last one with a stride of 2, without padding

# A branch is a chain of convolutions, forks and poolings. A block is its branches, side by side in the channels.
Branch = tuple[Conv | Fork | str, ...]


def _fine(pooled: int) -> tuple[Branch, ...]:
    return ((Conv(64),), (Conv(48), Conv(64, 5, 5)), (Conv(64), Conv(96, 3, 3), Conv(96, 3, 3)),
            (AVERAGE, Conv(pooled)))


def _middle(width: int) -> tuple[Branch, ...]:
    across, down = Conv(width, 1, 7), Conv(width, 7, 1)
    return ((Conv(192),), (Conv(width), across, Conv(192, 7, 1)),
            (Conv(width), down, across, down, Conv(192, 1, 7)), (AVERAGE, Conv(192)))


def _coarse(pooling: str) -> tuple[Branch, ...]:
    fork = Fork((Conv(384, 1, 3), Conv(384, 3, 1)))
    return (Conv(320),), (Conv(384), fork), (Conv(448), Conv(384, 3, 3), fork), (pooling, Conv(192))


_NETWORK: dict[str, Conv | str | tuple[Branch, ...]] = {
    "Conv2d_1a_3x3": Conv(32, 3, 3, 2, "VALID"),
    "Conv2d_2a_3x3": Conv(32, 3, 3, 1, "VALID"),
    "Conv2d_2b_3x3": Conv(64, 3, 3),
    "MaxPool_3a_3x3": HALVE,
    "Conv2d_3b_1x1": Conv(80),
    "Conv2d_4a_3x3": Conv(192, 3, 3, 1, "VALID"),
    "MaxPool_5a_3x3": HALVE,
    "Mixed_5b": _fine(32),
    "Mixed_5c": _fine(64),
    "Mixed_5d": _fine(64),
    "Mixed_6a": ((Conv(384, 3, 3, 2, "VALID"),), (Conv(64), Conv(96, 3, 3), Conv(96, 3, 3, 2, "VALID")), (HALVE,)),
    "Mixed_6b": _middle(128),
    "Mixed_6c": _middle(160),
    "Mixed_6d": _middle(160),
    "Mixed_6e": _middle(192),
    "Mixed_7a": ((Conv(192), Conv(320, 3, 3, 2, "VALID")),
                 (Conv(192), Conv(192, 1, 7), Conv(192, 7, 1), Conv(192, 3, 3, 2, "VALID")), (HALVE,)),
    "Mixed_7b": _coarse(AVERAGE),
    "Mixed_7c": _coarse(MAX),  # the published network averages here; FID's graph does not
}


# -------------------------------------------------------------------------------------------------- layers

class Convolution(nnx.Module):
    """relu(convolution + bias) over [N, Y, X, C]."""

    def __init__(self, conv: Conv, channels: int, *, rngs: nnx.Rngs):
        shape = (conv.rows, conv.columns, channels, conv.features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape), axes=(None,) * 4)
        self.bias = nnx.Param(jnp.zeros((conv.features,)), axes=(None,))
        self.conv = conv

    def __call__(self, x_NYXC: jax.Array) -> jax.Array:
        return jax.nn.relu(_convolved(x_NYXC, self.kernel[...], self.conv) + self.bias[...])


def _convolved(x: jax.Array, kernel: jax.Array, conv: Conv) -> jax.Array:
    """The convolution alone."""
    if conv.rows == conv.columns == conv.stride == 1:
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    y = jax.lax.conv_general_dilated(x, kernel, (conv.stride,) * 2, "SAME" if conv.stride == 1 else conv.padding,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
    # Without padding, XLA's CPU backend takes two to four times as long: so it is padded, and what that adds cut off.
    return y[:, 1:-1, 1:-1] if conv.stride == 1 and conv.padding == "VALID" else y


def _pooled(x_NYXC: jax.Array, kind: str) -> jax.Array:
    """One of the poolings over 3 x 3, an axis at a time. An average is over the places that there are."""
    x = x_NYXC
    for axis in (1, 2):
        n, stride = x.shape[axis], 2 if kind == HALVE else 1
        if kind != HALVE:
            pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
            x = jnp.pad(x, pads, constant_values=0 if kind == AVERAGE else -jnp.inf)
        last = x.shape[axis] - 2
        a, b, c = (jax.lax.slice_in_dim(x, i, last + i, stride, axis) for i in range(3))
        if kind == AVERAGE:
            places = np.full((n, *(1,) * (3 - axis)), 1 / 3, np.float32)
            places[[0, -1]] = 1 / 2
            x = (a + b + c) * places
        else:
            x = jnp.maximum(jnp.maximum(a, b), c)
    return x


class Block(nnx.Module):
    """The branches over one input, side by side in the channels."""

    def __init__(self, branches: tuple[Branch, ...], channels: int, *, rngs: nnx.Rngs):
        self.branches, self.convs, self.features = branches, nnx.List([]), 0
        for branch in branches:
            width = channels
            for step in branch:
                convs = step.convs if isinstance(step, Fork) else (step,) if isinstance(step, Conv) else ()
                self.convs.extend(Convolution(conv, width, rngs=rngs) for conv in convs)
                width = sum(conv.features for conv in convs) or width
            self.features += width

    def __call__(self, x_NYXC: jax.Array) -> jax.Array:
        convs = iter(self.convs)
        return jnp.concatenate([self._along(branch, x_NYXC, convs) for branch in self.branches], axis=-1)

    def _along(self, branch: Branch, x: jax.Array, convs: Iterator[Convolution]) -> jax.Array:
        for step in branch:
            if isinstance(step, Fork):
                x = jnp.concatenate([next(convs)(x) for _ in step.convs], axis=-1)
            else:
                x = next(convs)(x) if isinstance(step, Conv) else _pooled(x, step)
        return x


class Inception(nnx.Module):
    """Inception v3 (Szegedy et al. 2016, arXiv 1512.00567), as FID's authors took it (Heusel et al. 2017, 1706.08500).

    Inference only: the batch normalisations (no scale, epsilon 1e-3) are folded into kernels and biases.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        channels = 3
        for name, step in _NETWORK.items():
            if isinstance(step, Conv):
                setattr(self, name, Convolution(step, channels, rngs=rngs))
                channels = step.features
            elif isinstance(step, tuple):
                setattr(self, name, Block(step, channels, rngs=rngs))
                channels = getattr(self, name).features

    def __call__(self, images_NYXC: jax.Array) -> jax.Array:
        """float [N, 299, 299, 3] from 0 to 255 -> pool3, float32 [N, 2048]: the mean over the last 8 x 8 places.

        Raises:
          UserError: images of another size.
        """
        if images_NYXC.shape[1:] != (SIDE, SIDE, 3):
            raise UserError(f"images are {list(images_NYXC.shape[1:])}; Inception v3 wants [{SIDE}, {SIDE}, 3]")
        x = (images_NYXC.astype(jnp.float32) - 128) / 128
        for name, step in _NETWORK.items():
            x = _pooled(x, step) if isinstance(step, str) else getattr(self, name)(x)
        return jnp.mean(x, axis=(1, 2))


def make_inception() -> Pure:
    """Inception v3 as pure functions."""
    return Pure(lambda rngs: Inception(rngs=rngs))


def inception_params(arrays: Tree) -> Tree:
    """From the arrays of `weights.read_inception` to the parameters of `make_inception`.

    The file has its layers, and in each its branches, in the order in which they stand here, under names of its own.
    """
    def convolutions(layer: Tree) -> Iterator[Tree]:
        if "weight" in layer:
            scale = 1 / np.sqrt(layer["var"].astype(np.float64) + 1e-3)
            kernel = (layer["weight"].transpose(2, 3, 1, 0) * scale).astype(np.float32)
            yield {"kernel": kernel, "bias": (layer["beta"] - layer["mean"] * scale).astype(np.float32)}
            return
        for part in layer.values():
            if isinstance(part, dict):
                yield from convolutions(part)

    named = [name for name, step in _NETWORK.items() if not isinstance(step, str)]
    layers = [found for layer in arrays.values() if isinstance(layer, dict) and (found := list(convolutions(layer)))]
    return {name: {"convs": dict(enumerate(found))} if name.startswith("Mixed") else found[0]
            for name, found in zip(named, layers)}
