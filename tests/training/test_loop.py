"""The loop: resuming, meshes, what it refuses."""

import dataclasses
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax import cli
from phenaki_jax.__main__ import main
from phenaki_jax.config import mixtures, to_json
from phenaki_jax.errors import DataError, UserError
from phenaki_jax.training.checkpoints import checkpoint_steps, load_run
from phenaki_jax.training.metrics import read_lines
from phenaki_jax.training.start import frozen_arrays

sys.path.insert(0, str(Path(__file__).parent))
from runs import lines, run, spawn, wait_for_step  # noqa: E402
from tiny_run import TinyLoader, tiny_config, tiny_stage  # noqa: E402


class Breaking(TinyLoader):
    """Stalls before step 5."""

    def iterate(self, start_step: int = 0):
        for step, batch in enumerate(super().iterate(start_step), start_step):
            if step == 5:
                raise DataError("reading record 7 in /mount/shard-003 has stalled for 45 seconds")
            yield batch


def test_data_that_does_not_come_ends_a_run_that_saves(tmp_path):
    """What was done is kept, and the run goes on to the numbers of one that was never interrupted."""
    with pytest.raises(DataError, match="shard-003 has stalled for 45 seconds; saved at step 5 of 12"):
        run(tmp_path / "broken", tiny_config(12), make_loader=Breaking)
    assert checkpoint_steps(tmp_path / "broken")[-1] == 5
    run(tmp_path / "broken", tiny_config(12))
    run(tmp_path / "whole", tiny_config(12))
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


def test_it_is_exit_code_1(monkeypatch, capsys):
    def broken(options, overrides):
        raise DataError("reading\nstalled")

    monkeypatch.setattr(cli, "train", broken)
    assert main(["train", "--config=c", "--workdir=w"]) == 1 and capsys.readouterr().err == "phenaki: reading stalled\n"


def test_killed_and_resumed_equals_never_killed(tmp_path):
    steps = 24
    process = spawn(tmp_path / "killed", steps, delay=0.1)
    wait_for_step(process, tmp_path / "killed", random.randrange(8, 19))
    process.send_signal(signal.SIGKILL)
    process.wait()
    at_kill = checkpoint_steps(tmp_path / "killed")
    assert at_kill and at_kill[-1] < steps
    run(tmp_path / "killed", tiny_config(steps))
    run(tmp_path / "whole", tiny_config(steps))
    assert [line["step"] for line in lines(tmp_path / "whole")] == [1, 3, 6, 9, 12, 15, 18, 21, 24]
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    killed, whole = load_run(tmp_path / "killed"), load_run(tmp_path / "whole")
    arrays = [jax.tree.leaves((run.params, run.variables)) for run in (killed, whole)]
    for a, b in zip(*arrays):
        np.testing.assert_array_equal(a, b)


def test_sigterm_saves_and_exits(tmp_path):
    process = spawn(tmp_path, 1000, delay=0.05)
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    saved = checkpoint_steps(tmp_path)[-1]
    assert 3 <= saved < 1000
    assert saved % 5 or lines(tmp_path)[-1]["step"] <= saved


def test_lines_after_the_checkpoint_are_cut_off_and_a_torn_line_dropped(tmp_path):
    run(tmp_path, tiny_config(5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "time": 0.0, "loss": 1.0}) + "\n" + '{"step": 12, "ti')
    run(tmp_path, tiny_config(12))
    assert [line["step"] for line in lines(tmp_path)] == [1, 3, 5, 6, 9, 12]
    assert lines(tmp_path)[4]["loss"] != 1.0


def test_finished_run_returns_at_once_and_steps_may_grow(tmp_path):
    first = run(tmp_path, tiny_config(6))
    assert first.finished and first.step == 6

    def no_stage(*_):
        raise AssertionError("a finished run builds nothing")

    again = run(tmp_path, tiny_config(6), make_stage=no_stage)
    assert again.finished and again.metrics == first.metrics
    assert run(tmp_path, tiny_config(8)).step == 8
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 8
    with pytest.raises(UserError, match="train.steps"):
        run(tmp_path, tiny_config(4))


