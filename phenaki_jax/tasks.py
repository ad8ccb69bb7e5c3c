"""What one model does by what is frozen: pictures set in motion, videos gone on from, made anew in places."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError, at_least
from phenaki_jax.media import to_float
from phenaki_jax.prompts import Prompt
from phenaki_jax.sampling.story import window_keys


OUTPUT_TYPES = ("np", "pil", "jax", "tokens")


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """What was made.

    Attributes:
      frames: by output_type: 'np' uint8 [N, F, Y, X, 3] (default); 'jax' the same on the device; 'pil' a list of
        PIL images for each video; 'tokens' None.
      tokens: int32 [N, T, H, W], the latent steps in the order they were made; a jax.Array for 'jax'.
      refused: for each video why the safety checker refused it, else None; a refused one is black. () without one.
    """
    frames: Any
    tokens: np.ndarray | jax.Array
    refused: tuple[str | None, ...] = ()


def finished(method: Callable[..., PipelineResult]) -> Callable[..., PipelineResult]:
    """A way of generating that also takes `output_type`, and whose frames the pipeline's safety checker has seen."""
    @functools.wraps(method)
    def generate(pipe, *args: Any, output_type: str = "np", **options: Any) -> PipelineResult:
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is unknown; it is one of {', '.join(OUTPUT_TYPES)}")
        made = pipe.checked(method(pipe, *args, **options))
        frames, tokens = made.frames, made.tokens
        if output_type == "pil":
            from PIL import Image
            frames = [[Image.fromarray(frame) for frame in video] for video in frames]
        elif output_type == "jax":
            frames, tokens = jnp.asarray(frames), jnp.asarray(tokens)
        elif output_type == "tokens":
            frames = None
        return dataclasses.replace(made, frames=frames, tokens=tokens)

    return generate


