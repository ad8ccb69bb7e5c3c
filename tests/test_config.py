"""Configs: overrides typed and checked, JSON there and back, what is refused and how it is said."""

import json

import pytest

from phenaki_jax import config as configs
from phenaki_jax.errors import UserError

PAPER = "configs/paper.py:tokenizer"


def test_overrides_change_what_they_name_and_nothing_else():
    plain = configs.load_config(PAPER)
    changed = configs.load_config(PAPER, {"tokenizer.codebook_size": 1024, "optimizer.learning_rate": 1,
                                          "tokenizer.levels": [8, 5]})
    assert changed.tokenizer.codebook_size == 1024
    assert changed.optimizer.learning_rate == 1.0 and isinstance(changed.optimizer.learning_rate, float)
    assert changed.tokenizer.levels == (8, 5)
    before, after = dict(configs.fields(plain)), dict(configs.fields(changed))
    assert {name for name in before if before[name] != after[name]} == {
        "tokenizer.codebook_size", "optimizer.learning_rate", "tokenizer.levels"}


@pytest.mark.parametrize("name, nearest", [
    ("tokenizer.codebok_size", "tokenizer.codebook_size"),
    ("codebook_size", "tokenizer.codebook_size"),
    ("training.steps", "train.steps"),
    ("batchsize", "batch_size"),
])
def test_an_unknown_field_is_named_with_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"{name!r}; the nearest is {nearest!r}"):
        configs.load_config(PAPER, {name: 3})


@pytest.mark.parametrize("name, value", [
    ("batch_size", "many"), ("batch_size", 2.5), ("batch_size", True), ("train.ema_decay", "high"),
    ("data.mixture", 3), ("tokenizer.patch", 8), ("tokenizer.patch", (2, "a", 8)), ("batch_size", None),
])
def test_a_wrong_type_is_refused(name, value):
    with pytest.raises(UserError, match=name):
        configs.load_config(PAPER, {name: value})


def test_a_group_is_no_field():
    with pytest.raises(UserError, match="'tokenizer' is a group"):
        configs.load_config(PAPER, {"tokenizer": 3})


