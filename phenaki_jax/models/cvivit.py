"""C-ViViT, the causal video tokenizer (Phenaki, arXiv 2210.02399, section 2.1 and appendix B.1)."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.positions import GridPositions, grid_places
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.layers.transformer import Stack, check_computing, in_space, in_time
from phenaki_jax.models.codes import bit_groups, code_bits
from phenaki_jax.models.quantizers import Quantized, make_quantizer, swap_codes
from phenaki_jax.models.stem import Head, Stem, from_patches, to_patches


@dataclasses.dataclass(frozen=True)
class CViViTConfig:
    """Sizes of a tokenizer.

    frames, height, width: of the clips it is trained on; frames = 1 + patch[0] * k.
    patch: frames, rows and columns of a token; the first frame is a latent step by itself.
    first_frame: 'apart' (the paper) embeds the first frame by a matrix of its own, 'repeated' as the others with itself
      before it (MAGVIT-v2's padding, arXiv 2310.05737, section 3.1): a video that stands still then has the tokens of
      its first frame at every step, and what a generator learns of images is said in the words of videos.
    quantizer: 'vq' with a learned codebook, or a grid: 'fsq', 'lfq', 'bsq'. See their classes in models/quantizers.py.
    codebook_size: V; of `fsq` the product of its `levels`, of `lfq` and `bsq` a power of two. code_dim: of `vq`.
    commitment: weight of E|z - code|^2, of all but `fsq`; `bsq` can do with 0.
    codebook_update, kmeans_start: of `vq`, how its codebook is learned ('ema' or 'gradient') and whether the first
      batch of training sets it by k-means.
    entropy_weight, diversity, inverse_temperature: of `lfq` and `bsq`, whose loss has entropy_weight (E[H(q|z)] -
      diversity H(E[q])), in nats, with q = softmax(-inverse_temperature |z - code|^2) and codes of ±1.
    gradient: of `vq` and `bsq`, how it passes the quantizer: 'straight_through' or 'rotation'.
    code_noise: largest share of codes that training swaps for others before decoding; see `swap_codes`.
    window: latent steps that attention in time sees, its own and those before it; 0 for as many as a training clip has.
      A longer video then costs the same memory a step, and no step looks further back than was trained.
    blocks: 'sequential' (the paper: all layers in space, then all in time) or 'interleaved' (each layer attends in
      space, then in time; Genie, arXiv 2402.15391, section 2.1).
    temporal_layers: 0 for a tokenizer of single frames; with patch[0] = 1 it is the ViT-VQGAN of table 3.
    rotary: turn queries and keys in space by row and column, beside the learned positions. Time always has it.
    stem: channels of the convolutions between pixels and patches, finest first; () for linear patches. Their last
      level has cells of half a patch, each one before of half that; see `Stem`. stem_blocks: residual blocks a level.
    stem_frames: frames that each convolution sees, its own and those before it; 1 for convolutions in space alone.
    qk_norm: normalise queries and keys. unroll: the layers' scan. remat: what a layer keeps for its gradient, a name of
      `transformer.REMAT`. attention_block: positions that a TPU's attention takes at a time, at most.
    dtype: of activations, 'float32' or 'bfloat16'; parameters are float32.
    matmul_precision: of products of float32, as JAX calls it: 'bfloat16' rounds their factors (sums stay float32),
      'float32' is exact also where the hardware's own way is not, and 'default' leaves it to JAX and the hardware.
    """
    frames: int = 11
    height: int = 128
    width: int = 128
    patch: tuple[int, int, int] = (2, 8, 8)
    first_frame: str = "apart"
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
    codebook_update: str = "ema"
    kmeans_start: bool = False
    entropy_weight: float = 0.5
    diversity: float = 1.0
    inverse_temperature: float = 1.0
    gradient: str = "straight_through"
    code_noise: float = 0.0
    window: int = 0
    blocks: str = "sequential"
    stem: tuple[int, ...] = ()
    stem_blocks: int = 1
    stem_frames: int = 3
    rotary: bool = False
    qk_norm: bool = False
    unroll: bool = False
    remat: str = "none"
    attention_block: int = 512
    dtype: str = "float32"
    matmul_precision: str = "default"

    def __post_init__(self):
        check_computing("tokenizer", self.remat, self.attention_block)
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise UserError(f"tokenizer.patch={self.patch} must be frames, rows and columns, each at least 1")
        if self.heads < 1 or self.embed_dim % (2 * self.heads):
            raise UserError(f"tokenizer.embed_dim={self.embed_dim} is no multiple of twice "
                            f"tokenizer.heads={self.heads}; rotary positions need heads of even width")
        if self.window < 0:
            raise UserError(f"tokenizer.window={self.window} must be a number of latent steps, or 0 for a whole clip")
        if self.blocks not in ("sequential", "interleaved"):
            raise UserError(f"tokenizer.blocks={self.blocks!r} is unknown; it is one of sequential, interleaved")
        if self.blocks == "interleaved" and self.spatial_layers != self.temporal_layers:
            raise UserError(f"tokenizer.spatial_layers={self.spatial_layers} must equal tokenizer.temporal_layers="
                            f"{self.temporal_layers} in interleaved blocks, which hold one of each")
        for name, least in (("spatial_layers", 1), ("temporal_layers", 0), ("stem_blocks", 1), ("stem_frames", 1)):
            if getattr(self, name) < least:
                raise UserError(f"tokenizer.{name}={getattr(self, name)} must be at least {least}")
        if self.stem and (min(self.stem) < 1 or any(side % 2 ** len(self.stem) for side in self.patch[1:])):
            raise UserError(f"tokenizer.stem={self.stem} must be channels of levels, each of which halves the cells of "
                            f"tokenizer.patch={self.patch}; at most {_halvings(self.patch)} fit")
        if not 0 <= self.code_noise <= 1:
            raise UserError(f"tokenizer.code_noise={self.code_noise} must be a share from 0 to 1")
        for name, known in (("dtype", ("float32", "bfloat16")), ("first_frame", ("apart", "repeated")),
                            ("matmul_precision", ("default", "bfloat16", "float32"))):
            if getattr(self, name) not in known:
                raise UserError(f"tokenizer.{name}={getattr(self, name)!r} is unknown; it is one of {', '.join(known)}")
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
    def per_frame(self) -> bool:
        """Whether every frame is tokenized alone; then the first is like all others."""
        return self.patch[0] == 1 and not self.temporal_layers and (not self.stem or self.stem_frames == 1)

    @property
    def reach(self) -> int:
        """Latent steps that attention in time sees, its own among them."""
        return self.window or self.latent_frames(self.frames)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H, W) of a training clip's tokens."""
        return self.latent_frames(self.frames), self.height // self.patch[1], self.width // self.patch[2]

    @property
    def digits(self) -> tuple[int, ...]:
        """Levels of each digit of a token, the lowest first (see `split_tokens`); () where codes have no structure."""
        if self.quantizer in ("lfq", "bsq"):
            return (2,) * code_bits(self.codebook_size)
        return self.levels if self.quantizer == "fsq" else ()

    @property
    def factors(self) -> tuple[int, ...]:
        """Sizes of the codebooks that a token can be predicted in, by `split_tokens`; their product is the codebook's.

        Beyond 4096 codes, `lfq` and `bsq` have one for each of `bit_groups`; every other codebook is whole.
        """
        if self.quantizer in ("lfq", "bsq") and self.codebook_size > 4096:
            return tuple(2 ** bits for bits in bit_groups(code_bits(self.codebook_size)))
        return (self.codebook_size,)


def _halvings(patch: tuple[int, int, int]) -> int:
    """How often the sides of a patch can be halved."""
    return min((side & -side).bit_length() - 1 for side in patch[1:])


def causal_mask(steps: int, reach: int, past: int = 0, known: jax.Array | int = 0) -> jax.Array:
    """Which steps each step may attend to: itself and the `reach` - 1 before it. Boolean [steps, past + steps].

    past: columns before the first step, of which the last `known` hold something.
    """
    here, there = np.arange(steps)[:, None], np.arange(-past, steps)[None, :]
    return jnp.asarray((there <= here) & (here - there < reach)) & (there >= -known)


StepsPast = tuple[jax.Array, jax.Array, jax.Array]  # keys and values [layers, B H W, reach - 1, H, K], steps so far
Past = tuple[StepsPast, tuple]  # of the transformer, and of the convolutions


class FactorisedTransformer(nnx.Module):
    """Attention in space (all-to-all within a latent step) and in time (causal, over each position's own past)."""

    def __init__(self, config: CViViTConfig, *, time_first: bool, rngs: nnx.Rngs):
        self.config, self.time_first = config, time_first
        args = (config.embed_dim, config.heads, config.mlp_dim)
        options = dict(qk_norm=config.qk_norm, unroll=config.unroll, remat=config.remat,
                       block=config.attention_block, rngs=rngs)
        self.positions = GridPositions(config.grid[1:], config.embed_dim, stretch=True, rngs=rngs)
        if config.blocks == "interleaved":
            self.blocks = Stack(config.spatial_layers, *args, factorised=True, **options)
        else:
            self.spatial = Stack(config.spatial_layers, *args, **options)
            self.temporal = Stack(config.temporal_layers, *args, **options) if config.temporal_layers else None

    def no_past(self, places: int) -> StepsPast:
        """What is carried before the first step of `places` sequences in time."""
        config = self.config
        shape = (config.temporal_layers, places, config.reach - 1, config.heads, config.embed_dim // config.heads)
        return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype), jnp.zeros((), jnp.int32)

    def __call__(self, x_BTHWD: jax.Array, past: StepsPast | None = None):
        """The same shape; with the `past` of a video that goes on, a pair: that, and the past of what comes next."""
        config, (B, T, H, W, D) = self.config, x_BTHWD.shape
        *cache, known = past or (None, 0)
        cache = None if past is None else tuple(cache)
        mask = causal_mask(T, config.reach, 0 if past is None else config.reach - 1, known)
        places = jnp.asarray(grid_places((H, W))) if config.rotary else None
        # Positions come first: a place whose code is all zero would blow up the gradient of every norm behind it.
        x = x_BTHWD + self.positions(H, W).astype(x_BTHWD.dtype)
        x, present = x.reshape(B, T * H * W, D), cache

        def space(x):
            return in_space(lambda y: self.spatial(y, positions_S=places), x, (T, H, W))

        def time(x):
            steps_S = jnp.arange(mask.shape[1])
            return in_time(lambda y: self.temporal(y, mask=mask, positions_S=steps_S, past=cache), x, (T, H, W))

        if config.blocks == "interleaved":
            x = self.blocks(x, mask=mask, positions_S=places, grid=(T, H, W), past=cache)
            x, present = x if past is not None else (x, None)
        else:
            x = x if self.time_first else space(x)
            if self.temporal is not None:
                x = time(x)
                x, present = x if past is not None else (x, None)
            x = space(x) if self.time_first else x
        x = x.reshape(x_BTHWD.shape)
        return x if past is None else (x, (*present, known + T))


def in_its_precision(method: Callable) -> Callable:
    """A method of CViViT, under the matmul_precision of its config."""
    @functools.wraps(method)
    def run(self, *args, **kwargs):
        precision = self.config.matmul_precision
        with contextlib.nullcontext() if precision == "default" else jax.default_matmul_precision(precision):
            return method(self, *args, **kwargs)

    return run


class CViViT(nnx.Module):
    """Encoder, quantizer and decoder: video float [B, F, Y, X, 3] in [-1, 1] <-> tokens int32 [B, T, H, W].

    The first frame has a patch embedding of its own, so its tokens depend on that frame alone and an image is a video
    of one frame; attention in time is causal, so tokens and reconstruction up to step t depend on nothing later.
    """

    def __init__(self, config: CViViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(config, rngs=rngs) if config.stem else None
        self.cut = (config.patch[0], 2, 2) if config.stem else config.patch  # what a token is of pixels, or of cells
        first = self.cut[1] * self.cut[2] * (config.stem[-1] if config.stem else 3)
        rest, D = self.cut[0] * first, config.embed_dim
        apart = config.first_frame == "apart" and not config.per_frame
        self.embed_first = kernel(rngs, (first, D), (None, "embed")) if apart else None
        self.embed_rest = kernel(rngs, (rest, D), (None, "embed"))
        self.encoder = FactorisedTransformer(config, time_first=False, rngs=rngs)
        self.quantizer = make_quantizer(config, rngs=rngs)
        self.decoder = FactorisedTransformer(config, time_first=True, rngs=rngs)
        self.pixels_first = kernel(rngs, (D, first), ("embed", None)) if apart else None
        self.pixels_rest = kernel(rngs, (D, rest), ("embed", None))
        self.head = Head(config, rngs=rngs) if config.stem else None

    def _check(self, shape: tuple[int, ...], start: bool) -> None:
        config, (frames, height, width) = self.config, shape[1:4]
        pt, py, px = config.patch
        if start:
            config.latent_frames(frames)
        elif frames < 1 or frames % pt:
            raise UserError(f"frames={frames} do not continue a video in patches of {pt} frames; give a multiple of it")
        if height % py or width % px or not height * width:
            raise UserError(f"video of {height} x {width} pixels does not fit patches of {py} x {px}; "
                            f"{-(-height // py) * py or py} x {-(-width // px) * px or px} would")

    def _patches(self, video_BFYXC: jax.Array, start: bool, past: tuple | None = None) -> tuple[jax.Array, tuple]:
        """Embedded patches [B, F, Y, X, 3] -> [B, T, H, W, D], and the convolutions' past for what comes next.

        start: the first frame is the video's first.
        """
        self._check(video_BFYXC.shape, start)
        x, present = video_BFYXC.astype(self.config.dtype), ()
        if self.stem is not None:
            x, present = self.stem(x, past)
        if not start or self.embed_first is None:
            before = [x[:, :1]] * (self.cut[0] - 1 if start else 0)
            return project(to_patches(jnp.concatenate([*before, x], axis=1), self.cut), self.embed_rest), present
        parts = [project(to_patches(x[:, :1], (1, *self.cut[1:])), self.embed_first)]
        if x.shape[1] > 1:
            parts.append(project(to_patches(x[:, 1:], self.cut), self.embed_rest))
        return jnp.concatenate(parts, axis=1), present

    def _frames(self, x_BTHWD: jax.Array, start: bool, past: tuple | None = None) -> tuple[jax.Array, tuple]:
        """The last projection, [B, T, H, W, D] -> [B, F, Y, X, 3], and the convolutions' past for what comes next.

        start: step 0 is the video's first frame.
        """
        x = x_BTHWD if self.head is not None else x_BTHWD.astype(jnp.float32)
        if not start or self.pixels_first is None:
            x = from_patches(project(x, self.pixels_rest), self.cut)[:, self.cut[0] - 1 if start else 0:]
        else:
            parts = [from_patches(project(x[:, :1], self.pixels_first), (1, *self.cut[1:]))]
            if x.shape[1] > 1:
                parts.append(from_patches(project(x[:, 1:], self.pixels_rest), self.cut))
            x = jnp.concatenate(parts, axis=1)
        return (x, ()) if self.head is None else self.head(x, past)

    def latent_frames(self, frames: int) -> int:
        """Latent steps of a clip of `frames` frames."""
        return self.config.latent_frames(frames)

    @in_its_precision
    def encode(self, video_BFYXC: jax.Array) -> jax.Array:
        """Video in [-1, 1], [B, F, Y, X, 3] -> tokens int32 [B, T, H, W]; F is 1 + patch[0] * k, any k.

        Y and X are any multiples of the patch's; where they are not those of training, positions are interpolated.
        """
        return self.quantizer(self.encoder(self._patches(video_BFYXC, True)[0])).tokens

    @in_its_precision
    def decode(self, tokens_BTHW: jax.Array) -> jax.Array:
        """Tokens int32 [B, T, H, W] -> video in [-1, 1], [B, 1 + patch[0] * (T - 1), Y, X, 3]."""
        codes = self.quantizer.codes(tokens_BTHW).astype(self.config.dtype)
        return jnp.clip(self._frames(self.decoder(codes), True)[0], -1.0, 1.0)

    @in_its_precision
    def encode_chunk(self, video_BFYXC: jax.Array, past: Past | None) -> tuple[jax.Array, Past]:
        """`encode`, a stretch of frames at a time: (tokens of these frames, the past for the next).

        Args:
          past: None at a video's start, whose F is 1 + patch[0] * k; then what the last call returned, and F is a
            multiple of patch[0]. Tokens are those of the whole video at once, memory that of a stretch.
        """
        steps, frames = past or (None, None)
        x, frames = self._patches(video_BFYXC, past is None, frames)
        x, steps = self.encoder(x, self.encoder.no_past(x[:, 0, ..., 0].size) if past is None else steps)
        return self.quantizer(x).tokens, (steps, frames)

    @in_its_precision
    def decode_chunk(self, tokens_BTHW: jax.Array, past: Past | None) -> tuple[jax.Array, Past]:
        """`decode`, some latent steps at a time: (their frames, the past for the next); past None at a video's start.
        """
        steps, frames = past or (None, None)
        codes = self.quantizer.codes(tokens_BTHW).astype(self.config.dtype)
        x, steps = self.decoder(codes, self.decoder.no_past(codes[:, 0, ..., 0].size) if past is None else steps)
        x, frames = self._frames(x, past is None, frames)
        return jnp.clip(x, -1.0, 1.0), (steps, frames)

    @in_its_precision
    def __call__(self, video_BFYXC: jax.Array, *, train: bool = False,
                 key: jax.Array | None = None) -> tuple[jax.Array, Quantized]:
        """The reconstruction (not clipped) and what the quantizer says, its loss among it.

        Args:
          train: counts codes and, with config.code_noise, reconstructs from disturbed codes; both may need `key`.
        """
        quantized = self.quantizer(self.encoder(self._patches(video_BFYXC, True)[0]), train=train, key=key)
        codes = quantized.codes
        if train and self.config.code_noise:
            codes = swap_codes(codes, jax.random.fold_in(key, 1), self.config.code_noise)
        return self._frames(self.decoder(codes.astype(self.config.dtype)), True)[0], quantized
