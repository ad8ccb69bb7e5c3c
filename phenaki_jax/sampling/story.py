"""Telling: windows of frames, each growing out of the last frames of the one before (Phenaki, section 2.3)."""

from typing import Callable

import jax
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.input.schema import KNOWN_FRAMES
from phenaki_jax.media import to_float
from phenaki_jax.models.cvivit import CViViTConfig


def tell(window: Callable, scenes: list[tuple[list[str], int]], sizes: CViViTConfig,
         keys_B: jax.Array, begin: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Generates scenes one after the other, window by window.

    Args:
      window: (given float [B, F, Y, X, 3], prompts, keys [B], frozen boolean [T, H, W]) -> (tokens int32 [B, T, H, W],
        frames uint8 [B, F, Y, X, 3]); where frozen, the tokens of `given` are kept.
      scenes: (a prompt for each of B videos, number of frames); the first scene starts from nothing.
      keys_B: a random key for each video.
      begin: frames uint8 [B, F, Y, X, 3] that the first scene grows out of; they come before it in what is returned.

    Returns:
      frames uint8 [B, sum of frames, Y, X, 3] and tokens int32 [B, T', H, W], the latent steps made, in order. A
      window's frames beyond its scene's end are cropped; the tokens that made them are kept.
    """
    batch, pt = len(scenes[0][0]), sizes.patch[0]
    if sizes.frames == 1 and sum(count for _, count in scenes) > 1:
        raise UserError("tokenizer.frames=1: this model makes images only; ask for num_frames=1")
    frames, tokens = begin, []
    for prompts, count in scenes:
        done = 0
        while done < count:
            window_keys = jax.vmap(lambda key: jax.random.fold_in(key, len(tokens)))(keys_B)
            if frames is None:
                length = 1 if count == 1 else sizes.frames
                given, steps = np.zeros((batch, length, sizes.height, sizes.width, 3), np.float32), 0
            else:  # K frames, or as many as there are; a window must have room for something new
                known = min(KNOWN_FRAMES, sizes.frames - pt, frames.shape[1])
                known -= (known - 1) % pt
                last = frames[:, -known:]
                padding = np.repeat(last[:, -1:], sizes.frames - known, axis=1)
                given, steps = np.asarray(to_float(np.concatenate([last, padding], axis=1))), 1 + (known - 1) // pt
            frozen = np.zeros((sizes.latent_frames(given.shape[1]), *sizes.grid[1:]), bool)
            frozen[:steps] = True
            made, video = window(given, prompts, window_keys, frozen)
            new = video[:, known if steps else 0:][:, :count - done]
            frames = new if frames is None else np.concatenate([frames, new], axis=1)
            tokens.append(made[:, steps:])
            done += new.shape[1]
    return frames, np.concatenate(tokens, axis=1)
