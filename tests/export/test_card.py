"""The model card: its figures are those of the run's files, and what they do not say is said to be absent."""

import json
import pathlib
import shutil
import sys

import jax
import yaml

from phenaki_jax.export.command import main
from phenaki_jax.export.folder import check
from phenaki_jax.training.checkpoints import load_run

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from untrained import LOGGED, STEP, pipeline  # noqa: E402


def card(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def row(body, name, after=""):
    """The cells of a table's row that begins with `name`, after a heading."""
    line = next(line for line in body[body.index(after):].splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_card_says_what_the_files_say(runs, tmp_path):
    run = load_run(runs / "generator", STEP)
    report = {"table": [{"what": "held-out prompts: shape", "bar": "≥ 80.0 %", "measured": "12.3 %", "met": False}],
              "circumstances": {"steps": {"generator": STEP, "tokenizer": 5}}}
    fvd = {"made_by": {"fingerprint": pipeline(run).fingerprint}, "counts": {"real": 12, "made": 12},
           "protocol": {"name": "zero_shot_t2v", "about": "Text to video"}, "too_small": ["FVD of 12 means little"],
           "figures": {"fvd": {"value": 345.6, "interval": [300.1, 400.2], "floor": 100.5}}}
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    (root / "report.json").write_text(json.dumps(report))
    for name, changes in (("mine", {}), ("another", {"made_by": {"fingerprint": "of another model"}})):
        (root / "generator" / name).mkdir()
        other = fvd | changes | ({"figures": {"fvd": {"value": 999.9}}} if changes else {})
        (root / "generator" / name / "report.json").write_text(json.dumps(other))
    (root / "generator" / "evaluation.jsonl").write_text(
        "".join(json.dumps({"step": step, "time": 0.0, "sprites/colour": step / 16}) + "\n" for step in (STEP, 8)))
    main(str(root), str(tmp_path / "model"), "safetensors", step=STEP, license="Apache-2.0")
    front, body = card(tmp_path / "model")
    assert front["license"] == "apache-2.0" and front["library_name"] == "phenaki_jax"
    assert front["pipeline_tag"] == "text-to-video" and "phenaki" in front["tags"]
    assert body.lstrip().startswith("# model\n") and "## Licence\n\nApache-2.0" in body
    for name, tree in (("generator", run.params), ("tokenizer", run.frozen["params"])):
        assert row(body, name)[0] == f"{sum(leaf.size for leaf in jax.tree.leaves(tree)):,}"
    trained = "## How the generator was trained"
    assert "sprite_clips_32_tiny 60 %" in row(body, "mixture", trained)[0]
    assert "sprite_images_32_tiny 20 %" in row(body, "mixture", trained)[0]
    assert row(body, "steps", trained) == [f"{STEP} of 9"] and row(body, "rows in a batch", trained) == ["5"]
    assert f"learning_rate {run.config.optimizer.learning_rate}" in row(body, "optimizer", trained)[0]
    assert row(body, "loss", trained) == [f"{LOGGED[1]['loss']:.4g}"] and row(body, "video/psnr", trained) == ["21.99"]
    assert "## How the tokenizer was trained" in body
    for name, value in run.config.sampling.items():
        assert row(body, name) == [str(value)]
    measured = "## What was measured"
    assert row(body, "held-out prompts: shape", measured) == ["≥ 80.0 %", "12.3 % (missed)"]
    assert row(body, "fvd", measured) == ["345.6", "300.1 to 400.2", "100.5"] and "999.9" not in body
    assert "FVD of 12 means little" in body and row(body, "sprites/colour", measured) == ["0.4375"]
    assert "11 frames of 32 x 32" in body and "87 bytes" in body and "sprite world" in body
    about = check(tmp_path / "model")
    assert about["run_fingerprint"] in body and about["license"] == "Apache-2.0"

    main(str(root), str(tmp_path / "later"), "safetensors", step=STEP + 1)
    body = card(tmp_path / "later")[1]
    assert "12.3 %" not in body and "345.6" not in body and row(body, "sprites/colour", measured) == ["0.5"]


def test_what_the_files_do_not_say_is_said_to_be_absent(runs, tmp_path):
    shutil.copytree(runs / "generator", tmp_path / "alone" / "generator")
    config = json.loads((tmp_path / "alone" / "generator" / "config.json").read_text())
    config["data"] |= {"mixture": "my_own_clips"}
    config["tokenizer_run"] = str(tmp_path / "gone")
    (tmp_path / "alone" / "generator" / "config.json").write_text(json.dumps(config))
    (tmp_path / "alone" / "generator" / "metrics.jsonl").unlink()
    main(str(tmp_path / "alone"), str(tmp_path / "model"), "safetensors", dtype="int8",
         license="As the institute says")
    front, body = card(tmp_path / "model")
    assert (front["license"], front["license_name"]) == ("other", "As the institute says")
    assert "my_own_clips (rates not stated" in row(body, "mixture")[0]
    assert "there was no metrics.jsonl" in body and "no report of this checkpoint" in body
    assert "Not stated: its run was not there" in body and "sprite world" not in body and "rounded to int8" in body
    main(str(runs / "tokenizer"), str(tmp_path / "tokenizer"), "orbax")
    front, body = card(tmp_path / "tokenizer")
    assert front["license"] == "unknown" and "pipeline_tag" not in front and "phenaki reconstruct" in body
    assert "## Licence\n\nNot stated." in body and "## Sampling" not in body
