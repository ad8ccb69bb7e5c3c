"""Telling: windows of frames, each growing out of the last frames of the one before (Phenaki, section 2.3)."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.input.schema import KNOWN_FRAMES
from phenaki_jax.media import to_float
from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.sampling.scenes import TRANSITION_FRAMES


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene of B videos, ready to be made; see `scenes.SceneOptions`.

    Attributes:
      window: (given float [B, F, Y, X, 3], prompts, keys [B], frozen boolean [T, H, W]) -> (tokens int32 [B, T, H, W],
        frames uint8 [B, F, Y, X, 3]); where frozen, the tokens of `given` are kept.
      prompts: for each of the videos.
      keys_B: a random key for each of them; each window draws from another one folded from it.
      name: under which it is kept.
    """
    window: Callable
    prompts: list[str]
    num_frames: int
    keys_B: jax.Array
    context_frames: int = KNOWN_FRAMES
    transition: str = "hold"
    transition_frames: int = TRANSITION_FRAMES
    name: str = ""


class Told(NamedTuple):
    """frames uint8 [B, F, Y, X, 3], as many as the scene asks for; tokens int32 [B, T, H, W], the latent steps made, in
    order. A window's frames beyond its scene's end are cropped; the tokens that made them are kept."""
    frames: np.ndarray
    tokens: np.ndarray


def tell(scenes: Sequence[Scene], sizes: CViViTConfig, begin: np.ndarray | None = None,
         parts: Any = None) -> Iterator[Told]:
    """Generates scenes one after the other, window by window; it holds one of them and what the next one grows out of.

    Args:
      begin: frames uint8 [B, F, Y, X, 3] that the first scene grows out of, else it starts from nothing.
      parts: `Told` by the scenes' names, a dict or what has `in`, `[]` and `[] =` like one: scenes in it are not made
        but taken from it, those made are put into it. Of a blend it has the scene without what that fades in from.

    Yields:
      the scenes as they are shown.
    """
    if sizes.frames == 1 and (begin is not None or sum(scene.num_frames for scene in scenes) > 1):
        raise UserError("tokenizer.frames=1: this model makes images only; ask for num_frames=1")
    held, shown = begin, None
    for scene in scenes:
        if scene.transition != "hold":
            held = None
        if parts is not None and scene.name in parts:
            told = parts[scene.name]
        else:
            told = _make(scene, sizes, held)
            if parts is not None:
                parts[scene.name] = told
        if scene.transition == "blend" and shown is not None:
            yield told._replace(frames=cross_fade(shown, told.frames, scene.transition_frames))
        else:
            yield told
        held = _last([told.frames] if held is None else [held, told.frames], sizes)
        shown = told.frames[:, -1:].copy()


def cross_fade(before: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """uint8 [B, F, Y, X, 3] whose first `count` frames come in evenly out of `before`, uint8 [B, 1, Y, X, 3]."""
    weight = np.arange(1, count + 1, dtype=np.float32).reshape(-1, 1, 1, 1) / (count + 1)
    mixed = np.rint((1 - weight) * before + weight * frames[:, :count]).astype(np.uint8)
    return np.concatenate([mixed, frames[:, count:]], axis=1)


def _last(frames: list[np.ndarray], sizes: CViViTConfig) -> np.ndarray:
    """As many of the last frames as a window can grow out of: it must have room for something new."""
    most = sizes.frames - sizes.patch[0]
    return np.concatenate([part[:, -most:] for part in frames], axis=1)[:, -most:]


def _make(scene: Scene, sizes: CViViTConfig, held: np.ndarray | None) -> Told:
    """A scene that grows out of `held`, uint8 [B, F, Y, X, 3], or out of nothing."""
    batch, step = len(scene.prompts), sizes.patch[0]
    frames, tokens, done = [], [], 0
    while done < scene.num_frames:
        if held is None:
            length, known, steps = 1 if scene.num_frames == 1 else sizes.frames, 0, 0
            given = np.zeros((batch, length, sizes.height, sizes.width, 3), np.float32)
        else:  # K frames, or as many as there are
            known = min(scene.context_frames, sizes.frames - step, held.shape[1])
            known -= (known - 1) % step
            last = held[:, -known:]
            padding = np.repeat(last[:, -1:], sizes.frames - known, axis=1)
            given, steps = np.asarray(to_float(np.concatenate([last, padding], axis=1))), 1 + (known - 1) // step
        frozen = np.zeros((sizes.latent_frames(given.shape[1]), *sizes.grid[1:]), bool)
        frozen[:steps] = True
        made, video = scene.window(given, scene.prompts, window_keys(scene.keys_B, len(tokens)), frozen)
        new = video[:, known:][:, :scene.num_frames - done]
        held = _last([new] if held is None else [held, new], sizes)
        frames.append(new)
        tokens.append(made[:, steps:])
        done += new.shape[1]
    return Told(np.concatenate(frames, axis=1), np.concatenate(tokens, axis=1))


def window_keys(keys_B: jax.Array, number: int) -> jax.Array:
    """The keys of a video's window, counted from 0, from those of the videos."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)
