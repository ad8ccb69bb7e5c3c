"""docs/export.md: its code runs, and its table knows every array that models have."""

import fnmatch
import pathlib
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import phenaki_jax
from phenaki_jax.errors import UserError
from phenaki_jax.export import reading
from phenaki_jax.export.command import main
from phenaki_jax.export.folder import check
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.training.checkpoints import flatten

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "export.md"
CODE = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_numpy_alone_reads_the_weights(runs, tmp_path, dtype):
    main(str(runs / "critic"), str(tmp_path / "model"), "safetensors", dtype=dtype)
    known: dict = {}
    reader = next(code for code in CODE if "def read" in code)
    assert "phenaki_jax" not in reader
    exec(reader, known)
    found = known["read"](tmp_path / "model" / "model.safetensors")
    wanted = reading.flat(reading.parts_of(reading.load(tmp_path / "model")))
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype


def test_a_card_is_edited_and_sealed_again(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(str(runs / "tokenizer"), "model", "safetensors")
    code = next(code for code in CODE if "seal" in code)
    exec(code.replace("seal(folder", "pass  # seal(folder"), {})
    with pytest.raises(UserError, match="README.md has .* bytes"):
        check("model")
    (tmp_path / "model").rename("changed")
    main(str(runs / "tokenizer"), "model", "safetensors")
    exec(code, {})
    check("model")
    known: dict = {}
    exec(next(code for code in CODE if "from_pretrained" in code), known)
    assert known["pipe"].fingerprint == check("model")["fingerprint"] and known["run"].step == check("model")["step"]
    assert (tmp_path / "model" / "README.md").read_text() == "# A better card\n"


def shapes():
    """PART.params.NAME -> shape, of models that have among them every kind of array."""
    tiny = {"tokenizer.stem": (8, 16), "tokenizer.quantizer": "vq", "tokenizer.codebook_update": "gradient",
            "generator.conditions": ("fps",)}
    sources = [phenaki_jax.load_config("configs/quickstart.py:critic"), phenaki_jax.load_config(
        "configs/quickstart.py:critic", tiny), phenaki_jax.load_config("configs/paper.py:generator")]
    found = {}
    for config in sources:
        for part, make in {"tokenizer": make_tokenizer, "generator": make_generator, "critic": make_critic}.items():
            if isinstance(config.get(part), ConfigDict):
                arrays = jax.eval_shape(make(config).init, jax.random.key(0))
                for kind, tree in zip(("params", "variables"), arrays):
                    found |= {f"{part}.{kind}.{name.replace('/', '.')}": leaf.shape for name, leaf in flatten(
                        tree).items()}
    return found


def test_the_table_has_every_array():
    """Each array is in exactly one row, with as many letters as it has axes; and no row is without arrays."""
    lines = DOCS.read_text().split("| NAME | shape | |")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:] if line.startswith("|")]
    rows = rows[:next(n for n, line in enumerate(lines[2:]) if not line.startswith("|"))]
    patterns = {pattern: letters.split(", ") for cell, letters, _ in rows for pattern in re.findall("`(.+?)`", cell)}
    assert len(patterns) > 40
    missed = set(patterns)
    for name, shape in shapes().items():
        fitting = [pattern for pattern in patterns if fnmatch.fnmatchcase(name.split(".", 2)[2], pattern)]
        assert len(fitting) == 1, (name, fitting)
        assert len(patterns[fitting[0]]) == len(shape), (name, shape)
        missed -= set(fitting)
    assert not missed
