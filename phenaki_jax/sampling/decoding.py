"""MaskGIT's iterative parallel decoding (arXiv 2202.04200, section 3.2), the whole loop in one compiled function."""

import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp

from phenaki_jax.models.tree import Pure
from phenaki_jax.sampling.guidance import guide
from phenaki_jax.sampling.schedules import masked_counts


def decode(logits_of: Callable[[jax.Array, jax.Array], jax.Array], tokens_BS: jax.Array, free_BS: jax.Array,
           key: jax.Array, *, mask_id: int, steps: int, guidance: jax.Array | None, temperature: jax.Array | float,
           free: int) -> jax.Array:
    """Fills the free positions in `steps` rounds: sample all, keep the most confident, mask the rest again.

    Args:
      logits_of: (tokens int32 [N, S], keep_text boolean [N]) -> logits [N, S, V]; a row without keep_text is
        unconditional. With guidance, N is 2 B: the rows with their text, then the same without.
      tokens_BS: int32; what stands at free positions does not matter.
      free_BS: boolean, True where a token is to be made; `free` positions in every row. The others stay as they are.
      guidance: scale of `guide`, or None for no guidance at half the cost.
      temperature: of the choice: scales the Gumbel noise on the confidences, falling linearly to 0. Tokens themselves
        are drawn from softmax(logits).

    Returns:
      int32 [B, S], without masks.
    """
    counts_N = jnp.asarray(masked_counts(steps, free))
    batch = tokens_BS.shape[0]

    def predict(tokens_BS):
        if guidance is None:
            return logits_of(tokens_BS, jnp.ones((batch,), bool))
        both = logits_of(jnp.tile(tokens_BS, (2, 1)), jnp.arange(2 * batch) < batch)
        return guide(both[:batch], both[batch:], guidance)

    def round_(index, tokens_BS):
        token_key, choice_key = jax.random.split(jax.random.fold_in(key, index))
        masked_BS = tokens_BS == mask_id
        logits_BSV = predict(tokens_BS)
        drawn_BS = jax.random.categorical(token_key, logits_BSV).astype(jnp.int32)
        logp_BSV = jax.nn.log_softmax(logits_BSV)
        confidence_BS = jnp.take_along_axis(logp_BSV, drawn_BS[..., None], axis=-1)[..., 0]
        noise = temperature * (1 - (index + 1) / steps)
        confidence_BS += noise * jax.random.gumbel(choice_key, confidence_BS.shape)
        confidence_BS = jnp.where(masked_BS, confidence_BS, jnp.inf)
        rank_BS = jnp.argsort(jnp.argsort(confidence_BS, axis=1), axis=1)
        return jnp.where(masked_BS, jnp.where(rank_BS < counts_N[index], mask_id, drawn_BS), tokens_BS)

    return jax.lax.fori_loop(0, steps, round_, jnp.where(free_BS, mask_id, tokens_BS))


def make_sampler(generator: Pure, tokenizer: Pure) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The one function behind every way of sampling: given frames and text in, tokens and frames out.

    Returns:
      sampler(arrays, video, text, text_mask, key, *, known_steps, steps, guidance, temperature) ->
      (tokens int32 [B, T, H, W], video float [B, F, Y, X, 3] in [-1, 1]), compiled once for each shape,
      `known_steps` and `steps`. `arrays` holds the params and variables of "generator" and "tokenizer". The first
      `known_steps` latent steps are `video`'s own tokens, frozen; the rest of `video` only sets the shape. `guidance`
      None or 0 skips the unconditional half.
    """

    @functools.partial(jax.jit, static_argnames=("known_steps", "steps", "guided"))
    def sample(arrays, video, text, text_mask, key, guidance, temperature, *, known_steps, steps, guided):
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
        text_BPE = model.embed(text)

        def logits_of(tokens_NS, keep_N):
            copies = tokens_NS.shape[0] // B
            mask = jnp.tile(text_mask, (copies, 1)) & keep_N[:, None]
            logits = model.transformer(tokens_NS.reshape(-1, T, H, W), jnp.tile(text_BPE, (copies, 1, 1)), mask)
            return logits.reshape(*tokens_NS.shape, -1)

        tokens_BS = decode(logits_of, tokens_BS, jnp.broadcast_to(free_S, tokens_BS.shape), key,
                           mask_id=model.transformer.mask_id, steps=steps, guidance=guidance if guided else None,
                           temperature=temperature, free=(T - known_steps) * H * W)
        tokens = tokens_BS.reshape(B, T, H, W)
        return tokens, codec.decode(tokens)

    def sampler(arrays: Any, video, text, text_mask, key, *, known_steps: int, steps: int, guidance: float | None,
                temperature: float):
        return sample(arrays, video, text, text_mask, key, jnp.float32(guidance or 0.0), jnp.float32(temperature),
                      known_steps=known_steps, steps=steps, guided=bool(guidance))

    return sampler
