"""Table 1 and the stories in small, which measure one text model: programs, resuming, what is counted, directions."""

import json
import types

import numpy as np
import pytest

from phenaki_jax import config as configs
from phenaki_jax import media, quickstart, reproduce, weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import harness, sprites
from phenaki_jax.pipeline import PhenakiPipeline
from phenaki_jax.reproduce import common, story, table1
from phenaki_jax.training import loop

SIZES = {"table1": table1.Scale(clips=8, prompts=24, task="sprite_clips_32_tiny"), "story": story.Scale(8, 3)}
CONFIG = configs.load_config("configs/quickstart.py:generator")


class Drawn:
    """A text model that knows the answers: clips of the captions' facts, and true stories unless scenes are alone."""

    fingerprint, config = "drawn", CONFIG
    generator = types.SimpleNamespace(config=types.SimpleNamespace(is_told=True))

    def __init__(self):
        self.facts_of, self.calls = {}, []
        self.told = quickstart.sprite_stories(np.random.default_rng([0, 4]), 8, 3, CONFIG)
        prompts, facts = quickstart.held_out_prompts(np.random.default_rng([0, 3]), 24)
        self.facts_of = dict(zip(prompts, facts))

    def draw(self, facts, seed, frames):
        world = quickstart.world("world")
        return world.make_clip(np.random.default_rng(seed), world.Facts(**facts), frames=frames)

    def __call__(self, prompts, num_frames, seed, **sampling):
        self.calls.append("clips")
        other = {"colour": "red", "shape": "circle", "style": "solid", "direction": "left", "speed": "slowly",
                 "background": "black"}
        seeds = seed if isinstance(seed, list) else range(seed, seed + len(prompts))
        return types.SimpleNamespace(frames=np.stack([self.draw(self.facts_of.get(prompt, other), one, num_frames)
                                                      for prompt, one in zip(prompts, seeds)]))

    def stories(self, asked, seed, transition="hold", **sampling):
        self.calls.append(transition)
        stories, videos = self.told
        if transition == "hold":
            return types.SimpleNamespace(frames=np.stack(videos))
        return types.SimpleNamespace(frames=np.stack([np.concatenate([
            self.draw(scene["facts"] | ({} if scene["facts"]["style"] in said["prompt"] else {"style": "outlined"}),
                      [seed, i, k], scene["num_frames"])
            for k, (scene, said) in enumerate(zip(story, told))])
            for i, (story, told) in enumerate(zip(stories, asked))]))

    def reconstruct(self, video):
        return video


@pytest.fixture
def model(monkeypatch):
    """Trainings that cost nothing, and what they lead to."""
    pipe = Drawn()
    of = lambda video: video.mean(axis=(2, 3), dtype=np.float64).reshape(len(video), -1)[:, ::3]
    seen_by = {"fvd": harness.Network(of, {"network": "means"}, 4, "clips")}

    def train(config, run):
        (run / "checkpoints" / str(config.train.steps)).mkdir(parents=True, exist_ok=True)
        return loop.Result(config.train.steps, True, {})

    monkeypatch.setattr(weights, "installed", lambda file: file is not weights.INCEPTION)
    monkeypatch.setattr(harness, "networks", lambda: seen_by)
    monkeypatch.setattr(common, "prepare", lambda runs: None)
    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(PhenakiPipeline, "from_pretrained", lambda run: pipe)
    return pipe


def test_both_measure_one_model_in_one_folder(model, tmp_path):
    for table in SIZES:
        assert reproduce.main(table, tmp_path, sizes=SIZES[table]) == 0
    assert model.calls == ["clips", "clips", "hold", "hold", "cut", "cut"]
    files = [tmp_path / "generator" / name for name in ("table1.json", "story.json")]
    written = [file.stat().st_mtime_ns for file in files]
    for table in SIZES:
        assert reproduce.main(table, tmp_path, sizes=SIZES[table]) == 0
    assert [file.stat().st_mtime_ns for file in files] == written and len(model.calls) == 6
    assert reproduce.main("story", tmp_path, overrides={"sampling.temperature": 1.0}, sizes=SIZES["story"]) == 0
    assert len(model.calls) == 10  # other sampling is measured anew


