"""From a file to records: frame counts and times, cuts, crops, filters, and records' bytes there and back."""

import collections
import io
import pickle
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phenaki_jax.errors import UserError
from phenaki_jax.ingest import cut
from phenaki_jax.ingest.decode import decode_image, decode_video, resample
from phenaki_jax.ingest.filters import Filter, known_fields, parse_filters
from phenaki_jax.ingest.prepare import Settings, records_of
from phenaki_jax.ingest.samples import Sample, from_files
from phenaki_jax.input import records
from phenaki_jax.input.records import BadRecord
from phenaki_jax.media import write_video

sys.path.insert(0, str(Path(__file__).parent))
import worlds  # noqa: E402

IMAGES = Settings("image", "set", ((64, 64),))
VIDEOS = Settings("video", "set", ((32, 48),), scene_threshold=1.0)


def made(sample, settings):
    lost = collections.Counter()
    found = [records.decode(records.pack(*one)) for one in records_of(sample, settings, lost)]
    return [record | {"video": np.asarray(record["video"])} for record in found], dict(lost)


# ------------------------------------------------------------------------------------------------- bytes

def test_a_records_bytes_are_what_the_format_says():
    data = records.pack({"key": "é", "caption": "a"}, {"media": b"123", "more": b""})
    length = int.from_bytes(data[4:8], "little")
    assert data[:4] == b"PJR1" and data[8 + length:] == b"123"
    header, blobs = records.unpack(data)
    assert header == {"key": "é", "caption": "a", "blobs": [["media", 3], ["more", 0]]}
    assert {name: bytes(blob) for name, blob in blobs.items()} == {"media": b"123", "more": b""}


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"0", lambda d: b"XXXX" + d[4:], lambda d: d[:6],
                                    lambda d: d[:9] + b"\xff\xff" + d[11:], lambda d: b""])
def test_damaged_bytes_are_a_bad_record(damage):
    header = {"key": "a", "frames": 1, "height": 1, "width": 1, "media": "raw", "fps": 0.0}
    data = records.pack(header, {"media": b"123"})
    assert records.decode(data)["video"].tolist() == [[[[49, 50, 51]]]]
    with pytest.raises(BadRecord):
        records.decode(damage(data))


@pytest.mark.parametrize("codec, least", [("lossless", np.inf), ("lossy", 38)])
def test_what_goes_into_a_record_comes_out_of_it(codec, least):
    settings = Settings("video", "set", ((48, 64),), codec=codec)
    film = worlds.film(3)
    ((record,), lost) = made(Sample("k", film, "", "a  film\n", fps=8.0), settings)
    assert (record["key"], record["source"], record["caption"], record["fps"]) == ("k#000000", "set", "a film", 8.0)
    error = np.mean((record["video"].astype(float) - film) ** 2)
    assert record["video"].shape == film.shape and (error == 0 or 10 * np.log10(255**2 / error) > least)
    picture = worlds.picture(4, 64, 64)
    ((record,), _) = made(Sample("k", picture[None], "", "a"), Settings("image", "set", ((64, 64),), codec=codec))
    error = np.mean((record["video"][0].astype(float) - picture) ** 2)
    assert record["fps"] == 0 and (error == 0 or 10 * np.log10(255**2 / error) > least)


def test_a_bad_record_crosses_processes():
    error = pickle.loads(pickle.dumps(BadRecord("a", "b")))
    assert (error.reason, error.detail, str(error)) == ("a", "b", "a: b")


# ------------------------------------------------------------------------------------------------- decoding

def timed(frames, times):
    """An mp4 of frames that are shown from these times on, in milliseconds."""
    import av
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "1", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for array, time in zip(frames, times):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def shades(count):
    """Frames that are told apart by their gray, 16 levels apart."""
    return np.broadcast_to((np.arange(count) * 16 + 8)[:, None, None, None], (count, 32, 32, 3)).astype(np.uint8)