def test_a_line_says_what_all_its_steps_came_to(tmp_path):
    """Each line is the mean of what a run that logs every step says of the steps since the line before."""
    config = tiny_config(12)
    run(tmp_path / "some", config)
    config.train.log_every = 1
    run(tmp_path / "each", config)
    some, each = lines(tmp_path / "some"), lines(tmp_path / "each")
    assert [line["step"] for line in some] == [1, 3, 6, 9, 12] and len(each) == 12
    for before, line in zip([{"step": 0}, *some], some):
        part = each[before["step"]:line["step"]]
        for name in ("loss", "mse", "grad_norm", "seen"):
            np.testing.assert_allclose(line[name], np.mean([one[name] for one in part]), rtol=1e-6, err_msg=name)
        assert line["learning_rate"] == part[-1]["learning_rate"]


def two_streams(config, frozen=None):
    """tiny_stage over clips and over images that are held still, whichever of both a batch has."""
    stage = tiny_stage(config, frozen)

    def loss(params, variables, frozen, batch, key, step):
        total, metrics = 0.0, {}
        for name, stream in batch.items():
            video = jnp.broadcast_to(stream["video"], (len(stream["video"]), 3, 4, 4, 3))
            value, (variables, found) = stage.loss(params, variables, frozen, {"video": {"video": video}}, key, step)
            total += value / len(batch)
            metrics |= {f"{name}/mse": found["mse"]}
        return total, (variables, metrics)

    def samples(params, variables, frozen, batch, key):
        return np.full((2, 2 * len(batch), 3), 100 + len(batch), np.uint8)

    return dataclasses.replace(stage, loss=loss, samples=samples)


class Phases(TinyLoader):
    """Images up to step 7, then clips and images; `odd` has a number of rows that two parts do not divide."""

    def batch(self, step):
        mixture = [name for first, name in mixtures(self.config) if first <= step][-1]
        video = super().batch(step)["video"]["video"]
        images = {"image": {"video": video[:, :1]}}
        return {"images": images, "both": images | {"video": {"video": video}},
                "odd": {"video": {"video": video[:5]}}}[mixture]


def test_phases_of_a_schedule_have_lines_and_samples_of_their_own_and_are_resumed(tmp_path):
    """Killed in the middle of each phase and in the middle of a line; digit for digit as if never killed."""
    config = tiny_config(14)
    config.data.schedule = ((0, "images"), (7, "both"))
    config.train.update(sample_every=7, checkpoint_every=5, keep=3)
    options = {"make_stage": two_streams, "make_loader": Phases}
    run(tmp_path / "whole", config, **options)
    whole = lines(tmp_path / "whole")
    assert [line["step"] for line in whole] == [1, 3, 6, 7, 9, 12, 14]
    for line in whole:  # batch 7 is that of step 8
        assert ("image/mse" in line) and ("video/mse" in line) == (line["step"] > 7)
    widths = [media.read_image(tmp_path / "whole" / "samples" / f"{step}.png").shape[1] for step in (7, 14)]
    assert widths == [2, 4]
    for step in (5, 10):
        shutil.copytree(tmp_path / "whole", tmp_path / f"{step}")
        for later in checkpoint_steps(tmp_path / f"{step}"):
            if later > step:
                shutil.rmtree(tmp_path / f"{step}" / "checkpoints" / f"{later}")
        assert checkpoint_steps(tmp_path / f"{step}") == [5, 10][:step // 5]
        run(tmp_path / f"{step}", config, **options)
        assert lines(tmp_path / f"{step}") == whole
    config.data.schedule = ((0, "images"), (8, "both"))
    config.train.steps = 20
    with pytest.raises(UserError, match="data.schedule="):
        run(tmp_path / "whole", config, **options)


def test_a_later_phase_that_does_not_fit_is_said_before_the_first_step(tmp_path):
    config = tiny_config(14)
    config.data.schedule = ((0, "images"), (7, "odd"))
    config.train.accumulate = 2
    with pytest.raises(UserError, match="train.accumulate=2 does not divide a stream of 5 rows"):
        run(tmp_path, config, make_stage=two_streams, make_loader=Phases)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_another_config_is_refused_and_nothing_is_overwritten(tmp_path):
    run(tmp_path, tiny_config(5))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = tiny_config(5)
    other.tokenizer.codebook_size = 32
    with pytest.raises(UserError, match="tokenizer.codebook_size=16.*32"):
        run(tmp_path, other)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_eight_devices_give_the_losses_of_one(tmp_path):
    assert len(jax.devices()) == 8
    run(tmp_path / "one", tiny_config())
    config = tiny_config()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    run(tmp_path / "eight", config, devices=None)
    one, eight = lines(tmp_path / "one"), lines(tmp_path / "eight")
    assert [line["step"] for line in one] == [line["step"] for line in eight]
    for a, b in zip(one, eight):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=f"{name} at step {a['step']}")


