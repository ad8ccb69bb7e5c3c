"""The device mesh and the one table that lays logical axes on it."""

from phenaki_jax.parallel.compilation import enable_compilation_cache, flops_of, free_unused_memory, product_flops
from phenaki_jax.parallel.mesh import AXES, any_platform, device_count, make_mesh, platform
from phenaki_jax.parallel.processes import join_processes
from phenaki_jax.parallel.rules import (
    RULES, constrain, partition_spec,
    rows_sharding, shard_batch, sharding, tree_shardings,
)

__all__ = [
    "AXES",
    "RULES",
    "any_platform",
    "constrain",
    "device_count",
    "enable_compilation_cache",
    "flops_of",
    "free_unused_memory",
    "join_processes",
    "make_mesh",
    "partition_spec",
    "platform",
    "product_flops",
    "rows_sharding",
    "shard_batch",
    "sharding",
    "tree_shardings",
]
