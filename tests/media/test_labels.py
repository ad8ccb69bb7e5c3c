"""Labels against hand-written readers of each format."""

import io
import json
import re
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from phenaki_jax import media
from phenaki_jax.errors import UserError

KINDS = (*media.IMAGES, *media.VIDEOS)
MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
ANY = "".join(chr(c) for c in range(0xD800)) + "".join(chr(c) for c in range(0xE000, 0x110000, 17))
LABELS = {
    "plain": "made by a model", "json": json.dumps({"prompt": "the \"cat\" & <dog>\n", "seed": 3, "é": [1.5, None]}),
    "unicode": "Жираф 🦒 \u200d\u2028\ufeff عربى e\u0301", "spaces": "  \n two\r\nlines\r \t ",
    "control": "a\0b\x01\x1b\x7f\x85",
    "its own escape": "\ufff90041 \ufff9 \uffff\ufffe", "bom": "\ufeffbom", "xml": "]]></rdf:li><!-- &amp; &#65; '\"",
    "escapes": "; # = \\ \\; \\n % %20", "long": json.dumps([f"scene {i}: a cat" for i in range(5000)]),
    "long unicode": "длинно 🦒 " * 7000, "all characters": ANY,
    **{f"length {n}": "x" * n for n in (1, 254, 255, 256, 510, 65000, 65180, 65300, 65502, 65503, 65536, 131000)},
}


def written(path, label: str = ""):
    media.write_video(path, CLIP[:1] if path.suffix in media.IMAGES else CLIP, 8.0, label=label)
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_labels_come_back_and_change_no_pixel(tmp_path, suffix):
    plain = written(tmp_path / f"plain{suffix}")
    assert media.read_label(plain) == ""
    pixels, fps = media.read_video(plain)
    for name, label in LABELS.items():
        path = written(tmp_path / f"a{suffix}", label)
        assert media.read_label(path) == label, name
        back, rate = media.read_video(path)
        np.testing.assert_array_equal(back, pixels)
        assert rate == fps
    data = path.read_bytes()
    assert written(path, label).read_bytes() == data != plain.read_bytes()
    assert written(path).read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("suffix", KINDS)
def test_a_label_that_is_no_text_is_the_users(tmp_path, suffix):
    with pytest.raises(UserError, match=r"label has '\\ud800' at 1"):
        written(tmp_path / f"a{suffix}", "a\ud800")
    assert not list(tmp_path.iterdir())


def png_texts(data: bytes) -> dict[bytes, bytes]:
    found, place = {}, 8
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place:place + 8])
        body = data[place + 8:place + 8 + size]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[place + 8 + size:place + 12 + size])[0]
        if kind == b"iTXt":
            keyword, rest = body.split(b"\0", 1)
            assert rest[:2] == b"\0\0"  # not compressed
            found[keyword] = rest[2:].split(b"\0", 2)[2]
        place += size + 12
    return found


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    found, place = [], 2
    while data[place + 1] != 0xDA:
        size = struct.unpack(">H", data[place + 2:place + 4])[0]
        assert data[place] == 0xFF
        found.append((data[place + 1], data[place + 4:place + 2 + size]))
        place += size + 2
    return found


def webp_chunks(data: bytes) -> dict[bytes, bytes]:
    found, place = {}, 12
    while place < len(data):
        kind, size = struct.unpack("<4sI", data[place:place + 8])
        found[kind] = data[place + 8:place + 8 + size]
        place += 8 + size + size % 2
    return found


