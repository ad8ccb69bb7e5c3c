"""Sources as they come: each form is cut into units, which workers read one after another.

webdataset   tars of KEY.{jpg,png,webp,mp4,webm}, KEY.txt, KEY.json: what img2dataset and video2dataset write
parquet      their parquet form, media in a column named jpg, png, webp, mp4 or webm
tfrecord     their tfrecord form, likewise
urls         parquet that names its media: LAION's metadata (URL, TEXT, similarity, …)
csv          a table beside a folder of clips: WebVid's (videoid, page_dir, name, …), or any with a column of files
jsonl        an object a line: a file, and one caption or several with times, for stories
folder       media files with captions beside them
tfds         any TFDS data set, by its own builder: tfds:NAME or tfds:NAME/CONFIG
"""

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from phenaki_jax.errors import UserError
from phenaki_jax.ingest import places
from phenaki_jax.ingest.samples import CAPTION_FIELDS, IMAGES, VIDEOS, Sample, Unit, broken, from_files, named, told_by
from phenaki_jax.ingest.tars import tar_samples

ROWS = 1000  # of a table or files of a folder in a unit
FILE_FIELDS = ("file", "path", "video", "image", "filename", "file_name", "filepath", "url")
KEY_FIELDS = ("key", "videoid", "id", "sample_id")
ERROR = "\0"  # the name of a field that says why a row cannot be read


# ------------------------------------------------------------------------------------------------- to units

