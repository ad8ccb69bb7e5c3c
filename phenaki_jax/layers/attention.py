"""Multi-head attention: one function that attends, one module that projects."""

import contextlib
import contextvars
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from phenaki_jax.layers.fast_attention import fast_attend, is_fast
from phenaki_jax.layers.positions import rotary
from phenaki_jax.layers.products import kernel, project, rounded_product, rounds
from phenaki_jax.parallel import constrain, device_count, platform

NEGATIVE = -1e30  # exp of it is exactly 0 in float32, so what is masked cannot leak, not by a bit
LARGE = 2**16  # weights of a head, from which a CPU does better with one head at a time
_plain, _kept = contextvars.ContextVar("plain", default=False), contextvars.ContextVar("kept", default=False)


@contextlib.contextmanager
def plain_attention(remat: bool = True):
    """Programs that are traced meanwhile attend by the formula, whatever the platform: what is counted of a model is
    the same everywhere. Without `remat` no layer makes anything anew either, whatever its config says."""
    tokens = _plain.set(True), _kept.set(not remat)
    try:
        yield
    finally:
        _plain.reset(tokens[0])
        _kept.reset(tokens[1])


def all_is_kept() -> bool:
    """Whether remat is off for programs that are traced now."""
    return _kept.get()


def attend(q_BSHK: jax.Array, k_BUHK: jax.Array, v_BUHK: jax.Array, *, mask: jax.Array | None = None,
           bias: jax.Array | None = None, scale: float | None = None, block: int = 512) -> jax.Array:
    """softmax(q k^T scale + bias) v in float32 softmax; by an accelerator's own kernel where it has one for this.

    Args:
      mask: boolean, True where attending is allowed, broadcastable to [B, H, S, U].
      bias: additive float, broadcastable to [B, H, S, U].
      scale: 1 / sqrt(K) by default.
      block: queries and keys that a TPU's kernel takes at a time, at most; the result does not depend on it.

    Returns:
      [B, S, H, K].
    """
    scale = q_BSHK.shape[-1] ** -0.5 if scale is None else scale
    if is_fast(q_BSHK, k_BUHK, mask, bias) and not _plain.get():
        return fast_attend(q_BSHK, k_BUHK, v_BUHK, mask, scale, block)
    arrays = q_BSHK, k_BUHK, v_BUHK, mask, bias
    if q_BSHK.shape[1] * k_BUHK.shape[1] >= LARGE and not _plain.get():
        by_heads = functools.partial(_attend_by_heads, scale=scale)
        if platform() == "any":
            at_once = functools.partial(_attend_at_once, scale=scale)
            return jax.lax.platform_dependent(*arrays, cpu=by_heads, default=at_once)
        if _on_one_cpu():
            return by_heads(*arrays)
    return _attend_at_once(*arrays, scale)


def _attend_at_once(q_BSHK, k_BUHK, v_BUHK, mask, bias, scale) -> jax.Array:
    logits = jnp.einsum("bshk,buhk->bhsu", q_BSHK * scale, k_BUHK, preferred_element_type=jnp.float32)
    return jnp.einsum("bhsu,buhk->bshk", _weights(logits, mask, bias).astype(v_BUHK.dtype), v_BUHK)


def _weights(logits: jax.Array, mask: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, NEGATIVE)
    return jax.nn.softmax(logits, axis=-1)


def _on_one_cpu() -> bool:
    return platform() == "cpu" and device_count() == 1


