"""What could go wrong for somebody's files: overwritten, believed whole, shown under another prompt."""

import copy
import json

import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax.__main__ import main
from phenaki_jax.making import command, files


def sentence(capsys, code):
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("phenaki: ") and said.count("\n") == 1, said
    return said


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    media.write_image(tmp_path / "image.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
    media.write_image(tmp_path / "square.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
    media.write_video(tmp_path / "video.gif", rng.integers(0, 256, (11, 20, 20, 3), np.uint8), 8.0)
    return tmp_path


def test_files_of_the_user_stay(run, folder, capsys):
    hidden = [folder / ".clip-original" / "x", folder / ".clip-settings.json", folder / ".clip.part"]
    for file in hidden:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    left = [folder / ".clip.part-abcdefgh.mp4", folder / "..clip.part-abcdefgh.part-ijklmnop.mp4",
            folder / ".clip.mp4.part-abcd_123.json", folder / "clip.mp4.preview.gif"]
    for file in left:
        file.write_text("half")
    assert run("generate", "--prompt=a", f"--output={folder / 'clip.mp4'}") == 0
    assert all(file.read_text() == "mine" for file in hidden) and not any(file.exists() for file in left)
    before = (folder / "video.gif").read_bytes()
    for verb, options, words in (
            ("extend", ["--video={}/video.gif", "--output={}/video.gif"], "is --video itself"),
            ("extend", ["--video={}/video.gif", "--output={}/on.gif", "--sheet={}/image.png"], ""),
            ("generate", ["--output={}/video.gif"], "has no sidecar"),
            ("generate", ["--output={}/x.png", "--frames=1", "--sheet={}/x.png"], "is --output itself"),
            ("generate", ["--output={}/.clip-original/x/a.mp4"], "nothing can be written"),
            ("generate", ["--output=/proc/a.mp4"], "nothing can be written"),
            ("generate", [f"--output={{}}/{'n' * 300}.mp4"], "File name too long")):
        if words:
            code = run(verb, "--prompt=a", *(option.format(folder) for option in options))
            assert words in sentence(capsys, code)
    (folder / "out" / "00000").mkdir(parents=True)
    (folder / "out" / "00000" / "diary.txt").write_text("mine")
    code = run("generate", "--prompt=a", f"--output={folder / 'out'}", "--form=png", "--overwrite")
    assert "holds more than numbered frames" in sentence(capsys, code)
    assert (folder / "out" / "00000" / "diary.txt").read_text() == "mine"
    assert (folder / "video.gif").read_bytes() == before
    assert run("generate", "--prompt=a", f"--output={folder / 'video.gif'}", "--overwrite") == 0


def test_a_file_of_the_same_size_is_not_believed(run, pipes, folder):
    base = ["generate", "--prompt=a", f"--output={folder / 'a.gif'}"]
    assert run(*base) == 0
    whole = (folder / "a.gif").read_bytes()
    (folder / "a.gif").write_bytes(whole[:-40] + bytes(40))
    assert run(*base) == 0 and len(pipes.calls) == 2 and (folder / "a.gif").read_bytes() == whole


def test_a_kill_between_the_sidecar_and_the_file_costs_one_file(run, pipes, folder, monkeypatch):
    """The sidecar comes first, so that no file of ours ever lies without one."""
    keep = files.write_sidecar

    def killed(*args):
        keep(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_sidecar", killed)
    base = ["generate", "--prompt=a", f"--output={folder / 'a.gif'}"]
    assert run(*base) == 130 and not (folder / "a.gif").exists() and (folder / "a.gif.json").is_file()
    monkeypatch.setattr(files, "write_sidecar", keep)
    assert run(*base) == 0 and (folder / "a.gif").is_file()


def test_a_preview_is_of_the_video_that_it_is_named_after(run, folder, monkeypatch):
    base = ["generate", "--prompt=a", "--prompt=b", "--form=gif", f"--output={folder / 'out'}", "--preview_every=1"]
    assert run(*base) == 0
    (folder / "out" / "00001.gif").unlink()
    shown = {}
    monkeypatch.setattr(command, "_shown_in", lambda path, *_: lambda frames: shown.update({path.name: frames}))
    assert run(*base) == 0
    (name, frames), = shown.items()
    assert name == "00001.gif.preview.gif"
    np.testing.assert_array_equal(frames, media.read_video(folder / "out" / "00001.gif")[0])


def test_nothing_that_is_refused_is_shown(run, pipes, folder, monkeypatch, capsys):
    base = ["generate", "--prompt=a", f"--output={folder / 'a.gif'}", f"--sheet={folder / 'sheet.png'}"]
    assert run(*base) == 0 and (folder / "sheet.png").is_file()
    assert json.loads(media.read_label(folder / "sheet.png"))["generated"] is True
    (folder / "sheet.png").unlink()
    pipe, previews = pipes.load(folder / "model"), []
    monkeypatch.setattr(pipe, "safety_checker", lambda frames: "bad")
    monkeypatch.setattr(command, "_shown_in", lambda *_: previews.append)
    assert run(*base[:1], "--prompt=other", *base[2:], "--preview_every=1") == 1
    assert not (folder / "sheet.png").exists() and previews and not any(frames.any() for frames in previews)
    (folder / "story.json").write_text('["one", "two"]')
    assert run("generate", f"--story={folder / 'story.json'}", f"--output={folder / 's.gif'}") == 1
    assert "s.gif is not written: scene 1 is refused: bad" in capsys.readouterr().out
    assert not (folder / "s.gif").exists()
    assert pipe.stories([["one"]]).refused == ("bad",)
    assert all(made.refused == ("bad",) for made in pipe.stream("a"))


def test_what_a_sidecar_says_of_provenance_and_form_holds(run, folder, capsys):
    assert run("generate", "--prompt=a", f"--output={folder / 'a.mp4'}", "--scale=16",
               "--config.provenance.label=False", "--config.provenance.watermark=False") == 0
    again = ["generate", f"--from={folder / 'a.mp4.json'}"]
    assert main([*again, f"--output={folder / 'again.mp4'}"]) == 0
    assert (folder / "a.mp4").read_bytes() == (folder / "again.mp4").read_bytes()
    capsys.readouterr()
    assert "is an image" in sentence(capsys, main([*again, f"--output={folder / 'one.png'}"]))
    for option in ("--seed=3", "--fps=3.0", "--preset=nuwa", "--form=gif", "--num_inference_steps=3", "--scale=2"):
        assert f"{option} does not go with --from" in sentence(
            capsys, main([*again, f"--output={folder / 'b'}", option]))
    assert run("generate", "--prompt=a", "--frames=1", f"--output={folder / 'i.png'}") == 0
    assert main(["generate", f"--from={folder / 'i.png.json'}", f"--output={folder / 'images'}"]) == 0
    assert (folder / "images" / "00000.png").is_file()


def test_a_moved_input_is_found_beside_the_sidecar_and_unequal_frames_are_told(run, folder, capsys):
    (folder / "in").mkdir()
    (folder / "image.png").rename(folder / "in" / "image.png")
    assert run("animate", "--prompt=a", f"--image={folder / 'in' / 'image.png'}", f"--output={folder / 'a.gif'}") == 0
    (folder / "in" / "image.png").rename(folder / "image.png")
    again = ["generate", f"--from={folder / 'a.gif.json'}", f"--output={folder / 'b.gif'}"]
    assert main(again) == 0
    sidecar = json.loads((folder / "a.gif.json").read_text())
    sidecar["frames"]["hash"] = "0" * 32
    (folder / "a.gif.json").write_text(json.dumps(sidecar))
    assert main(again) == 1 and "do NOT equal" in capsys.readouterr().out


@pytest.mark.parametrize("options, words", [
    (["--prompt=a", "--fps=0"], "--fps=0.0 has to be from 0.01"), (["--prompt=a", "--guidance_scale=inf"], "=inf"),
    (["--prompt=a", "--temperature=inf"], "temperature=inf"), (["--prompt=a", "--scale=5000"], "40000 pixels"),
    (["--prompt=a", "--form=gif"], "--form='gif' goes with a folder"),
    (["--prompt=a", "--config.text.path=/nowhere"], "is of a pretrained text encoder"),
    (["--story={}/s.json", "--devices=2"], "--devices=2 does not go with --story"),
    (["--story={}/s.json", "--num_videos_per_prompt=2"], "does not go with --story"),
    (["--story=" + "a red circle moves " * 30], "File name too long"),
    (["--prompts=" + "a red circle moves " * 30], "File name too long"),
    (["--story={}/fps.json"], "fps='x' has to be a number")])
def test_what_means_nothing_is_refused(run, folder, capsys, options, words):
    (folder / "s.json").write_text('["a", "b"]')
    (folder / "fps.json").write_text('{"scenes": ["a"], "fps": "x"}')
    code = run("generate", *(option.format(folder) for option in options), f"--output={folder / 'o.mp4'}")
    assert words in sentence(capsys, code) and not (folder / "o.mp4").exists()


def test_inputs_that_do_not_fit(run, folder, capsys):
    inpaint = ["inpaint", "--prompt=a", f"--video={folder / 'video.gif'}"]
    wide = run(*inpaint, f"--mask={folder / 'image.png'}", f"--output={folder / 'o.gif'}")
    assert "--mask has 20 x 30 pixels; it has to have the proportions of --video" in sentence(capsys, wide)
    assert run(*inpaint, f"--mask={folder / 'square.png'}", f"--output={folder / 'made'}", "--form=gif") == 0
    assert (folder / "made" / "00000.gif").is_file()
    assert run("animate", "--prompt=a", f"--image={folder / 'video.gif'}", f"--output={folder / 'p.gif'}") == 0
    still = run("interpolate", "--prompt=a", f"--image={folder / 'none.png'}", f"--last_image={folder / 'image.png'}",
                f"--output={folder / 'q.gif'}")
    assert "none.png" in sentence(capsys, still)


def test_prompts_may_begin_with_a_byte_order_mark(run, folder):
    (folder / "prompts.txt").write_bytes("\ufeffa cat\r\na dog\r\n".encode())
    assert run("generate", f"--prompts={folder / 'prompts.txt'}", f"--output={folder / 'out'}", "--form=gif") == 0
    prompts = [files.read_sidecar(folder / "out" / f"0000{i}.gif.json")["request"].prompt for i in (0, 1)]
    assert prompts == ["a cat", "a dog"]


JUNK = (None, -1, 7.5, "x", [], {}, True, [1, "a"], {"a": 1})


def places(tree, path=()):
    """Every field of a tree."""
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict) and name != "config":
            yield from places(value, (*path, name))


def test_a_sidecar_that_somebody_has_edited(run, folder, capsys):
    """Each field in turn missing or junk: made again, or one sentence; and a plain command makes the file anew."""
    assert run("animate", "--prompt=a", f"--image={folder / 'image.png'}", f"--output={folder / 'a.gif'}") == 0
    sound = json.loads((folder / "a.gif.json").read_text())
    rng = np.random.default_rng(0)
    for place in [place for place in places(sound) if place[0] not in ("versions", "platform", "provenance")]:
        changed = copy.deepcopy(sound)
        parent = changed
        for name in place[:-1]:
            parent = parent[name]
        if rng.random() < 0.3:
            del parent[place[-1]]
        else:
            parent[place[-1]] = JUNK[rng.integers(len(JUNK))]
        (folder / "a.gif.json").write_text(json.dumps(changed))
        capsys.readouterr()
        code = main(["generate", f"--from={folder / 'a.gif.json'}", f"--output={folder / 'b.gif'}", "--overwrite"])
        said = capsys.readouterr().err
        assert code in (0, 1) or code == 2 and said.count("\n") == 1, (place, parent.get(place[-1]), said)
    (folder / "a.gif.json").write_text("[" * 100_000)
    assert "is no sidecar" in sentence(capsys, main(
        ["generate", f"--from={folder / 'a.gif.json'}", f"--output={folder / 'c.gif'}"]))
    assert run("animate", "--prompt=a", f"--image={folder / 'image.png'}", f"--output={folder / 'a.gif'}") == 0


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"stage": "generator"}', "[" * 100_000])
def test_a_model_that_is_none(tmp_path, capsys, text):
    (tmp_path / "config.json").write_text(text)
    for model in (tmp_path, tmp_path / "config.json"):
        sentence(capsys, main(["generate", f"--model={model}", "--prompt=a", f"--output={tmp_path / 'o.gif'}"]))


def test_parts_that_are_something_else(run, folder, capsys):
    (folder / "s.json").write_text('["a"]')
    story = ["generate", f"--story={folder / 's.json'}", f"--parts={folder / 'parts'}", f"--output={folder / 's.gif'}"]
    assert run(*story) == 0
    part, = (folder / "parts").glob("*.npz")
    np.savez(part, frames=np.zeros((2, 3), np.uint8), tokens=np.zeros((1, 2, 2, 2), np.int32))
    assert part.name in sentence(capsys, run(*story, "--overwrite"))