def find_units(source: str, form: str = "auto", options: Mapping[str, Any] | None = None) -> list[Unit]:
    """The units of a source, in the order of their names.

    Args:
      source: a file, a folder, or tfds:NAME; here or remote.
      form: of FORMS, or "auto" to tell it by the files' names.
      options: {"videos": folder of a table's files, "data_dir", "media_feature", "caption_feature": of a TFDS set}.

    Raises: UserError for a source that is not there, is empty, or of a form that cannot be told.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    if form not in ("auto", *FORMS):
        raise UserError(f"--form={form!r} is unknown; it is one of auto, {', '.join(FORMS)}")
    if source.startswith("tfds:"):
        from phenaki_jax.ingest.tfds_source import find_tfds_units
        return find_tfds_units(source.removeprefix("tfds:"), options)
    if not places.exists(source):
        raise UserError(f"--source={source!r} is not there; give a file, a folder, or tfds:NAME")
    single = places.is_file(source)
    root, names = source.rpartition("/")[::2] if single else (source, places.files(source))
    root, names = root or ".", [names] if single else names
    form = _form(root, names) if form == "auto" else form
    units = list(FORMS[form].units(root, names, options))
    if not units:
        raise UserError(f"--source={source!r} has nothing of --form={form}")
    return [unit._replace(form=form, options=tuple(sorted(options.items()))) for unit in units]


def _form(root: str, names: Sequence[str]) -> str:
    suffixes = [name.rpartition(".")[2].lower() for name in names]
    for suffix, form in (("tar", "webdataset"), ("tfrecord", "tfrecord"), ("parquet", None), ("jsonl", "jsonl"),
                         ("csv", "csv"), ("tsv", "csv")):
        if suffix in suffixes:
            found = form or _parquet_form(places.join(root, names[suffixes.index(suffix)]))
            if found == "urls" and set(suffixes) & {*IMAGES, *VIDEOS}:  # img2dataset's `files`, with its log beside
                return "folder"
            return found
    if any(suffix in IMAGES + VIDEOS for suffix in suffixes):
        return "folder"
    raise UserError(f"--source={root!r} has no tars, tables, records or media files; give another, or its --form")


def _parquet_form(path: str) -> str:
    try:
        with _parquet(path) as table:
            columns = {column.name: str(column.type) for column in table.schema_arrow}
    except _Damaged as error:
        raise UserError(f"{path!r} cannot be read ({error}); give --form=parquet or --form=urls") from None
    media = any(name.lower() in IMAGES + VIDEOS or kind.startswith("struct<bytes: binary")  # as Hugging Face has them
                for name, kind in columns.items())
    return "parquet" if media else "urls"


def _files(*suffixes: str) -> Callable[..., Iterator[Unit]]:
    """Units of whole files."""
    def units(root: str, names: Sequence[str], options: Mapping) -> Iterator[Unit]:
        for name in names:
            if name.rpartition(".")[2].lower() in suffixes:
                yield Unit(name, "", places.join(root, name))
    return units


def _rows(*suffixes: str) -> Callable[..., Iterator[Unit]]:
    """Units of some rows of a table: `begin` and `end` are bytes, `names` the number of the first row."""
    def units(root: str, names: Sequence[str], options: Mapping) -> Iterator[Unit]:
        for unit in _files(*suffixes)(root, names, options):
            marks, row, end = [(0, 0)], 0, 0
            for row, end in enumerate(_row_ends(unit.path), 1):
                if row % ROWS == 0:
                    marks.append((row, end))
            if marks[-1][0] != row:
                marks.append((row, end))
            for (first, begin), (last, end) in zip(marks, marks[1:]):
                yield unit._replace(name=f"{unit.name}[{first}:{last}]", begin=begin, end=end, names=(str(first),))
    return units


def _row_groups(*suffixes: str) -> Callable[..., Iterator[Unit]]:
    """Units of row groups of parquet, from number `begin` to `end`: as many as have ROWS rows together, or one.

    Of a damaged file one for all.
    """
    def units(root: str, names: Sequence[str], options: Mapping) -> Iterator[Unit]:
        for unit in _files(*suffixes)(root, names, options):
            try:
                with _parquet(unit.path) as table:
                    groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            except _Damaged:
                groups = []
            first = rows = begin = 0
            for index, count in enumerate(groups, 1):
                rows += count
                if rows >= ROWS or index == len(groups):
                    yield unit._replace(name=f"{unit.name}[{first}:{first + rows}]", begin=begin, end=index,
                                        names=(str(first),))
                    first, rows, begin = first + rows, 0, index
            if not groups:
                yield unit
    return units


def _folder_units(root: str, names: Sequence[str], options: Mapping) -> Iterator[Unit]:
    media = [name for name in names if name.rpartition(".")[2].lower() in IMAGES + VIDEOS]
    for begin in range(0, len(media), ROWS):
        part = tuple(media[begin:begin + ROWS])
        yield Unit(f"files[{begin}:{begin + len(part)}]", "", root, begin, begin + len(part), part)


# ------------------------------------------------------------------------------------------------- from units

def read_samples(unit: Unit) -> Iterator[Sample]:
    """The samples of a unit, in its order; those that cannot be used have a `problem`."""
    return FORMS[unit.form].samples(unit)


def _webdataset(unit: Unit) -> Iterator[Sample]:
    """A table of the same name beside the tar, as img2dataset writes one, tells more of its samples."""
    beside, more = unit.path.removesuffix(".tar") + ".parquet", {}
    if places.is_file(beside):
        try:
            with _parquet(beside) as table:
                more = {str(named(row, KEY_FIELDS)): row for row in table.read().to_pylist()}
        except _Damaged as error:
            yield broken(beside.rpartition("/")[2], "damaged shard", error)
    for key, parts in tar_samples(unit.path):
        if isinstance(parts, Exception):
            yield broken(key, "damaged shard", parts)
        else:
            yield from_files(key, parts, more.get(key.rpartition("/")[2]))


class _Damaged(Exception):
    """A parquet file that cannot be read, or not on."""


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """A parquet file, open. Raises: _Damaged; UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} is parquet; reading it needs pip install 'phenaki_jax[ingest]'") from None
    try:
        with places.reading(path) as file:
            yield pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise _Damaged(str(error)) from None