def test_a_run_moves_to_another_mesh(tmp_path):
    run(tmp_path / "moved", tiny_config(5))
    config = tiny_config(12)
    config.mesh.update(data=2, fsdp=4)
    run(tmp_path / "moved", config, devices=None)
    run(tmp_path / "stayed", tiny_config(5))
    run(tmp_path / "stayed", tiny_config(12))
    for a, b in zip(lines(tmp_path / "moved"), lines(tmp_path / "stayed")):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-4)


def test_it_learns_under_both_optimizers(tmp_path):
    for name in ("adamw", "muon"):
        run(tmp_path / name, tiny_config(60, name=name))
        logged = lines(tmp_path / name)
        assert logged[-1]["loss"] < 0.3 * logged[0]["loss"], name


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="loss is (nan|inf)|grad_norm is (nan|inf)"):
        run(tmp_path, tiny_config(12, learning_rate=1e30))
    for step in checkpoint_steps(tmp_path):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_run(tmp_path, step).params))


def test_generator_needs_its_tokenizer(tmp_path):
    config = tiny_config(5)
    config.stage, config.tokenizer_run = "generator", ""
    with pytest.raises(UserError, match="tokenizer_run"):
        run(tmp_path / "generator", config)
    config.tokenizer_run = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="no model folder"):
        run(tmp_path / "generator", config)
    run(tmp_path / "tokenizer", tiny_config(5))
    config.tokenizer_run = str(tmp_path / "tokenizer")
    config.tokenizer.patch = (2, 4, 4)
    with pytest.raises(UserError, match=r"Vocabulary mismatch: tokenizer.patch is \(2, 4, 4\).*\(2, 2, 2\)"):
        run(tmp_path / "generator", config)
    assert not (tmp_path / "generator").exists()


def test_generator_carries_its_tokenizer(tmp_path):
    run(tmp_path / "tokenizer", tiny_config(5))
    tokenizer = load_run(tmp_path / "tokenizer")
    config = tiny_config(5)
    config.stage, config.tokenizer_run = "generator", str(tmp_path / "tokenizer")
    run(tmp_path / "generator", config)
    (tmp_path / "tokenizer").rename(tmp_path / "gone")
    config.train.steps = 8
    assert run(tmp_path / "generator", config).step == 8
    carried = load_run(tmp_path / "generator").frozen
    assert jax.tree.structure(carried["params"]) == jax.tree.structure(tokenizer.params)
    for a, b in zip(jax.tree.leaves(carried["params"]), jax.tree.leaves(tokenizer.params)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stage, field", [("generator", "tokenizer_run"), ("critic", "generator_run")])
def test_a_run_stands_on_one_of_the_stage_below(tmp_path, stage, field):
    config = tiny_config()
    config.stage = stage
    with pytest.raises(UserError, match=f"'{field}' is empty"):
        frozen_arrays(config, tmp_path, [])
    (tmp_path / "config.json").write_text(to_json(config))
    config[field] = str(tmp_path)
    with pytest.raises(UserError, match=f"{field}=.* is a run of stage '{stage}', not of a "):
        frozen_arrays(config, tmp_path, [])


def test_averaged_weights_are_evaluated_every_so_many_steps(tmp_path):
    asked = []

    def evaluate(step, params, variables, frozen):
        asked.append((step, np.asarray(params["head"]).copy()))
        return {"mine/fvd": float(step), "mine/psnr": float(np.abs(params["head"]).mean())}

    config = tiny_config(7)
    config.train.evaluate_every = 3
    run(tmp_path, config, evaluate=evaluate)
    kept = [{k: v for k, v in line.items() if k != "time"} for line in read_lines(tmp_path / "evaluation.jsonl")]
    assert [line["step"] for line in kept] == [step for step, _ in asked] == [3, 6, 7]
    assert kept[-1]["mine/fvd"] == 7.0
    ema = load_run(tmp_path).params["head"]
    np.testing.assert_array_equal(asked[-1][1], ema)
    assert "mine/fvd" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path) == lines_without_evaluation(tmp_path / "other")


def lines_without_evaluation(folder):
    run(folder, tiny_config(7))
    return lines(folder)
