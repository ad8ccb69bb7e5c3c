"""Metrics of each data set, against means taken row by row, and in the lines of a run."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from phenaki_jax.input.mix import sources_of
from phenaki_jax.training.by_source import by_source, named
from phenaki_jax.training.state import _over_parts
from tests.training.runs import lines, run
from tests.training.tiny_run import TinyLoader, tiny_config, tiny_stage


def test_each_data_set_has_the_mean_of_its_rows():
    rng = np.random.default_rng(0)
    sums, counts, of = rng.normal(size=12), rng.integers(1, 9, 12), rng.integers(0, 3, 12) * 2  # none is of 1, 3, 5
    found = by_source("loss", jnp.asarray(np.eye(6)[of], jnp.uint8), jnp.asarray(sums), jnp.asarray(counts))
    for n in range(6):
        mean, taken = found[f"loss/{n}"]
        assert bool(taken) == (n in of)
        if taken:
            np.testing.assert_allclose(mean, sums[of == n].sum() / counts[of == n].sum(), rtol=1e-5)
    assert by_source("loss", None, jnp.asarray(sums)) == {}


def test_names_are_those_of_the_tasks():
    sources = sources_of({"stories": "video", "clips": "video", "pictures": "image"})
    assert sources == {"video": ("clips", "stories")}
    found = named({"loss": 1.0, "video/l2": 2.0, "video/l2/0": 3.0, "video/l2/1": 4.0, "image/l2/0": 5.0}, sources)
    assert found == {"loss": 1.0, "video/l2": 2.0, "video/l2/clips": 3.0, "video/l2/stories": 4.0, "image/l2/0": 5.0}


def test_parts_of_a_step_count_where_they_have_rows():
    value, taken = _over_parts((jnp.asarray([3.0, 0.0, 5.0]), jnp.asarray([1.0, 0.0, 1.0])))
    assert (float(value), float(taken)) == (4.0, 1.0)
    assert [float(x) for x in _over_parts((jnp.zeros(2), jnp.zeros(2)))] == [0.0, 0.0]
    assert float(_over_parts(jnp.asarray([1.0, 2.0]))) == 1.5


class TwoSources(TinyLoader):
    """Even rows are of a data set "even"; in every other step all are."""

    def batch(self, step):
        batch = super().batch(step)
        odd = np.arange(len(batch["video"]["video"])) % 2 * (step % 2)
        return {"video": batch["video"] | {"sources": np.eye(2, dtype=np.uint8)[odd]}}

    def sources_at(self, step):
        return {"video": ("even", "odd")}


def test_a_run_logs_each_data_set_by_its_name(tmp_path):
    def stage(config, frozen=None):
        plain = tiny_stage(config, frozen)

        def loss(params, variables, frozen, batch, key, step):
            total, (variables, metrics) = plain.loss(params, variables, frozen, batch, key, step)
            brightness_B = jnp.mean(batch["video"]["video"].astype(jnp.float32), axis=(1, 2, 3, 4))
            return total, (variables, metrics | by_source("video/brightness", batch["video"]["sources"], brightness_B))

        return dataclasses.replace(plain, loss=loss)

    config = tiny_config(6)
    run(tmp_path, config, make_stage=stage, make_loader=TwoSources)
    loader = TwoSources(config)
    clips = [loader.batch(step)["video"]["video"].mean((1, 2, 3, 4)) for step in range(6)]
    last = lines(tmp_path)[-1]
    np.testing.assert_allclose(last["video/brightness/odd"], np.mean([c[1::2].mean() for c in clips[3::2]]), rtol=1e-5)
    np.testing.assert_allclose(last["video/brightness/even"],
                               np.mean([c[::2].mean() if i % 2 else c.mean() for i, c in enumerate(clips)][3:]),
                               rtol=1e-5)
    assert "video/brightness/odd" not in lines(tmp_path)[0]  # the first step has none
