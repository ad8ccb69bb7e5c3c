"""What a token critic is asked, and how well it answers (Token-Critic, arXiv 2209.04439)."""

import jax
import jax.numpy as jnp

from phenaki_jax.sampling.decoding import draw
from phenaki_jax.sampling.schedules import random_mask


def roc_auc(scores: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
    """Probability that a positive scores higher than a negative, by the sum of ranks (Mann and Whitney); ties by place.

    Args:
      scores: of any shape. labels: boolean, like it. counts: boolean, like it: which of them take part.
    """
    scores, labels, counts = (x.reshape(-1) for x in (scores, labels, counts))
    order = jnp.argsort(jnp.where(counts, scores, jnp.inf))
    positive = (labels & counts)[order].astype(jnp.float32)
    ranks = 1.0 + jnp.arange(len(scores))
    P, N = positive.sum(), counts.sum() - positive.sum()
    return (jnp.sum(ranks * positive) - P * (P + 1) / 2) / jnp.maximum(P * N, 1.0)


def fill(model, tokens_BTHW: jax.Array, read, given_BT: jax.Array, schedule: str,
         key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """True tokens with some replaced by draws of the generator, as a round of decoding leaves them.

    Returns:
      tokens int32 [B, T, H, W]; which of them were drawn, and which could have been (what is given could not), boolean
      like them.
    """
    mask_key, draw_key = jax.random.split(key)
    B, T, H, W = tokens_BTHW.shape
    free_BS = jnp.repeat(~given_BT, H * W, axis=1)
    mask_BTHW = random_mask(mask_key, free_BS, schedule).reshape(B, T, H, W)
    logits = model.transformer(jnp.where(mask_BTHW, model.transformer.mask_id, tokens_BTHW), read)
    drawn_BS, _ = draw(logits.reshape(B, T * H * W, -1), jax.random.split(draw_key, B), model.transformer.config.digits)
    return jnp.where(mask_BTHW, drawn_BS.reshape(B, T, H, W), tokens_BTHW), mask_BTHW, free_BS.reshape(B, T, H, W)
