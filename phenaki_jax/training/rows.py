"""What the stages over tokens read of a batch: tokens, what is known of them, text, and the numbers told beside it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.errors import UserError
from phenaki_jax.input.encoder import is_pretrained, open_encoder
from phenaki_jax.media import to_float, to_uint8
from phenaki_jax.models.build import generator_config, tokenizer_config
from phenaki_jax.models.cvivit import CViViT
from phenaki_jax.pictures import sheet
from phenaki_jax.sampling.decoding import Sampler
from phenaki_jax.sampling.options import chosen
from phenaki_jax.sampling.schedules import latent_steps


class Rows(NamedTuple):
    """Rows of a stream, as a loss reads them.

    tokens: int32 [B, T, H, W]. given: boolean [B, T], latent steps that are known and not predicted. text: as of
    `text_reader`; text_mask: boolean [B, P], all False where the text is dropped. told: as of `told`. noise: float32
    [B], as of `noise_levels`; None where nothing given is ever noisy.
    """
    tokens: jax.Array
    given: jax.Array
    text: jax.Array
    text_mask: jax.Array
    told: jax.Array | None
    noise: jax.Array | None


class Reader:
    """Reads batches as a config says.

    A stream may carry what else is computed here: "tokens" of its clips and, where the text encoder is a pretrained
    one, "text_embeds" of its captions (`phenaki precompute`).

    Attributes:
      given: the fields `given` and `given_axes` of a `Stage` that reads by it.
    """

    def __init__(self, config, noisy: bool = True):
        """noisy: whether what is given is made noisy, where the config has it so."""
        self._sizes, self._options = tokenizer_config(config), chosen(config.sampling)
        self._conditions = generator_config(config).conditions
        self._drop = config.data.text_drop
        self._shares = {name: config.train.get(f"{name}_given", 0.0) for name in ("first", "ends", "several")}
        for name, share in self._shares.items():
            if not 0 <= share <= 1 or sum(self._shares.values()) > 1 + 1e-9:
                raise UserError(f"train.{name}_given={share} must be a share of the clips, from 0 to 1, with "
                                "train.first_given, train.ends_given and train.several_given no more than 1 together")
        noise = config.train.get("noise_augmentation", 0.0)
        if not 0 <= noise <= 1:
            raise UserError(f"train.noise_augmentation={noise} must be a share from 0 to 1")
        if bool(noise) != ("noise" in self._conditions):
            raise UserError(f"train.noise_augmentation={noise} and generator.conditions={self._conditions} do not go "
                            "together; the condition 'noise' is there exactly where what is given is noisy")
        self._noise = noise if noisy else 0.0
        self._text_of, self.given = text_reader(config)

    def streams(self, batch: Mapping, codec: CViViT, arrays: Mapping, key: jax.Array) -> Iterator[
            tuple[str, float, Rows, jax.Array]]:
        """(name, share of the batch's rows, rows, a key for the loss) of each stream.

        arrays: the frozen and the given arrays of the stage.
        """
        counts = {name: len(stream["text"]) for name, stream in batch.items()}
        for index, (name, stream) in enumerate(sorted(batch.items())):
            drop_key, given_key, loss_key, told_key, noise_key = jax.random.split(jax.random.fold_in(key, index), 5)
            tokens = stream["tokens"] if "tokens" in stream else (
                jax.lax.stop_gradient(codec.encode(to_float(stream["video"]))))
            keep_B1 = jax.random.uniform(drop_key, (counts[name], 1)) >= self._drop
            given_BT = given_steps(latent_steps(stream["known_frames"], self._sizes.patch[0]), tokens.shape[1],
                                   key=given_key, **self._shares)
            noise_B = noise_levels(given_BT.any(1), self._noise, noise_key)
            rows = Rows(tokens, given_BT, self._text_of(stream, arrays), (stream["text"] > 0) & keep_B1,
                        told(self._conditions, stream, noise_B, keep_B1, self._drop, told_key),
                        noise_B if self._noise else None)
            yield name, counts[name] / sum(counts.values()), rows, loss_key

    def padding(self, batch: Mapping) -> dict[str, jax.Array]:
        """text_padding: share of the text's positions that hold none. padding: share of the tokens that are computed
        and belong to no frame of the batch; 0 as long as images and clips are streams apart."""
        texts = [stream["text"] for stream in batch.values()]
        found = {"text_padding": sum(jnp.sum(ids == 0) for ids in texts) / sum(ids.size for ids in texts)}
        if all("video" in stream for stream in batch.values()):
            pt, py, px = self._sizes.patch
            computed = used = 0
            for stream in batch.values():
                B, F, Y, X, _ = stream["video"].shape
                used += B * latent_steps(F, pt) * (Y // py) * (X // px)
                computed += stream["tokens"].size if "tokens" in stream else (
                    B * self._sizes.latent_frames(F) * (Y // py) * (X // px))
            found["padding"] = jnp.float32(1 - used / computed)
        return found

    def samples(self, sampler: Sampler, models: Mapping, arrays: Mapping, batch: Mapping, key: jax.Array) -> np.ndarray:
        """A picture, uint8 [Y, X, 3], of up to four clips and of what is made of their captions."""
        stream = batch["video" if "video" in batch else "image"]
        shown = {name: np.asarray(rows)[:4] for name, rows in stream.items()}
        video, count = shown["video"], len(shown["video"])
        _, frames = sampler(
            models, to_float(jnp.asarray(video)), jnp.asarray(self._text_of(shown, arrays)),
            jnp.asarray(shown["text"] > 0), jax.random.split(key, count), self._options,
            frozen=np.zeros((self._sizes.latent_frames(video.shape[1]), *self._sizes.grid[1:]), bool),
            conditions=told(self._conditions, shown, jnp.full(count, jnp.nan), jnp.ones((count, 1), bool), 0.0, key))
        return sheet({"truth": video, "generated": to_uint8(frames)})


def given_steps(known_B: jax.Array, steps: int, first: float, ends: float, several: float,
                key: jax.Array) -> jax.Array:
    """Which latent steps of each row are given: boolean [B, steps].

    Those that the data gives; and of clips of which it gives nothing, at random each time, in a share `first` the first
    step, in a share `ends` the first and the last, and in a share `several` the first 2 to steps - 1. How a clip of the
    first kind goes on stands in its text alone, and where its object is need not be guessed: motion is learned from
    these rows. They are also what continuing a picture needs, as the others are what interpolating and going on from
    several frames need (MAGVIT, arXiv 2212.05199, section 3.2, trains so for its tasks). Images keep the one step that
    they have to be learned from; clips of two steps only the first.

    Args:
      known_B: latent steps given by the data, int32.
    """
    first, ends, several = first if steps > 1 else 0.0, *((ends, several) if steps > 2 else (0.0, 0.0))
    share_B, none_B = jax.random.uniform(key, known_B.shape), known_B == 0
    begun_B = (share_B < first + ends).astype(jnp.int32)
    if several:
        some_B = jax.random.randint(jax.random.fold_in(key, 1), known_B.shape, 2, steps)
        begun_B = jnp.where(none_B & (share_B >= first + ends) & (share_B < first + ends + several), some_B, begun_B)
    given_BT = jnp.arange(steps) < jnp.maximum(known_B, begun_B)[:, None]
    return given_BT.at[:, -1].set(given_BT[:, -1] | (none_B & (share_B >= first) & (share_B < first + ends)))


def noise_levels(given_B: jax.Array, most: float, key: jax.Array) -> jax.Array:
    """How noisy what is given of each row is made: uniform up to `most` in half of the rows that have something given.

    NaN where nothing is. Who goes on from noisy frames learns not to take every error for truth (noise augmentation,
    Kandinsky Video 1.1; cascaded diffusion, arXiv 2106.15282, section 3).
    """
    level_key, some_key = jax.random.split(key)
    some_B = jax.random.bernoulli(some_key, shape=given_B.shape)
    level_B = jnp.where(some_B, jax.random.uniform(level_key, given_B.shape) * most, 0.0)
    return jnp.where(given_B, level_B, jnp.nan)


def told(names: tuple[str, ...], stream: dict[str, jax.Array], noise_B: jax.Array, keep_B1: jax.Array, drop: float,
         key: jax.Array) -> jax.Array | None:
    """What a model with conditions is told of a stream's rows: float32 [B, N], NaN where nothing; None without any.

    Each number is left out in a share `drop` of the rows, and all of them where the text is dropped (not keep_B1).
    """
    if not names:
        return None
    values_BN = jnp.stack([noise_B if name == "noise" else stream[name] for name in names], axis=1)
    keep_BN = jax.random.uniform(key, values_BN.shape) >= drop
    return jnp.where(keep_BN & keep_B1, values_BN, jnp.nan)


def text_reader(config) -> tuple[Callable[[dict, dict], jax.Array], dict[str, Any]]:
    """How a stage reads text.

    Returns:
      (stream, frozen and given arrays) -> what a `Generator` reads: ids [B, P], or embeddings [B, P, E] where the
      encoder is a pretrained one; and the fields `given` and `given_axes` of its `Stage`.
    """
    if not is_pretrained(config):
        return lambda stream, arrays: stream["text"], {}
    if config.text.cache:
        return lambda stream, arrays: stream["text_embeds"], {}
    live = open_encoder(config)

    def read(stream, arrays):
        return jax.lax.stop_gradient(live.pure.bind(arrays["text_encoder"], {})(stream["text"]))

    return read, {"given": {"text_encoder": live.params}, "given_axes": {"text_encoder": live.pure.axes}}
