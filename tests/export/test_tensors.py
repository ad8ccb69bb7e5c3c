"""The safetensors format, against the package safetensors both ways, and bit by bit."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from phenaki_jax.array_files import SAFETENSORS
from phenaki_jax.errors import UserError
from phenaki_jax.export import tensors


def arrays(seed=0):
    """Random bits of every type, also of no axes, of no items, and turned."""
    draw = np.random.default_rng(seed)
    made = {}
    for name, dtype in SAFETENSORS.items():
        for shape in ((), (3,), (2, 0, 4), (5, 7)):
            bits = draw.integers(0, 2 if name == "BOOL" else 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
            made[f"{name.lower()}.{len(shape)}"] = bits.view(dtype)[..., 0]
    made["turned"] = draw.standard_normal((4, 6)).astype(np.float32).T
    return made


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    made = arrays()
    assert tensors.write(tmp_path, made) == ["model.safetensors"]
    found = tensors.read(tmp_path)
    same(found, made)
    with pytest.raises(ValueError, match="read-only"):
        found["turned"][0, 0] = 1


def test_against_the_package_both_ways(tmp_path):
    made = {name: array for name, array in arrays(1).items() if "f8" not in name}  # which it does not read into NumPy
    tensors.write(tmp_path, made, stem="ours")
    same(load_file(tmp_path / "ours.safetensors"), made)
    save_file({name: array.copy() for name, array in made.items()}, tmp_path / "theirs.safetensors")
    same(tensors.read(tmp_path, "theirs"), made)


def test_each_array_lies_at_a_multiple_of_its_items(tmp_path):
    tensors.write(tmp_path, arrays(2))
    for name, array in tensors.read(tmp_path).items():
        assert array.flags.aligned, name


@pytest.mark.parametrize("shard_bytes", [1, 100, 150, 10**4])
def test_shards(tmp_path, shard_bytes):
    made = {f"a{n}": np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in range(1, 30)}
    made["big"] = np.arange(100.0)  # larger than a shard
    *files, last = tensors.write(tmp_path, made, shard_bytes=shard_bytes)
    same(tensors.read(tmp_path), made)
    if shard_bytes == 10**4:
        assert [*files, last] == ["model.safetensors"]
        return
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert last == "model.safetensors.index.json"
    assert {path.name for path in tmp_path.iterdir()} == {*files, last}
    index = json.loads((tmp_path / last).read_text())
    assert index["metadata"] == {"total_size": sum(array.nbytes for array in made.values())}
    together = {}
    for file in files:
        inside = load_file(tmp_path / file)
        assert inside and (sum(array.nbytes for array in inside.values()) <= shard_bytes or len(inside) == 1)
        assert {index["weight_map"][name] for name in inside} == {file}
        together |= inside
    same(together, made)


def test_bfloat16_has_the_upper_half_of_float32s_bits(tmp_path):
    """A reading that asks no package which bits a bfloat16 has."""
    wide = np.random.default_rng(3).standard_normal(1000).astype(np.float32)
    tensors.write(tmp_path, {"x": wide.astype(ml_dtypes.bfloat16)})
    bits = np.frombuffer((tmp_path / "model.safetensors").read_bytes()[-2000:], "<u2").astype(np.uint32) << 16
    found = tensors.read(tmp_path)["x"].astype(np.float32)
    np.testing.assert_array_equal(bits.view(np.float32), found)
    np.testing.assert_allclose(found, wide, rtol=2**-8, atol=0)


def test_what_is_broken_is_refused(tmp_path):
    tensors.write(tmp_path, {"x": np.arange(8, dtype=np.float32)})
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")

    def refused(words, broken):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=words) as caught:
            tensors.read(tmp_path)
        assert "model.safetensors" in str(caught.value)

    for length in (0, 5, 8, 20, end - 1):
        refused("header is cut off", content[:length])
    refused("ends before", content[:-1])
    refused("is no safetensors file", content.replace(b'"F32"', b'"F33"'))
    refused("is no safetensors file", content.replace(b"[8]", b"[9]"))
    refused("is no safetensors file", content.replace(b'{"__', b'["__'))
    refused("is no safetensors file", content.replace(b'"shape"', b'"sharp"'))
    path.unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        tensors.read(tmp_path)
    *files, _ = tensors.write(tmp_path, {"x": np.ones(4), "y": np.ones(4)}, shard_bytes=32)
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match=f"has no {files[1]}"):
        tensors.read(tmp_path)