def seen(data, fps):
    return [int(frame.mean()) // 16 for frame in decode_video(data, fps)]


@pytest.mark.parametrize("fps", [2.0, 4.0, 8.0, 12.5, 24.0, 30.0])
def test_frames_are_those_on_the_screen(fps):
    """Steady and uneven times, against the definition: the last frame whose time has come at k / fps."""
    for times in ([125 * i for i in range(12)], [0, 40, 500, 540, 580, 1000, 1400, 1440]):
        found = seen(timed(shades(len(times)), times), fps)
        ticks = np.arange(len(found)) / fps * 1000
        wanted = [max(i for i, time in enumerate(times) if time <= tick + 1e-6) for tick in ticks]
        assert found == wanted
        longest = max(np.diff(times))  # how long the last one is shown, a file may leave open
        assert (times[-1] + longest) / 1000 * fps + 1 >= len(found) >= times[-1] / 1000 * fps


def test_all_frames_of_a_video_at_its_own_rate():
    for count in (1, 2, 11, 30):
        assert seen(worlds.encode_mp4(shades(min(count, 16)).repeat(2, 0)[:count], 8.0, {"crf": "1"}), 8.0) == [
            i // 2 for i in range(count)]


@pytest.mark.parametrize("fps", [24.0, 30.0, 30000 / 1001])
def test_stamps_that_are_rounded_lose_no_frame(tmp_path, fps):
    """A webm's are whole milliseconds."""
    write_video(tmp_path / "a.webm", shades(16), fps)
    assert seen((tmp_path / "a.webm").read_bytes(), fps) == list(range(16))


@pytest.mark.parametrize("rate, fps", [(8, 8), (24, 8), (10, 8), (4, 8)])
def test_pixels_of_a_steady_rate_are_resampled_as_a_file_is(rate, fps):
    frames = shades(12)
    found = [int(frame.mean()) // 16 for frame in resample(frames, rate, fps)]
    assert found == [min(int(k / fps * rate + 1e-9), 11) for k in range(int(np.ceil(12 / rate * fps)))]


def test_a_video_that_breaks_off_is_no_shorter_video(tmp_path):
    write_video(tmp_path / "v.mp4", worlds.film(0, 40), 8.0)  # its table of contents comes first
    whole = (tmp_path / "v.mp4").read_bytes()
    assert len(list(decode_video(whole, 8.0))) == 40
    for share in (0.3, 0.6, 0.8):
        with pytest.raises(BadRecord, match="truncated video|video undecodable"):
            list(decode_video(whole[:int(len(whole) * share)], 8.0))


def test_an_image_is_turned_as_its_camera_says():
    picture, buffer = worlds.picture(0), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # to be turned to the right
    Image.fromarray(picture).save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), np.rot90(picture, -1))
    clear = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(clear).save(buffer, "PNG")
    assert not decode_image(buffer.getvalue()).any()


def test_a_video_that_a_phone_took_upright_stands_upright():
    from types import SimpleNamespace

    from phenaki_jax.ingest import decode
    film = worlds.film(0, 1)[0]
    for rotation, turned in ((0, film), (90, np.rot90(film)), (-90, np.rot90(film, -1)), (180, film[::-1, ::-1])):
        frame = SimpleNamespace(rotation=rotation, width=64, height=48, colorspace=1,
                                to_ndarray=lambda **_: film)
        np.testing.assert_array_equal(decode._shrunk(frame, None), turned)


def test_a_gap_in_time_is_not_filled_with_frames():
    with pytest.raises(BadRecord, match="gap in time: 86400 seconds"):
        list(decode_video(timed(shades(3), [0, 125, 86_400_125]), 8.0))


@pytest.mark.parametrize("parts, reason, settings", [
    pytest.param(*damage, settings, id=f"{settings.kind}-{name}")
    for settings, kinds in ((IMAGES, worlds.DAMAGED_IMAGES), (VIDEOS, worlds.DAMAGED_VIDEOS))
    for name, damage in kinds.items()])
def test_what_is_damaged_has_its_reason(parts, reason, settings):
    with pytest.raises(BadRecord) as error:
        made(from_files("k", parts), settings)
    assert error.value.reason == reason


# ------------------------------------------------------------------------------------------------- cutting

def test_scenes_are_cut_where_the_picture_changes_and_nowhere_else():
    night, day = worlds.film(0, 14) // 4, 128 + worlds.film(1, 13) // 2
    frames = np.concatenate([night, day])
    assert [(first, len(part)) for first, part in cut.scenes(frames, 0.4, 100)] == [(0, 14), (14, 13)]
    assert [(first, len(part)) for first, part in cut.scenes(frames, 1.0, 10)] == [(0, 10), (10, 10), (20, 7)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in cut.scenes(frames, 0.4, 5)]), frames)
    found, lost = made(Sample("k", frames, "", "a", fps=8.0), Settings("video", "s", ((32, 48),), min_frames=14))
    assert [record["key"] for record in found] == ["k#000000"] and lost == {"clip too short": 1}


def test_a_story_keeps_its_captions_and_their_times():
    sample = Sample("k", worlds.film(0, 30), "", "all", fps=8.0, captions=[(1.5, "two"), (0.0, "one"), (3.0, "three")])
    found, _ = made(sample, Settings("video", "s", ((32, 48),), max_frames=16))
    assert [(r["key"], r["captions"], r["starts"].tolist()) for r in found] == [
        ("k#000000", ["one", "two"], [0, 12]), ("k#000016", ["two", "three"], [0, 8])]


