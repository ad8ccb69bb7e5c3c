"""PhenakiPipeline: a trained run, ready to generate, tell and reconstruct; and fresh models from a configuration."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.config import RUN_CONFIG
from phenaki_jax.errors import UserError
from phenaki_jax.input.text import encode_batch
from phenaki_jax.media import to_float, to_uint8
from phenaki_jax.models.build import check_text_is_ids, make_generator, make_tokenizer
from phenaki_jax.models.tree import Pure, Tree
from phenaki_jax.sampling.decoding import make_sampler
from phenaki_jax.sampling.options import chosen
from phenaki_jax.sampling.story import tell
from phenaki_jax.training.checkpoints import load_run


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


class BoundGenerator:
    """A masked transformer with its arrays and text encoder: (tokens [B, T, H, W], text) -> logits [B, T, H, W, V]."""

    def __init__(self, pure: Pure, params: Tree, variables: Tree):
        self.pure, self.params, self.variables = pure, params, variables
        self.config, self.has_encoder = pure.module_config, "text" in params

        def logits(params, variables, tokens, text, mask):
            model = pure.bind(params, variables)
            return model.transformer(tokens, None if text is None else model.read(text, mask))

        self._logits = jax.jit(logits)

    def __call__(self, tokens, text=None, text_mask=None) -> jax.Array:
        """tokens int32, `config.codebook_size` where masked; text: ids int32 [B, P], or embeddings [B, P, E], or None.

        text_mask boolean [B, P]; by default all but padding (id 0) counts.
        """
        if text is None and self.config.text_dim:  # the unconditional model
            text = jnp.zeros((tokens.shape[0], 1), jnp.int32) if self.has_encoder else jnp.zeros(
                (tokens.shape[0], 1, self.config.text_dim))
            text_mask = jnp.zeros((tokens.shape[0], 1), bool)
        elif text is not None and text_mask is None:
            text_mask = text > 0 if text.ndim == 2 else jnp.ones(text.shape[:2], bool)
        return self._logits(self.params, self.variables, tokens, text, text_mask)


def create_tokenizer(config, seed: int = 0) -> Tokenizer:
    """A tokenizer of the sizes of `config.tokenizer` with random weights, ready to call."""
    pure = make_tokenizer(config)
    return Tokenizer(pure, *jax.jit(pure.init)(jax.random.key(seed)))


def create_generator(config, seed: int = 0) -> BoundGenerator:
    """A generator of the sizes of `config.generator` and `config.text` with random weights, ready to call."""
    pure = make_generator(config)
    return BoundGenerator(pure, *jax.jit(pure.init)(jax.random.key(seed)))


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """frames uint8 [N, F, Y, X, 3]; tokens int32 [N, T, H, W], the latent steps in the order they were made."""
    frames: np.ndarray
    tokens: np.ndarray


class PhenakiPipeline:
    """Loads a run and generates.

    Every way of generating takes `preset`, one of `sampling.options.PRESETS` ('nuwa', 'ablation', 'showcase', the
    paper's), and the fields of `sampling.options.Sampling` (num_inference_steps, guidance_scale, temperature, …) as
    keywords; what is left out is the run's `config.sampling`.
    """

    def __init__(self, config, tokenizer: Tokenizer, generator: BoundGenerator | None):
        self.config, self.tokenizer, self.generator = config, tokenizer, generator
        self._sampler = make_sampler(generator.pure, tokenizer.pure) if generator else None

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> "PhenakiPipeline":
        """A run's folder, or one that holds `generator/` or `tokenizer/`. A tokenizer's run can only reconstruct.

        Raises: UserError for a folder that is missing or holds no trained run.
        """
        folder = pathlib.Path(path)
        if not folder.is_dir():
            raise UserError(f"there is no model folder {str(path)!r}; give the folder of a trained run")
        if not (folder / RUN_CONFIG).exists():
            folder = next((folder / name for name in ("generator", "tokenizer") if (folder / name).is_dir()), folder)
        run = load_run(folder)
        config, pure = run.config, make_tokenizer(run.config)
        if run.config.stage == "tokenizer":
            return cls(config, Tokenizer(pure, *jax.device_put((run.params, run.variables))), None)
        params, variables, frozen = jax.device_put((run.params, run.variables, run.frozen))
        generator = BoundGenerator(make_generator(config), params, variables)
        return cls(config, Tokenizer(pure, **frozen), generator)

    def __call__(self, prompt: str | Sequence[str], *, num_frames: int | None = None, seed: int | Sequence[int] = 0,
                 num_videos_per_prompt: int = 1, negative_prompt: str | Sequence[str] | None = None,
                 preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Generates a clip for each prompt.

        Args:
          num_frames: 1 (an image) or 1 + patch[0] * k; more than a training clip is made window by window.
          seed: of the first video, the others' count up from it; or one for each. A video depends on its own seed
            alone, not on the others of the call.
          negative_prompt: what guidance leads away from, for all prompts or for each; guidance_scale must not be 0.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        num_frames = self.config.tokenizer.frames if num_frames is None else num_frames
        _at_least("num_frames", num_frames, 1)
        self.tokenizer.config.latent_frames(num_frames)
        _at_least("num_videos_per_prompt", num_videos_per_prompt, 1)
        if negative_prompt is not None:
            negative_prompt = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(
                negative_prompt)
            if not all(isinstance(p, str) for p in negative_prompt):
                raise UserError(f"negative_prompt={negative_prompt!r} has to be texts")
            if len(negative_prompt) != len(prompts):
                raise UserError(f"negative_prompt has {len(negative_prompt)} texts; there are {len(prompts)} prompts")
            negative_prompt = [p for p in negative_prompt for _ in range(num_videos_per_prompt)]
        prompts = [p for p in prompts for _ in range(num_videos_per_prompt)]
        return self._tell([(prompts, num_frames)], seed, negative_prompt, preset, sampling)

    def story(self, scenes: Sequence[Mapping[str, Any]], *, seed: int = 0, **options: Any) -> PipelineResult:
        """Tells [{"prompt": str, "num_frames": int}, ...] in one video, each scene growing out of the last frames.

        The last K = 5 frames are encoded anew, their tokens frozen, and what follows is generated under the next
        prompt (Phenaki, section 2.3). Options as in a call.
        """
        return self.stories([scenes], seed=seed, **options)

    def stories(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int] = 0,
                preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Several stories at once, alike in the number and the length of their scenes."""
        lengths = {tuple(scene.get("num_frames", self.config.tokenizer.frames) for scene in s) for s in stories}
        if len(lengths) != 1 or lengths == {()}:
            raise UserError(f"stories told together need scenes of the same num_frames; these have {sorted(lengths)}")
        (counts,) = lengths
        scenes = [([story[i].get("prompt", "") for story in stories], count) for i, count in enumerate(counts)]
        return self._tell(scenes, seed, None, preset, sampling)

    def animate(self, prompt: str | Sequence[str], image: np.ndarray, *, num_frames: int | None = None,
                seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Sets a picture in motion: it is the first of `num_frames` frames, as the tokenizer gives it back.

        Args:
          image: uint8 [Y, X, 3] for all prompts, or [N, Y, X, 3]; of the size that the model was trained at.
        """
        image = np.asarray(image)
        prompts, begin = self._begin(prompt, "image", image[:, None] if image.ndim == 4 else image, 3)
        num_frames = self.config.tokenizer.frames if num_frames is None else num_frames
        _at_least("num_frames", num_frames, 2)
        told = self._tell([(prompts, num_frames - 1)], seed, None, preset, sampling, begin)
        first = np.asarray(self.tokenizer.encode(begin))
        return PipelineResult(np.concatenate([self.reconstruct(begin), told.frames[:, 1:]], 1),
                              np.concatenate([first, told.tokens], 1))

    def extend(self, prompt: str | Sequence[str], video: np.ndarray, *, num_frames: int,
               seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Goes on from a video for `num_frames` more frames; its own come before them, as they are.

        Args:
          video: uint8 [F, Y, X, 3] for all prompts, or [N, F, Y, X, 3]; of the size that the model was trained at. Its
            last K = 5 frames are what is gone on from. tokens are those of the new latent steps.
        """
        prompts, begin = self._begin(prompt, "video", np.asarray(video), 4)
        return self._tell([(prompts, num_frames)], seed, None, preset, sampling, begin)

    def inpaint(self, prompt: str | Sequence[str], video: np.ndarray, mask: np.ndarray, *,
                seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Makes a region of a clip anew under a prompt; all other tokens stay, bit for bit.

        Args:
          video: uint8 [F, Y, X, 3] for all prompts, or [N, F, Y, X, 3]: 1 + patch[0] * k frames, a training clip's at
            most, of the size that the model was trained at.
          mask: boolean [F, Y, X], or [Y, X] for all frames, True where the clip is to be made anew: every token is of
            whose pixels one is masked.
        """
        prompts, given = self._begin(prompt, "video", np.asarray(video), 4)
        sizes = self.tokenizer.config
        steps, mask = sizes.latent_frames(given.shape[1]), np.asarray(mask, bool)
        if steps > sizes.grid[0]:
            raise UserError(f"video has {given.shape[1]} frames; a region can be made anew in {sizes.frames} at most")
        if mask.shape not in (given.shape[2:4], given.shape[1:4]):
            raise UserError(f"mask has shape {mask.shape}; it has to be {given.shape[2:4]} or {given.shape[1:4]}")
        if not mask.any():
            raise UserError("mask is empty; it has to be True where the clip is to be made anew")
        mask = np.broadcast_to(mask, given.shape[1:4])
        padded = np.concatenate([np.repeat(mask[:1], sizes.patch[0] - 1, axis=0), mask])  # the first frame has its own
        anew = padded.reshape(steps, sizes.patch[0], sizes.grid[1], sizes.patch[1], sizes.grid[2], sizes.patch[2])
        window = self._window(prompts, None, preset, sampling)
        tokens, frames = window(to_float(given), prompts, self._keys(seed, len(prompts)), ~anew.any((1, 3, 5)))
        return PipelineResult(frames, tokens)

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """uint8 [N, F, Y, X, 3] -> the same after encoding and decoding; any number of frames."""
        return to_uint8(self.tokenizer.decode(self.tokenizer.encode(video), np.shape(video)[1]))

    def encode(self, video: np.ndarray) -> np.ndarray:
        """uint8 [N, F, Y, X, 3] -> tokens int32 [N, T, H, W]."""
        return np.asarray(self.tokenizer.encode(video))

    def _begin(self, prompt: str | Sequence[str], name: str, video: np.ndarray,
               rank: int) -> tuple[list[str], np.ndarray]:
        """Prompts, and what is given of each video: uint8 [B, F, Y, X, 3]. A single one is everybody's."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        sizes = self.config.tokenizer
        video = video.reshape(1, -1, *video.shape[-3:]) if video.ndim == rank else video
        if video.dtype != np.uint8 or video.ndim != 5 or video.shape[2:] != (sizes.height, sizes.width, 3):
            raise UserError(f"{name} is {video.dtype} of shape {video.shape}; this model's are uint8 of "
                            f"{sizes.height} x {sizes.width} x 3")
        if not video.size or len(video) not in (1, len(prompts)):
            raise UserError(f"{name} has shape {video.shape} for {len(prompts)} prompts; one or one for each is needed")
        return prompts, np.repeat(video, len(prompts), 0) if len(video) == 1 else video

    def _tell(self, scenes: list[tuple[list[str], int]], seed: int | Sequence[int], negative: list[str] | None,
              preset: str | None, sampling: Mapping[str, Any], begin: np.ndarray | None = None) -> PipelineResult:
        for _, count in scenes:
            _at_least("num_frames", count, 1)
        window = self._window([p for prompts, _ in scenes for p in prompts], negative, preset, sampling)
        keys = self._keys(seed, len(scenes[0][0]))
        return PipelineResult(*tell(window, scenes, self.tokenizer.config, keys, begin))

    def _keys(self, seed: int | Sequence[int], count: int) -> jax.Array:
        """A random key for each of `count` videos."""
        given = isinstance(seed, (Sequence, np.ndarray))
        for number in seed if given else [seed]:
            _at_least("seed", number, 0)
        if given and len(seed) != count:
            raise UserError(f"seed has {len(seed)} numbers; there are {count} videos")
        return jnp.stack([jax.random.key(number) for number in (seed if given else range(seed, seed + count))])

    def _window(self, prompts: Sequence[str], negative: list[str] | None, preset: str | None,
                sampling: Mapping[str, Any]) -> Callable:
        """(given float [B, F, Y, X, 3], prompts, keys, frozen [T, H, W]) -> (tokens, frames uint8).

        `prompts` are all that will be asked for, and are checked beforehand.
        """
        if self.generator is None:
            raise UserError("this run is a tokenizer's and can reconstruct only; to generate, give a generator's run")
        check_text_is_ids(self.config)
        length = self.config.text.length
        if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise UserError("prompt is empty; say what the video shows")
        longest = max([*prompts, *(negative or ())], key=lambda p: len(p.encode()))
        if len(longest.encode()) >= length:
            raise UserError(f"prompt {longest[:40]!r}... has {len(longest.encode())} bytes; this model reads "
                            f"{length - 1} (text.length={length})")
        options = chosen(self.config.sampling, preset, **sampling)
        if negative is not None and not options.guided:
            raise UserError("negative_prompt needs a guidance_scale other than 0")
        arrays = {"generator": {"params": self.generator.params, "variables": self.generator.variables},
                  "tokenizer": {"params": self.tokenizer.params, "variables": self.tokenizer.variables}}

        def read(texts):
            ids = jnp.asarray(encode_batch(texts, length))
            return ids, ids > 0

        away = None if negative is None else read(negative)

        def window(given, prompts, keys, frozen):
            tokens, video = self._sampler(arrays, given, *read(prompts), keys, options, frozen=frozen, negative=away)
            return np.asarray(tokens), to_uint8(video)

        return window


def _at_least(name: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
