"""What a run says of its time and of the hardware, against counts by hand."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax.layers.transformer import Stack
from phenaki_jax.models.tree import Pure
from phenaki_jax.parallel.chips import chip_of
from phenaki_jax.training import goodput

LAYERS, WIDTH, HEADS, MLP, BATCH, LENGTH = 3, 16, 2, 32, 4, 10


def gradient(remat):
    pure = Pure(lambda rngs: Stack(LAYERS, WIDTH, HEADS, MLP, remat=remat, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    return params, jax.grad(lambda params, x: jnp.sum(pure.bind(params, {})(x)))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_flops_are_the_models_whatever_is_made_anew(remat):
    params, step = gradient(remat)
    efficiency = goodput.Efficiency(2, "TPU v5")
    video = jax.ShapeDtypeStruct((2, 11, 32, 48, 3), jnp.uint8)
    efficiency.count("shapes", lambda state, batch: step(state, batch["video"]["x"]), params,
                     {"video": {"x": jax.ShapeDtypeStruct((BATCH, LENGTH, WIDTH), jnp.float32), "video": video}},
                     (2, 8, 16))
    efficiency.shapes = "shapes"
    found = efficiency.figures(3.0)
    projections = 4 * WIDTH * WIDTH + sum(p.size for path, p in jax.tree_util.tree_leaves_with_path(params)
                                          if "mlp" in jax.tree_util.keystr(path) and p.ndim == 3) / LAYERS
    # Forward 1 and backward 2 products of each, but none for the gradient of what comes in.
    attention = 2 * LENGTH * WIDTH
    by_hand = 2 * LAYERS * BATCH * LENGTH * 3 * (projections + attention)
    assert found["flops_per_second"] / 3.0 == pytest.approx(by_hand, rel=0.05)
    assert found["tokens_per_second"] == 3.0 * 2 * 6 * 4 * 3
    assert found["mfu"] == pytest.approx(found["flops_per_second"] / (2 * chip_of("TPU v5").flops))
    same, _ = gradient("none")
    assert jax.tree.all(jax.tree.map(np.array_equal, params, same))


def test_shares_of_the_time_add_up():
    spent = goodput.Goodput()
    with spent.of("data"):
        time.sleep(0.05)
    with pytest.raises(KeyError), spent.of("checkpoints"):
        time.sleep(0.02)
        raise KeyError
    shares = spent.shares()
    assert sum(shares.values()) == pytest.approx(1.0) and shares["data"] > shares["checkpoints"] > 0
    assert shares["samples"] == shares["evaluation"] == 0.0


def test_nothing_is_told_before_the_first_step():
    assert goodput.Efficiency(1, "TPU v5").figures(1.0) == {}
