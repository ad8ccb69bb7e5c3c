"""Records on disk: what `phenaki ingest` writes and the loader reads by position.

A data set is a folder. manifest.json says what is in it (`ingest.manifest`); its records lie in shards, ArrayRecord
files of one record a group. A record's bytes are

    4 bytes   PJR1
    4 bytes   length of the header, unsigned, little-endian
    header    JSON, UTF-8
    blobs     one after another, as header["blobs"] lists them: [[name, length], ...]

The header has key, source, caption, fps (0 for an image) and frames, height, width; where the caption changes also
captions and starts (`schema.Record`); and fields, whatever numbers and names the source knew of the record. The blob
"media" is a jpeg or png image, an mp4 video, or `raw`, the pixels of a video or an image as they are; header["media"]
says which.
"""

import bisect
import io
import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax.array_files import read_json
from phenaki_jax.errors import DataError, UserError

MANIFEST = "manifest.json"
MAGIC, LENGTH = b"PJR1", struct.Struct("<I")
WRITER_OPTIONS = "group_size:1"  # a record a group: reading one never decodes another
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # records are asked for in no order
MAX_OPEN = 32  # shards that a process holds open of each data set


class BadRecord(Exception):
    """A record that cannot be used. reason: a few words, the same for all that fail alike; detail: of this one."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self):
        return BadRecord, (self.reason, self.detail)


def pack(header: Mapping[str, Any], blobs: Mapping[str, bytes]) -> bytes:
    """A record's bytes."""
    text = json.dumps({**header, "blobs": [[name, len(blob)] for name, blob in blobs.items()]}, ensure_ascii=False,
                      separators=(",", ":"), sort_keys=True).encode()
    return b"".join([MAGIC, LENGTH.pack(len(text)), text, *blobs.values()])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """Header and blobs of a record's bytes. Raises: BadRecord."""
    view, begin = memoryview(data), len(MAGIC) + LENGTH.size
    if view[:len(MAGIC)] != MAGIC or len(view) < begin:
        raise BadRecord("no record", "it does not begin with PJR1")
    end = begin + LENGTH.unpack(view[len(MAGIC):begin])[0]
    try:
        header = json.loads(bytes(view[begin:end]))
        blobs = {}
        for name, length in header["blobs"]:
            blobs[name] = view[end:end + length]
            end += length
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecord("damaged record", str(error)) from None
    if end != len(view):
        raise BadRecord("damaged record", f"{len(view)} bytes instead of {end}")
    return header, blobs


def decode(data: bytes) -> dict[str, Any]:
    """A record's bytes -> what `schema.Record` says, with fields where there are any. Raises: BadRecord.

    An mp4's video is a `LazyVideo`; np.asarray makes an array of it.
    """
    header, blobs = unpack(data)
    try:
        shape = tuple(header[name] for name in ("frames", "height", "width")) + (3,)
        record = {"video": _DECODERS[header["media"]](blobs["media"], shape, header["fps"]),
                  "fps": np.float32(header["fps"])}
    except (KeyError, TypeError) as error:
        raise BadRecord("damaged record", f"its header lacks {error}") from None
    record |= {name: header[name] for name in ("key", "source", "caption", "captions", "fields") if name in header}
    if "starts" in header:
        record["starts"] = np.asarray(header["starts"], np.int32)
    return record


class LazyVideo:
    """An mp4 whose frames are decoded when they are asked for, from the key frame before the first of them.

    Like uint8 [F, Y, X, 3] it has shape, dtype, nbytes (of what it holds), a length, and slices in time, all of which
    raise BadRecord where it is damaged.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, data: memoryview, shape: tuple[int, ...], fps: float):
        self._data, self.shape, self._fps = bytes(data), shape, fps

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:]

    def __getitem__(self, index: slice) -> np.ndarray:
        import av

        from phenaki_jax.media import rgb_of
        wanted, frames = range(len(self))[index], []
        if not wanted:
            return np.zeros((0, *self.shape[1:]), np.uint8)
        try:
            with av.open(io.BytesIO(self._data)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "NONE"
                if wanted[0]:
                    container.seek(int(wanted[0] / self._fps / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    number = round(float(frame.pts * stream.time_base) * self._fps)
                    if number in wanted:
                        frames.append(rgb_of(frame))
                    if number >= wanted[-1]:
                        break
        except (av.FFmpegError, OSError, IndexError, TypeError) as error:
            raise BadRecord("damaged record", str(error)) from None
        # H.264 keeps even sides: a row or a column that was added for it is left out again.
        video = np.stack(frames)[:, :self.shape[1], :self.shape[2]] if frames else np.zeros((0, 0, 0, 3), np.uint8)
        if video.shape != (len(wanted), *self.shape[1:]):
            raise BadRecord("damaged record", f"it gives {video.shape}, asked for {len(wanted)} frames of {self.shape}")
        return video


def _jpeg(blob: memoryview, shape: tuple[int, ...], fps: float) -> np.ndarray:
    import simplejpeg  # the pixels that Pillow gives, in a quarter of its time where images are small
    try:
        _check_shape((1, *simplejpeg.decode_jpeg_header(blob)[:2], 3), shape)
        return simplejpeg.decode_jpeg(blob)[None]
    except ValueError as error:
        raise BadRecord("damaged record", str(error)) from None


def _png(blob: memoryview, shape: tuple[int, ...], fps: float) -> np.ndarray:
    from PIL import Image
    try:
        with Image.open(io.BytesIO(blob)) as image:
            _check_shape((1, image.height, image.width, 3), shape)
            return np.asarray(image.convert("RGB"))[None]
    except (OSError, ValueError, SyntaxError) as error:
        raise BadRecord("damaged record", str(error)) from None


def _check_shape(found: tuple[int, ...], said: tuple[int, ...]) -> None:
    if found != said:
        raise BadRecord("damaged record", f"its image is {found}, its header says {said}")


def _raw(blob: memoryview, shape: tuple[int, ...], fps: float) -> np.ndarray:
    if len(blob) != np.prod(shape):
        raise BadRecord("damaged record", f"{len(blob)} bytes of pixels for {shape}")
    return np.frombuffer(blob, np.uint8).reshape(shape)


_DECODERS = {"jpeg": _jpeg, "png": _png, "mp4": LazyVideo, "raw": _raw}


def read_manifest(folder: Path) -> dict[str, Any]:
    """A data set's manifest.json. Raises: UserError where there is none."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{str(folder)!r} is no data set: it has no {MANIFEST}; `phenaki ingest --output={folder}` "
                        "makes one, and goes on where it was stopped")
    return read_json(folder / MANIFEST)


