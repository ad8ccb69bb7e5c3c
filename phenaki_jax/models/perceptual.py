"""Two frozen networks that see as people do, roughly: LPIPS over VGG16 for frames, I3D for clips.

Both take pixels in [-1, 1] and compute in float32. As pure functions over the weights that `phenaki_jax.weights` reads:

    network = make_i3d().bind(i3d_params(weights.read_i3d()), {})
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.models.stem import to_patches
from phenaki_jax.models.tree import Pure

Tree = Any


class ConvRelu(nnx.Module):
    """relu(convolution + bias) over [N, ..., C] of any rank, padded as TensorFlow's "SAME" is."""

    def __init__(self, window: tuple[int, ...], channels: int, features: int, *, stride: int = 1, rngs: nnx.Rngs):
        shape = (*window, channels, features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape), axes=(None,) * len(shape))
        self.bias = nnx.Param(jnp.zeros((features,)), axes=(None,))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, padding, space = self.kernel[...], "SAME", "FYX"[5 - x.ndim:]
        if self.stride > 1:
            x, kernel, padding = *_dense(x, kernel, self.stride), "VALID"
        elif min(x.shape[1:-1]) < kernel.shape[0]:
            return jax.nn.relu(_small(x, kernel) + self.bias[...])
        x = jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), padding,
                                         dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"))
        return jax.nn.relu(x + self.bias[...])


def _dense(x_NFYXC: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Input and kernel [K, K, K, C, O] of the same convolution without its stride: blocks of pixels become channels.

    XLA's CPU backend has no fast gradient of a strided convolution over three axes: this one's is many times faster.
    """
    window, block = kernel.shape[0], (stride,) * 3
    taps = -(-window // stride)
    pads = []
    for n in x_NFYXC.shape[1:4]:
        out = -(-n // stride)
        low = max((out - 1) * stride + window - n, 0) // 2  # TensorFlow's "SAME"
        pads.append((low, (out + taps - 1) * stride - n - low))
    kernel = jnp.pad(kernel, [(0, taps * stride - window)] * 3 + [(0, 0)] * 2)
    flat = to_patches(kernel.reshape(1, *kernel.shape[:3], -1), block)
    x = to_patches(jnp.pad(x_NFYXC, [(0, 0), *pads, (0, 0)]), block)
    return x, flat.reshape(*flat.shape[1:4], x.shape[-1], -1)


def _small(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, padded as "SAME", as one product over every place's neighbours side by side.

    Where the window is larger than the input, XLA's CPU backend takes a convolution fifty times as long.
    """
    window, sizes = kernel.shape[0], x.shape[1:-1]
    low = (window - 1) // 2
    x = jnp.pad(x, [(0, 0), *[(low, window - 1 - low)] * len(sizes), (0, 0)])
    corners = itertools.product(range(window), repeat=len(sizes))
    x = jnp.concatenate([x[:, *(slice(i, i + n) for i, n in zip(at, sizes))] for at in corners], axis=-1)
    return (x.reshape(-1, x.shape[-1]) @ kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], -1)


def _unit(x: jax.Array) -> jax.Array:
    """Every position's vector of channels scaled to length 1; a zero stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-10)


# -------------------------------------------------------------------------------------------------- LPIPS

_VGG16 = {f"conv{block}_{i + 1}": width
          for block, (depth, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1)
          for i in range(depth)}
_HEADS = {"conv1_2": "head1", "conv2_2": "head2", "conv3_3": "head3", "conv4_3": "head4", "conv5_3": "head5"}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for [-1, 1]


class LPIPS(nnx.Module):
    """The distance LPIPS v0.1 over VGG16 (Zhang et al. 2018, arXiv 1801.03924); 0 for equal images.

    Of the last activation before each pooling and of the last of all: unit vectors over the channels, their squared
    difference weighed by a learned head, summed over channels, averaged over positions; the sum of the five.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        channels = 3
        for name, width in _VGG16.items():
            setattr(self, name, ConvRelu((3, 3), channels, width, rngs=rngs))
            if name in _HEADS:
                setattr(self, _HEADS[name], nnx.Param(jnp.full((width,), 1 / width), axes=(None,)))
            channels = width

    def __call__(self, a_NYXC: jax.Array, b_NYXC: jax.Array) -> jax.Array:
        """float [N, Y, X, 3] twice, in [-1, 1], Y and X at least 16 -> float32 [N]."""
        if min(a_NYXC.shape[1:3]) < 16:
            raise UserError(f"frames are {a_NYXC.shape[1]} x {a_NYXC.shape[2]}; LPIPS wants at least 16 x 16")
        x = jnp.concatenate([a_NYXC, b_NYXC]).astype(jnp.float32)
        x = (x - jnp.array(_SHIFT)) / jnp.array(_SCALE)
        total = 0.0
        for name in _VGG16:
            if name[-2:] == "_1" and name != "conv1_1":
                x = nnx.max_pool(x, (2, 2), (2, 2))
            x = getattr(self, name)(x)
            if name in _HEADS:
                a, b = jnp.split(_unit(x), 2)
                weighed = jnp.square(a - b) * getattr(self, _HEADS[name])[...]
                total += jnp.mean(jnp.sum(weighed, axis=-1), axis=(1, 2))
        return total