def test_sizes_crops_and_what_is_too_small():
    sizes = ((64, 64), (48, 80), (80, 48))
    assert [cut.nearest_size(*shape, sizes) for shape in ((100, 100), (90, 160), (300, 200), (1000, 1))] == [
        (64, 64), (48, 80), (80, 48), (80, 48)]
    wide = np.zeros((2, 64, 128, 3), np.uint8)
    wide[:, :, 64:] = 200
    assert (cut.to_size(wide, (64, 64), 0.0) == 0).all() and (cut.to_size(wide, (64, 64), 1.0) == 200).all()
    np.testing.assert_array_equal(cut.to_size(wide, (64, 64)), wide[:, :, 32:96])
    places = {cut.crop_of("random", f"k{i}") for i in range(50)}
    assert len(places) == 50 and cut.crop_of("random", "k1") == cut.crop_of("random", "k1")
    with pytest.raises(BadRecord, match="too small: 72 x 96"):
        made(Sample("k", worlds.picture(0)[None], "", "a"), Settings("image", "s", ((73, 73),)))
    larger = Settings("image", "s", ((128, 128),), upscale=True)
    ((record,), _) = made(Sample("k", worlds.picture(0)[None], "", "a"), larger)
    assert record["video"].shape == (1, 128, 128, 3)


# ------------------------------------------------------------------------------------------------- filters

@pytest.mark.parametrize("text, values, wanted", [
    ("aesthetic>=5", {"AESTHETIC_SCORE ": 5.0}, True), ("aesthetic>=5", {"aesthetic": "4.9"}, False),
    ("watermark<=0.5", {"pwatermark": 0.6}, False), ("unsafe<=0.1", {"NSFW": "UNLIKELY"}, True),
    ("unsafe<=0.1", {"nsfw": "NSFW"}, False), ("unsafe<=0.9", {"punsafe": float("nan")}, False),
    ("language=en,de", {"LANGUAGE": "DE"}, True), ("language=en", {"lang": "fr"}, False),
    ("similarity>=0.3", {"clip_similarity_vitb32": 0.31}, True), ("caption_length>=4", {}, False),
    ("unsafe=UNLIKELY,0.5", {"nsfw": "unsure"}, True), ("caption_length=3", {}, True),
    ("unsafe=0", {"punsafe": 0.1}, False)])
def test_filters_know_the_fields_of_sources(text, values, wanted):
    (one,) = parse_filters([text])
    known = known_fields(values, "abc")
    if wanted:
        one.check(known)
    else:
        with pytest.raises(BadRecord, match=f"filter: {one.name}"):
            one.check(known)


def test_a_filter_whose_field_is_missing_keeps_nothing_unless_told():
    strict, lenient = parse_filters(["unsafe<=0.5", "aesthetic>=5"], ["aesthetic"])
    with pytest.raises(BadRecord, match="missing: unsafe"):
        strict.check(known_fields({}, "a"))
    lenient.check(known_fields({}, "a"))
    assert lenient == Filter("aesthetic", ">=", 5.0, True)


@pytest.mark.parametrize("texts, missing, words", [
    (["beauty>=5"], [], "--filter='beauty>=5' is none"), (["aesthetic>5"], [], "is none"),
    (["aesthetic>=high"], [], "'high' is no number"), (["language>=5"], [], "write language=en"),
    (["side>=64"], ["unsafe"], "--keep_missing='unsafe'")])
def test_wrong_filters_are_one_sentence(texts, missing, words):
    with pytest.raises(UserError, match=words):
        parse_filters(texts, missing)


@pytest.mark.parametrize("text, kept", [
    ("side>=72", True), ("width<=95", False), ("aspect<=1.5", True), ("height>=73", False)])
def test_filters_of_pictures_measure_them_as_they_came(text, kept):
    settings = Settings("image", "s", ((16, 16),), filters=parse_filters([text]))
    for kind, media in (("image", worlds.JPEG), ("video", worlds.filmed(0, height=72, width=96))):
        from dataclasses import replace
        sample = Sample("k", media, "jpg" if kind == "image" else "mp4", "a")
        if kept:
            assert made(sample, replace(settings, kind=kind))[0][0]["video"].shape[1:] == (16, 16, 3)
        else:
            with pytest.raises(BadRecord, match="filter: "):
                made(sample, replace(settings, kind=kind))


def test_filters_of_clips_measure_each_clip():
    frames = np.concatenate([np.repeat(worlds.film(0, 1), 12, 0), worlds.film(0, 12)])
    found, lost = made(Sample("k", frames, "", "a", fps=8.0), Settings(
        "video", "s", ((32, 48),), max_frames=12, filters=parse_filters(["motion>=1"])))
    assert [record["key"] for record in found] == ["k#000012"] and lost == {"filter: motion": 1}
    with pytest.raises(BadRecord, match="filter: duration"):
        made(Sample("k", frames, "", "a", fps=8.0), Settings("video", "s", ((32, 48),), filters=parse_filters(
            ["duration>=3.5"])))


@pytest.mark.parametrize("change, words", [
    ({"kind": "sound"}, "--kind='sound'"), ({"crop": "left"}, "--crop='left'"), ({"sizes": ()}, "--size"),
    ({"fps": 0.0}, "--fps=0"), ({"min_frames": 9, "max_frames": 8}, "max_frames=8"),
    ({"test_share": 2.0}, "--test_share")])
def test_wrong_settings_are_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        Settings(**{"kind": "video", "name": "s", "sizes": ((8, 8),), **change})