def _attend_by_heads(q_BSHK, k_BUHK, v_BUHK, mask, bias, scale) -> jax.Array:
    """One head after the other: its weights stay in the cache, and a gradient makes them anew instead of keeping them.

    Products are rounded where `project` rounds its own.
    """
    B, S, H, _ = q_BSHK.shape
    product = rounded_product if rounds(q_BSHK.dtype) else jnp.matmul

    def heads(x):
        return x.swapaxes(1, 2).reshape(B * H, x.shape[1], x.shape[3])

    def of_head(x, index):  # of what is broadcastable to [B, H, S, U]
        if x is None:
            return None
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
        return x[index // H % x.shape[0], index % H % x.shape[1]]

    @jax.checkpoint
    def attend_one(index, q_SK, k_KU, v_UK):
        return product(_weights(product(q_SK, k_KU), of_head(mask, index), of_head(bias, index)), v_UK)

    q = heads(q_BSHK.astype(jnp.float32) * scale)
    out = jax.lax.map(lambda head: attend_one(*head),
                      (jnp.arange(B * H), q, heads(k_BUHK).swapaxes(1, 2), heads(v_BUHK)))
    return out.reshape(B, H, S, -1).swapaxes(1, 2).astype(v_BUHK.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, computed in float32 (T5's layer norm: no mean, no bias)."""

    def __init__(self, features: int, *, axis: str = "embed", eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((features,)), axes=(axis,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Projections around `attend`, without biases; self-attention, or cross-attention to what `read` made of a context.
    """

    def __init__(self, embed_dim: int, heads: int, head_dim: int, *, context_dim: int | None = None,
                 qk_norm: bool = False, scale: float | None = None, block: int = 512, rngs: nnx.Rngs):
        inner = heads * head_dim
        self.heads, self.head_dim, self.scale, self.block = heads, head_dim, scale, block
        spread = 1.0 if scale is None else 1 / (head_dim * scale**2)  # the logits begin with variance 1 at any scale
        self.query = kernel(rngs, (embed_dim, inner), ("embed", "joined_kv"), spread)
        self.key = kernel(rngs, (context_dim or embed_dim, inner), ("embed", "joined_kv"))
        self.value = kernel(rngs, (context_dim or embed_dim, inner), ("embed", "joined_kv"))
        self.out = kernel(rngs, (inner, embed_dim), ("joined_kv", "embed"))
        self.query_norm = RMSNorm(head_dim, axis="kv") if qk_norm else None
        self.key_norm = RMSNorm(head_dim, axis="kv") if qk_norm else None

    def _heads(self, x: jax.Array, matrix: nnx.Param, length: str | None) -> jax.Array:
        heads = project(x, matrix).reshape(*x.shape[:-1], self.heads, self.head_dim)
        return constrain(heads, "batch", length, "heads", "kv")

    def read(self, context_BUE: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, U, H, K] of what is attended to; whole on each device along U, however long."""
        k = self._heads(context_BUE, self.key, None)
        return k if self.key_norm is None else self.key_norm(k), self._heads(context_BUE, self.value, None)

    def __call__(self, x_BSD: jax.Array, context: tuple[jax.Array, jax.Array] | None = None, *,
                 mask: jax.Array | None = None, bias: jax.Array | None = None, positions_S: jax.Array | None = None,
                 past: tuple[jax.Array, jax.Array] | None = None):
        """[B, S, D] -> [B, S, D]; mask and bias as in `attend`; positions_S turns on rotary positions.

        context: keys and values of another sequence, from `read`; by default those of x itself.
        past: keys and values [B, P, H, K] of what came before, not yet rotated. They are attended to as well (mask is
        [..., S, P + S], positions_S [P + S]), and the last P of all are returned beside the result.
        """
        q = self._heads(x_BSD, self.query, "length")
        if self.query_norm is not None:
            q = self.query_norm(q)
        k, v = self.read(x_BSD) if context is None else context
        present = None
        if past is not None:
            k, v = (jnp.concatenate(pair, axis=1) for pair in zip(past, (k, v)))
            present = tuple(x[:, x.shape[1] - old.shape[1]:] for x, old in zip((k, v), past))
        if positions_S is not None:
            q, k = rotary(q, positions_S[-q.shape[1]:]), rotary(k, positions_S)
        out = attend(q, k, v, mask=mask, bias=bias, scale=self.scale, block=self.block)
        out = project(out.reshape(*x_BSD.shape[:-1], -1), self.out)
        return out if past is None else (out, present)
