"""`phenaki export` beside what is there already, and what the other commands say of an export that is damaged."""

import pytest

from phenaki_jax.__main__ import main
from phenaki_jax.export.folder import check, seal


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_another_export_takes_the_place_of_one_and_of_nothing_else(runs, tmp_path, capsys):
    def export(to, *more):
        return main(["export", f"--model={runs}", f"--output={to}", *more])

    assert export(tmp_path / "a") == 0 and export(tmp_path / "a") == 2
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert export(tmp_path / "link", "--overwrite", "--dtype=int8") == 0
    assert check(tmp_path / "a")["dtype"] == "int8" and (tmp_path / "link").is_symlink()
    (tmp_path / "a" / "clip.mp4").write_text("mine")
    capsys.readouterr()
    assert export(tmp_path / "a", "--overwrite") == 2
    assert "clip.mp4 is not the export's" in capsys.readouterr().err and (tmp_path / "a" / "clip.mp4").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("harm, words", [
    (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
    (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    (lambda folder: change(folder / "config.json", '"seed": 0', '"seed": 1'), "config.json is not what was written"),
    (lambda folder: (folder / "model.json").write_text("[" * 100_000), "model.json is not readable as JSON"),
    (lambda folder: seal(folder, {"form": "hdf5", "dtype": "int4", "parts": {}, "step": 1}), "does not know"),
    (lambda folder: seal(folder, {"dtype": "int8"}), "model.json does not say 'form'")])
def test_the_command_line_names_the_damaged_file(runs, tmp_path, capsys, harm, words):
    assert main(["export", f"--model={runs}", f"--output={tmp_path / 'a'}"]) == 0
    harm(tmp_path / "a")
    capsys.readouterr()
    assert main(["generate", f"--model={tmp_path / 'a'}", "--prompt=a", f"--output={tmp_path / 'o.gif'}"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
