"""Attention that never lays its weights down in memory: each accelerator's own kernel.

Splash attention (Pallas) on TPUs, cuDNN's on GPUs. They take what a transformer over many tokens asks for, all keys or
all but some of each row; what else there is, biases and causal masks over a few steps of time, XLA does as well.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from phenaki_jax.parallel import device_count, partition_spec, platform

LANES = 128  # of a TPU: its kernel takes whole multiples of so many positions
KEPT = "attention"  # the name by which a policy of remat keeps what the kernel's gradient needs of its result
FEW = 256  # queries or keys with which XLA does as well
AXES = ("batch", "length", "heads", "kv"), ("batch", None, "heads", "kv"), ("batch", None)  # queries, keys, which keys


def is_fast(q_BSHK: jax.Array, k_BUHK: jax.Array, mask: jax.Array | None, bias: jax.Array | None) -> bool:
    """Whether `fast_attend` does this on the devices that a program is being traced for."""
    if bias is not None or min(q_BSHK.shape[1], k_BUHK.shape[1]) < FEW:
        return False
    if platform() == "tpu":
        return mask is None or mask.ndim == 4 and mask.shape[1:3] == (1, 1)
    if platform() == "gpu":  # its rows lie in pairs of bytes, and heads of at most 128
        return mask is None and q_BSHK.dtype == jnp.bfloat16 and q_BSHK.shape[-1] <= 128 and not q_BSHK.shape[-1] % 8
    return False


def fast_attend(q_BSHK: jax.Array, k_BUHK: jax.Array, v_BUHK: jax.Array, mask_B11U: jax.Array | None, scale: float,
                block: int) -> jax.Array:
    """As `attention.attend`, where `is_fast`.

    Args:
      block: queries and keys that a TPU's kernel takes at a time, at most.
    """
    local = functools.partial(_cudnn if platform() == "gpu" else splash, scale=scale, block=block)
    keys_BU = None if mask_B11U is None else jnp.broadcast_to(mask_B11U[:, 0, 0], k_BUHK.shape[:2])
    if device_count() == 1:
        return local(q_BSHK, k_BUHK, v_BUHK, keys_BU)
    # A kernel is no matter of the compiler's partitioner: each device is given its rows, heads and queries.
    mesh, arrays = jax.sharding.get_abstract_mesh(), (q_BSHK, k_BUHK, v_BUHK, keys_BU)
    specs = tuple(None if x is None else partition_spec(mesh, axes, x.shape) for x, axes in zip(
        arrays, (AXES[0], AXES[1], AXES[1], AXES[2])))
    return jax.shard_map(local, in_specs=specs, out_specs=PartitionSpec(*specs[0]), check_vma=False)(*arrays)


def _cudnn(q_BSHK, k_BUHK, v_BUHK, keys_BU, *, scale: float, block: int) -> jax.Array:
    return jax.nn.dot_product_attention(q_BSHK, k_BUHK, v_BUHK, scale=scale, implementation="cudnn")


def splash(q_BSHK: jax.Array, k_BUHK: jax.Array, v_BUHK: jax.Array, keys_BU: jax.Array | None, *, scale: float,
           block: int, interpret: bool = False) -> jax.Array:
    """One device's share by the TPU's kernel. interpret: run it anywhere, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    (B, S, H, _), U = q_BSHK.shape, k_BUHK.shape[1]
    padded_S, padded_U = (-(-length // LANES) * LANES for length in (S, U))
    if keys_BU is None and padded_U != U:
        keys_BU = jnp.ones((B, U), bool)
    pad = lambda x, length: jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))
    q, k, v = pad(q_BSHK * scale, padded_S), pad(k_BUHK, padded_U), pad(v_BUHK, padded_U)
    of_q, of_k = (largest_block(length, block) for length in (padded_S, padded_U))
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.FullMask((padded_S, padded_U))] * H), head_shards=1, q_seq_shards=1,
        interpret=interpret, residual_checkpoint_name=KEPT, block_sizes=kernels.BlockSizes(
            block_q=of_q, block_kv=of_k, block_q_dkv=of_q, block_kv_dkv=of_k, block_q_dq=of_q, block_kv_dq=of_k))
    if keys_BU is None:
        out = jax.vmap(attend)(q, k, v)
    else:  # a query attends to the keys of its own segment: all queries are of 1, and so are the keys that count
        segments = kernels.SegmentIds(q=jnp.ones((B, padded_S), jnp.int32),
                                      kv=jnp.pad(keys_BU.astype(jnp.int32), ((0, 0), (0, padded_U - U))))
        out = jax.vmap(attend)(q, k, v, segments)
    return out[:, :, :S].swapaxes(1, 2).astype(v_BUHK.dtype)


def largest_block(length: int, most: int) -> int:
    """The largest multiple of LANES that divides a length and is at most `most`, LANES at least."""
    return max(size for size in range(LANES, max(most, LANES) + 1, LANES) if length % size == 0)
