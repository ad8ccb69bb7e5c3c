"""The page of pairs and its tally, against votes that are known."""

import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats

from phenaki_jax import media
from phenaki_jax.__main__ import main
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import votes


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for side, i in itertools.product("ab", range(12)):
        media.write_video(tmp_path / side / f"it's {i}.gif", rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8), 8)
    (tmp_path / "a" / "it's 3.txt").write_text("a <red> circle")
    media.write_video(tmp_path / "a" / "alone.gif", np.zeros((3, 8, 8, 3), np.uint8), 8)
    return tmp_path


def test_a_page_shows_each_pair_and_hides_whose_it_is(folders, capsys):
    page = folders / "page.html"
    assert main(["vote", f"--a={folders / 'a'}", f"--b={folders / 'b'}", f"--output={page}", "--seed=3"]) == 0
    assert "12 pairs" in capsys.readouterr().out
    text, key = page.read_text(), json.loads((folders / "page.key.json").read_text())
    assert text.count('class="pair"') == 12 and text.count("data:image/gif") == 24 and "alone" not in text
    assert str(folders) not in text and "a &lt;red&gt; circle" in text and "http" not in text
    assert set(key["left"].values()) == {"a", "b"}
    shown = re.findall(r'base64,([^"]+)"', text)
    names = [json.loads(name.replace("&quot;", '"').replace("&#x27;", "'"))
             for name in re.findall(r"vote\(this, (.*?), \"left\"\)", text)]
    for name, first in zip(names, shown[::2]):
        import base64
        assert base64.b64decode(first) == (folders / key["left"][name] / f"{name}.gif").read_bytes()


def test_the_tally_counts_for_whom_a_side_stood(folders, capsys):
    page = folders / "page.html"
    key = votes.write_page(str(folders / "a"), str(folders / "b"), str(page))
    rng = np.random.default_rng(1)
    wanted = {name: rng.choice(["a", "a", "b", "same"]) for name in key["left"]}
    side = lambda name, who: "same" if who == "same" else "left" if key["left"][name] == who else "right"
    one = {"page": key["page"], "voter": "x", "votes": {name: side(name, who) for name, who in wanted.items()}}
    (folders / "votes.json").write_text(json.dumps(one))
    found = votes.count_votes(key, [one, one])
    count = {who: 2 * list(wanted.values()).count(who) for who in ("a", "b", "same")}
    assert {who: found[who] for who in count} == count and found["voters"] == 2
    assert found["preferred_a"]["share"] == count["a"] / (count["a"] + count["b"])
    assert found["p"] == pytest.approx(stats.binomtest(count["a"], count["a"] + count["b"]).pvalue)
    assert main(["vote", f"--tally={folders / 'votes.json'}", f"--key={folders / 'page.key.json'}"]) == 0
    one_each = {who: number // 2 for who, number in count.items()}
    assert "a {a}, b {b}, same {same}, of 1 voters".format(**one_each) in capsys.readouterr().out


@pytest.mark.parametrize("change, words", [
    ({"page": "other"}, "votes 1 are of the page 'other'"), ({"votes": {"nothing": "left"}}, "'nothing': 'left'"),
    ({"votes": {"it's 0": "middle"}}, "'middle'")])
def test_votes_that_cannot_be(folders, change, words):
    key = votes.write_page(str(folders / "a"), str(folders / "b"), str(folders / "page.html"))
    with pytest.raises(UserError, match=words):
        votes.count_votes(key, [{"page": key["page"], "votes": {}} | change])


@pytest.mark.parametrize("key, vote, words", [
    ({}, {}, "the key has no field 'page'"),
    ({"page": "p", "left": {}}, {"page": "p"}, "votes 1 has no field 'votes'")])
def test_files_that_are_none_of_a_page_are_one_sentence(tmp_path, capsys, key, vote, words):
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "votes.json").write_text(json.dumps(vote))
    assert main(["vote", f"--tally={tmp_path / 'votes.json'}", f"--key={tmp_path / 'key.json'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_what_is_missing_is_said(folders, capsys):
    for options, words in ((["--a=x"], "--b is missing"), (["--tally=v.json"], "--key is missing"),
                           ([f"--a={folders / 'a'}", "--b=gone", "--output=p.html"], "--b='gone' is no folder"),
                           ([f"--a={folders / 'a'}", f"--b={folders}", "--output=p.html"], "no video of one name"),
                           ([f"--a={folders / 'a'}", f"--b={folders / 'b'}", "--output=p.txt"], "end in .html")):
        assert main(["vote", *options]) == 2
        assert words in capsys.readouterr().err
