"""The judge reads back the facts that the world was drawn from, and calls what is altered by its new name."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data.sprite_stories import world
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import attributes as att
from phenaki_jax.evaluation import sprite_world as sw

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "still": "still"}


def real_clips(count: int, seed: int = 0, size: int = 32, objects=sw.SHAPES):
    rng = np.random.default_rng(seed)
    facts = [world.sample_facts(rng, objects=objects, held_out=None, image_only=True) for _ in range(count)]
    return np.stack([world.make_clip(rng, f, size=size, split="test") for f in facts]), facts


def rates(videos, facts, objects=sw.SHAPES) -> dict[str, float]:
    rows = [att.agreement(a, dataclasses.asdict(f)) for a, f in zip(att.judge_many(videos, objects=objects), facts)]
    return {name: float(np.mean([r[name] for r in rows if name in r]))
            for name in att.ATTRIBUTES if any(name in r for r in rows)}


def blurred(videos, sigma):
    return np.rint(ndimage.gaussian_filter(videos.astype(float), (0, 0, sigma, sigma, 0))).astype(np.uint8)


def noisy(videos, std, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(videos + rng.normal(0, std, videos.shape)), 0, 255).astype(np.uint8)


def coarse(videos, components):
    """A poor reconstruction: 4 x 4 patches projected on their first principal components, coarsely rounded."""
    n, f, y, x, c = videos.shape
    patches = videos.astype(np.float32).reshape(n, f, y // 4, 4, x // 4, 4, c).transpose(0, 1, 2, 4, 3, 5, 6)
    flat = patches.reshape(-1, 16 * c)
    mean = flat.mean(axis=0)
    basis = np.linalg.eigh((flat - mean).T @ (flat - mean))[1][:, -components:]
    flat = np.rint((flat - mean) @ basis / 60) * 60 @ basis.T + mean
    back = flat.reshape(patches.shape).transpose(0, 1, 2, 4, 3, 5, 6).reshape(videos.shape)
    return np.clip(np.rint(back), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real():
    return real_clips(200)


@pytest.mark.parametrize("alter", [
    lambda v: v, lambda v: blurred(v, 0.7), lambda v: blurred(v, 1.0), lambda v: noisy(v, 10),
    lambda v: noisy(blurred(v, 1.0), 8), lambda v: coarse(v, 12),
], ids=["clean", "blur 0.7", "blur 1.0", "noise", "blur and noise", "coarse patches"])
def test_real_clips_show_their_facts(real, alter):
    videos, facts = real
    found = rates(alter(videos), facts)
    assert set(found) == set(att.ATTRIBUTES)
    for name in ("colour", "motion", "speed", "background"):
        assert found[name] == 1.0, name
    for name in ("shape", "style"):
        assert found[name] >= 0.95, name


def test_every_value_is_read_back():
    rng = np.random.default_rng(3)
    for colour in sw.COLOURS:
        for background in sw.BACKGROUNDS:
            facts = world.Facts(colour, "cross", "outlined", "left", "slowly", background)
            found = att.judge(world.make_clip(rng, facts))
            assert (found.colour, found.background, found.style) == (colour, background, "outlined")
    for shape in sw.SHAPES:
        for style in sw.STYLES:
            for direction, speed in world.MOTIONS:
                facts = world.Facts("orange", shape, style, direction, speed, "navy")
                found = att.judge(world.make_clip(rng, facts))
                assert (found.shape, found.style, found.motion) == (shape, style, facts.motion)


def test_reversed_clip_has_reversed_motion(real):
    videos, facts = real
    for found, fact in zip(att.judge_many(noisy(videos[:100, ::-1], 8)), facts):
        assert found.direction == OPPOSITE[fact.direction]
        assert found.speed == fact.speed


def test_played_at_other_speeds(real):
    videos, facts = real
    slow = [i for i, f in enumerate(facts) if f.speed == "slowly"]
    for i, found in zip(slow, att.judge_many(videos[slow][:, [0, 3, 6, 9]])):  # 0.4 becomes 1.2 pixels a frame
        assert found.motion == f"{facts[i].direction} quickly"


def test_static_and_frozen(real):
    videos, _ = real
    for found in att.judge_many(noisy(np.repeat(videos[:40, :1], 11, axis=1), 8)):
        assert found.direction == "still" and found.speed is None and found.motion == "still" and found.present


@pytest.mark.parametrize("std", [0, 10])
@pytest.mark.parametrize("background", sw.BACKGROUNDS)
def test_empty_clip(background, std):
    video = np.broadcast_to(np.array(sw.BACKGROUNDS[background], np.uint8), (11, 32, 32, 3))
    found = att.judge(noisy(video, std))
    assert (found.colour, found.shape, found.style, found.speed) == (None,) * 4
    assert found.direction == found.motion == "empty" and not found.present
    assert found.background == background
    assert not any(att.agreement(found, {"colour": "red", "shape": "circle", "direction": "still"}).values())


def test_empty_in_most_frames(real):
    videos, facts = real
    video = videos[0].copy()
    video[2:] = sw.BACKGROUNDS[facts[0].background]
    assert att.judge(video).direction == "empty"


def test_track_and_velocity_are_measured():
    facts = world.Facts("white", "circle", "solid", "down", "quickly", "black")
    path = np.stack([np.full(11, 15.3), 8.25 + 1.2 * np.arange(11)], axis=1)
    video = np.stack([world.draw(facts, centre, 6.7, 32) for centre in path])
    found = att.judge(video)
    np.testing.assert_allclose(found.centre, path, atol=0.05)
    np.testing.assert_allclose(found.velocity, [0, 1.2], atol=0.01)


def test_motion_that_no_caption_names():
    facts = world.Facts("red", "square", "solid", "still", None, "gray")
    steps = np.arange(11)[:, None]

    def drawn(path):
        return att.judge(np.stack([world.draw(facts, centre, 6.5, 32) for centre in path]))

    assert drawn(10 + steps * [0.9, 0.8]).direction == "diagonal"
    assert drawn(10 + steps * [0.9, 0.2]).motion == "right quickly"
    turn = np.concatenate([steps[:6], 5 - steps[1:6]]) * [1.2, 0]
    assert drawn(12 + turn).direction == "unsteady"
    assert drawn(np.where(steps % 2, 20.0, 10.0) * [1, 1]).direction == "unsteady"


def test_noise_is_no_shape():
    blob = np.random.default_rng(0).uniform(size=(1, 32, 32)) > 0.5
    video = np.where(blob[..., None], sw.COLOURS["red"], sw.BACKGROUNDS["black"]).astype(np.uint8)
    found = att.judge(np.repeat(video, 11, axis=0))
    assert found.present and found.shape is None and found.style is None


def test_images(real):
    videos, facts = real
    found = rates(noisy(videos[:, 4:5], 8), facts)
    assert set(found) == {"colour", "shape", "style", "background"}  # an image has no motion to agree with
    assert min(found.values()) >= 0.97
    assert att.judge(videos[0, :1]).direction is None


def test_larger_frames_and_any_mixture_of_lengths():
    for size in (64, 128):
        videos, facts = real_clips(20, seed=1, size=size)
        assert min(rates(videos, facts).values()) == 1.0
    videos = [videos[0], videos[1, :5], videos[2, :1]]
    one_by_one = [att.judge(v) for v in videos]
    for a, b in zip(att.judge_many(videos), one_by_one):
        assert (a.colour, a.shape, a.style, a.motion) == (b.colour, b.shape, b.style, b.motion)


def test_handwritten_digits_of_the_test_split():
    digits = sw.DIGITS[::2]  # the templates of all ten take twice the time
    videos, facts = real_clips(60, seed=2, size=64, objects=digits)
    found = rates(videos, facts, objects=digits)
    assert min(found[name] for name in ("colour", "motion", "speed", "background")) == 1.0
    assert found["shape"] >= 0.9 and found["style"] >= 0.9


def test_agreement_asks_only_what_is_said(real):
    videos, facts = real
    found = att.judge(videos[0])
    wrong = {"colour": facts[0].colour, "shape": "no such", "style": None}
    assert att.agreement(found, wrong) == {"colour": True, "shape": False}


@pytest.mark.parametrize("video", [np.zeros((11, 32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8),
                                   np.zeros((3, 32, 24, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8)])
def test_refuses_what_is_no_clip(video):
    with pytest.raises(UserError):
        att.judge(video)
