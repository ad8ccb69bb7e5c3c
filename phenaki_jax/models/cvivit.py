"""C-ViViT, the causal video tokenizer (Phenaki, arXiv 2210.02399, section 2.1 and appendix B.1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import kernel, project
from phenaki_jax.layers.positions import GridPositions
from phenaki_jax.layers.transformer import Stack, in_space, in_time
from phenaki_jax.models.quantizers import Quantized, make_quantizer, swap_codes


@dataclasses.dataclass(frozen=True)
class CViViTConfig:
    """Sizes of a tokenizer.

    frames, height, width: of the clips it is trained on; frames = 1 + patch[0] * k.
    patch: frames, rows and columns of a token; the first frame has patches of one frame.
    codebook_size, code_dim, commitment: of `vq`; `levels`: of `fsq`, whose product is the codebook's size.
    code_noise: largest share of codes that training swaps for others before decoding; see `swap_codes`.
    qk_norm: normalise queries and keys. unroll, remat: how the layers' scan is compiled.
    """
    frames: int = 11
    height: int = 128
    width: int = 128
    patch: tuple[int, int, int] = (2, 8, 8)
    embed_dim: int = 512
    heads: int = 8
    mlp_dim: int = 2048
    spatial_layers: int = 4
    temporal_layers: int = 4
    quantizer: str = "vq"
    codebook_size: int = 8192
    code_dim: int = 32
    levels: tuple[int, ...] = ()
    commitment: float = 0.25
    code_noise: float = 0.0
    qk_norm: bool = False
    unroll: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise UserError(f"tokenizer.patch={self.patch} must be frames, rows and columns, each at least 1")
        if self.heads < 1 or self.embed_dim % (2 * self.heads):
            raise UserError(f"tokenizer.embed_dim={self.embed_dim} is no multiple of twice "
                            f"tokenizer.heads={self.heads}; rotary positions need heads of even width")
        if not 0 <= self.code_noise <= 1:
            raise UserError(f"tokenizer.code_noise={self.code_noise} must be a share from 0 to 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"tokenizer.dtype={self.dtype!r} is unknown; it is one of float32, bfloat16")
        for name in ("height", "width"):
            size, step = getattr(self, name), self.patch[1 if name == "height" else 2]
            if size % step:
                raise UserError(f"tokenizer.{name}={size} does not fit patches of {step} pixels; "
                                f"{size // step * step or step} or {(size // step + 1) * step} would")
        self.latent_frames(self.frames)

    def latent_frames(self, frames: int) -> int:
        """Latent steps of a clip of `frames` frames: 1 + (frames - 1) / patch[0]."""
        step = self.patch[0]
        if frames < 1 or (frames - 1) % step:
            low = max(frames - 1, 0) // step * step + 1
            raise UserError(f"frames={frames} does not fit 1 + {step}k frames; {low} or {low + step} would")
        return 1 + (frames - 1) // step

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H, W) of a training clip's tokens."""
        return self.latent_frames(self.frames), self.height // self.patch[1], self.width // self.patch[2]


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


class FactorisedTransformer(nnx.Module):
    """A spatial stack (all-to-all within a latent step) and a causal temporal one (over each position's own past)."""

    def __init__(self, config: CViViTConfig, *, rngs: nnx.Rngs):
        args = (config.embed_dim, config.heads, config.mlp_dim)
        options = dict(qk_norm=config.qk_norm, unroll=config.unroll, remat=config.remat, rngs=rngs)
        self.positions = GridPositions(config.grid[1:], config.embed_dim, rngs=rngs)
        self.spatial = Stack(config.spatial_layers, *args, **options)
        self.temporal = Stack(config.temporal_layers, *args, **options)

    def attend_in_space(self, x_BTHWD: jax.Array) -> jax.Array:
        B, T, H, W, D = x_BTHWD.shape
        x = (x_BTHWD + self.positions(H, W).astype(x_BTHWD.dtype)).reshape(B, T * H * W, D)
        return in_space(self.spatial, x, (T, H, W)).reshape(x_BTHWD.shape)

    def attend_in_time(self, x_BTHWD: jax.Array) -> jax.Array:
        B, T, H, W, D = x_BTHWD.shape
        causal = functools.partial(self.temporal, mask=jnp.tri(T, dtype=bool), positions_S=jnp.arange(T))
        return in_time(causal, x_BTHWD.reshape(B, T * H * W, D), (T, H, W)).reshape(x_BTHWD.shape)


