"""Pre-norm transformer layers, and a stack of them whose parameters are stacked and scanned."""

from typing import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.attention import Attention, RMSNorm, all_is_kept
from phenaki_jax.layers.fast_attention import KEPT, LANES
from phenaki_jax.layers.products import kernel, project
from phenaki_jax.parallel import constrain


class Mlp(nnx.Module):
    """Two projections around an activation; with `gated`, T5 1.1's product of an activated and a linear one."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, activation: Callable = jax.nn.gelu, gated: bool = False,
                 rngs: nnx.Rngs):
        self.activation = activation
        self.wi = kernel(rngs, (embed_dim, mlp_dim), ("embed", "mlp"))
        self.gate = kernel(rngs, (embed_dim, mlp_dim), ("embed", "mlp")) if gated else None
        self.wo = kernel(rngs, (mlp_dim, embed_dim), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.activation(project(x, self.wi))
        if self.gate is not None:
            hidden = hidden * project(x, self.gate)
        return project(constrain(hidden, "batch", "length", "mlp"), self.wo)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of x and scales up the rest; the identity without a key (a key a call: masks differ)."""
    if rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Layer(nnx.Module):
    """x + attention(norm x); with `factorised`, + attention in time; with text, + cross-attention; + mlp(norm x).

    A factorised layer takes tokens of a grid (T, H, W): its first attention is all-to-all within a latent step, its
    second along time at each place, so S tokens cost S (H W + T) instead of S^2.
    """

    def __init__(self, embed_dim: int, heads: int, mlp_dim: int, *, head_dim: int | None = None,
                 context_dim: int | None = None, factorised: bool = False, qk_norm: bool = False,
                 scale: float | None = None, activation: Callable = jax.nn.gelu, gated: bool = False,
                 dropout_rate: float = 0.0, block: int = 512, rngs: nnx.Rngs):
        head_dim = head_dim or embed_dim // heads
        self.dropout_rate = dropout_rate
        self.attention_norm = RMSNorm(embed_dim)
        self.attention = Attention(embed_dim, heads, head_dim, qk_norm=qk_norm, scale=scale, block=block, rngs=rngs)
        self.time_norm = RMSNorm(embed_dim) if factorised else None
        self.time = Attention(embed_dim, heads, head_dim, qk_norm=qk_norm, rngs=rngs) if factorised else None
        self.cross_norm = RMSNorm(embed_dim) if context_dim else None
        self.cross = (Attention(embed_dim, heads, head_dim, context_dim=context_dim, qk_norm=qk_norm, rngs=rngs)
                      if context_dim else None)
        self.mlp_norm = RMSNorm(embed_dim)
        self.mlp = Mlp(embed_dim, mlp_dim, activation=activation, gated=gated, rngs=rngs)

    def __call__(self, x_BSD: jax.Array, *, mask=None, bias=None, positions_S=None, context=None,
                 context_mask=None, grid: tuple[int, int, int] | None = None, past=None, key: jax.Array | None = None):
        """[B, S, D] -> [B, S, D].

        mask, past: of the attention, or, in a factorised layer, of the attention in time (its positions are steps of
        time, while positions_S are the places within a step); with past (see `Attention`) a pair, the result and the
        new past.
        """
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        present = None
        y = self.attention_norm(x_BSD)
        if self.time is not None:
            y = in_space(lambda z: self.attention(z, positions_S=positions_S), y, grid)
        elif past is None:
            y = self.attention(y, mask=mask, bias=bias, positions_S=positions_S)
        else:
            y, present = self.attention(y, mask=mask, bias=bias, positions_S=positions_S, past=past)
        x_BSD = laid_out(x_BSD + dropout(y, self.dropout_rate, keys[0]))
        if self.time is not None:
            steps_S = jnp.arange(grid[0] + (0 if past is None else past[0].shape[1]))
            y = in_time(lambda z: self.time(z, mask=mask, positions_S=steps_S, past=past), self.time_norm(x_BSD), grid)
            y, present = (y, None) if past is None else y
            x_BSD = laid_out(x_BSD + dropout(y, self.dropout_rate, keys[1]))
        if self.cross is not None:
            y = self.cross(self.cross_norm(x_BSD), context, mask=context_mask)
            x_BSD = laid_out(x_BSD + dropout(y, self.dropout_rate, keys[2]))
        x_BSD = laid_out(x_BSD + dropout(self.mlp(self.mlp_norm(x_BSD)), self.dropout_rate, keys[3]))
        return x_BSD if past is None else (x_BSD, present)


