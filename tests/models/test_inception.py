"""Inception v3 against the file's own graph in another framework, and the archive that its weights are read from."""

import importlib.util
import io
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax import weights
from phenaki_jax.errors import UserError
from phenaki_jax.models import inception

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "inception"
spec = importlib.util.spec_from_file_location("make_inception", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
with_weights = pytest.mark.skipif(not weights.installed(weights.INCEPTION),
                                  reason=f"Inception's weights are not here; {weights.INCEPTION.install}")


@with_weights
def test_pool3_against_the_golden_values():
    network = inception.make_inception()
    pool3 = jax.jit(lambda params, images: network.bind(params, {})(images))
    found = pool3(inception.inception_params(weights.read_inception()), make.whole())
    wanted = np.load(FOLDER / "expected.npz")["pool3"]
    assert found.shape == wanted.shape == (4, 2048) and found.dtype == jnp.float32
    assert np.abs(wanted).max() > 1 and np.linalg.norm(wanted, axis=1).min() > 5
    error = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert error.max() < 1e-5, error


@with_weights
def test_the_converted_weights_fit_the_network_leaf_by_leaf():
    wanted = jax.eval_shape(inception.make_inception().init, jax.random.key(0))[0]
    found = inception.inception_params(weights.read_inception())
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32


@with_weights
def test_the_file_holds_94_normalised_convolutions():
    arrays = [a for a in jax.tree.leaves(weights.read_inception()) if isinstance(a, np.ndarray)]
    assert len(arrays) == 94 * 4 and all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays)
    assert sum(a.size for a in arrays) == 21_802_784  # what Keras counts in its Inception v3 without the classes


def test_other_sizes_are_refused():
    network = inception.make_inception()
    params = jax.eval_shape(network.init, jax.random.key(0))[0]
    for shape in ((1, 299, 299, 1), (1, 224, 224, 3)):
        with pytest.raises(UserError, match=r"images are \[.*\]; Inception v3 wants \[299, 299, 3\]"):
            jax.eval_shape(lambda p, x: network.bind(p, {})(x), params, jax.ShapeDtypeStruct(shape, "uint8"))


@pytest.mark.parametrize("kind, pool", [
    (inception.AVERAGE, lambda x: nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)),
    (inception.MAX, lambda x: nnx.max_pool(x, (3, 3), padding="SAME")),
    (inception.HALVE, lambda x: nnx.max_pool(x, (3, 3), (2, 2))),
])
@pytest.mark.parametrize("sides", [(17, 17), (8, 11)])
def test_poolings_are_those_of_windows(kind, pool, sides):
    x = np.random.default_rng(0).normal(size=(2, *sides, 5)).astype(np.float32) - 5  # below the zeros of a padding
    np.testing.assert_allclose(inception._pooled(x, kind), pool(x), rtol=1e-5)


@pytest.mark.parametrize("conv", [inception.Conv(6, 3, 3, 1, "VALID"), inception.Conv(6, 3, 3, 2, "VALID"),
                                  inception.Conv(6, 1, 7), inception.Conv(6, 5, 5), inception.Conv(6)])
def test_convolutions_are_plain_ones(conv):
    x = np.random.default_rng(0).normal(size=(2, 11, 9, 5)).astype(np.float32)
    module = inception.Convolution(conv, 5, rngs=nnx.Rngs(0))
    module.bias[...] = jnp.arange(6.0) - 3
    plain = jax.lax.conv_general_dilated(x, module.kernel[...], (conv.stride,) * 2, conv.padding,
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(module(x), jnp.maximum(plain + jnp.arange(6.0) - 3, 0), atol=1e-5)


# ------------------------------------------------------------------------------------------------- the archive

def archive(pickled: bytes, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("net/data.pkl", pickled)
        for name, part in files.items():
            file.writestr(f"net/data/{name}", part)
    return content.getvalue()


def tensor(stride: bytes) -> bytes:
    """A pickle, by hand, of a tensor [2, 3] from place 1 of storage a, as torch writes it."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00aX\x03\x00\x00\x00cpuK\x07tQ"
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x01K\x02K\x03\x86K" + stride +
            b"K\x01\x86\x89ccollections\nOrderedDict\n)RtR.")


def test_a_tensor_is_read_from_its_place_in_its_storage():
    stored = np.arange(7, dtype="<f4") / 2
    found = weights.torchscript_arrays(archive(tensor(b"\x03"), a=stored.tobytes()))
    np.testing.assert_array_equal(found, stored[1:].reshape(2, 3))
    with pytest.raises(UserError, match=r"strides \(1, 1\); only \(3, 1\)"):
        weights.torchscript_arrays(archive(tensor(b"\x01"), a=stored.tobytes()))
    with pytest.raises(ValueError, match="reshape"):  # never what lies beyond the storage
        weights.torchscript_arrays(archive(tensor(b"\x03"), a=stored[:5].tobytes()))


def test_a_module_is_a_dict_of_its_fields():
    pickled = (b"\x80\x02c__torch__.some.place\nNet\n)\x81}(X\x06\x00\x00\x00stridectorch.jit._pickle\nbuild_intlist\n"
               b"]K\x02a\x85RX\x04\x00\x00\x00restNub.")
    assert weights.torchscript_arrays(archive(pickled)) == {"stride": [2], "rest": None}


class Calls:
    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


def test_an_archive_that_calls_anything_is_refused_before_it_does(tmp_path):
    import os
    trace = tmp_path / "trace"
    for evil in (Calls(os.system, f"touch {trace}"), Calls(eval, f"open({str(trace)!r}, 'w')"), np.load,
                 Calls(getattr, "text", "upper")):
        with pytest.raises(UserError, match="only float32 tensors are admitted"):
            weights.torchscript_arrays(archive(pickle.dumps({"weight": [evil]}, 2)))
    assert not trace.exists()
