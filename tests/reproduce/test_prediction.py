"""Tables 4 and 5 in small: a model without text, the whole program on tiny runs, both tables of it, the directions."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from phenaki_jax import config as configs
from phenaki_jax import evaluate, media, reproduce, weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import features, harness
from phenaki_jax.reproduce import prediction
from phenaki_jax.training import loop

TINY = prediction.Scale(own=5, clips=8, task="sprite_clips_32_tiny")
FAST = {"train.steps": 2, "train.sample_every": 5, "batch_size": 5, "data.mixture": "sprite_clips_32_tiny",
        "loss.image_perceptual": 0.0,
        "tokenizer.embed_dim": 16, "tokenizer.mlp_dim": 16, "generator.embed_dim": 16, "generator.heads": 2,
        "generator.mlp_dim": 16, "generator.layers": 1, "optimizer.name": "adamw", "sampling.num_inference_steps": 2}
MEANS = harness.Network(lambda video: video.mean(axis=(2, 3), dtype=np.float64).reshape(len(video), -1)[:, ::3],
                        {"network": "means"}, 4, "clips")


@pytest.mark.parametrize("scale", prediction.TABLE4.SCALES)
def test_the_model_reads_no_text_and_learns_from_given_frames(scale):
    stages = {stage: configs.load_config(f"configs/prediction.py:{stage},{scale}")
              for stage in ("tokenizer", "generator")}
    for config in stages.values():
        assert config.text.encoder == "none" and config.data.text_drop == config.sampling.guidance_scale == 0
        assert "clips" in config.data.mixture
    assert stages["generator"].train.first_given > 0
    fields = [{name: value for name, value in configs.fields(config) if name.startswith("tokenizer.")}
              for config in stages.values()]
    assert fields[0] == fields[1]


@pytest.fixture
def cheap_networks(monkeypatch):
    """I3D and LPIPS that cost nothing; how often clips were looked at."""
    asked = []

    def look(video):
        asked.append(len(video))
        return MEANS.of(video)

    monkeypatch.setattr(weights, "installed", lambda file: True)
    monkeypatch.setattr(harness, "networks", lambda: {"fvd": dataclasses.replace(MEANS, of=look)})
    monkeypatch.setattr(features, "lpips_per_video",
                        lambda a, b: np.abs(a.astype(float) - b).mean(axis=(1, 2, 3, 4)) / 255)
    return asked


def test_both_tables_from_nothing_and_again(cheap_networks, tmp_path, monkeypatch):
    trained, train = [], loop.train

    def counted(config, workdir):
        trained.append(workdir.name)
        return train(config, workdir, tensorboard=False, devices=jax.devices()[:1])

    monkeypatch.setattr(loop, "train", counted)
    main, measured = evaluate.main, []

    def killed(protocol, *rest, **more):
        measured.append(protocol.name)
        if len(measured) == 2:
            raise RuntimeError("killed")
        return main(protocol, *rest, **more)

    monkeypatch.setattr(evaluate, "main", killed)
    with pytest.raises(RuntimeError, match="killed"):
        reproduce.main("table4", tmp_path, overrides=FAST, sizes=TINY)
    assert trained == ["tokenizer", "generator"] and not (tmp_path / "report.md").exists()
    looks = len(cheap_networks)

    assert reproduce.main("table4", tmp_path, overrides=FAST, sizes=TINY) == 0
    # What goes on from one frame, and the frame held as the tokenizer gives it back; all else has been looked at.
    assert len(cheap_networks) == looks + 2
    report, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    for given in (1, 5):
        found = report["figures"][f"given_{given}"]
        assert found["protocol"]["given"] == given and found["protocol"]["data"] == TINY.task
        assert set(found["figures"]["fvd"]["controls"]) == {"static", "shuffled", "copy_last"}
        assert set(found["restored"]) == {"copy_last"} and found["restored"]["copy_last"]["lpips"] > 0
        assert found["counts"] == {"real": 8, "made": 8} and len(found["figures"]["lpips"]["interval"]) == 2
        assert media.read_image(tmp_path / f"generator/given_{given}/sheet.png").shape[1] > 3 * 96
    assert [row["what"][:7] for row in report["directions"]] == (
        ["5 given"] * 5 + ["1 given"] * 5 + ["FVD of ", "LPIPS o"])
    assert report["circumstances"]["sampling"]["num_inference_steps"] == 2
    for words in ("# Table 4 in small", "| 5 | this table | ", " | 36.4 |", "| 1 | table 5 | ", " | 97.0 |",
                  "fewer than 400", "last given frame held"):
        assert words in text, words

    # The other table in the same folder: nothing is trained or measured anew.
    written, count = (tmp_path / "generator/measured.json").stat().st_mtime_ns, len(measured)
    assert reproduce.main("table5", tmp_path, overrides=FAST, sizes=dataclasses.replace(TINY, own=1)) == 0
    assert (tmp_path / "generator/measured.json").stat().st_mtime_ns == written and len(measured) == count
    text = (tmp_path / "report.md").read_text()
    assert "# Table 5 in small" in text and text.index("| 1 | this table |") < text.index("| 5 | table 4 |")


def test_records_and_numbers_of_the_users_own():
    config = configs.load_config("configs/prediction.py:generator", {
        "train.evaluate_data": "bair", "train.evaluate_clips": 16, "tokenizer.frames": 17})
    asked = prediction.protocols(config, TINY)
    assert {(p.data, p.clips, p.frames, p.repeats) for p in asked.values()} == {("bair", 16, 16, 1)}
    assert [p.given for p in asked.values()] == [5, 1] and asked["given_1"].paper == {"fvd": 97.0}


def test_what_it_refuses_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "installed", lambda file: True)
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("trained"))
    for overrides, words in (({"tokenizer.frames": 5}, "given=5 of the protocol given_5 has to be less"),
                             ({"sampling.order": "backwards"}, "order='backwards' is unknown"),
                             ({"data.mixture": "no_such"}, "data.mixture='no_such' is not registered")):
        with pytest.raises(UserError, match=words):
            reproduce.main("table5", tmp_path, overrides=overrides, sizes=TINY)
    monkeypatch.setattr(weights, "installed", lambda file: False)
    with pytest.raises(UserError, match="'metrics' is not installed, and table5 needs it"):
        reproduce.main("table5", tmp_path)


def test_a_training_that_is_asked_to_stop(cheap_networks, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce.common, "prepare", lambda runs: None)
    monkeypatch.setattr(loop, "train", lambda *_: loop.Result(1, False, {}))
    assert reproduce.main("table4", tmp_path, overrides=FAST, sizes=TINY) == 130
    assert not (tmp_path / "report.md").exists()


# ------------------------------------------------------------------------------------------------- directions

def made_up(**changes):
    figures = {5: {"fvd": {"value": 50.0, "interval": [45.0, 55.0], "controls": {"copy_last": 80.0}},
                   "lpips": {"value": 0.05, "interval": [0.04, 0.06], "controls": {"copy_last": 0.1}},
                   "psnr": {"value": 25.0, "interval": [24.0, 26.0], "controls": {"copy_last": 20.0}, "ceiling": 27.0}},
               1: {"fvd": {"value": 90.0, "interval": [80.0, 99.0], "controls": {"copy_last": 150.0}},
                   "lpips": {"value": 0.08, "interval": [0.07, 0.09], "controls": {"copy_last": 0.2}},
                   "psnr": {"value": 22.0, "interval": [21.0, 23.0], "controls": {"copy_last": 18.0}}}}
    for name, values in changes.items():
        figures[int(name[-1])][name[:-1]] |= values
    found = {given: {"figures": entry, "restored": {"copy_last": {"fvd": 160.0, "lpips": 0.3}}}
             for given, entry in figures.items()}
    return {row["what"]: row for row in prediction.directions(found, 5)}


def test_the_directions_hold_where_they_do():
    rows = made_up()
    assert len(rows) == 12 and all(row["met"] is True for row in rows.values())
    words = rows["5 given: PSNR against the last given frame held"]["measured"]
    assert words == "25.00 [24.00, 26.00] against 20.00; ceiling 27.00"
    words = rows["FVD of whole clips: 5 given against 1"]["measured"]
    assert words == "50.00 [45.00, 55.00] against 90.00 [80.00, 99.00]"
    assert {row["met"] for row in prediction.directions({}, 1)} == {None}


@pytest.mark.parametrize("changes, fails", [
    ({"fvd5": {"interval": [45.0, 81.0]}},
     {"5 given: FVD against the last given frame held", "FVD of whole clips: 5 given against 1"}),
    ({"lpips1": {"controls": {"copy_last": 0.08}}}, {"1 given: LPIPS against the last given frame held"}),
    ({"psnr5": {"interval": [19.0, 26.0]}}, {"5 given: PSNR against the last given frame held"}),
    ({"lpips1": {"interval": [0.05, 0.09]}}, {"LPIPS of the new frames: 5 given against 1"}),
])
def test_and_do_not_hold_where_they_do_not(changes, fails):
    assert {what for what, row in made_up(**changes).items() if row["met"] is False} == fails