def laid_out(x_BSD: jax.Array) -> jax.Array:
    """A sequence's features where the mesh wants them."""
    return constrain(x_BSD, "batch", "length", "features")


def in_space(function: Callable, x_BSD: jax.Array, grid: tuple[int, int, int]) -> jax.Array:
    """Applies `function` to the [B T, H W, D] of each latent step of tokens in raster order."""
    (B, S, D), T = x_BSD.shape, grid[0]
    return function(x_BSD.reshape(B * T, S // T, D)).reshape(B, S, D)


def in_time(function: Callable, x_BSD: jax.Array, grid: tuple[int, int, int]):
    """Applies `function` to the [B H W, T, D] of each place of tokens in raster order; what it returns beside stays."""
    (B, S, D), T = x_BSD.shape, grid[0]
    result = function(x_BSD.reshape(B, T, S // T, D).transpose(0, 2, 1, 3).reshape(B * S // T, T, D))
    x, *beside = result if isinstance(result, tuple) else (result,)
    x = x.reshape(B, S // T, T, D).transpose(0, 2, 1, 3).reshape(B, S, D)
    return (x, *beside) if beside else x


# What a layer keeps for its gradient, by the value of a model's `remat`; all else is made anew.
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(  # results of its projections and of its attention
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(KEPT)),
}


def check_computing(section: str, remat: str | bool, block: int) -> None:
    """Raises: UserError where a config's fields of how its layers are computed are none."""
    if remat not in (*REMAT, True, False):
        raise UserError(f"{section}.remat={remat!r} is unknown; it is one of {', '.join(REMAT)}")
    if block < LANES or block % LANES:
        raise UserError(f"{section}.attention_block={block} must be a multiple of {LANES}")


class Stack(nnx.Module):
    """`layers` equal layers and a last norm. Parameters carry a leading 'layers' axis and are scanned over."""

    def __init__(self, layers: int, *args, remat: str | bool = "none", unroll: bool = False, rngs: nnx.Rngs, **kwargs):
        self.count, self.unroll = layers, unroll
        self.remat = {True: "full", False: "none"}.get(remat, remat)  # as runs had it before there were several
        make = nnx.vmap(lambda r: Layer(*args, rngs=r, **kwargs), transform_metadata={nnx.PARTITION_NAME: "layers"})
        self.layers = make(rngs.split(layers))
        self.norm = RMSNorm(args[0])

    def read(self, context_BPE: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What each layer's cross-attention makes of a context: keys and values [layers, B, P, H, K]."""
        graphdef, params = nnx.split(self.layers)
        return self._scan(lambda _, layer: (None, nnx.merge(graphdef, layer).cross.read(context_BPE)), None, params)[1]

    def __call__(self, x_BSD: jax.Array, *, context=None, past=None, key: jax.Array | None = None, **kwargs):
        """[B, S, D] -> [B, S, D]; the keyword arguments are those of `Layer`.

        context (of `read`) and past have a leading axis of layers.
        """
        graphdef, params = nnx.split(self.layers)

        def body(x, this_layer):
            layer, index, context, past = this_layer
            layer_key = None if key is None else jax.random.fold_in(key, index)
            result = nnx.merge(graphdef, layer)(x, context=context, past=past, key=layer_key, **kwargs)
            return (result, None) if past is None else result

        # A scan keeps what is made anew from being taken for what was made before.
        if self.remat != "none" and not all_is_kept():
            body = jax.checkpoint(body, policy=REMAT[self.remat], prevent_cse=self.unroll)
        x_BSD, present = self._scan(body, x_BSD, (params, jnp.arange(self.count), context, past))
        x_BSD = self.norm(x_BSD)
        return x_BSD if past is None else (x_BSD, present)

    def _scan(self, body: Callable, carry, layers):
        return jax.lax.scan(body, carry, layers, unroll=self.count if self.unroll else 1)
