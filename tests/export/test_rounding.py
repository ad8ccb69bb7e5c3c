"""int8 and bfloat16: how far a weight may move, which arrays are left alone, and what of it a model feels."""

import jax
import ml_dtypes
import numpy as np
import pytest

import phenaki_jax
from phenaki_jax.export.rounding import EXACT, SCALE, STACK, restored, rounded, summed
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.training.checkpoints import flatten

KERNEL, TABLE, LAYERS = "g.params.read_near", "g.params.embedding.own", "g.params.stack.layers.mlp.wi"


def weights():
    draw = np.random.default_rng(0)
    spread = lambda *shape: (draw.standard_normal(shape) * 10.0 ** draw.integers(-6, 6, shape)).astype(np.float32)
    made = {KERNEL: spread(40, 30), TABLE: spread(2, 50, 8), LAYERS: spread(3, 20, 10),
            "g.params.head_bias": spread(4, 9), "g.params.stack.layers.norm.scale": spread(3, 20),
            "t.variables.quantizer.codebook": spread(9, 4), "t.variables.steps": np.array([3], np.int32)}
    made[KERNEL][:, 4] = 0
    return made


def test_no_weight_moves_by_more_than_half_a_step():
    """A channel's step is its largest weight over 127, said channel by channel in float64."""
    made = weights()
    stored = rounded(made, "int8")
    found = restored(stored, "int8")
    assert set(found) == set(made)
    channels = {KERNEL: [(slice(None), n) for n in range(30)],
                TABLE: [(slot, row) for slot in range(2) for row in range(50)],
                LAYERS: [(layer, slice(None), n) for layer in range(3) for n in range(10)]}
    for name, parts in channels.items():
        assert stored[name].dtype == np.int8 and stored[name + SCALE].size == len(parts)
        for part in parts:
            wanted = made[name][part].astype(np.float64)
            step = np.abs(wanted).max() / 127
            away = np.abs(found[name][part] - wanted)
            assert away.max() <= step / 2 * (1 + 1e-5) and np.abs(stored[name][part].astype(int)).max() in (0, 127)
            largest = np.abs(wanted).argmax()
            assert away[largest] <= 1e-6 * np.abs(wanted[largest])  # what gives the scale stays
    for name in set(made) - set(channels):
        assert found[name].dtype == made[name].dtype and found[name].tobytes() == made[name].tobytes()
        assert name + SCALE not in stored


def test_bfloat16_keeps_eight_bits():
    made = weights()
    stored = rounded(made, "bfloat16")
    found = restored(stored, "bfloat16")
    for name, array in made.items():
        if array.dtype == np.float32:
            assert stored[name].dtype == ml_dtypes.bfloat16
            np.testing.assert_allclose(found[name], array, rtol=2**-8, atol=0)
        assert found[name].dtype == array.dtype
    again = rounded(found, "bfloat16")
    assert all(again[name].tobytes() == array.tobytes() for name, array in stored.items())


def test_float32_is_left_as_it_is():
    made = weights()
    assert all(array is made[name] for name, array in restored(rounded(made, "float32"), "float32").items())


@pytest.mark.parametrize("source, changes", [
    ("configs/quickstart.py:critic", {}), ("configs/paper.py:generator", {}), ("configs/table3.py:modern", {}),
    ("configs/quickstart.py:tokenizer", {"tokenizer.stem": (8, 16)}),
])
def test_arrays_are_told_apart_as_the_models_themselves_tell(source, changes):
    """By the logical axes: a stack is where they begin with layers; what int8 takes is no vector, and most of all."""
    config = phenaki_jax.load_config(source, changes)
    makes = {"tokenizer": make_tokenizer, "generator": make_generator, "critic": make_critic}
    total = small = 0
    for part in ("tokenizer", "generator", "critic") if config.stage == "critic" else (config.stage,):
        pure = makes[part](config)
        shapes = flatten(jax.eval_shape(pure.init, jax.random.key(0))[0])
        axes = flatten(jax.tree.map(lambda names: "/".join(map(str, names)), pure.axes,
                                    is_leaf=lambda node: isinstance(node, tuple)))
        for name, leaf in shapes.items():
            stacked = axes[name].startswith("layers")
            full = f"{part}.params.{name.replace('/', '.')}"
            assert stacked == (STACK in full.split(".")), name
            over = summed(full, leaf.ndim)
            assert not over or leaf.ndim - stacked >= 2
            assert over or leaf.ndim - stacked < 2 or any(word in name.split("/") for word in EXACT), name
            if over:
                kept = [axis for axis in range(leaf.ndim) if axis not in over]
                names = axes[name].split("/")
                assert not stacked or 0 in kept
                assert names[over[-1]] == "embed" if "vocab" in names else kept[-1] == leaf.ndim - 1
            total, small = total + leaf.size, small + (leaf.size if over else 0)
    assert small / total > 0.95
