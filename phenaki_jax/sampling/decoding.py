"""MaskGIT's iterative parallel decoding (arXiv 2202.04200, section 3.2), the whole loop in one compiled function."""

import dataclasses
import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp

from phenaki_jax.models.maskgit import Text
from phenaki_jax.models.tree import Pure
from phenaki_jax.sampling.guidance import guide
from phenaki_jax.sampling.options import Sampling
from phenaki_jax.sampling.schedules import halton_ranks, masked_counts, remasked_counts


def decode(logits_of: Callable[[jax.Array], jax.Array], tokens_BS: jax.Array, free_BS: jax.Array, keys_B: jax.Array,
           options: Sampling, *, mask_id: int, free: int, ranks_S: jax.Array | None = None,
           guidance: jax.Array | float | None = None, temperature: jax.Array | float | None = None) -> jax.Array:
    """Fills the free positions in rounds: sample all, keep those that come first in order, mask the rest again.

    Args:
      logits_of: tokens int32 [N, S] -> logits [N, S, V]. With guidance, N is 2 B: the rows with their text, then the
        same without (or with the text to keep away from).
      tokens_BS: int32; what stands at free positions does not matter.
      free_BS: boolean, True where a token is to be made; `free` positions in every row. The others stay as they are.
      keys_B: a random key for each row, whose tokens depend on no other row.
      ranks_S: of each position, for the order 'halton'.
      guidance, temperature: instead of the options' own, so that another value needs no other program.

    Returns:
      int32 [B, S], without masks.
    """
    steps, batch = options.num_inference_steps, tokens_BS.shape[0]
    counts = masked_counts(steps, free, options.mask_schedule)
    counts_N, again_N = jnp.asarray(counts), jnp.asarray(remasked_counts(counts, free, options.remask))
    guidance = options.guidance_scale if guidance is None else guidance
    temperature = options.temperature if temperature is None else temperature

    def predict(tokens_BS, index):
        if not options.guided:
            return logits_of(tokens_BS)
        both = logits_of(jnp.tile(tokens_BS, (2, 1)))
        share = (index + 1) / steps if options.guidance_schedule == "linear" else 1.0
        return guide(both[:batch], both[batch:], share * guidance)

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
        score_BS = sure_BS + temperature * (1 - (index + 1) / steps) * gumbel_BS
        first_BS = {"confidence": score_BS, "random": gumbel_BS,
                    "halton": None if ranks_S is None else -ranks_S + jnp.zeros_like(score_BS)}[options.order]
        stay_BS = lowest(jnp.where(masked_BS, first_BS, jnp.inf), counts_N[index] - again_N[index])
        if options.remask:
            stay_BS |= lowest(jnp.where(free_BS & ~masked_BS, score_BS, jnp.inf), again_N[index])
        return jnp.where(stay_BS, mask_id, jnp.where(masked_BS, drawn_BS, tokens_BS)), sure_BS

    start = jnp.where(free_BS, mask_id, tokens_BS), jnp.zeros(tokens_BS.shape)
    return jax.lax.fori_loop(0, steps, round_, start)[0]


def make_sampler(generator: Pure, tokenizer: Pure) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The one function behind every way of sampling: given frames and text in, tokens and frames out.

    Returns:
      sampler(arrays, video, text, text_mask, keys, options, *, known_steps, negative=None) ->
      (tokens int32 [B, T, H, W], video float [B, F, Y, X, 3] in [-1, 1]), compiled once for each shape, `known_steps`
      and those options that are no mere scale. `arrays` holds the params and variables of "generator" and "tokenizer".
      The first `known_steps` latent steps are `video`'s own tokens, frozen; the rest of `video` only sets the shape.
      `keys` [B], one a row. `negative`: (text, mask) like the text's, from which guidance leads away.
    """

    @functools.partial(jax.jit, static_argnames=("known_steps", "plan"))
    def sample(arrays, video, text, text_mask, negative, keys, guidance, temperature, *, known_steps, plan):
        model = generator.bind(**arrays["generator"])
        codec = tokenizer.bind(**arrays["tokenizer"])
        T, H, W = codec.latent_frames(video.shape[1]), *codec.config.grid[1:]
        B = video.shape[0]
        known = jnp.zeros((B, 0, H, W), jnp.int32)
        if known_steps:
            known = codec.encode(video[:, :1 + codec.config.patch[0] * (known_steps - 1)])
        rest = jnp.zeros((B, T - known_steps, H, W), jnp.int32)
        tokens_BS = jnp.concatenate([known, rest], axis=1).reshape(B, -1)
        free_S = jnp.arange(T * H * W) >= known_steps * H * W
        read = model.read(text, text_mask)
        if plan.guided and read is not None:
            other = read._replace(mask=read.mask.at[:, 1:].set(False)) if negative is None else model.read(*negative)
            read = Text(*(jnp.concatenate(pair, axis) for pair, axis in zip(zip(read, other), (1, 1, 0))))

        def logits_of(tokens_NS):
            return model.transformer(tokens_NS.reshape(-1, T, H, W), read).reshape(*tokens_NS.shape, -1)

        tokens_BS = decode(logits_of, tokens_BS, jnp.broadcast_to(free_S, tokens_BS.shape), keys, plan,
                           mask_id=model.transformer.mask_id, free=(T - known_steps) * H * W,
                           ranks_S=jnp.asarray(halton_ranks((T, H, W))) if plan.order == "halton" else None,
                           guidance=guidance, temperature=temperature)
        tokens = tokens_BS.reshape(B, T, H, W)
        return tokens, codec.decode(tokens)

    def sampler(arrays: Any, video, text, text_mask, keys, options: Sampling, *, known_steps: int, negative=None):
        plan = dataclasses.replace(options, guidance_scale=float(options.guided), temperature=0.0)
        return sample(arrays, video, text, text_mask, negative if options.guided else None, keys,
                      jnp.float32(options.guidance_scale), jnp.float32(options.temperature), known_steps=known_steps,
                      plan=plan)

    return sampler
