"""The protocols against pipelines whose truth is known: they draw what is asked, or get a known part of it wrong."""

import dataclasses
import json
import types

import numpy as np
import pytest

from data.sprite_stories import world
from phenaki_jax import evaluation
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import report, sprites
from phenaki_jax.evaluation import sprite_world as sw


class Painter:
    """A pipeline that knows the world: a prompt is the JSON of its facts. `spoil` alters the facts it draws."""

    def __init__(self, spoil=lambda facts: facts):
        self.spoil, self.seeds, self.sizes, self.settings = spoil, [], [], []
        self.tokenizer = types.SimpleNamespace(codebook_size=64)

    def __call__(self, prompts, num_frames, seed, **sampler):
        self.seeds.append(seed), self.sizes.append(len(prompts)), self.settings.append(sampler)
        rng = np.random.default_rng(seed)
        facts = [self.spoil(world.Facts(**json.loads(p))) for p in prompts]
        return types.SimpleNamespace(frames=np.stack([world.make_clip(rng, f, frames=num_frames) for f in facts]))

    def stories(self, stories, seed):
        self.sizes.append(len(stories))
        rng = np.random.default_rng(seed)
        frames = []
        for story in stories:
            scenes = [(self.spoil(world.Facts(**json.loads(s["prompt"]))), s["num_frames"]) for s in story]
            frames.append(world.make_story(rng, scenes))
        return types.SimpleNamespace(frames=np.stack(frames))

    def reconstruct(self, video):
        self.sizes.append(len(video))
        return 255 - (255 - video) // 2 * 2  # the lowest bit is lost

    def encode(self, video):
        return (video[:, ::5, ::8, ::8, 0] // 16).astype(np.int32)


def asked(count, seed=0):
    rng = np.random.default_rng(seed)
    facts = [dataclasses.asdict(world.sample_facts(rng, held_out=None, image_only=True)) for _ in range(count)]
    return [json.dumps(f) for f in facts], facts


def told(count, seed=0, scenes=3):
    rng = np.random.default_rng(seed)
    return [[{"prompt": json.dumps(dataclasses.asdict(f)), "num_frames": n, "facts": dataclasses.asdict(f)}
             for f, n in world.sample_story(rng, scenes=scenes, held_out=None)] for _ in range(count)]


def test_prompts_drawn_as_asked_score_one_and_keep_their_order():
    prompts, facts = asked(21)
    painter = Painter()
    result = sprites.prompt_protocol(painter, prompts, facts, 3, batch_size=8, guidance_scale=None, temperature=2.0)
    assert painter.sizes == [8, 8, 8]  # one compiled size; the last batch is filled up
    assert len(set(painter.seeds)) == 3 and painter.settings == [{"temperature": 2.0}] * 3
    assert result["frames"].shape == (21, 11, 32, 32, 3)
    assert set(result["agreement"].values()) == {1.0} and result["all"] == 1.0
    assert result["count"]["colour"] == 21
    assert result["count"]["speed"] == sum(f["speed"] is not None for f in facts)
    assert [entry["prompt"] for entry in result["per_clip"]] == prompts
    again = sprites.prompt_protocol(Painter(), prompts, facts, 3, batch_size=8)
    np.testing.assert_array_equal(result["frames"], again["frames"])


def test_prompts_drawn_wrongly_lose_exactly_what_is_wrong():
    prompts, facts = asked(40)
    spoil = lambda f: dataclasses.replace(f, colour="red", style="solid" if f.style == "outlined" else f.style)
    result = sprites.prompt_protocol(Painter(spoil), prompts, facts, 0)
    assert result["agreement"]["colour"] == pytest.approx(np.mean([f["colour"] == "red" for f in facts]))
    assert result["agreement"]["style"] == pytest.approx(np.mean([f["style"] != "outlined" for f in facts]))
    assert result["by_value"]["style"]["outlined"] == 0 and result["by_value"]["style"]["striped"] == 1
    assert result["agreement"]["motion"] == result["agreement"]["shape"] == 1
    low, high = result["interval"]["colour"]
    assert 0 < low < result["agreement"]["colour"] < high < 1


def test_tokenizer_protocol_measures_what_a_known_codec_loses():
    rng = np.random.default_rng(0)
    facts = [dataclasses.asdict(world.sample_facts(rng)) for _ in range(10)]
    clips = np.stack([world.make_clip(rng, world.Facts(**f)) for f in facts])
    painter = Painter()
    result = sprites.tokenizer_protocol(painter, clips, facts, batch_size=4)
    assert painter.sizes == [4, 4, 4]
    assert set(result["agreement"].values()) == set(result["control"]["agreement"].values()) == {1.0}
    rounded = 255 - (255 - clips) // 2 * 2
    np.testing.assert_array_equal(result["frames"], rounded)
    assert result["psnr"] == pytest.approx(evaluation.psnr(clips, rounded))
    assert result["ssim"] == pytest.approx(evaluation.ssim(clips, rounded))
    assert result["codebook"]["tokens"] == 10 * 3 * 4 * 4
    assert result["codebook"]["used"] == len(np.unique(painter.encode(clips)))


def test_codebook_use_against_closed_forms():
    even = sprites.codebook_use(np.arange(32).repeat(3).reshape(2, 3, 4, 4), 64)
    assert even["usage"] == 0.5 and even["perplexity"] == pytest.approx(32)
    assert sprites.codebook_use(np.full((5, 4), 7), 8)["perplexity"] == pytest.approx(1)
    biased = sprites.codebook_use(np.array([0, 0, 0, 1]), 2)
    assert biased["perplexity"] == pytest.approx((4 / 3) ** 0.75 * 4 ** 0.25)
    with pytest.raises(UserError):
        sprites.codebook_use(np.array([0, 8]), 8)


def test_wilson_interval():
    found = sprites.share([True] * 8 + [False] * 2)  # Newcombe 1998: 0.4902 to 0.9433 for 8 of 10
    assert found["share"] == 0.8 and found["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-3)
    assert sprites.share([True] * 5)["interval"][1] == pytest.approx(1)
    assert sprites.share([]) == {"share": None, "of": 0, "interval": None}


def test_true_stories_score_one_and_have_no_jump():
    stories = told(24)
    result = sprites.story_protocol(Painter(), stories, 0)
    assert result["motion"]["share"] == result["motion"]["worst"] == result["motion_and_speed"]["share"] == 1
    assert len(result["motion"]["by_scene"]) == 3 and result["motion"]["of"] == 72
    assert result["kept"]["share"] == result["kept_as_seen"]["share"] == result["changed"]["share"] == 1
    # Two seams a story: each attribute is either kept or changed.
    assert result["kept"]["of"] + sum(
        a["facts"][n] != b["facts"][n] for s in stories for a, b in zip(s, s[1:]) for n in sprites.KEEPABLE) == 24 * 8
    assert set(result["kept"]["by_attribute"]) == set(sprites.KEEPABLE)
    assert result["vanished"] == 0
    for kind in ("pixels", "displacement"):
        assert result["seam"][kind]["worst_story"] < 1.3, kind
    assert result["seam"]["displacement"]["at_seams"] == pytest.approx(1.2, abs=0.1)


def test_stories_of_different_lengths_are_told_in_groups_and_scored_in_order():
    stories = told(3, scenes=2) + told(2, seed=1, scenes=4) + told(2, seed=2, scenes=2)
    painter = Painter()
    result = sprites.story_protocol(painter, stories, 0, batch_size=4)
    assert [len(f) for f in result["frames"]] == [23] * 3 + [47] * 2 + [23] * 2
    assert result["motion"]["share"] == result["kept"]["share"] == 1


def test_stories_that_forget_or_freeze():
    stories = told(16)
    red = sprites.story_protocol(Painter(lambda f: dataclasses.replace(f, colour="red")), stories, 0)
    assert red["kept"]["by_attribute"]["shape"] == 1 and red["kept_as_seen"]["share"] == 1
    pairs = [(a["facts"]["colour"], b["facts"]["colour"]) for s in stories for a, b in zip(s, s[1:])]
    kept = [b == "red" for a, b in pairs if a == b]
    assert red["kept"]["by_attribute"]["colour"] == pytest.approx(np.mean(kept))
    frozen = sprites.story_protocol(Painter(lambda f: dataclasses.replace(f, direction="still", speed=None)),
                                      stories, 0)
    scenes = [s["facts"] for story in stories for s in story]
    assert frozen["motion"]["share"] == pytest.approx(np.mean([f["direction"] == "still" for f in scenes]))
    assert frozen["motion"]["by_scene"][0] == 0  # first scenes move


def test_a_jump_at_a_seam_is_found_and_one_inside_is_not_a_seam():
    facts = [world.Facts("red", "circle", "solid", "right", "slowly", "black"),
             world.Facts("red", "circle", "solid", "left", "slowly", "black")]
    story = [{"num_frames": n, "facts": dataclasses.asdict(f)} for f, n in zip(facts, (11, 12))]
    path = 10 + 0.4 * np.concatenate([np.arange(11), 9 - np.arange(12)])

    def video(jump_at=None):
        shift = 5.0 * (np.arange(23) >= jump_at) if jump_at else np.zeros(23)
        return np.stack([world.draw(facts[0], (x, 15.0), 6.5, 32) for x in path + shift])

    smooth = sprites.story_scores([video()], [story])["seam"]
    seam = sprites.story_scores([video(11)], [story])["seam"]
    inside = sprites.story_scores([video(17)], [story])["seam"]
    assert smooth["displacement"]["ratio"] == pytest.approx(1, abs=0.2)
    assert seam["displacement"]["ratio"] == pytest.approx(4.6 / 0.4, rel=0.2)
    assert seam["pixels"]["ratio"] > 4 > smooth["pixels"]["ratio"]
    assert inside["displacement"]["ratio"] < 0.2 and inside["pixels"]["ratio"] < 0.3


def test_a_new_colour_is_no_jump_of_pixels():
    facts = [world.Facts(c, "circle", "solid", "right", "slowly", "black") for c in ("red", "white", "white")]
    facts[2] = dataclasses.replace(facts[2], direction="left")
    story = [{"num_frames": n, "facts": dataclasses.asdict(f)} for f, n in zip(facts, (11, 12, 12))]
    video = world.make_story(np.random.default_rng(0), [(f, n) for f, n in zip(facts, (11, 12, 12))])
    change = [np.abs(b.astype(float) - a).mean() for a, b in zip(video, video[1:])]
    assert int(np.argmax(change)) == 10  # the largest change of all is the wished-for one
    seam = sprites.story_scores([video], [story])["seam"]
    assert seam["pixels"]["at_seams"] == pytest.approx(change[22])
    assert seam["pixels"]["inside"] == pytest.approx(max(change[:10] + change[11:22] + change[23:]))
    assert seam["displacement"]["ratio"] == pytest.approx(1, abs=0.15)


def test_refuses_what_does_not_match():
    prompts, facts = asked(3)
    with pytest.raises(UserError, match="3 prompts and 2 facts"):
        sprites.prompt_protocol(Painter(), prompts, facts[:2], 0)
    with pytest.raises(UserError, match="scenes ask for 35"):
        sprites.story_scores([np.zeros((34, 32, 32, 3), np.uint8)], told(1))


def test_report_says_what_was_met_missed_and_not_measured(tmp_path):
    prompts, facts = asked(12)
    spoil = lambda f: dataclasses.replace(f, shape="circle")
    measured = sprites.prompt_protocol(Painter(spoil), prompts, facts, 0)
    table = report.write_report(tmp_path, {"prompts": measured, "run": {"minutes": 14.25, "peak_gb": np.float32(7)}},
                                report.circumstances() | {"seed": 0, "odd": np.inf})
    rows = {row["key"]: row for row in table}
    assert rows["prompts/agreement/colour"] | {"what": ""} == {
        "what": "", "key": "prompts/agreement/colour", "bar": "≥ 90.0 %", "measured": "100.0 %", "value": 1.0,
        "met": True}
    assert rows["prompts/agreement/shape"]["met"] is False
    assert rows["run/minutes"]["met"] is True and rows["run/peak_gb"]["met"] is False
    assert rows["stories/kept/share"]["met"] is None and rows["stories/kept/share"]["measured"] == "not measured"

    whole = json.loads((tmp_path / "report.json").read_text())
    assert whole["table"] == table and whole["circumstances"]["versions"]["numpy"] == np.__version__
    assert whole["measurements"]["prompts"]["agreement"] == measured["agreement"]
    assert "frames" not in whole["measurements"]["prompts"] and len(whole["measurements"]["prompts"]["per_clip"]) == 12
    text = (tmp_path / "report.md").read_text()
    assert "| held-out prompts: colour | ≥ 90.0 % | 100.0 % | met |" in text
    assert "| largest memory | ≤ 6.00 GB | 7.00 GB | **missed** |" in text
    assert not (tmp_path / "report.json.new").exists()


def test_every_figure_of_the_table_is_one_the_protocols_give():
    """A renamed key would show as 'not measured' for ever."""
    prompts, facts = asked(60)
    rng = np.random.default_rng(0)
    clips = np.stack([world.make_clip(rng, world.Facts(**f)) for f in facts])
    measured = {"prompts": sprites.prompt_protocol(Painter(), prompts, facts, 0),
                "stories": sprites.story_protocol(Painter(), told(6), 0),
                "tokenizer": sprites.tokenizer_protocol(Painter(), clips, facts),
                "run": {"minutes": 1.0, "peak_gb": 1.0}}
    measured["image_only"] = measured["prompts"]
    for bar in report.BARS:
        assert report._find(report._plain(measured), bar.key) is not None, bar.key
    assert sw.IMAGE_ONLY == {"style": "outlined", "colour": "orange"}  # named in two of the keys
