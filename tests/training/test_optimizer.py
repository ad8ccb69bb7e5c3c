"""Optimizers against NumPy: the schedule, AdamW step by step, Muon's orthogonality layer by layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from phenaki_jax.errors import UserError
from phenaki_jax.training.optimizer import decay_mask, make_optimizer, make_schedule, matrix_dimensions

AXES = {
    "embedding": ("vocab", "embed"),
    "layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp"), "out": ("layers", "mlp", "embed")},
    "head": ("embed", None),
    "scale": ("embed",),
}


def config(name="adamw", **fields):
    options = {"name": name, "learning_rate": 1e-2, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1, "clip": 1.0,
               "warmup_steps": 4, "end_factor": 0.1}
    return ConfigDict({"optimizer": options | fields, "train": {"steps": 20}})


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"embedding": (9, 8), "layers": {"kernel": (3, 8, 16), "bias": (3, 16), "out": (3, 16, 8)},
              "head": (8, 5), "scale": (8,)}
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes,
                        is_leaf=lambda x: isinstance(x, tuple))


def test_schedule_warms_up_and_falls_as_a_cosine():
    schedule = make_schedule(config())
    for step in range(4):
        assert math.isclose(schedule(step), 1e-2 * (step + 1) / 4, rel_tol=1e-6)
    assert math.isclose(schedule(4 + 8), 1e-2 * (0.1 + 0.9 / 2), rel_tol=1e-5)  # half of the way
    assert math.isclose(schedule(20), 1e-3, rel_tol=1e-5) and math.isclose(schedule(1000), 1e-3, rel_tol=1e-5)
    longer = make_schedule(config(decay_steps=36))
    assert math.isclose(longer(20), 1e-2 * (0.1 + 0.9 / 2), rel_tol=1e-5)


def test_a_warm_up_longer_than_the_run_is_cut():
    schedule = make_schedule(config(warmup_steps=1000))
    assert math.isclose(schedule(19), 1e-2 * 20 / 1000, rel_tol=1e-5)


def test_adamw_equals_its_formula():
    rate, b1, b2, decay, clip = 1e-2, 0.9, 0.99, 0.1, 1.0
    optimizer, schedule = make_optimizer(config(), AXES)
    p = params()
    state = optimizer.init(p)
    masks = jax.tree.leaves(decay_mask(AXES))
    assert sum(masks) == 4  # the embedding, the head and two stacks; not the biases and scales
    ours = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(p)]
    m, v = [np.zeros_like(x) for x in ours], [np.zeros_like(x) for x in ours]
    for t in range(1, 4):
        grads = params(seed=t)
        updates, state = optimizer.update(grads, state, p)
        p = optax.apply_updates(p, updates)
        g = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
        norm = math.sqrt(sum((x**2).sum() for x in g))
        for i, x in enumerate(g):
            x = x * min(1.0, clip / norm)
            m[i], v[i] = b1 * m[i] + (1 - b1) * x, b2 * v[i] + (1 - b2) * x**2
            step = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + 1e-8)
            ours[i] -= rate * t / 4 * (step + decay * ours[i] * masks[i])
    for a, b in zip(jax.tree.leaves(p), ours):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adamw():
    options = config("muon", weight_decay=0.0, clip=0.0, warmup_steps=0)
    muon, _ = make_optimizer(options, AXES)
    adamw, _ = make_optimizer(config(weight_decay=0.0, clip=0.0, warmup_steps=0), AXES)
    p, grads = params(), params(seed=1)
    grads["layers"]["kernel"] = grads["layers"]["kernel"] * jnp.asarray([1.0, 100.0, 0.01])[:, None, None]
    updates, _ = muon.update(grads, muon.init(p), p)
    for name in ("kernel", "out"):
        for layer in range(3):
            update, grad = np.asarray(updates["layers"][name][layer]), np.asarray(grads["layers"][name][layer])
            singular = np.linalg.svd(update, compute_uv=False)
            assert singular.min() > 0.5 * singular.max()  # the gradient's own: less than 0.4
            assert 0.5 * 2e-3 < np.sqrt((update**2).mean()) / 2**-0.5 * 2**0.5 < 2 * 2e-3  # 0.2 of the learning rate
            u, _, vt = np.linalg.svd(grad, full_matrices=False)
            assert -(update * (u @ vt)).sum() > 0.9 * np.linalg.norm(update) * np.linalg.norm(u @ vt)
    other, _ = adamw.update(grads, adamw.init(p), p)
    for name in ("embedding", "head", "scale"):  # Muon's AdamW looks ahead (Nesterov), so it is alike and not equal
        assert np.all(np.sign(updates[name]) == np.sign(other[name]))
        np.testing.assert_allclose(np.abs(updates[name]), 1e-2, rtol=0.9)


@pytest.mark.parametrize("names, dimensions", [
    (("embed", "mlp"), ((0,), (1,))),
    (("layers", "mlp", "embed"), ((1,), (2,))),
    (("layers", "embed", "heads", "kv"), ((1,), (2, 3))),
    (("layers", "heads", "kv", "embed"), ((1, 2), (3,))),
    (("layers", "mlp"), None), (("vocab", "embed"), None), ((None, "embed"), None), (("embed", None), None),
    (("relpos_buckets", "heads"), None), ((), None),
])
def test_what_is_a_matrix(names, dimensions):
    found = matrix_dimensions(names)
    assert (found and tuple(found)) == dimensions


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_first_moments_may_be_bfloat16(name):
    """They, and nothing else; and the updates are those of float32 up to that rounding."""
    p, results = params(), {}
    for dtype in ("float32", "bfloat16"):
        optimizer, _ = make_optimizer(config(name, mu_dtype=dtype), AXES)
        state, q = optimizer.init(p), p
        for t in range(4):
            updates, state = optimizer.update(params(seed=t), state, q)
            q = optax.apply_updates(q, updates)
        kept = [x for x in jax.tree.leaves(state) if x.ndim]
        results[dtype] = q, sum(x.size for x in kept if x.dtype == jnp.bfloat16), {x.dtype for x in kept}
    assert results["float32"][1:] == (0, {jnp.dtype("float32")})
    assert results["bfloat16"][1] == sum(x.size for x in jax.tree.leaves(p))
    for a, b, start in zip(*(jax.tree.leaves(results[dtype][0]) for dtype in results), jax.tree.leaves(p)):
        assert a.dtype == b.dtype == jnp.float32
        moved = np.abs(np.asarray(a - start)).max()
        assert 0 < np.abs(np.asarray(a - b)).max() < 0.05 * moved


def test_a_type_that_moments_cannot_have_is_named():
    with pytest.raises(UserError, match="optimizer.mu_dtype is 'float16', which is not one of float32, bfloat16"):
        make_optimizer(config(mu_dtype="float16"), AXES)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="'sgd'.*adamw, muon"):
        make_optimizer(config("sgd"), AXES)
