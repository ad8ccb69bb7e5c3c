"""A folder whose every byte is answered for: all damage is refused in one sentence that names the file."""

import json
import shutil

import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.export.folder import FORMAT_VERSION, MANIFEST, check, is_export, seal

FILES = {"config.json": b"{}", "weights/d/abc": bytes(range(256)), "README.md": b"# a\n", "empty": b""}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    for name, content in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    seal(made, {"form": "orbax", "step": 7, "parts": {"generator": {"parameters": 3}}})
    return made


def refused(folder, name, words=None, **options):
    with pytest.raises(UserError, match=words) as caught:
        check(folder, **options)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_whole_is_read(folder):
    manifest = check(folder)
    assert is_export(folder) and not is_export(folder.parent)
    assert manifest["step"] == 7 and manifest["form"] == "orbax" and manifest["format_version"] == FORMAT_VERSION
    assert {name: kept["bytes"] for name, kept in manifest["files"].items()} == {k: len(v) for k, v in FILES.items()}
    assert manifest["files"]["empty"]["sha256"].startswith("e3b0c44298fc1c149afbf4c8996fb924")  # of no bytes
    (folder / "more").write_text("what lies beside the model is nobody's")
    assert check(folder) == manifest


def test_each_file_missing_shorter_longer_or_with_another_byte(folder):
    for name, content in FILES.items():
        path = folder / name
        path.unlink()
        refused(folder, name, "is missing", hashes=False)
        for other in (content + b"x", content[:-1]):
            path.write_bytes(other)
            if other != content:
                refused(folder, name, "has .* bytes", hashes=False)
        for place in range(0, len(content), 100):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
            refused(folder, name, "is not what was written")
            check(folder, hashes=False)
        path.write_bytes(content)
    check(folder)


def test_the_manifest_itself(folder):
    path = folder / MANIFEST
    content = path.read_bytes()
    for place in range(len(content)):  # each byte of it, and each length
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        refused(folder, MANIFEST)
    for length in range(0, len(content) - 2, 7):
        path.write_bytes(content[:length])
        refused(folder, MANIFEST, "not readable as JSON")
    for other in ("[]", '"phenaki_jax"', '{"format": "zarr"}', "{}"):
        path.write_text(other)
        refused(folder, MANIFEST, "no manifest of an export")
    newer = json.loads(content) | {"format_version": FORMAT_VERSION + 1, "files": "of another form"}
    path.write_text(json.dumps(newer))
    refused(folder, MANIFEST, f"format_version={FORMAT_VERSION + 1}.*install a newer one")
    path.unlink()
    refused(folder, MANIFEST, "is missing")
    refused(folder / "nowhere", MANIFEST, "is missing")


def test_what_is_changed_on_purpose_is_sealed_again(folder, tmp_path):
    manifest = check(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert check(tmp_path / "copy") == manifest
    (folder / "README.md").write_text("# Another card\n")
    refused(folder, "README.md")
    seal(folder, manifest)
    again = check(folder)
    assert {**again, "files": 0, "sha256": 0} == {**manifest, "files": 0, "sha256": 0}
    assert again["files"]["README.md"] != manifest["files"]["README.md"]
