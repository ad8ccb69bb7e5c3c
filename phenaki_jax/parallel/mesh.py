"""The mesh of devices, made from four numbers of the config."""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from phenaki_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")
_any = contextvars.ContextVar("any", default=False)


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp, tensor and sequence, all of type Auto.

    sizes: ``config.mesh``; devices along each axis, an absent one is 1, and one of them may be -1: all that are left.
    devices: those to use (default: every device of every process).

    Of several TPU slices, between which the network is slow, each has the same share of the rows of `data`; all other
    axes lie within a slice.

    Raises: UserError where the sizes do not use the devices exactly, or data does not divide into the slices.
    """
    if devices is None:
        devices = jax.devices()
    shape = {axis: int(sizes.get(axis, 1)) for axis in AXES}
    wrong = [axis for axis in shape if shape[axis] < 1 and shape[axis] != -1]
    if wrong:
        raise UserError(f"mesh.{wrong[0]} is {shape[wrong[0]]}; give a positive number of devices, or -1 for the rest.")
    rest = [axis for axis in AXES if shape[axis] == -1]
    if len(rest) > 1:
        raise UserError(f"mesh.{rest[0]} and mesh.{rest[1]} are both -1; only one can take the rest of the devices.")
    fixed = math.prod(size for size in shape.values() if size != -1)
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in shape.items() if size not in (1, -1)) or "every axis 1"
    if rest:
        if len(devices) % fixed:
            raise UserError(f"The mesh ({given}) needs a multiple of {fixed} devices, but there are {len(devices)}.")
        shape[rest[0]] = len(devices) // fixed
    elif fixed != len(devices):
        raise UserError(
            f"The mesh ({given}) uses {fixed} devices, but there are {len(devices)}; set mesh.data=-1 to use the rest."
        )
    sizes_of_axes = tuple(shape[axis] for axis in AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"})
    if slices > 1:
        if shape["data"] % slices:
            raise UserError(f"mesh.data is {shape['data']}, but there are {slices} slices; make it a multiple of that, "
                            "for between slices nothing but rows is divided.")
        inside = (shape["data"] // slices, *sizes_of_axes[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    if all(device.platform == "cpu" for device in devices):
        grid = np.asarray(devices).reshape(sizes_of_axes)  # a CPU has no topology to respect
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return jax.make_mesh(sizes_of_axes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


@contextlib.contextmanager
def any_platform() -> Iterator[None]:
    """Programs that are traced meanwhile are for one device of any platform, and `platform` is "any"."""
    token = _any.set(True)
    try:
        yield
    finally:
        _any.reset(token)


def platform() -> str:
    """What a program is being traced for: "cpu", "gpu" or "tpu", of the devices of the mesh that ``jax.set_mesh`` has
    set, else of JAX's default ones; or "any", see `any_platform`."""
    if _any.get():
        return "any"
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def device_count() -> int:
    """Devices of the mesh that ``jax.set_mesh`` has set; without one, 1."""
    return jax.sharding.get_abstract_mesh().size or 1
