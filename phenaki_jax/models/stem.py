"""Convolutions between pixels and patches: what stands before the encoder's patches and, mirrored, after the decoder's.

A linear patch is cut from pixels alone; with a stem it is cut from features that have seen what lies around and before.
(MAGVIT-v2, arXiv 2310.05737, section 3.2, found causal convolutions to be worth more than attention in this place.)
"""

import jax
from flax import nnx

from phenaki_jax.layers.convolution import ResidualBlocks
from phenaki_jax.layers.products import kernel, project

Past = tuple  # for each level the pasts of its convolutions


def to_patches(video_BFYXC: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """[B, T pt, H py, W px, C] -> [B, T, H, W, pt py px C]."""
    B, F, Y, X, C = video_BFYXC.shape
    pt, py, px = patch
    x = video_BFYXC.reshape(B, F // pt, pt, Y // py, py, X // px, px, C)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(B, F // pt, Y // py, X // px, pt * py * px * C)


def from_patches(x_BTHWP: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """The inverse of `to_patches`."""
    B, T, H, W, _ = x_BTHWP.shape
    pt, py, px = patch
    x = x_BTHWP.reshape(B, T, H, W, pt, py, px, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(B, T * pt, H * py, W * px, -1)


def cells(config) -> list[tuple[int, int, int]]:
    """What each level of a stem is cut into, finest first: pixels into cells, then 2 x 2 cells into one of the next."""
    _, py, px = config.patch
    finest = 2 ** len(config.stem)
    return [(1, py // finest, px // finest)] + [(1, 2, 2)] * (len(config.stem) - 1)


class Stem(nnx.Module):
    """Frames [B, F, Y, X, 3] -> [B, F, 2 H, 2 W, stem[-1]], from which patches of 2 x 2 cells are cut.

    Level i has `config.stem[i]` channels and cells of patch / 2^(len(stem) - i) pixels, in each of which
    `config.stem_blocks` residual blocks convolve a frame and the `config.stem_frames` - 1 before it.
    """

    def __init__(self, config, *, rngs: nnx.Rngs):
        self.cuts = cells(config)
        inputs = [py * px * channels for (_, py, px), channels in zip(self.cuts, (3, *config.stem))]
        self.embeds = nnx.List([kernel(rngs, (i, o), (None, "embed")) for i, o in zip(inputs, config.stem)])
        self.levels = _levels(config, config.stem, rngs)

    def __call__(self, x_BFYXC: jax.Array, past: Past | None = None) -> tuple[jax.Array, Past]:
        """past: what the stretch before returned, None at a video's start."""
        present = []
        for level, (cut, embed, blocks) in enumerate(zip(self.cuts, self.embeds, self.levels)):
            x_BFYXC, after = blocks(project(to_patches(x_BFYXC, cut), embed), past and past[level])
            present.append(after)
        return x_BFYXC, tuple(present)


class Head(nnx.Module):
    """A stem mirrored: [B, F, 2 H, 2 W, stem[-1]] -> frames float32 [B, F, Y, X, 3]."""

    def __init__(self, config, *, rngs: nnx.Rngs):
        self.cuts = cells(config)[::-1]
        outputs = [py * px * channels for (_, py, px), channels in zip(self.cuts, (3, *config.stem)[-2::-1])]
        self.levels = _levels(config, config.stem[::-1], rngs)
        self.embeds = nnx.List([kernel(rngs, (i, o), ("embed", None)) for i, o in zip(config.stem[::-1], outputs)])

    def __call__(self, x_BFYXC: jax.Array, past: Past | None = None) -> tuple[jax.Array, Past]:
        """past: what the stretch before returned, None at a video's start."""
        present = []
        for level, (cut, embed, blocks) in enumerate(zip(self.cuts, self.embeds, self.levels), 1):
            x_BFYXC, after = blocks(x_BFYXC, past and past[level - 1])
            present.append(after)
            if level == len(self.cuts):
                x_BFYXC = x_BFYXC.astype("float32")
            x_BFYXC = from_patches(project(x_BFYXC, embed), cut)
        return x_BFYXC, tuple(present)


def _levels(config, channels: tuple[int, ...], rngs: nnx.Rngs) -> nnx.List:
    repeat = config.first_frame == "repeated"
    return nnx.List([ResidualBlocks(config.stem_blocks, config.stem_frames, count, repeat=repeat, rngs=rngs)
                     for count in channels])
