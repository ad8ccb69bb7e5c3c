"""From a run to a folder and back: every array of every stage in every form, the same tokens, and what is refused."""

import pathlib
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from phenaki_jax.errors import UserError
from phenaki_jax.export import reading, rounding
from phenaki_jax.export.command import main, portable
from phenaki_jax.export.folder import check
from phenaki_jax.parallel import make_mesh
from phenaki_jax.training.checkpoints import flatten, load_run

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from untrained import STEP, pipeline  # noqa: E402

WEIGHTS = ("orbax", "safetensors")


def everything(run):
    return flatten({"params": run.params, "variables": run.variables, "frozen": run.frozen})


def same(found, wanted):
    found, wanted = everything(found), everything(wanted)
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert np.asarray(found[name]).tobytes() == np.asarray(array).tobytes(), name


@pytest.fixture(scope="session")
def folders(runs):
    """(stage, form, dtype) -> an export, made once."""
    made = {}

    def export(stage, form, dtype="float32"):
        if (stage, form, dtype) not in made:
            made[stage, form, dtype] = runs.parent / f"{stage}_{form}_{dtype}"
            assert main(str(runs / stage), str(made[stage, form, dtype]), form, dtype=dtype) == 0
        return made[stage, form, dtype]

    return export


@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("stage", ["tokenizer", "generator", "critic"])
def test_every_array_of_every_stage_comes_back(runs, folders, stage, form):
    folder, wanted = folders(stage, form), load_run(runs / stage)
    found = reading.load(folder)
    same(found, wanted)
    assert found.step == wanted.step and found.config.tokenizer == wanted.config.tokenizer
    about = check(folder)
    assert (about["form"], about["stage"], about["dtype"]) == (form, stage, "float32")
    assert about["fingerprint"] == about["run_fingerprint"] == pipeline(wanted).fingerprint == pipeline(
        found).fingerprint
    assert list(about["parts"]) == {"tokenizer": ["tokenizer"], "generator": ["generator", "tokenizer"],
                                    "critic": ["critic", "generator", "tokenizer"]}[stage]
    own = sum(leaf.size for leaf in jax.tree.leaves(wanted.params))
    assert about["parts"][stage] == {"parameters": own}


@pytest.mark.parametrize("form, dtype", [("orbax", "int8"), ("orbax", "bfloat16"), ("safetensors", "bfloat16")])
def test_rounded_arrays_come_back_as_they_were_rounded(runs, folders, form, dtype):
    """Each against the rounding said anew for this array alone; `test_rounding` says how far it may be."""
    folder, run = folders("critic", form, dtype), load_run(runs / "critic")
    found, wanted = (reading.flat(reading.parts_of(each)) for each in (reading.load(folder), run))
    assert set(found) == set(wanted)
    changed = 0
    for name, array in wanted.items():
        if dtype == "bfloat16":
            once = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        elif over := rounding.summed(name, array.ndim):
            scale = np.abs(array).max(over, keepdims=True) / np.float32(127)
            scale = np.where(scale == 0, 1, scale)
            once = (np.rint(array / scale) * scale).astype(np.float32)
        else:
            once = array
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], once, err_msg=name)
        changed += bool(np.any(once != array))
    about = check(folder)
    assert changed > 50 and about["fingerprint"] != about["run_fingerprint"] == pipeline(run).fingerprint
    assert pipeline(reading.load(folder)).fingerprint == about["fingerprint"]


def test_the_same_tokens_for_the_same_seeds(runs, folders):
    ask = lambda run: pipeline(run)(["a red circle", "a blue cross"], seed=[3, 9]).tokens
    wanted = ask(load_run(runs / "generator"))
    for form in WEIGHTS:
        np.testing.assert_array_equal(ask(reading.load(folders("generator", form))), wanted)
    assert len(np.unique(wanted)) > 20


def test_other_programs_read_the_weights(folders):
    """Names are PART.params.a.b in both forms, and each form's own library finds all of them."""
    theirs = load_file(folders("generator", "safetensors") / "model.safetensors")
    with ocp.StandardCheckpointer() as checkpointer:
        trees = checkpointer.restore(folders("generator", "orbax").absolute() / reading.WEIGHTS)
    assert set(theirs) == set(trees)
    assert {name.split(".")[0] for name in theirs} == {"generator", "tokenizer"}
    for name, array in theirs.items():
        np.testing.assert_array_equal(np.asarray(trees[name]), array)
    assert theirs["generator.params.transformer.stack.layers.mlp.wi"].shape == (2, 16, 32)  # layers are stacked


