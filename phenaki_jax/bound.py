"""Models with their arrays, ready to call: a trained run's, or fresh ones from a configuration."""

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.media import to_float
from phenaki_jax.models.build import make_generator, make_tokenizer
from phenaki_jax.models.tree import Pure, Tree


class Tokenizer:
    """A C-ViViT with its arrays.

    Attributes: config: its CViViTConfig. codebook_size. params, variables: pure dicts of arrays.
    """

    def __init__(self, pure: Pure, params: Tree, variables: Tree):
        self.pure, self.params, self.variables = pure, params, variables
        self.config = pure.module_config
        self.codebook_size = self.config.codebook_size

        def jitted(method: str):
            return jax.jit(lambda params, variables, x, *past: getattr(pure.bind(params, variables), method)(x, *past))

        self._encode, self._decode = jitted("encode"), jitted("decode")
        self._encode_chunk, self._decode_chunk = jitted("encode_chunk"), jitted("decode_chunk")

    def encode(self, video) -> jax.Array:
        """Video [B, F, Y, X, 3], float in [-1, 1] or uint8 -> tokens int32 [B, T, H, W].

        Any F: the last frame is repeated until 1 + patch[0] * k frames are full. What is longer than a training clip is
        encoded a stretch at a time, with the same tokens and the memory of one stretch. Y and X are multiples of the
        patch's.
        """
        video = video if isinstance(video, jax.Array) else np.asarray(video)
        if video.ndim != 5 or not video.size:
            raise UserError(f"video has shape {video.shape}; "
                            "a tokenizer takes [B, F, Y, X, 3] with at least 1 frame")
        step, frames = self.config.patch[0], video.shape[1]
        steps = 1 + -(-(frames - 1) // step)

        def stretch(first: int, last: int) -> jax.Array:
            part = jnp.asarray(video[:, first:last])
            missing = last - first - part.shape[1]
            part = jnp.concatenate([part, jnp.repeat(part[:, -1:], missing, axis=1)], axis=1) if missing else part
            return to_float(part) if part.dtype == jnp.uint8 else part

        if steps <= self.config.grid[0]:
            return self._encode(self.params, self.variables, stretch(0, 1 + step * (steps - 1)))
        tokens, past, done = [], None, 0
        while done < frames:
            ahead = done + self._stretch + (not done)
            part, past = self._encode_chunk(self.params, self.variables, stretch(done, ahead), past)
            tokens, done = [*tokens, part], ahead
        return jnp.concatenate(tokens, axis=1)[:, :steps]

    def decode(self, tokens, num_frames: int | None = None) -> jax.Array | np.ndarray:
        """Tokens int32 [B, T, H, W] -> video float32 [B, F, Y, X, 3] in [-1, 1], its first `num_frames` if given.

        What is longer than a training clip is decoded a stretch at a time into an array of the host.
        Raises: UserError for ids outside the codebook.
        """
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 4 or not tokens.size:
            raise UserError(f"tokens have shape {tokens.shape}; a tokenizer takes [B, T, H, W] with at least 1 step")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.codebook_size:
            raise UserError(f"tokens lie in {low}..{high}, but this tokenizer's are 0..{self.codebook_size - 1}; "
                            "they must come from a tokenizer with the same codebook")
        steps, step = tokens.shape[1], self.config.patch[0]
        if steps <= self.config.grid[0]:
            return self._decode(self.params, self.variables, tokens)[:, :num_frames]
        parts, past, done = [], None, 0
        while done < steps:
            ahead = done + self._stretch // step + (not done)
            part = tokens[:, done:ahead]
            part = jnp.pad(part, ((0, 0), (0, ahead - done - part.shape[1]), (0, 0), (0, 0)))
            frames, past = self._decode_chunk(self.params, self.variables, part, past)
            parts, done = [*parts, np.asarray(frames)], ahead
        return np.concatenate(parts, axis=1)[:, :1 + step * (steps - 1)][:, :num_frames]

    @property
    def _stretch(self) -> int:
        """Frames that go through at once where a video is longer than a training clip: few shapes are compiled."""
        return max(self.config.frames - 1, self.config.patch[0])


class Bound:
    """A model with its arrays. Attributes: pure, params, variables; config: its sizes."""

    def __init__(self, pure: Pure, params: Tree, variables: Tree):
        self.pure, self.params, self.variables = pure, params, variables
        self.config = pure.module_config


class BoundGenerator(Bound):
    """A masked transformer with its arrays and text encoder: (tokens [B, T, H, W], text) -> logits [B, T, H, W, V]."""

    def __init__(self, pure: Pure, params: Tree, variables: Tree):
        super().__init__(pure, params, variables)
        self.has_encoder = "text" in params

        def logits(params, variables, tokens, text, mask, conditions):
            model = pure.bind(params, variables)
            return model.transformer(tokens, model.read(text, mask, conditions))

        self._logits = jax.jit(logits)

    def __call__(self, tokens, text=None, text_mask=None, conditions=None) -> jax.Array:
        """tokens int32, `config.codebook_size` where masked; text: ids int32 [B, P], or embeddings [B, P, E], or None.

        text_mask boolean [B, P]; by default all but padding (id 0) counts. conditions float32 [B, N] of
        `config.conditions`, NaN where nothing is told (default: nowhere).
        """
        if text is None and self.config.text_dim:  # the unconditional model
            text = jnp.zeros((tokens.shape[0], 1), jnp.int32) if self.has_encoder else jnp.zeros(
                (tokens.shape[0], 1, self.config.text_dim))
            text_mask = jnp.zeros((tokens.shape[0], 1), bool)
        elif text is not None and text_mask is None:
            text_mask = text > 0 if text.ndim == 2 else jnp.ones(text.shape[:2], bool)
        if conditions is None and self.config.conditions:
            conditions = jnp.full((len(tokens), len(self.config.conditions)), jnp.nan)
        return self._logits(self.params, self.variables, tokens, text, text_mask, conditions)


def create_tokenizer(config, seed: int = 0) -> Tokenizer:
    """A tokenizer of the sizes of `config.tokenizer` with random weights, ready to call."""
    pure = make_tokenizer(config)
    return Tokenizer(pure, *jax.jit(pure.init)(jax.random.key(seed)))


def create_generator(config, seed: int = 0) -> BoundGenerator:
    """A generator of the sizes of `config.generator` and `config.text` with random weights, ready to call."""
    pure = make_generator(config)
    return BoundGenerator(pure, *jax.jit(pure.init)(jax.random.key(seed)))
