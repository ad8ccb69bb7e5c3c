"""The deny list: what it finds however it is written, what it lets pass, and that no text makes it slow."""

import random
import re
import unicodedata

import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.provenance.prompt_filter import SHIPPED, DenyList, words_of


@pytest.mark.parametrize("prompt", [
    "a bad word", "BAD", "bad.", "(bad)", "very-bad-thing", "snake_bad_case", "bad\nbad", "bàd", "ba\u0301d", "ＢＡＤ",
    "𝕭𝖆𝖉", "ⓑⓐⓓ", "b\u200ba\u2060d", "b\u00ada\u0007d", "bаd", "βαd", "b4d", "B@D!", "!bad", "bad|bad", "@ bad",
    "b\ufe0fad"])
def test_a_word_is_found_however_it_is_written(prompt):
    assert DenyList(["bad"])(prompt) == "the deny list has 'bad'"


@pytest.mark.parametrize("prompt", ["", " ", "badge", "forbad", "ba d", "b-a-d", "4 5", "@$!", "\u200b", "\ud800"])
def test_other_words_are_not(prompt):
    assert DenyList(["bad", "as"])(prompt) is None


@pytest.mark.parametrize("prompt, found", [
    ("an old red fox", True), ("an old, RED-fox!", True), ("old  red\tfox", True), ("0ld r3d f0x", True),
    ("o1d red fox", True),
    ("old red foxes", False), ("cold red fox", False), ("red old fox", False), ("old fox", False), ("old red", False)])
def test_phrases(prompt, found):
    assert bool(DenyList(["Old red fox"])(prompt)) == found


@pytest.mark.parametrize("prompt, found", [
    ("old red fox", True), ("old red foxes", True), ("old red f0xtrot", True), ("old red fo", False),
    ("bold red foxes", False)])
def test_prefixes(prompt, found):
    assert DenyList(["old red fox*"])(prompt) == ("the deny list has 'old red fox*'" if found else None)


def test_one_and_exclamation_mark_are_read_as_i_and_as_l():
    deny = DenyList(["lily", "14yo"])
    assert all(deny(prompt) for prompt in ("1i1y", "li!y", "l1ly", "14yo", "14 lily"))  # i and l in one word is not
    assert deny("lil") is None and deny("14 yo") is None


def test_entries_in_other_scripts_are_found_as_they_are():
    deny = DenyList(["плохо", "κακό", "खराब", "悪い*"])
    assert all(deny(prompt) for prompt in ("Это ПЛОХО.", "πολύ κακό", "खराब", "悪い人"))
    assert not any(deny(prompt) for prompt in ("хорошо", "καλό", "खराबी", "良い"))


def brute(entry, prompt):
    """Whether an entry of plain words is in a plain prompt, by a regular expression over it."""
    text = re.sub(r"[^a-z]+", " ", prompt.lower())
    end = r"[a-z]*" if entry.endswith("*") else ""
    return re.search(rf"(?:^| ){re.escape(entry.lower().rstrip('*'))}{end}(?: |$)", text) is not None


def test_against_a_regular_expression():
    draw = random.Random(0)
    words = ["a", "b", "ab", "ba", "aab", "abc", "c"]
    for _ in range(2000):
        entry = " ".join(draw.choices(words, k=draw.randint(1, 3))) + draw.choice(["", "*"])
        prompt = "".join(draw.choice(words).upper() + draw.choice([" ", ", ", "-", ""]) for _ in range(8))
        assert bool(DenyList([entry])(prompt)) == brute(entry, prompt), (entry, prompt)


def test_folding_equals_that_of_whole_texts():
    """Accents are dropped, so it does not matter that characters are taken apart one by one."""
    for text in ("Ångström", "ﬁancée", "Straße", "ｶﾞ", "각", "ệ", "İstanbul", "½", "Ǆ"):
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert words_of(unicodedata.normalize(form, text)) == words_of(text)


# ------------------------------------------------------------------------------------------------- the file

@pytest.mark.parametrize("prompt", [
    "a child plays", "Scunthorpe", "grape", "a grape vine", "a field of rape in bloom", "rapeseed oil", "a drape",
    "a therapist talks", "Essex and Sussex", "a minor chord", "a nude sculpture of Venus", "a child undressing a doll",
    "children swim", "a naked tree in winter", "a forced landing", "teenagers on a beach", "a scene of a crime",
    "a solid red circle moves left quickly on black", "a person who has survived abuse speaks"])
def test_what_the_shipped_list_lets_pass(prompt):
    assert DenyList.read()(prompt) is None


@pytest.mark.parametrize("prompt", ["Child Porn", "child-pornography", "a nаked chi1dren video", "RAPE scene",
                                    "n0nconsensual s3x", "a deepfake porn clip", "non consensual sex"])
def test_what_it_does_not(prompt):
    assert DenyList.read()(prompt)


def test_the_shipped_list_is_short_and_says_what_it_is():
    text = SHIPPED.read_text(encoding="utf-8")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(entries) == len(set(entries)) <= 24 and "starting point" in text
    assert all(DenyList.read()(entry) for entry in entries)  # each entry denies itself


def test_a_file_with_comments(tmp_path):
    path = tmp_path / "deny.txt"
    path.write_text("\ufeff# words\nred fox  # a kind of animal\n\n  Badger*\n", encoding="utf-8")
    deny = DenyList.read(str(path))
    assert deny("two badgers") == "the deny list has 'Badger*'" and deny("a red fox") and not deny("a kind of animal")


@pytest.mark.parametrize("content, words", [(b"\xff\xfe", "UTF-8"), (b"ok\n*\n", r"'\*'"), (b"a*b", r"'a\*b'"),
                                            (b"--", "'--'")])
def test_files_that_are_none(tmp_path, content, words):
    (tmp_path / "deny.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        DenyList.read(str(tmp_path / "deny.txt"))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.txt"):
        DenyList.read(str(tmp_path / "none.txt"))


# ------------------------------------------------------------------------------------------------- any text

class CountedDict(dict):
    """Counts how many characters of phrases are looked up."""
    seen = 0

    def get(self, key):
        CountedDict.seen += len(key[0])
        return super().get(key)


@pytest.mark.parametrize("unit", ["a", "a ", "\u0301", "\u0327\u0301", "!", "a!", "$@", "\U0001f600", "\ufdfa",
                                  "bad old ", "begin ", "\u0e33", "1"])
def test_work_grows_with_the_length_alone(unit):
    """Twice the prompt, at most about twice the characters that are looked up; and 100,000 of them are read at all."""
    deny = DenyList(["bad old red fox", "bad old r*", "old", "begin*"])
    deny._entries = CountedDict(deny._entries)
    work = []
    for length in (50_000, 100_000):
        CountedDict.seen = 0
        deny((unit * length)[:length] + " end")
        work.append(CountedDict.seen)
    assert work[1] <= 2.1 * work[0] + 100


def test_every_code_point_can_be_in_a_prompt():
    text = "".join(map(chr, range(0x110000)))
    deny = DenyList(["no such phrase in here"])
    assert deny(text) is None and deny(text + " no such phrase in here")
