"""Protocols as files: all that are here can be read, and what cannot be is said in one sentence."""

import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.protocols import names, read_protocol

ALL = ["bair_1_15", "fvd_2048_16", "kinetics600_5_11", "mit_reconstruction_10", "sprite_attributes", "story", "t2i_fid",
       "zero_shot_t2v"]


def test_all_are_there_and_say_what_the_paper_does():
    assert names() == ALL
    bair, kinetics, mit = (read_protocol(name) for name in ("bair_1_15", "kinetics600_5_11", "mit_reconstruction_10"))
    assert (bair.given, bair.frames - bair.given, bair.clips, bair.repeats) == (1, 15, 256, 100)
    assert (kinetics.given, kinetics.frames - kinetics.given) == (5, 11) and kinetics.paper == {"fvd": 36.4}
    assert (mit.frames, mit.fps, mit.height, mit.width, mit.paper["fvd"]) == (10, 6.0, 128, 128, 65.78)
    fvd = read_protocol("fvd_2048_16")
    assert (fvd.clips, fvd.frames, fvd.task) == (2048, 16, "compare")
    assert all(read_protocol(name).about for name in ALL)


def test_a_file_of_the_users_and_changes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\ntask: text_to_video\ndata: webvid\nfps: 6\nmetrics: [fvd, motion]\n")
    mine = read_protocol(str(file), clips=500, data=None)
    assert (mine.name, mine.clips, mine.data, mine.fps, mine.metrics) == ("mine", 500, "webvid", 6.0, ("fvd", "motion"))


@pytest.mark.parametrize("text, words", [
    ("about: a\n", "no field 'task'"), ("about: a\ntask: guess\n", "task='guess' .* one of compare"),
    ("about: a\ntask: compare\nframe: 3\n", "field 'frame', which is none of"),
    ("about: a\ntask: compare\nframes: 0\n", "frames=0 .* at least 1"),
    ("about: a\ntask: compare\nframes: 2.5\n", "frames=2.5 .* kind int"),
    ("about: a\ntask: compare\nframes: true\n", "frames=True .* kind int"),
    ("about: a\ntask: compare\ngiven: 3\n", "given=3 .* exactly where the task is 'prediction'"),
    ("about: a\ntask: prediction\n", "given=0"), ("about: a\ntask: prediction\ngiven: 16\n", "given=16 .* less than"),
    ("about: a\ntask: compare\nmetrics: [beauty]\n", "'beauty', which is not one of fvd"),
    ("about: a\ntask: compare\nmetrics: fvd\n", "metrics='fvd' .* list of words"),
    ("about: a\ntask: compare\nmetrics: [psnr]\n", "'psnr', which compares each clip with its own truth"),
    ("about: a\ntask: text_to_image\nframes: 1\nmetrics: [fvd]\n", "'fvd', which is of videos"),
    ("about: a\ntask: sprites\n", "suites"), ("about: a\ntask: compare\ncrop: left\n", "crop='left'"),
    ("- a\n", "fields and their values"), ("about: [\n", "is not YAML"),
    ("about: a\ntask: compare\npaper: 3\n", "paper=3"), ("about: a\ntask: compare\npaper: {fvd: low}\n", "has 'fvd'"),
    ("about: a\ntask: compare\npaper: {beauty: 3}\n", "has 'beauty'; it is figures by metric")])
def test_what_cannot_be(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_protocol(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, words", [("fvd", "one of bair_1_15"), ("gone.yaml", "is no file")])
def test_a_name_that_is_none(name, words):
    with pytest.raises(UserError, match=f"--protocol='{name}'.*{words}"):
        read_protocol(name)
