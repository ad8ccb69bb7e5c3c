"""MaskGIT's iterative parallel decoding (arXiv 2202.04200, section 3.2), the whole loop in one compiled function."""

import dataclasses
import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.models.maskgit import Text
from phenaki_jax.models.tree import Pure
from phenaki_jax.sampling.guidance import guide, guide_apart
from phenaki_jax.sampling.options import Sampling
from phenaki_jax.sampling.schedules import halton_ranks, masked_counts, remasked_counts


class Scales(NamedTuple):
    """The options that are numbers only: as arrays, so that another value needs no other program."""
    guidance: jax.Array | float
    image_guidance: jax.Array | float
    temperature: jax.Array | float

    @classmethod
    def of(cls, options: Sampling) -> "Scales":
        return cls(*map(jnp.float32, (options.guidance_scale, options.image_guidance_scale, options.temperature)))


def decode(logits_of: Callable[[jax.Array], jax.Array], tokens_BS: jax.Array, free_BS: jax.Array, keys_B: jax.Array,
           options: Sampling, *, mask_id: int, free: int, ranks_S: jax.Array | None = None,
           scales: Scales | None = None) -> jax.Array:
    """Fills the free positions in rounds: sample all, keep those that come first in order, mask the rest again.

    Args:
      logits_of: tokens int32 [N, S] -> logits [N, S, V]. With guidance, N is 2 B: the rows with their text, then the
        same without (or with the text to keep away from); guided apart it is 3 B: then the same with neither text nor
        what is given.
      tokens_BS: int32; what stands at free positions does not matter.
      free_BS: boolean, True where a token is to be made; `free` positions in every row. The others stay as they are.
      keys_B: a random key for each row, whose tokens depend on no other row.
      ranks_S: of each position, for the order 'halton'.
      scales: instead of the options' own.

    Returns:
      int32 [B, S], without masks.
    """
    steps, batch = options.num_inference_steps, tokens_BS.shape[0]
    counts = masked_counts(steps, free, options.mask_schedule)
    counts_N, again_N = jnp.asarray(counts), jnp.asarray(remasked_counts(counts, free, options.remask))
    scales = Scales.of(options) if scales is None else scales

    def predict(tokens_BS, index):
        if not options.guided and not options.guided_apart:
            return logits_of(tokens_BS)
        scale = scales.guidance * ((index + 1) / steps if options.guidance_schedule == "linear" else 1.0)
        if not options.guided_apart:
            logits = logits_of(jnp.tile(tokens_BS, (2, 1)))
            return guide(logits[:batch], logits[batch:], scale)
        logits = logits_of(jnp.concatenate([tokens_BS, tokens_BS, jnp.where(free_BS, tokens_BS, mask_id)]))
        return guide_apart(*jnp.split(logits, 3), scale, scales.image_guidance)

    def lowest(value_BS, count):
        return jnp.argsort(jnp.argsort(value_BS, axis=1), axis=1) < count

    def round_(index, state):
        tokens_BS, sure_BS = state  # sure: log-probability of each decided token when it was drawn
        keys_2B = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index)))(keys_B)
        masked_BS = tokens_BS == mask_id
        logits_BSV = predict(tokens_BS, index)
        drawn_BS = jax.vmap(jax.random.categorical)(keys_2B[:, 0], logits_BSV).astype(jnp.int32)
        logp_BSV = jax.nn.log_softmax(logits_BSV)
        logp_BS = jnp.take_along_axis(logp_BSV, drawn_BS[..., None], axis=-1)[..., 0]
        sure_BS = jnp.where(masked_BS, logp_BS, sure_BS)
        gumbel_BS = jax.vmap(lambda key: jax.random.gumbel(key, sure_BS.shape[1:]))(keys_2B[:, 1])
        score_BS = sure_BS + scales.temperature * (1 - (index + 1) / steps) * gumbel_BS
        first_BS = {"confidence": score_BS, "random": gumbel_BS,
                    "halton": None if ranks_S is None else jnp.broadcast_to(-ranks_S, score_BS.shape)}[options.order]
        stay_BS = lowest(jnp.where(masked_BS, first_BS, jnp.inf), counts_N[index] - again_N[index])
        if options.remask:
            stay_BS |= lowest(jnp.where(free_BS & ~masked_BS, score_BS, jnp.inf), again_N[index])
        return jnp.where(stay_BS, mask_id, jnp.where(masked_BS, drawn_BS, tokens_BS)), sure_BS

    start = jnp.where(free_BS, mask_id, tokens_BS), jnp.zeros(tokens_BS.shape)
    return jax.lax.fori_loop(0, steps, round_, start)[0]


