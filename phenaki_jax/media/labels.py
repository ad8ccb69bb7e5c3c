"""What a file says of itself: a label, any text, and that what it shows was generated.

The label is a file's comment: of mp4 and webm the container's, of a gif its comment extension, of a png the text chunk
Comment, of a jpg or webp dc:description in its XMP. Images that carry one also say in XMP what the IPTC asks of
generated pictures (Photo Metadata Standard, Digital Source Type).
"""

import hashlib
import os
import pathlib
import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from phenaki_jax.errors import UserError
from phenaki_jax.media import films, stills
from phenaki_jax.media.files import frame_files

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
# XML and the containers cannot carry each of Unicode's characters: those become \ufff9 and their four hex digits.
_UNSAFE, _MADE_SAFE = re.compile("[\0-\x08\x0b-\x1f\ufff9\ufffe\uffff]"), re.compile("\ufff9([0-9A-F]{4})")
_DC, _RDF = "http://purl.org/dc/elements/1.1/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# A segment of a jpg holds at most 65,533 bytes: longer XMP goes on in others (XMP Specification Part 3, 1.1.3.1).
_SEGMENT, _MAIN, _MORE = 65533, b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_NOTE = "http://ns.adobe.com/xmp/note/"
_SOURCE = (f'<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">{GENERATED}'
           "</Iptc4xmpExt:DigitalSourceType>")


def safe(label: str) -> str:
    """A label as files carry it. Raises: UserError where it has lone surrogates, which are no text."""
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"label has {label[error.start]!r} at {error.start}, which is no character; it should be text "
                        "that UTF-8 can write.") from None
    return _UNSAFE.sub(lambda found: f"\ufff9{ord(found[0]):04X}", label)


def _unsafe(text: str) -> str:
    return _MADE_SAFE.sub(lambda found: chr(int(found[1], 16)), text)


def png_chunks(label: str):
    """Pillow's `pnginfo` of a label."""
    from PIL.PngImagePlugin import PngInfo
    chunks = PngInfo()
    chunks.add_itxt("Comment", safe(label))
    chunks.add_itxt("XML:com.adobe.xmp", _packet(_SOURCE).decode())
    return chunks


def xmp(label: str) -> bytes:
    """An XMP packet with a label."""
    return _packet(_SOURCE + _description(label))


def labelled_jpeg(data: bytes, label: str) -> bytes:
    """The bytes of a jpg with a label's XMP after its first segment."""
    segments, packet = b"", xmp(label)
    if len(_MAIN) + len(packet) > _SEGMENT:
        rest = _rdf(_description(label))
        name = hashlib.md5(rest, usedforsecurity=False).hexdigest().upper().encode()
        packet = _packet(_SOURCE + f'<n:HasExtendedXMP xmlns:n="{_NOTE}">{name.decode()}</n:HasExtendedXMP>')
        step = _SEGMENT - len(_MORE) - len(name) - 8
        segments = b"".join(
            _segment(_MORE + name + len(rest).to_bytes(4, "big") + start.to_bytes(4, "big") + rest[start:start + step])
            for start in range(0, len(rest), step))
    place = 4 + int.from_bytes(data[4:6], "big")  # after JFIF's own segment, which has to be the first
    return data[:place] + _segment(_MAIN + packet) + segments + data[place:]


def _segment(data: bytes) -> bytes:
    return b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data


def _description(label: str) -> str:
    return (f'<dc:description xmlns:dc="{_DC}"><rdf:Alt><rdf:li xml:lang="x-default">{escape(safe(label))}</rdf:li>'
            "</rdf:Alt></dc:description>")


def _rdf(properties: str) -> bytes:
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about="">'
            f"{properties}</rdf:Description></rdf:RDF></x:xmpmeta>").encode()


def _packet(properties: str) -> bytes:
    begin, end = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="r"?>'
    return begin.encode() + _rdf(properties) + end.encode()


def read_label(path: str | os.PathLike) -> str:
    """The text that a file of any kind carries as its comment, of a folder its first frame's; "" where there is none.

    Raises:
      UserError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if path.is_dir():
        frames = frame_files(path)
        return read_label(frames[0]) if frames else ""
    if not path.is_file():
        raise UserError(f"{path} is no file.")
    try:
        return _unsafe(_of_image(path) if stills.is_image(path) else films.comment(path))
    except Exception:  # noqa: BLE001  a file that cannot be read has no label, whatever its parser stumbles over
        return ""


def _of_image(path: pathlib.Path) -> str:
    with stills.opened(path) as image:
        if image.format == "GIF":
            return image.info.get("comment", b"").decode()
        if image.format == "PNG":
            return str(image.info.get("Comment", ""))
        packet = image.info.get("xmp")
        if not packet:
            return ""
        root = ElementTree.fromstring(packet)
        name = root.findtext(f".//{{{_NOTE}}}HasExtendedXMP")
        if name:
            head = _MORE + name.encode()
            parts = [data[len(head) + 4:] for kind, data in image.applist if kind == "APP1" and data.startswith(head)]
            root = ElementTree.fromstring(b"".join(part[4:] for part in sorted(parts)))
    return root.findtext(f".//{{{_DC}}}description/{{{_RDF}}}Alt/{{{_RDF}}}li", "")
