"""The device mesh and the one table that lays logical axes on it."""

from phenaki_jax.parallel.compilation import enable_compilation_cache, free_unused_memory, product_flops
from phenaki_jax.parallel.mesh import AXES, make_mesh
from phenaki_jax.parallel.rules import RULES, constrain, partition_spec, shard_batch, sharding, tree_shardings

__all__ = [
    "AXES",
    "RULES",
    "constrain",
    "enable_compilation_cache",
    "free_unused_memory",
    "make_mesh",
    "partition_spec",
    "product_flops",
    "shard_batch",
    "sharding",
    "tree_shardings",
]
