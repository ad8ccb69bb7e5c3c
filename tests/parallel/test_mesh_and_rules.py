"""The mesh from four numbers, and where arrays lie on it by their logical axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from phenaki_jax.errors import UserError
from phenaki_jax.parallel import AXES, constrain, make_mesh, partition_spec, shard_batch, sharding


def mesh(**sizes):
    return make_mesh({"data": 1, **sizes})


def test_minus_one_takes_the_rest():
    for sizes, shape in (({"data": -1}, (8, 1, 1, 1)), ({"fsdp": -1, "tensor": 2}, (1, 4, 2, 1)),
                         ({"data": 2, "fsdp": 2, "sequence": 2}, (2, 2, 1, 2))):
        made = mesh(**sizes)
        assert tuple(made.shape[axis] for axis in AXES) == shape
        assert sorted(d.id for d in made.devices.flat) == list(range(8))
        assert all(kind == AxisType.Auto for kind in made.axis_types)
    assert make_mesh({"data": -1}, jax.devices()[:3]).size == 3


@pytest.mark.parametrize("sizes, words", [
    ({"data": -1, "tensor": 3}, "mesh.tensor=3.*multiple of 3 devices.*8"),
    ({"data": 4}, "mesh.data=4.*uses 4 devices.*8"),
    ({"data": 16}, "mesh.data=16"),
    ({"data": -1, "fsdp": -1}, "both -1"),
    ({"tensor": 0, "data": -1}, "mesh.tensor is 0"),
])
def test_what_does_not_fit_the_devices(sizes, words):
    with pytest.raises(UserError, match=words):
        mesh(**sizes)


@pytest.mark.parametrize("axes, shape, spec", [
    (("embed", "mlp"), (8, 16), ("fsdp", "tensor")),
    (("layers", "embed", "joined_kv"), (2, 8, 16), (None, "fsdp", "tensor")),
    (("batch", "length", "embed"), (8, 6, 32), (("data", "fsdp"), None, None)),  # fsdp serves one dimension only
    (("batch", None), (2, 3), ("data", None)),  # 2 rows: as far as they go
    (("batch", None), (3, 3), (None, None)),
    (("mlp", "embed"), (7, 9), (None, None)),
    (("vocab", "embed"), (259, 64), (None, "fsdp")),
    ((), (), ()),
])
def test_specs_and_the_fallback_to_replicated(axes, shape, spec):
    assert partition_spec(mesh(data=2, fsdp=2, tensor=2), axes, shape) == PartitionSpec(*spec)


def test_unknown_axes_and_wrong_ranks_are_defects():
    with pytest.raises(ValueError, match="'width'"):
        partition_spec(mesh(data=-1), ("width",), (8,))
    with pytest.raises(ValueError, match="do not fit"):
        sharding(mesh(data=-1), ("embed",), (8, 8))


def test_a_batch_is_cut_into_rows():
    rows = np.arange(16 * 3).reshape(16, 3)
    placed = shard_batch(mesh(data=2, fsdp=2, tensor=2), {"video": {"video": rows}})["video"]["video"]
    np.testing.assert_array_equal(placed, rows)
    held = {tuple(np.asarray(shard.data)[:, 0]) for shard in placed.addressable_shards}
    assert held == {tuple(rows[i:i + 4, 0]) for i in range(0, 16, 4)}


def test_constrain_lays_an_activation_and_needs_no_mesh():
    x = jnp.arange(32.0).reshape(8, 4)
    np.testing.assert_array_equal(constrain(x, "batch", "embed"), x)
    with jax.set_mesh(mesh(data=4, tensor=2)):
        y = jax.jit(lambda x: constrain(x * 2, "batch", "mlp"))(x)
    np.testing.assert_array_equal(y, 2 * x)
    assert y.sharding.spec == PartitionSpec("data", "tensor")
