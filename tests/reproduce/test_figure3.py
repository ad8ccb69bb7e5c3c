"""Figure 3 in small: the two mixes of table 2 that it needs, what table 2 has measured, the picture, the directions."""

import dataclasses
import json

import pytest

from phenaki_jax import media, reproduce
from phenaki_jax.evaluation.sprites import share
from phenaki_jax.reproduce import figure3, table2
from tests.reproduce.test_table2 import TINY, trained  # noqa: F401  a fixture

PAIR = dataclasses.replace(TINY, mixes=(table2.CONTROL, figure3.JOINT))


def test_joint_training_against_its_control(trained, tmp_path):  # noqa: F811
    assert reproduce.main("figure3", tmp_path, sizes=PAIR) == 0
    assert [name for name, *_ in trained] == ["tokenizer", "video_only", "80_20"]
    report, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    shares = {name: {value: found["share"] for value, found in entry["values"].items()}
              for name, entry in report["models"].items()}
    assert shares == {"video_only": {"outlined": 0, "orange": 0}, "80_20": {"outlined": 1, "orange": 1}}
    # 3 of 3 against 0 of 3: Wilson's [44, 100] and [0, 56] overlap.
    assert [row["met"] for row in report["directions"]] == [False, False]
    for words in ("the style *outlined* or the colour *orange*", "| 80/20 | outlined | 100.0 % [43.9 %, 100.0 %] | 3 |",
                  "3 solid"):
        assert words in text, words
    assert media.read_image(tmp_path / "figure3.png").shape[0] > 2 * 96


def test_in_the_folder_of_table_2_nothing_is_measured_anew(trained, tmp_path):  # noqa: F811
    assert reproduce.main("table2", tmp_path, sizes=TINY) == 0
    written = (tmp_path / "80_20/measured.json").stat().st_mtime_ns
    assert reproduce.main("figure3", tmp_path, sizes=PAIR) == 0
    assert (tmp_path / "80_20/measured.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("joint, control, met", [(30, 2, True), (12, 8, False), (0, 20, False)])
def test_the_direction_wants_intervals_that_do_not_overlap(joint, control, met):
    of = lambda count: {"values": {"outlined": share([i < count for i in range(96)])}}
    rows = figure3.directions({"80_20": of(joint), "video_only": of(control)})
    assert {row["what"].split()[0]: row["met"] for row in rows} == {"outlined": met, "orange": None}