def test_table_1(model, tmp_path):
    assert reproduce.main("table1", tmp_path, sizes=SIZES["table1"]) == 0
    report, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    own, others = (report["judged"][which] for which in ("own", "others"))
    assert own["all"]["share"] == own["mean"] == 1.0 and others["mean"] < 0.5 and others["all"]["share"] < 0.2
    fvd = report["protocol"]["figures"]["fvd"]
    assert set(fvd["controls"]) == {"static", "shuffled"} and fvd["ceiling"] == pytest.approx(0, abs=1e-6)
    assert set(report["protocol"]["figures"]) == {"fvd", "motion"}  # without its network there is no FID
    assert [row["met"] for row in report["directions"]][4:] == [True, True]
    for kind in ("static", "shuffled"):  # this tokenizer loses nothing, but they are of other clips
        assert report["protocol"]["restored"][kind]["fvd"] > fvd["controls"][kind]
    for words in ("| Phenaki, zero shot | – | – | 37.74 | 3.84 |", "| NUWA, fine-tuned |", "| its own | 100.0 % |"):
        assert words in text, words
    assert media.read_image(tmp_path / "generator/zero_shot_t2v/sheet.png").size


def test_the_users_own_records_have_no_judge(monkeypatch):
    config = configs.load_config("configs/quickstart.py:generator", {"train.evaluate_data": "kinetics"})
    monkeypatch.setattr(weights, "installed", lambda file: True)
    asked = table1.protocol(config, SIZES["table1"])
    assert (asked.data, asked.clips, asked.frames, asked.metrics) == ("kinetics", 8, 11, ("fvd", "fid", "motion"))
    fvd = {"value": 10.0, "interval": [8, 12], "controls": {"static": 12.5, "shuffled": 11.0}}
    rows = table1.directions({"figures": {"fvd": fvd}, "restored": {"static": {"fvd": 20.0}}}, None)
    assert [row["met"] for row in rows] == [True, True, False, None, None, None]


def test_stories(model, tmp_path):
    assert reproduce.main("story", tmp_path, sizes=SIZES["story"]) == 0
    report, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    context, alone, truth = (report["told"][way] for way in ("context", "independent", "truth"))
    assert context == truth  # for it tells the true stories
    assert context["kept"]["share"] == context["new_motion"]["share"] == context["unsaid"]["share"] == 1.0
    assert context["old_motion"]["share"] == 0.0 and context["latency"]["median"] == 0
    assert context["drift"]["slope"] == alone["drift"]["slope"] == 0.0
    assert alone["seam_displacement"]["value"] > 2 * context["seam_displacement"]["value"]
    assert alone["unsaid"]["share"] < 0.8 and alone["kept"]["share"] == 1.0
    met = {row["what"].split(":")[0]: row["met"] for row in report["directions"]}
    assert met == {"largest change of pixels at a seam": met["largest change of pixels at a seam"],
                   "largest step of the object at a seam": True, "what the prompt keeps is as it was seen": False,
                   "what the prompt does not say stays": True,
                   "a new direction is followed, against going on in the old one": True,
                   "a new colour or place is there and stays": True,
                   "share of a prompt's facts that is shown, from scene to scene": True}
    assert "| five frames of context | " in text and "| the true stories | " in text
    assert media.read_image(tmp_path / "story.png").shape[1] > 3 * 6 * 96


def test_what_is_left_unsaid():
    stories, _ = quickstart.sprite_stories(np.random.default_rng(1), 12, 4, CONFIG)
    short = story.left_unsaid(stories)
    for full, told in zip(stories, short):
        assert told[0] == full[0] and [scene["facts"] for scene in told] == [scene["facts"] for scene in full]
        for before, scene in zip(full, told[1:]):
            facts = scene["facts"]
            assert facts["style"] not in scene["prompt"] and facts["colour"] in scene["prompt"]
            assert (facts["background"] in scene["prompt"]) == (facts["background"] != before["facts"]["background"])