def test_images_say_that_they_were_generated_and_how(tmp_path):
    label = LABELS["json"]
    texts = png_texts(written(tmp_path / "a.png", label).read_bytes())
    assert texts[b"Comment"].decode() == label and MARK in texts[b"XML:com.adobe.xmp"]
    segments = jpeg_segments(written(tmp_path / "a.jpg", label).read_bytes())
    assert segments[0][0] == 0xE0 and segments[0][1].startswith(b"JFIF\0")
    xmp = [body[29:] for kind, body in segments if kind == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0")]
    packets = [*xmp, webp_chunks(written(tmp_path / "a.webp", label).read_bytes())[b"XMP "]]
    assert len(packets) == 2
    for packet in packets:
        text = packet.decode()
        assert re.search(r"<Iptc4xmpExt:DigitalSourceType[^>]*>" + re.escape(MARK.decode()) + "<", text)
        inner = re.search(r'<rdf:li xml:lang="x-default">(.*)</rdf:li>', text, re.DOTALL)[1]
        assert inner.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == label
    for suffix in media.IMAGES:
        assert MARK not in written(tmp_path / f"b{suffix}").read_bytes()


def test_long_xmp_of_a_jpeg_goes_on_in_other_segments(tmp_path):
    """As the XMP specification, part 3, 1.1.3.1 has it."""
    segments = jpeg_segments(written(tmp_path / "a.jpg", LABELS["long unicode"]).read_bytes())
    main = [body for kind, body in segments if kind == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0")]
    head = b"http://ns.adobe.com/xmp/extension/\0"
    more = [body[len(head):] for kind, body in segments if kind == 0xE1 and body.startswith(head)]
    name = re.search(rb"HasExtendedXMP[^>]*>([0-9A-F]{32})<", main[0])[1]
    assert len(main) == 1 and MARK in main[0] and len(more) == 2
    assert {part[:32] for part in more} == {name}
    whole, = {struct.unpack(">I", part[32:36])[0] for part in more}
    joined = b"".join(part[40:] for part in more)
    assert len(joined) == whole and [struct.unpack(">I", part[36:40])[0] for part in more] == [
        sum(len(part) - 40 for part in more[:i]) for i in range(len(more))]
    assert LABELS["long unicode"].encode() in joined


@pytest.mark.parametrize("suffix", media.VIDEOS)
def test_other_readers_find_the_comment(tmp_path, suffix):
    label = LABELS["json"]
    path = written(tmp_path / f"a{suffix}", label)
    with av.open(str(path)) as container:
        assert {key.lower(): value for key, value in container.metadata.items()}["comment"] == label
    if suffix == ".gif":
        with Image.open(path) as image:
            assert image.info["comment"].decode() == label
    else:
        assert label.encode() in path.read_bytes()


def test_what_carries_no_label(tmp_path):
    with pytest.raises(UserError, match="missing.png does not exist"):
        media.read_label(tmp_path / "missing.png")
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "empty.gif").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    Image.fromarray(CLIP[0]).save(tmp_path / "a.bmp")
    Image.fromarray(CLIP[0]).save(tmp_path / "a.jpg", xmp=b"<no xml")
    Image.fromarray(CLIP[0]).save(tmp_path / "b.gif", comment=b"\xff\xfe no UTF-8")
    for path in tmp_path.iterdir():
        assert media.read_label(path) == ""


def test_labels_of_others_are_read(tmp_path):
    Image.fromarray(CLIP[0]).save(tmp_path / "a.gif", comment="von Hand".encode())
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        container.metadata["comment"] = "von Hand"
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(CLIP[0], format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    assert media.read_label(tmp_path / "a.gif") == media.read_label(tmp_path / "a.mkv") == "von Hand"


def test_a_pictures_pixels_are_stored_alike_with_a_label(tmp_path):
    """Not only decoded: what is compressed is the same, byte for byte."""
    for suffix in media.IMAGES:
        plain, labelled = (written(tmp_path / f"{name}{suffix}", label).read_bytes()
                           for name, label in (("a", ""), ("b", LABELS["unicode"])))
        match suffix:
            case ".png":
                cut = lambda data: data[data.index(b"IDAT"):]
            case ".webp":
                cut = lambda data: webp_chunks(data)[b"VP8L"]
            case _:
                cut = lambda data: data[data.index(b"\xff\xdb"):]
        assert cut(plain) == cut(labelled)
    buffer = io.BytesIO()
    Image.fromarray(CLIP[0]).save(buffer, "JPEG", quality=95)
    assert written(tmp_path / "c.jpg").read_bytes() == buffer.getvalue()