def _parquet_rows(unit: Unit) -> Iterator[tuple[str, dict[str, Any] | None, Exception | None]]:
    """(key, row, None) of every row, or (key, None, error) where the file cannot be read on."""
    index = int(unit.names[0]) if unit.names else 0
    try:
        with _parquet(unit.path) as table:
            for batch in table.iter_batches(64, row_groups=range(unit.begin, unit.end) if unit.end else None):
                for row in batch.to_pylist():
                    key = named(row, KEY_FIELDS)
                    yield str(index if key is None else key), row, None
                    index += 1
    except _Damaged as error:
        yield f"{unit.name}[{index}:]", None, error


def _parquet_samples(unit: Unit) -> Iterator[Sample]:
    for key, row, error in _parquet_rows(unit):
        if row is None:
            yield broken(key, "damaged shard", error)
            continue
        parts = {}
        for name in list(row):
            value = row[name]
            if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):  # as Hugging Face writes them
                parts[told_by(value["bytes"])] = row.pop(name)["bytes"]
            elif name.lower() in IMAGES + VIDEOS and (value is None or isinstance(value, bytes)):
                parts[name.lower()] = row.pop(name)
        yield from_files(key, {name: value for name, value in parts.items() if value is not None}, row)


def _url_samples(unit: Unit) -> Iterator[Sample]:
    for key, row, error in _parquet_rows(unit):
        url = row and named(row, FILE_FIELDS)
        if row is None:
            yield broken(key, "damaged shard", error)
        elif not url:
            yield broken(key, "no media", "its row names no file")
        else:
            yield _from_file(key, _place(url, unit), row)


def _row_ends(path: str) -> Iterator[int]:
    """Where each row of a csv, tsv or jsonl file ends, in bytes; a table's header belongs to its first row."""
    with places.reading(path) as file:
        end, quotes, header = 0, 0, not path.endswith(".jsonl")
        for line in file:
            end += len(line)
            quotes += line.count(b'"') if not path.endswith(".jsonl") else 0
            if quotes % 2:  # the line ends inside of a field
                continue
            if header:
                header = False
                continue
            yield end
        if quotes % 2:
            yield end


def _table(unit: Unit) -> Iterator[dict[str, Any]]:
    """Rows of a unit of a csv, tsv or jsonl file; a row that cannot be read is {ERROR: why}."""
    lines = unit.path.endswith(".jsonl")
    with places.reading(unit.path) as file:
        header = b"" if lines or not unit.begin else _header(file)
        file.seek(unit.begin)
        text = (header + file.read(unit.end - unit.begin)).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if not lines:
        csv.field_size_limit(1 << 30)
        tabs = unit.path.endswith(".tsv")
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")
        return
    for line in filter(str.strip, text.split("\n")):
        try:
            row = json.loads(line)
            yield row if isinstance(row, dict) else {ERROR: "it is no object"}
        except (ValueError, RecursionError) as error:
            yield {ERROR: str(error)}


def _header(file: IO[bytes]) -> bytes:
    """A table's first row."""
    header = file.readline()
    while header.count(b'"') % 2 and (line := file.readline()):
        header += line
    return header


def _table_samples(unit: Unit) -> Iterator[Sample]:
    for index, row in enumerate(_table(unit), int(unit.names[0])):
        key = str(named(row, KEY_FIELDS) or index)
        if ERROR in row:
            yield broken(key, "row unreadable", row[ERROR])
            continue
        path = _find_file(row, unit)
        yield broken(key, "no media", "no file is there for its row") if path is None else _from_file(key, path, row)


def _find_file(row: Mapping[str, Any], unit: Unit) -> str | None:
    """The file of a row: as it names it, or where WebVid's downloads lie, PAGE_DIR/VIDEOID.mp4."""
    if name := named(row, FILE_FIELDS):
        return _place(str(name), unit)
    key, page = named(row, KEY_FIELDS), named(row, ("page_dir",))
    for inside in ([f"{page}/{key}"] if page else []) + [f"videos/{page}/{key}" if page else f"videos/{key}", str(key)]:
        for suffix in VIDEOS:
            if places.is_file(path := _place(f"{inside}.{suffix}", unit)):
                return path
    return None