@pytest.mark.parametrize("name, text, value", [
    ("batch_size", "12", 12), ("optimizer.learning_rate", "3e-4", 3e-4), ("optimizer.learning_rate", "1", 1.0),
    ("tokenizer.patch", "2,4,4", (2, 4, 4)), ("tokenizer.patch", "(2, 4, 4)", (2, 4, 4)), ("mesh.data", "-1", -1),
    ("tokenizer.levels", "", ()), ("tokenizer.levels", "8,", (8,)), ("data.modules", "my.tasks,data.mixtures",
     ("my.tasks", "data.mixtures")), ("data.mixture", "12", "12"), ("data.modules", "my.tasks", ("my.tasks",)),
])
def test_texts_of_the_command_line(name, text, value):
    parsed = configs.parse_field(configs.load_config(PAPER), name, text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("name, text", [("batch_size", "1.5"), ("batch_size", "many"), ("tokenizer.patch", "2,x"),
                                        ("optimizer.learning_rate", "__import__('os')"), ("batch_size", "")])
def test_texts_that_do_not_parse(name, text):
    with pytest.raises(UserError, match=name):
        configs.parse_field(configs.load_config(PAPER), name, text)


SCHEDULE = ((0, "images"), (300, "both"))


@pytest.mark.parametrize("text, value", [
    ("0:images,300:both", SCHEDULE), ("0: images, 300: both", SCHEDULE), ("0:images", SCHEDULE[:1]), ("", ()),
    ('((0, "images"), (300, "both"))', SCHEDULE), ("[[0, 'images'], [300, 'both']]", SCHEDULE)])
@pytest.mark.parametrize("before", [(), ((0, "others"),)])
def test_a_schedule_of_mixtures_on_the_command_line(text, value, before):
    config = configs.load_config(PAPER, {"data.schedule": before})
    assert configs.parse_field(config, "data.schedule", text) == value
    config = configs.from_json(configs.to_json(configs.load_config(PAPER, {"data.schedule": value})))
    assert configs.mixtures(config) == (value or ((0, config.data.mixture),))


@pytest.mark.parametrize("text, words", [
    ("both", "pairs of a step and a mixture"), ("300:both", "first step has to be 0"), ("0,both", "pairs"),
    ("0:a,300:b,300:c", "larger than the one before"), ("0:a,-5:b", "pairs"), ("0:a,3.5:b", "pairs")])
@pytest.mark.parametrize("before", [(), ((0, "others"),)])
def test_a_schedule_that_cannot_be(text, words, before):
    config = configs.load_config(PAPER, {"data.schedule": before})
    with pytest.raises(UserError, match=f"data.schedule.*{words}") as error:
        configs.load_config(PAPER, {"data.schedule": configs.parse_field(config, "data.schedule", text)})
    assert "\n" not in str(error.value)


def test_a_run_from_before_a_field_was_known_is_the_same_run(tmp_path):
    tree = configs.load_config(PAPER).to_dict()
    for name in configs.OPTIONAL:
        group, field = name.split(".")
        tree.get(group, {}).pop(field, None)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert configs.differing_field(configs.read_run_config(tmp_path), configs.load_config(PAPER)) is None


def test_json_there_and_back(tmp_path):
    config = configs.resolve(configs.load_config(PAPER), tmp_path / "run")
    assert config.data.data_dir == str(tmp_path / "data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(configs.to_json(config))
    for source in (tmp_path / "run", tmp_path / "run" / "config.json"):
        again = configs.load_config(source)
        assert again.to_dict() == config.to_dict()
        assert configs.differing_field(config, again) is None
    assert again.tokenizer.patch == (2, 8, 8) and isinstance(again.tokenizer.patch, tuple)
    assert configs.load_config(tmp_path / "run", {"seed": 5}).seed == 5


def test_a_run_names_its_files_from_wherever_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"tokenizer_run": "runs/t", "data.data_dir": "gs://bucket/data", "text.cache": "/c", "text.path": "t5",
             "text.vocabulary": "bytes", "train.init_from": "../g"}
    config = configs.resolve(configs.load_config("configs/paper.py:generator", given), "runs/g")
    found = {name: configs.get_field(config, name) for name in given}
    assert found == {"tokenizer_run": f"{tmp_path}/runs/t", "data.data_dir": "gs://bucket/data", "text.cache": "/c",
                     "text.path": str(tmp_path / "t5"), "text.vocabulary": "bytes",
                     "train.init_from": str(tmp_path.parent / "g")}


@pytest.mark.parametrize("stage, sizes, words", [
    ("tokenizer", "(11,4,32),", "multiple of 8 and the width one of 8"),
    ("tokenizer", "(11,32,32),(5,32,4)", "5, 32, 4"),
    ("generator", "(11,32,4),", "a patch times a generator's group")])
def test_sizes_of_clips_are_whole_patches(stage, sizes, words):
    source = f"configs/paper.py:{stage}"
    with pytest.raises(UserError, match=words):
        configs.load_config(source, configs.parse_overrides(source, {"data.sizes": sizes}))


def test_a_relative_path_is_found_here_first_then_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load_config(PAPER).tokenizer.codebook_size == 8192
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "paper.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(arg):\n    return ConfigDict({'stage': arg, 'train': {'steps': 7}})\n")
    assert configs.load_config(PAPER).train.steps == 7


@pytest.mark.parametrize("source, words", [
    ("configs/nothing.py", "configs/paper.py"),
    ("configs/paper.py:huge", "generator_0.9b"),
    ("runs/nothing.json", "no model folder"),
])
def test_what_is_not_there(source, words):
    with pytest.raises(UserError, match=words):
        configs.load_config(source)


def test_a_broken_config_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        configs.load_config(tmp_path)


@pytest.mark.parametrize("name, value", [("stage", "painter"), ("train.steps", 0), ("batch_size", -2),
                                         ("data.text_drop", 1.5), ("train.ema_decay", -0.1)])
def test_impossible_values(name, value):
    with pytest.raises(UserError, match=name):
        configs.load_config(PAPER, {name: value})


def test_the_first_difference_is_found():
    a, b = configs.load_config(PAPER), configs.load_config(PAPER, {"train.steps": 5, "optimizer.b2": 0.5})
    assert configs.differing_field(a, b) == ("optimizer.b2", 0.99, 0.5)
    assert configs.differing_field(a, b, ("optimizer.",)) == ("train.steps", 1_000_000, 5)
    assert json.loads(configs.to_json(b))["train"]["steps"] == 5