def test_what_is_counted_of_stories():
    """Blue goes right, turns and goes on right all the same; turns red at its third frame, and green in the end."""
    facts = [{"colour": "blue", "direction": "right", "speed": "slowly", "style": "solid", "background": "navy"},
             {"colour": "blue", "direction": "left", "speed": "slowly", "style": "solid", "background": "navy"},
             {"colour": "red", "direction": "left", "speed": "slowly", "style": "solid", "background": "gray"}]
    shown = [facts[0], facts[0] | {"style": None}, facts[2]]
    rows = [{"facts": facts, "shown": shown}]
    assert story.stays(rows, story.LEAVABLE) == [False, True, False]  # navy stays where it should; style never is
    assert story.turns(rows, new=True) == [False] and story.turns(rows, new=False) == [True]
    np.testing.assert_allclose(story.scene_scores(rows), [[1.0, 3 / 5, 1.0]])
    world = quickstart.world("world")
    red, blue = ({"shape": "circle", "style": "solid", "colour": colour, "direction": "still", "speed": None,
                  "background": "navy"} for colour in ("red", "blue"))
    clips = [world.make_clip(np.random.default_rng(0), world.Facts(**one), frames=5) for one in (blue, red)]
    scenes = [{"num_frames": 5, "facts": blue}, {"num_frames": 5, "facts": red}]
    late = np.concatenate([clips[0], clips[0][:2], clips[1][:3]])
    assert story.waited([late], [scenes]) == {"median": 2.0, "never": 0, "of": 1}
    never = np.concatenate([clips[0], clips[0]])
    assert story.waited([never], [scenes]) == {"median": None, "never": 1, "of": 1}
    assert story.waited([never], [[scenes[0], scenes[0]]])["of"] == 0


def made_up(**changes):
    share = lambda count: sprites.share([i < count for i in range(100)])
    ours = {"seam_pixels": {"value": 5.0, "interval": [4.0, 6.0]},
            "seam_displacement": {"value": 1.0, "interval": [1, 2]},
            "kept": share(98), "unsaid": share(95), "new_motion": share(90), "old_motion": share(5),
            "latency": {"median": 2.0, "never": 1, "of": 30}, "drift": {"slope": -0.01, "interval": [-0.02, 0.001]}}
    alone = {"seam_pixels": {"value": 20.0, "interval": [15.0, 25.0]}, "kept": share(80), "unsaid": share(30),
             "seam_displacement": {"value": 9.0, "interval": [8, 10]}}
    rows = story.directions({"context": ours | changes, "independent": alone})
    return {row["what"].split(":")[0]: row for row in rows}


@pytest.mark.parametrize("changes, fails", [
    ({}, set()),
    ({"seam_pixels": {"value": 14.0, "interval": [10.0, 16.0]}}, {"largest change of pixels at a seam"}),
    ({"unsaid": sprites.share([True, False])}, {"what the prompt does not say stays"}),
    ({"latency": {"median": 3.0, "never": 0, "of": 3}}, {"a new colour or place is there and stays"}),
    ({"latency": {"median": None, "never": 3, "of": 3}}, {"a new colour or place is there and stays"}),
    ({"drift": {"slope": -0.02, "interval": [-0.03, -0.01]}},
     {"share of a prompt's facts that is shown, from scene to scene"}),
])
def test_the_directions_of_stories(changes, fails):
    rows = made_up(**changes)
    assert {what for what, row in rows.items() if row["met"] is False} == fails
    assert sum(row["met"] is True for row in rows.values()) == 7 - len(fails)
    assert {row["met"] for row in story.directions({})} == {None}


@pytest.mark.parametrize("table", SIZES)
def test_what_they_refuse(model, table, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="order='backwards' is unknown"):
        reproduce.main(table, tmp_path, overrides={"sampling.order": "backwards"}, sizes=SIZES[table])
    with pytest.raises(UserError, match="--scale='tpu' is unknown"):
        reproduce.main(table, tmp_path, "tpu")
    monkeypatch.setattr(loop, "train", lambda *_: loop.Result(1, False, {}))
    assert reproduce.main(table, tmp_path, sizes=SIZES[table]) == 130
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize("table", reproduce.TABLES)
def test_a_table_names_a_config_that_has_the_fields_of_its_models(table):
    """What `--config.FIELD=VALUE` is read by."""
    program = reproduce.TABLES[table]
    names = {name for name, _ in configs.fields(configs.load_config(program.CONFIG))}
    assert {"train.steps", "batch_size", "tokenizer.embed_dim", "data.mixture", "sampling.temperature"} <= names
    assert set(program.SCALES) == {"cpu", "accelerator"}


def test_figures_in_words():
    assert common.between({"value": 12.3, "interval": [11, 13.5]}) == "12.30 [11.00, 13.50]"
    assert common.between({"share": 0.5, "interval": None}, percent=True) == "50.0 %"
    assert common.between(None) == common.between({"value": None}) == "–"
    exact = common.apart("a", {"value": 1.0}, {"value": 2.0})
    assert exact["met"] is True and exact["measured"] == "1.00 against 2.00"
    assert common.apart("a", {"value": 2.0}, {"value": 1.0})["met"] is False
    assert common.apart("a", {"share": 0.9}, {"share": 0.1}, higher=True)["bar"] == "higher, intervals apart"