class Shards(Sequence):
    """The bytes of all records of some shards, by position; opened when they are read, and again after pickling.

    Args:
      shards: (file, number of records, positions in it that are left out) of each.
    """

    def __init__(self, shards: Sequence[tuple[Path, int, Sequence[int]]]):
        self.shards = [(str(path), count, sorted(out)) for path, count, out in shards]
        # Before how many of the kept ones each left-out position lies: it shifts those from there on.
        self._shifts = [[position - number for number, position in enumerate(out)] for _, _, out in self.shards]
        self._ends = list(itertools.accumulate(count - len(out) for _, count, out in self.shards))
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def place(self, index: int) -> tuple[int, int]:
        """The shard that a record lies in, and its position there."""
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0)
        return shard, position + bisect.bisect_right(self._shifts[shard], position)

    @property
    def files(self) -> list[str]:
        return [path for path, _, _ in self.shards]

    def file(self, index: int) -> str:
        """The file that a record lies in."""
        return self.shards[self.place(index)[0]][0]

    def __getitem__(self, index: int) -> bytes:
        """Raises: BadRecord."""
        shard, position = self.place(range(len(self))[index])
        for attempt in (1, 2):
            try:
                (data,) = self._reader(shard).read([position])
                return data
            except (IndexError, ValueError, RuntimeError, OSError) as error:
                self._open.pop(shard, None)
                try:  # whether it is the file's fault: what is out of reach is another one's for each host
                    with open(self.shards[shard][0], "rb") as file:
                        file.read(1)
                except OSError as why:
                    raise DataError(f"{self.shards[shard][0]} cannot be read ({why.strerror})") from None
                if attempt == 2:
                    raise BadRecord("damaged shard", f"{self.shards[shard][0]}: {error}") from None

    def _reader(self, shard: int) -> Any:
        from array_record.python import array_record_module
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(self._open))).close()
            path, count, _ = self.shards[shard]
            reader = array_record_module.ArrayRecordReader(path, READER_OPTIONS)
            if reader.num_records() != count:
                raise ValueError(f"it has {reader.num_records()} records, and the manifest says {count}")
            self._open[shard] = reader
        return self._open[shard]


class Records(Sequence):
    """The records of a split of a data set, or those of one size alone, decoded, by position.

    Attributes: folder; manifest; sizes: {(height, width): records} of the split.
    """

    def __init__(self, folder: Path, split: str, size: tuple[int, int] | None = None):
        self.folder, self.manifest, self.split = Path(folder), read_manifest(Path(folder)), split
        splits = self.manifest["splits"]
        if split not in splits:
            raise UserError(f"data.split={split!r} is no split of {str(folder)!r}; it has {', '.join(splits)}.")
        self.sizes = {tuple(one): count for one, count in splits[split]["sizes"]}
        if size is not None and size not in self.sizes:
            raise UserError(f"{str(folder)!r} has no records of {size[0]} x {size[1]}; it has "
                            f"{', '.join(f'{height} x {width}' for height, width in self.sizes)}.")
        entries = [entry for entry in self.manifest["shards"]
                   if entry["split"] == split and size in (None, tuple(entry["size"]))]
        self.data = Shards([(self.folder / entry["file"], entry["records"], entry["duplicates"]) for entry in entries])

    @property
    def files(self) -> list[str]:
        """Its shards' files."""
        return self.data.files

    @property
    def shards(self) -> list[tuple[str, int, list[int]]]:
        """(file, records in it, positions that are left out) of each shard."""
        return self.data.shards

    @classmethod
    def of_shard(cls, whole: "Records", path: str, count: int) -> "Records":
        """All records of one shard of a data set, those that are left out too."""
        part = cls.__new__(cls)
        part.__dict__ |= whole.__dict__ | {"data": Shards([(Path(path), count, ())])}
        return part

    def file(self, index: int) -> str:
        """The shard that a record lies in."""
        return self.data.file(index)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises: BadRecord."""
        return decode(self.data[index])