def _place(name: str, unit: Unit) -> str:
    """Where a file that a table names lies."""
    if places.is_remote(name) or name.startswith("/"):
        return name
    return places.join(dict(unit.options).get("videos") or unit.path.rpartition("/")[0] or ".", name)


def _from_file(key: str, path: str, row: Mapping[str, Any]) -> Sample:
    suffix = path.partition("?")[0].rpartition(".")[2].lower()
    sample = Sample(key, None, suffix if suffix in IMAGES + VIDEOS else "", named(row, CAPTION_FIELDS), row, path=path)
    if timed := row.get("captions"):
        try:
            sample.captions = [(float(one.get("start", 0)), one["text"] if "text" in one else one["caption"])
                               for one in timed]
            if not all(math.isfinite(second) and isinstance(text, str) for second, text in sample.captions):
                raise ValueError("a start that is no time, or a text that is none")
            sample.caption = sample.caption or sample.captions[0][1]
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            return broken(key, "captions unreadable", error)
    return sample


def _folder_samples(unit: Unit) -> Iterator[Sample]:
    for name in unit.names:
        path, parts = places.join(unit.path, name), {}
        stem, _, suffix = path.rpartition(".")
        parts[suffix.lower()] = path
        try:
            for beside in ("txt", "json"):
                if places.is_file(f"{stem}.{beside}"):
                    parts[beside] = places.read(f"{stem}.{beside}")
        except OSError as error:
            yield broken(name, "missing file", error)
            continue
        yield from_files(name, parts)


def _tfrecord_samples(unit: Unit) -> Iterator[Sample]:
    import tensorflow as tf
    index = 0
    try:
        for data in tf.data.TFRecordDataset(unit.path).as_numpy_iterator():
            features = tf.train.Example.FromString(data).features.feature
            row = {name: _feature(value) for name, value in features.items()}
            media = {name.lower(): row.pop(name) for name in list(row) if name.lower() in IMAGES + VIDEOS}
            key = named(row, KEY_FIELDS)
            row = {name: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
                   for name, value in row.items()}
            yield from_files(str(index) if key is None else _text(key), {k: v for k, v in media.items() if v}, row)
            index += 1
    except (tf.errors.OpError, ValueError) as error:
        yield broken(f"{unit.name}[{index}:]", "damaged shard", str(error).splitlines()[0])
    except Exception as error:  # noqa: BLE001  protobuf's own DecodeError, which has no public name
        if type(error).__name__ != "DecodeError":
            raise
        yield broken(f"{unit.name}[{index}:]", "damaged shard", error)


def _feature(value: Any) -> Any:
    values = list(getattr(value, value.WhichOneof("kind") or "bytes_list").value)
    return values[0] if len(values) == 1 else values or None


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _tfds_samples(unit: Unit) -> Iterator[Sample]:
    from phenaki_jax.ingest.tfds_source import tfds_samples
    return tfds_samples(unit)


class Form(NamedTuple):
    """units: (root, names, options) -> units without form and options. samples: unit -> its samples."""
    units: Callable[[str, Sequence[str], Mapping], Iterator[Unit]] | None
    samples: Callable[[Unit], Iterator[Sample]]


FORMS = {
    "webdataset": Form(_files("tar"), _webdataset),
    "parquet": Form(_row_groups("parquet"), _parquet_samples),
    "tfrecord": Form(_files("tfrecord"), _tfrecord_samples),
    "urls": Form(_row_groups("parquet"), _url_samples),
    "csv": Form(_rows("csv", "tsv"), _table_samples),
    "jsonl": Form(_rows("jsonl"), _table_samples),
    "folder": Form(_folder_units, _folder_samples),
    "tfds": Form(None, _tfds_samples),
}