class CViViT(nnx.Module):
    """Encoder, quantizer and decoder: video float [B, F, Y, X, 3] in [-1, 1] <-> tokens int32 [B, T, H, W].

    The first frame has a patch embedding of its own, so its tokens depend on that frame alone and an image is a video
    of one frame; attention in time is causal, so tokens and reconstruction up to step t depend on nothing later.
    """

    def __init__(self, config: CViViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        pt, py, px = config.patch
        first, rest, D = py * px * 3, pt * py * px * 3, config.embed_dim
        self.embed_first = kernel(rngs, (first, D), (None, "embed"))
        self.embed_rest = kernel(rngs, (rest, D), (None, "embed"))
        self.encoder = FactorisedTransformer(config, rngs=rngs)
        self.quantizer = make_quantizer(config, rngs=rngs)
        self.decoder = FactorisedTransformer(config, rngs=rngs)
        self.pixels_first = kernel(rngs, (D, first), ("embed", None))
        self.pixels_rest = kernel(rngs, (D, rest), ("embed", None))

    def _vectors(self, video_BFYXC: jax.Array) -> jax.Array:
        """Everything before the quantizer: [B, F, Y, X, 3] -> [B, T, H, W, D]."""
        config = self.config
        config.latent_frames(video_BFYXC.shape[1])
        if video_BFYXC.shape[2:4] != (config.height, config.width):
            raise UserError(f"video of {video_BFYXC.shape[2]} x {video_BFYXC.shape[3]} pixels does not fit the "
                            f"tokenizer, which takes {config.height} x {config.width}")
        video_BFYXC = video_BFYXC.astype(config.dtype)
        pt, py, px = config.patch
        x = project(to_patches(video_BFYXC[:, :1], (1, py, px)), self.embed_first)
        if video_BFYXC.shape[1] > 1:
            rest = project(to_patches(video_BFYXC[:, 1:], config.patch), self.embed_rest)
            x = jnp.concatenate([x, rest], axis=1)
        return self.encoder.attend_in_time(self.encoder.attend_in_space(x))

    def _pixels(self, codes_BTHWD: jax.Array) -> jax.Array:
        """Everything after the quantizer: [B, T, H, W, D] -> [B, F, Y, X, 3], not clipped."""
        pt, py, px = self.config.patch
        x = self.decoder.attend_in_space(self.decoder.attend_in_time(codes_BTHWD.astype(self.config.dtype)))
        x = x.astype(jnp.float32)
        video = from_patches(project(x[:, :1], self.pixels_first), (1, py, px))
        if x.shape[1] > 1:
            rest = from_patches(project(x[:, 1:], self.pixels_rest), self.config.patch)
            video = jnp.concatenate([video, rest], axis=1)
        return video

    def latent_frames(self, frames: int) -> int:
        """Latent steps of a clip of `frames` frames."""
        return self.config.latent_frames(frames)

    def encode(self, video_BFYXC: jax.Array) -> jax.Array:
        """Video in [-1, 1], [B, F, Y, X, 3] -> tokens int32 [B, T, H, W]; F is 1 + patch[0] * k."""
        return self.quantizer(self._vectors(video_BFYXC)).tokens

    def decode(self, tokens_BTHW: jax.Array) -> jax.Array:
        """Tokens int32 [B, T, H, W] -> video in [-1, 1], [B, 1 + patch[0] * (T - 1), Y, X, 3]."""
        return jnp.clip(self._pixels(self.quantizer.codes(tokens_BTHW)), -1.0, 1.0)

    def __call__(self, video_BFYXC: jax.Array, *, train: bool = False,
                 key: jax.Array | None = None) -> tuple[jax.Array, Quantized]:
        """The reconstruction (not clipped) and what the quantizer says, its loss among it.

        Args:
          train: counts codes and, with config.code_noise, reconstructs from disturbed codes; both may need `key`.
        """
        quantized = self.quantizer(self._vectors(video_BFYXC), train=train, key=key)
        codes = quantized.codes
        if train and self.config.code_noise:
            codes = swap_codes(codes, jax.random.fold_in(key, 1), self.config.code_noise)
        return self._pixels(codes), quantized