@pytest.mark.parametrize("form, dtype", [("orbax", "float32"), ("orbax", "int8"), ("safetensors", "float32")])
def test_it_lies_on_a_mesh(folders, form, dtype):
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2}, jax.devices())
    spec = lambda shape: jax.P(*(axis if size % count == 0 else None for size, axis, count in zip(
        shape[-2:], ("fsdp", "tensor"), (4, 2)))) if len(shape) == 2 else jax.P()
    where = lambda name, shape: jax.sharding.NamedSharding(mesh, spec(shape))
    folder = folders("generator", form, dtype)
    found = reading.load(folder, where=where)
    same(found, reading.load(folder))
    embedding = found.params["text"]["embedding"]
    assert embedding.sharding == where("", embedding.shape)
    assert embedding.addressable_shards[0].data.shape == (384 // 4, 16 // 2)


def test_a_step_is_chosen_and_an_export_replaced(runs, tmp_path):
    for step in (STEP, STEP + 1):
        main(str(runs), str(tmp_path / "model"), "safetensors", step=step, overwrite=True)
        same(reading.load(tmp_path / "model"), load_run(runs / "generator", step))
        assert check(tmp_path / "model")["step"] == step
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        main(str(runs), str(tmp_path / "other"), "safetensors", step=5)


def test_nothing_of_this_machine_is_in_it(runs, folders):
    for form in WEIGHTS:
        folder = folders("critic", form)
        for name in ("model.json", "config.json", "README.md"):
            assert str(runs.parent) not in (folder / name).read_text(), name
        config = reading.load(folder).config
        assert not config.data.data_dir and not config.tokenizer_run and not config.generator_run
    kept = load_run(runs / "critic").config
    kept.provenance.deny_list, kept.text.vocabulary = "/home/me/words.txt", "bytes"
    found = portable(kept)
    assert (found.provenance.deny_list, found.text.vocabulary) == ("default", "bytes")  # never without a filter
    assert kept.provenance.deny_list == "/home/me/words.txt"


# ------------------------------------------------------------------------------------------------------------ damage

@pytest.mark.parametrize("form", WEIGHTS)
def test_every_file_is_missed_and_every_flipped_byte_seen(folders, form, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folders("tokenizer", form), folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) >= 4
    for path in files:
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1} - {-1}:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(UserError) as caught:
                reading.load(folder)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        path.unlink()
        with pytest.raises(UserError) as caught:
            reading.load(folder)
        assert str(path) in str(caught.value)
        path.write_bytes(content)
    reading.load(folder)


def test_a_failure_or_a_kill_leaves_no_folder(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("phenaki_jax.export.command.card", lambda *_: 1 / 0)
    for stage in ("tokenizer", "generator"):
        with pytest.raises(ZeroDivisionError):
            main(str(runs / stage), str(tmp_path / "model"), "safetensors")
    assert not list(tmp_path.iterdir())
    code = ("import os, sys; from phenaki_jax.export import command; "
            "command.card = lambda *_: os.kill(os.getpid(), 9); "
            "command.main(sys.argv[1], sys.argv[2], 'safetensors')")
    killed = subprocess.run([sys.executable, "-c", code, str(runs / "tokenizer"), str(tmp_path / "model")], check=False)
    assert killed.returncode == -9 and not (tmp_path / "model").exists()
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".model-")]) == 1  # it had begun
    monkeypatch.undo()
    main(str(runs / "tokenizer"), str(tmp_path / "model"), "safetensors")
    check(tmp_path / "model")


def test_what_cannot_be_exported_is_refused(runs, folders, tmp_path):
    def refused(words, model=runs / "tokenizer", output=tmp_path / "model", form="safetensors", **options):
        with pytest.raises(UserError, match=words):
            main(str(model), str(output), form, **options)
        assert not (tmp_path / "model").exists()

    refused("--format='onnx' is unknown; it is one of orbax, safetensors, stablehlo", form="onnx")
    refused("--dtype='int4' is unknown", dtype="int4")
    refused("--dtype='int8' is for weights", form="stablehlo", dtype="int8")
    refused("--batch_size=4 is for --format=stablehlo", batch_size=4)
    refused("--batch_size=0 must be", form="stablehlo", batch_size=0)
    refused("with_text_encoder is for a model with a pretrained T5", text_encoder=True)
    refused("no model folder", model=tmp_path / "nowhere")
    refused("is an export itself", model=folders("tokenizer", "orbax"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    refused("is there already; give a new folder$", output=tmp_path / "full")
    refused("it is no export that could be replaced", output=tmp_path / "full", overwrite=True)
    refused("is there already", output=tmp_path / "full" / "thesis.txt")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    main(str(runs / "tokenizer"), str(tmp_path / "empty"), "safetensors")
    check(tmp_path / "empty")


def test_programs_are_not_read_as_weights(folders, tmp_path):
    from phenaki_jax.export.folder import seal
    shutil.copytree(folders("tokenizer", "safetensors"), tmp_path / "model")
    seal(tmp_path / "model", check(tmp_path / "model") | {"form": "stablehlo"})
    with pytest.raises(UserError, match="holds programs .* run its generate.py, or export the run with"):
        reading.load(tmp_path / "model")


def test_reading_needs_no_tensorflow(folders):
    code = ("import sys; from phenaki_jax.export import reading; list(map(reading.load, sys.argv[1:])); "
            "assert not {'tensorflow', 'seqio', 'clu', 'tensorboard'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code, *(str(folders("tokenizer", form)) for form in WEIGHTS)], check=True)
