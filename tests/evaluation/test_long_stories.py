"""Long stories: the world has room for any number of scenes, and the protocol finds a teller that forgets or hoards."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from data.sprite_stories import world
from phenaki_jax.evaluation import long_stories, report
from phenaki_jax.evaluation import sprite_world as sw


def asked(count=1, scenes=22):
    rng = np.random.default_rng(0)
    return [world.sample_story(rng, scenes=scenes, held_out=None) for _ in range(count)]


def as_told(stories):
    return [[{"prompt": json.dumps(dataclasses.asdict(f)), "num_frames": n, "facts": dataclasses.asdict(f)}
             for f, n in story] for story in stories]


class Teller:
    """Draws what it is told, or, from scene `forgets` on, a red one; holds on to an array more with every scene."""

    def __init__(self, stories, forgets=None, hoard=0):
        self.stories, self.forgets, self.hoard, self.held = stories, forgets, hoard, []

    def tell(self, stories, seed):
        assert [set(scene) for story in stories for scene in story] == [{"prompt", "num_frames"}] * 22
        rng = np.random.default_rng(seed)
        drawn = []
        for story in self.stories:
            shown = [(dataclasses.replace(f, colour="red") if self.forgets and i >= self.forgets else f, n)
                     for i, (f, n) in enumerate(story)]
            drawn.append(world.make_story(rng, shown))
        for part in np.split(np.stack(drawn), np.cumsum([n for _, n in self.stories[0]])[:-1], axis=1):
            self.held.append(jax.numpy.zeros(self.hoard, np.uint8))
            yield types.SimpleNamespace(frames=part)


def test_an_object_has_room_however_long_its_story_is():
    """Even the largest, at every frame, wherever it is placed."""
    low, high = world.free_range(sw.RADIUS[1])
    for story in asked(40, 60):
        path = np.cumsum(np.concatenate([np.tile(f.velocity, (n, 1)) for f, n in story]), axis=0)
        assert (np.ptp(path, axis=0) <= high - low).all()
        kinds = [sum((a.colour != b.colour, a.background != b.background, a.motion != b.motion))
                 for (a, _), (b, _) in zip(story, story[1:])]
        assert min(kinds) >= 1 and {(f.shape, f.style) for f, _ in story} == {(story[0][0].shape, story[0][0].style)}


def test_a_teller_of_the_truth_falls_by_nothing(tmp_path):
    stories = asked()
    measured = long_stories.long_story_protocol(Teller(stories), as_told(stories), 0)
    assert measured["length"] == 263 and len(measured["table"]) == 22 and measured["scores"]["kept"]["share"] == 1
    assert set(measured["fall"].values()) == {0.0} and measured["first"]["colour"]["of"] == 10
    assert measured["memory"]["live_growth"] == 0
    table = report.write_report(tmp_path, {"long": measured}, {}, bars=report.MORE_BARS["long"])
    assert {row["key"] for row in table if row["met"] is None} == set()
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| scene | colour | shape | style | motion | speed | background | resident MB | live MB |" in lines
    assert any(line.startswith("| 22 | 1 | 1 | 1 | 1 |") for line in lines)


def test_forgetting_and_hoarding_are_found():
    stories = asked()
    measured = long_stories.long_story_protocol(Teller(stories, forgets=12, hoard=1000), as_told(stories), 0)
    red = np.mean([f.colour == "red" for story in stories for f, _ in story[12:]])
    assert measured["fall"]["colour"] == pytest.approx(100 * (1 - red))
    assert measured["fall"]["mean"] == pytest.approx(100 * (1 - red) / 6)
    assert measured["memory"]["live_growth"] == 20 * 1000
    assert [row["colour"] for row in measured["table"][:12]] == [1.0] * 12