def make_lpips() -> Pure:
    """LPIPS as pure functions."""
    return Pure(lambda rngs: LPIPS(rngs=rngs))


def lpips_params(arrays: Tree) -> Tree:
    """From the arrays of `weights.read_lpips` to the parameters of `make_lpips`."""
    params = {name: dict(arrays["VGG16_0"][f"Conv_{i}"]) for i, name in enumerate(_VGG16)}
    heads = {name: arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i, name in enumerate(_HEADS.values())}
    return params | heads


# ---------------------------------------------------------------------------------------------------- I3D

_I3D = {  # convolution: window, stride, features; pooling: window, strides; inception: features of its convolutions
    "Conv3d_1a_7x7": (7, 2, 64),
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": (1, 1, 64),
    "Conv3d_2c_3x3": (3, 1, 192),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
ENDPOINTS = tuple(_I3D)
LOSS_ENDPOINTS = ("Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c")
_FEWEST_FRAMES, _SMALLEST = 9, 32


class Inception(nnx.Module):
    """Four branches of convolutions over the same input, side by side in the channels."""

    def __init__(self, channels: int, features: tuple[int, ...], *, rngs: nnx.Rngs):
        conv = functools.partial(ConvRelu, rngs=rngs)
        self.Branch_0_Conv3d_0a_1x1 = conv((1, 1, 1), channels, features[0])
        self.Branch_1_Conv3d_0a_1x1 = conv((1, 1, 1), channels, features[1])
        self.Branch_1_Conv3d_0b_3x3 = conv((3, 3, 3), features[1], features[2])
        self.Branch_2_Conv3d_0a_1x1 = conv((1, 1, 1), channels, features[3])
        self.Branch_2_Conv3d_0b_3x3 = conv((3, 3, 3), features[3], features[4])
        self.Branch_3_Conv3d_0b_1x1 = conv((1, 1, 1), channels, features[5])

    def __call__(self, x_NFYXC: jax.Array) -> jax.Array:
        x, pooled = x_NFYXC, nnx.max_pool(x_NFYXC, (3, 3, 3), padding="SAME")
        return jnp.concatenate([
            self.Branch_0_Conv3d_0a_1x1(x),
            self.Branch_1_Conv3d_0b_3x3(self.Branch_1_Conv3d_0a_1x1(x)),
            self.Branch_2_Conv3d_0b_3x3(self.Branch_2_Conv3d_0a_1x1(x)),
            self.Branch_3_Conv3d_0b_1x1(pooled),
        ], axis=-1)


class I3D(nnx.Module):
    """Inflated Inception v1 for RGB, Kinetics-400's 400 classes (Carreira and Zisserman 2017, arXiv 1705.07750).

    Inference only: the batch normalisations (no scale, epsilon 1e-3) are folded into kernels and biases.

    A clip of 8 frames or fewer is continued with its last frame up to 9, the fewest that the logits can be averaged of.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        channels = 3
        for name, sizes in _I3D.items():
            if name.startswith("Conv3d"):
                size, stride, features = sizes
                setattr(self, name, ConvRelu((size,) * 3, channels, features, stride=stride, rngs=rngs))
                channels = features
            elif name.startswith("Mixed"):
                setattr(self, name, Inception(channels, sizes, rngs=rngs))
                channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        self.logits_kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (channels, 400)),
                                       axes=(None, None))
        self.logits_bias = nnx.Param(jnp.zeros((400,)), axes=(None,))

    def activations(self, video_NFYXC: jax.Array, endpoints: tuple[str, ...] = LOSS_ENDPOINTS) -> dict[str, jax.Array]:
        """float [N, F, Y, X, 3] in [-1, 1], Y and X at least 32 -> what leaves each of the named `ENDPOINTS`.

        Returns:
          name -> float32 [N, F', Y', X', C], after the ReLU; nothing behind the last endpoint is computed.

        Raises:
          UserError: an unknown endpoint, or frames that are too small.
        """
        if unknown := set(endpoints) - set(ENDPOINTS):
            raise UserError(f"endpoints {sorted(unknown)} are unknown; I3D has {', '.join(ENDPOINTS)}")
        frames, height, width = video_NFYXC.shape[1:4]
        if min(height, width) < _SMALLEST:
            raise UserError(f"frames are {height} x {width}; I3D wants at least {_SMALLEST} x {_SMALLEST}")
        missing = max(0, _FEWEST_FRAMES - frames)
        x = jnp.pad(video_NFYXC.astype(jnp.float32), ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        found = {}
        for name, sizes in _I3D.items():
            x = nnx.max_pool(x, *sizes, padding="SAME") if name.startswith("MaxPool") else getattr(self, name)(x)
            if name in endpoints:
                found[name] = x
            if len(found) == len(set(endpoints)):
                return found

    def __call__(self, video_NFYXC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """float [N, F, 224, 224, 3] in [-1, 1] -> logits [N, 400] and features [N, 1024], both averaged over time.

        Features are averaged over 7 x 7 positions and windows of 2 steps, then over time, and logits are their linear
        map: what the original gives, which maps every window and then averages.

        Raises:
          UserError: frames that do not end as 7 x 7 positions, so of other than 193 to 224 rows or columns.
        """
        height, width = video_NFYXC.shape[2:4]
        if (-(-height // 32), -(-width // 32)) != (7, 7):
            raise UserError(f"frames are {height} x {width}; I3D's logits want 224 x 224")
        x_NTC = jnp.mean(self.activations(video_NFYXC, ("Mixed_5c",))["Mixed_5c"], axis=(2, 3))
        pooled = jnp.mean((x_NTC[:, :-1] + x_NTC[:, 1:]) / 2, axis=1)
        return pooled @ self.logits_kernel[...] + self.logits_bias[...], pooled


def make_i3d() -> Pure:
    """I3D as pure functions."""
    return Pure(lambda rngs: I3D(rngs=rngs))


def i3d_params(arrays: Tree) -> Tree:
    """From the arrays of `weights.read_i3d` to the parameters of `make_i3d`."""
    def folded(layer, statistics):
        scale = 1 / np.sqrt(statistics["var"].reshape(-1).astype(np.float64) + 1e-3)
        bias = layer["BatchNorm_0"]["bias"].reshape(-1) - statistics["mean"].reshape(-1) * scale
        return {"kernel": (layer["Conv_0"]["kernel"] * scale).astype(np.float32), "bias": bias.astype(np.float32)}

    params = {}
    for name, statistics in arrays["batch_stats"].items():
        layer = arrays["params"][name]
        if name.startswith("Mixed"):
            params[name] = {branch.replace("/", "_"): folded(layer[branch], statistics[branch]["BatchNorm_0"])
                            for branch in statistics}
        else:
            params[name] = folded(layer, statistics["BatchNorm_0"])
    logits = arrays["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    return params | {"logits_kernel": logits["kernel"].reshape(-1, 400), "logits_bias": logits["bias"]}


# -------------------------------------------------------------------------------------------------- losses

def image_perceptual_distance(lpips: LPIPS, a_BFYXC: jax.Array, b_BFYXC: jax.Array) -> jax.Array:
    """L_IP (Phenaki, section 2.1): LPIPS, the mean over all frames of clips float [B, F, Y, X, 3] in [-1, 1]."""
    frames = (-1, *a_BFYXC.shape[2:])
    return jnp.mean(lpips(a_BFYXC.reshape(frames), b_BFYXC.reshape(frames)))


def video_perceptual_distance(i3d: I3D, a_BFYXC: jax.Array, b_BFYXC: jax.Array,
                              endpoints: tuple[str, ...] = LOSS_ENDPOINTS) -> jax.Array:
    """L_VP (Phenaki, section 2.1): how far two clips are apart in I3D, from 0 to 2; clips as `I3D.activations` wants.

    The paper says no more than "I3D features". This is LPIPS's recipe carried over: unit vectors over the channels and
    their squared difference, averaged over positions, of the last activation of each resolution, so that edges, motion
    and content all count; I3D has no learned heads, so channels and endpoints weigh the same.
    """
    both = i3d.activations(jnp.concatenate([a_BFYXC, b_BFYXC]), endpoints)
    halves = [jnp.split(_unit(x), 2) for x in both.values()]
    return sum(jnp.mean(jnp.sum(jnp.square(a - b), axis=-1)) for a, b in halves) / len(halves)