class Tasks:
    """The tasks of `PhenakiPipeline`, which has the models; options are those of its call."""

    def checked(self, made: PipelineResult) -> PipelineResult:
        """What was made, as the safety checker lets it out."""
        if self.safety_checker is None:
            return made
        refused = tuple(map(self.safety_checker, made.frames))
        allowed = np.array([reason is None for reason in refused], np.uint8)
        return PipelineResult(made.frames * allowed[:, None, None, None, None], made.tokens, refused)

    @finished
    def animate(self, prompt: str | Sequence[str] | None, image: np.ndarray, *, num_frames: int | None = None,
                seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Sets a picture in motion: it is the first of `num_frames` frames, as the tokenizer gives it back.

        Args:
          image: uint8 [Y, X, 3] for all prompts, or [N, Y, X, 3]; of the size that the model was trained at.
        """
        image = np.asarray(image)
        prompts, begin = self._begin(prompt, "image", image[:, None] if image.ndim == 4 else image, 3)
        num_frames = self.config.tokenizer.frames if num_frames is None else num_frames
        at_least("num_frames", num_frames, 2)
        told = self._clip(prompts, num_frames - 1, seed, None, preset, sampling, begin)
        first = np.asarray(self.tokenizer.encode(begin))
        return PipelineResult(np.concatenate([self.reconstruct(begin), told.frames[:, 1:]], 1),
                              np.concatenate([first, told.tokens], 1))

    @finished
    def extend(self, prompt: str | Sequence[str] | None, video: np.ndarray, *, num_frames: int,
               seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> PipelineResult:
        """Goes on from a video for `num_frames` more frames; its own come before them, as they are.

        Args:
          video: uint8 [F, Y, X, 3] for all prompts, or [N, F, Y, X, 3]; of the size that the model was trained at. Its
            last K = 5 frames are what is gone on from. tokens are those of the new latent steps.
        """
        prompts, begin = self._begin(prompt, "video", np.asarray(video), 4)
        return self._clip(prompts, num_frames, seed, None, preset, sampling, begin)

    @finished
    def interpolate(self, prompt: str | Sequence[str] | None, image: np.ndarray, last_image: np.ndarray, *,
                    num_frames: int | None = None, seed: int | Sequence[int] = 0, preset: str | None = None,
                    **sampling: Any) -> PipelineResult:
        """What happens between two pictures, which are the first and the last of `num_frames` frames, as they are.

        The last latent step's tokens are those of a clip that jumps from one picture to the other half way: they tell
        of the last frames and hardly of what came before (nine in ten are the true clip's, docs/sampling.md).

        Args:
          image, last_image: uint8 [Y, X, 3] for all prompts, or [N, Y, X, 3]; of the model's size.
          num_frames: 1 + patch[0] * k with k of at least 2, a training clip's at most, which is the default.
        """
        ends = [np.asarray(x) for x in (image, last_image)]
        if prompt is None:  # as many as there are pictures
            prompt = [None] * max(len(x) if x.ndim == 4 else 1 for x in ends)
        (prompts, first), (_, last) = (self._begin(prompt, name, x[:, None] if x.ndim == 4 else x, 3)
                                       for name, x in zip(("image", "last_image"), ends))
        sizes, count = self.tokenizer.config, self.config.tokenizer.frames if num_frames is None else num_frames
        at_least("num_frames", count, 1 + 2 * sizes.patch[0])
        steps = sizes.latent_frames(count)
        if count > sizes.frames:
            raise UserError(f"num_frames={count} is more than a training clip has; {sizes.frames} is the most")
        given = np.concatenate([np.repeat(first, (count + 1) // 2, 1), np.repeat(last, count // 2, 1)], 1)
        frozen = np.zeros((steps, *sizes.grid[1:]), bool)
        frozen[[0, -1]] = True
        window = self._window(prompts, None, preset, sampling)
        tokens, frames = window(to_float(given), prompts, window_keys(self._keys(seed, len(prompts)), 0), frozen)
        return PipelineResult(np.concatenate([first, frames[:, 1:-1], last], 1), tokens)

    @finished
    def keyframes(self, prompt: str | Sequence[str] | None, *, num_keyframes: int = 3, between: int = 3,
                  fps: float | None = None, image: np.ndarray | None = None, seed: int | Sequence[int] = 0,
                  preset: str | None = None, **sampling: Any) -> PipelineResult:
        """A video in two passes of one model: key frames far apart, then what lies between them (Kandinsky Video 1.1).

        The key frames are a clip at a frame rate 1 + between times lower, so the model has to have the condition 'fps'.

        Args:
          num_keyframes: a training clip's frames at most. between: frames made between two of them; 1 + between is a
            multiple of patch[0], at least twice that.
          fps: of the video (default: the config's data.fps).
          image: the first key frame, uint8 [Y, X, 3] or [N, Y, X, 3]; without it that is made, too.

        Returns:
          1 + (num_keyframes - 1) (1 + between) frames; the tokens are those of the windows between, one after another.
        """
        sizes, fps = self.tokenizer.config, float(self.config.data.fps) if fps is None else fps
        self._told(None, fps)
        at_least("num_keyframes", num_keyframes, 2)
        at_least("between", between, 1)
        if num_keyframes > sizes.frames:
            raise UserError(f"num_keyframes={num_keyframes} is more than a training clip's {sizes.frames} frames")
        if (1 + between) % sizes.patch[0] or 1 + between < 2 * sizes.patch[0] or 2 + between > sizes.frames:
            raise UserError(f"between={between} does not fit: 1 + between has to be a multiple of {sizes.patch[0]}, "
                            f"from {2 * sizes.patch[0]} to {sizes.frames - 1}")
        if fps < 1 + between:
            raise UserError(f"fps={fps:g} leaves less than a key frame a second with between={between}; give more fps")
        prompts = self.read.listed(prompt)
        if prompt is None and image is not None and np.ndim(image) == 4:
            prompts *= len(image)
        options = dict(seed=seed, preset=preset, **sampling)
        slow = options | {"fps": fps / (1 + between)}
        # The parts as they are: what is finished, once, is the whole.
        call, animate, interpolate = (getattr(type(self), name).__wrapped__ for name in (
            "__call__", "animate", "interpolate"))
        made = call(self, prompts, **slow) if image is None else animate(self, prompts, image, **slow)
        keys = made.frames[:, :num_keyframes].swapaxes(0, 1)
        parts, tokens = [keys[0][:, None]], []
        for first, last in zip(keys, keys[1:]):
            made = interpolate(self, prompts, first, last, num_frames=2 + between, **options | {"fps": fps})
            parts, tokens = [*parts, made.frames[:, 1:]], [*tokens, made.tokens]
        return PipelineResult(np.concatenate(parts, 1), np.concatenate(tokens, 1))

    @finished
    def inpaint(self, prompt: str | Sequence[str] | None, video: np.ndarray, mask: np.ndarray, *,
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

    def _begin(self, prompt: str | Sequence[str] | None, name: str, video: np.ndarray,
               rank: int) -> tuple[list[Prompt], np.ndarray]:
        """Prompts, and what is given of each video: uint8 [B, F, Y, X, 3]. A single one is everybody's."""
        prompts = self.read.listed(prompt)
        sizes = self.config.tokenizer
        video = video.reshape(1, -1, *video.shape[-3:]) if video.ndim == rank else video
        if video.dtype != np.uint8 or video.ndim != 5 or video.shape[2:] != (sizes.height, sizes.width, 3):
            raise UserError(f"{name} is {video.dtype} of shape {video.shape}; this model's are uint8 of "
                            f"{sizes.height} x {sizes.width} x 3")
        prompts *= len(video) if prompt is None else 1
        if not video.size or len(video) not in (1, len(prompts)):
            raise UserError(f"{name} has shape {video.shape} for {len(prompts)} prompts; one or one for each is needed")
        return prompts, np.repeat(video, len(prompts), 0) if len(video) == 1 else video
