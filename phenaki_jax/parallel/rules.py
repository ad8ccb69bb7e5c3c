"""Logical axes (T5X's words) to mesh axes: one table, and the functions that read it.

A parameter or an activation says what its dimensions *are*; only this table says where they lie. A new parallelism is
a change here and nowhere else.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# Logical axis -> mesh axes, in the order in which they are taken. A mesh axis serves one dimension of an array, the
# first that asks. A parameter's width is "embed", which fsdp divides; an activation's is "features", which stays whole.
RULES: dict[str, tuple[str, ...]] = {
    # activations
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "features": (),
    "frames": (),
    "time": (),
    "rows": (),
    "columns": (),
    "channels": (),
    # parameters, and activations too
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv": (),
    "joined_kv": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
    "relpos_buckets": (),
    "text": ("fsdp",),
    "patch": (),
    "pixels": (),
    "positions": (),
    "code": (),
    "codes": (),
    "levels": (),
}


def partition_spec(mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """Logical axes and shape of an array -> its PartitionSpec on the mesh.

    A dimension takes the mesh axes of its rule as far as they divide it; what does not divide is replicated.

    Raises: ValueError for an axis that the table does not have, or when axes and shape differ in length.
    """
    if len(axes) != len(shape):
        raise ValueError(f"Logical axes {tuple(axes)} do not fit an array of shape {tuple(shape)}.")
    sizes = dict(mesh.shape)
    taken, spec = set(), []
    for name, length in zip(axes, shape):
        if name is not None and name not in RULES:
            raise ValueError(f"Logical axis {name!r} is not in parallel/rules.py; its rows are {', '.join(RULES)}.")
        chosen = []
        for axis in RULES[name] if name is not None else ():
            if axis in taken or sizes[axis] == 1:
                continue
            if length % math.prod([sizes[axis], *(sizes[other] for other in chosen)]) == 0:
                chosen.append(axis)
        taken.update(chosen)
        spec.append(tuple(chosen) if len(chosen) > 1 else chosen[0] if chosen else None)
    return PartitionSpec(*spec)


def sharding(mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """As partition_spec, as a NamedSharding."""
    return NamedSharding(mesh, partition_spec(mesh, axes, shape))


def tree_shardings(mesh: Mesh | AbstractMesh, tree: Any, axes: Any) -> Any:
    """Arrays (or their shapes) and the like-shaped tree of logical axes -> a tree of NamedShardings."""
    return jax.tree.map(lambda leaf, names: sharding(mesh, names, leaf.shape), tree, axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Lay an activation on the mesh that ``jax.set_mesh`` has set, by its logical axes; x itself on one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(mesh, axes, x.shape))


def rows_sharding(mesh: Mesh | AbstractMesh, shape: Sequence[int]) -> NamedSharding:
    """Where an array of a batch, of this global shape, lies: its rows over data and fsdp."""
    return sharding(mesh, ("batch", *(None,) * (len(shape) - 1)), shape)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """This process's rows of a batch (a tree of numpy arrays) -> global device arrays, rows over data and fsdp.

    With one process the rows are all there are; with several each gives its own, in the order of the processes.
    """
    processes = jax.process_count()

    def place(rows):
        shape = (rows.shape[0] * processes, *rows.shape[1:])
        target = rows_sharding(mesh, shape)
        if processes == 1:
            return jax.device_put(rows, target)
        return jax.make_array_from_process_local_data(target, rows, shape)

    return jax.tree.map(place, batch)
