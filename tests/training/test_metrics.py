"""metrics.jsonl to the last digit, the progress line, the overview."""

import json
import math
import sys
import types

import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.training import metrics as report
from tests.training.runs import run
from tests.training.tiny_run import tiny_config


def test_floats_come_back_to_the_last_digit(tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=50) * 10.0 ** rng.integers(-30, 30, 50)).astype(np.float32)
    file = report.MetricsFile(tmp_path)
    for step, value in enumerate(values):
        file.write(step, report.means([{"loss": value, "other": -value}]))
    file.close()
    lines = report.read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(50))
    np.testing.assert_array_equal(np.asarray([line["loss"] for line in lines], np.float32), values)
    np.testing.assert_array_equal(np.asarray([line["other"] for line in lines], np.float32), -values)


def test_what_lies_after_the_restart_is_cut_and_the_rest_stays_to_the_byte(tmp_path):
    file = report.MetricsFile(tmp_path)
    for step in (1, 5, 10):
        file.write(step, {"loss": 1 / 3 / step})
    file.close()
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with (tmp_path / "metrics.jsonl").open("a") as out:
        out.write('{"step": 15, "lo')
    report.MetricsFile(tmp_path, 5).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before[:2]


def test_not_a_number_is_written_as_such(tmp_path):
    file = report.MetricsFile(tmp_path)
    file.write(1, {"loss": math.nan})
    file.close()
    assert math.isnan(json.loads((tmp_path / "metrics.jsonl").read_text())["loss"])


def test_a_line_is_the_mean_over_the_steps_that_took_a_metric():
    rows = [{"loss": np.float32(step), "term": (np.float32(8.0 * (step % 2)), np.float32(step % 2)),
             "never": (np.float32(0), np.float32(0)), "learning_rate": 0.1 * step} for step in range(5)]
    rows[4]["late"] = 5.0
    found = report.means(rows)
    assert found == {"loss": 2.0, "term": 8.0, "late": 5.0, "learning_rate": 0.4} and list(found)[0] == "loss"
    assert math.isnan(report.means([*rows, {"loss": math.nan}])["loss"])


def test_a_window_goes_on_from_its_checkpoint_to_the_last_digit(tmp_path):
    rows = [{"loss": np.float32(1 / (3 + step)), "term": (np.float32(step), np.float32(step % 2))} for step in range(9)]
    window = report.Window(tmp_path, 0, keep=2)
    for step in range(1, 9):
        window.add(rows[step])
        if step == 3:
            assert report.means(window.take()) == report.means(rows[1:4])
        if step in (5, 7):
            window.save(step)
    whole = window.take()
    for step, left in ((5, rows[6:9]), (7, rows[8:9])):
        again = report.Window(tmp_path, step, keep=2)
        for row in left:
            again.add(row)
        assert report.means(again.take()) == report.means(whole) == report.means(rows[4:9])
    assert report.Window(tmp_path, 6).take() == []


def test_the_overview_counts_every_parameter():
    params = {"encoder": {"a": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, "b": np.zeros((2, 2))},
              "head": np.zeros((1000, 2))}
    text = report.parameter_overview(params)
    assert report.count_parameters(params) == 12 + 4 + 4 + 2000
    assert "2,020" in text.splitlines()[-1]
    assert any("encoder/a" in line and " 16 " in line and "2 arrays" in line for line in text.splitlines())
    assert any("head" in line and "1000×2" in line for line in text.splitlines())


class FakeRun:
    """What `wandb.init` gives, as far as it is used, with its rule that steps only grow."""

    def __init__(self, **options):
        self.options, self.rows, self.ended = options, [], False

    def log(self, row, step):
        assert not self.rows or step >= self.rows[-1][0]
        self.rows.append((step, row))

    def finish(self):
        self.ended = True


def test_weights_and_biases_gets_the_lines_and_a_run_goes_on_under_its_id(tmp_path, monkeypatch):
    runs = []
    fake = types.SimpleNamespace(Image=lambda picture: ("image", picture.shape),
                                 init=lambda **options: runs.append(FakeRun(**options)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = tiny_config(6)
    config.train.wandb = "stories"
    run(tmp_path / "first", config)
    config.train.steps, config.train.sample_every = 9, 9
    run(tmp_path / "first", config)
    first, second = runs
    assert first.options["project"] == "stories" and first.options["name"] == "first" and first.ended and second.ended
    assert first.options["id"] == second.options["id"] and second.options["resume"] == "allow"
    assert first.options["config"]["optimizer"]["b1"] == 0.9
    told = {step: row["loss"] for step, row in first.rows + second.rows if "loss" in row}
    assert told == {line["step"]: line["loss"] for line in report.read_lines(tmp_path / "first" / "metrics.jsonl")}
    assert (9, {"samples": ("image", (4, 4, 3))}) in second.rows


def test_who_has_no_weights_and_biases_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny_config(6)
    config.train.wandb = "stories"
    with pytest.raises(UserError, match=r"train.wandb='stories' wants Weights & Biases.*phenaki_jax\[wandb\]"):
        run(tmp_path, config)