def make_sampler(generator: Pure, tokenizer: Pure) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The one function behind every way of sampling: given frames and text in, tokens and frames out.

    Returns:
      sampler(arrays, video, text, text_mask, keys, options, *, frozen, negative=None) ->
      (tokens int32 [B, T, H, W], video float [B, F, Y, X, 3] in [-1, 1]), compiled once for each shape, number of
      frozen tokens and those options that are no mere scale. `arrays` holds the params and variables of "generator" and
      "tokenizer". `frozen`, boolean [T, H, W]: where the tokens are `video`'s own; of the rest of `video` nothing is
      seen but its shape. `keys` [B], one a row. `negative`: (text, mask) like the text's, from which guidance leads
      away.
    """

    @functools.partial(jax.jit, static_argnames=("steps", "free", "plan"))
    def sample(arrays, video, text, text_mask, negative, keys, scales, frozen_THW, *, steps, free, plan):
        model = generator.bind(**arrays["generator"])
        codec = tokenizer.bind(**arrays["tokenizer"])
        T, H, W = codec.latent_frames(video.shape[1]), *codec.config.grid[1:]
        B = video.shape[0]
        tokens_BS = jnp.zeros((B, T * H * W), jnp.int32)
        if steps:  # causal: what comes after the last frozen step has no say
            known = codec.encode(video[:, :1 + codec.config.patch[0] * (steps - 1)])
            tokens_BS = tokens_BS.at[:, :steps * H * W].set(known.reshape(B, -1))
        free_S = ~frozen_THW.reshape(-1)
        read = model.read(text, text_mask)
        if read is not None and (plan.guided or plan.guided_apart):
            nothing = read._replace(mask=read.mask.at[:, 1:].set(False))
            parts = [read, nothing if negative is None else model.read(*negative)] + [nothing] * plan.guided_apart
            read = Text(*(jnp.concatenate(part, axis) for part, axis in zip(zip(*parts), (1, 1, 0))))

        def logits_of(tokens_NS):
            return model.transformer(tokens_NS.reshape(-1, T, H, W), read).reshape(*tokens_NS.shape, -1)

        tokens_BS = decode(logits_of, tokens_BS, jnp.broadcast_to(free_S, tokens_BS.shape), keys, plan,
                           mask_id=model.transformer.mask_id, free=free,
                           ranks_S=jnp.asarray(halton_ranks((T, H, W))) if plan.order == "halton" else None,
                           scales=scales)
        tokens = tokens_BS.reshape(B, T, H, W)
        return tokens, codec.decode(tokens)

    def sampler(arrays: Any, video, text, text_mask, keys, options: Sampling, *, frozen: np.ndarray, negative=None):
        if not frozen.any():  # nothing is given that could be weighed
            options = dataclasses.replace(options, image_guidance_scale=1.0)
        plan = dataclasses.replace(options, guidance_scale=float(options.guided), temperature=0.0,
                                   image_guidance_scale=float(not options.guided_apart))
        return sample(arrays, video, text, text_mask, negative if options.guided else None, keys, Scales.of(options),
                      jnp.asarray(frozen), steps=int(np.max(np.flatnonzero(frozen.any((1, 2))), initial=-1)) + 1,
                      free=int(np.sum(~frozen)), plan=plan)

    return sampler
