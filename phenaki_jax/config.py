"""Configs: read from a Python file or from a run, changed by typed overrides, kept as JSON in the run's folder."""

import ast
import difflib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from phenaki_jax.errors import UserError

CHECKOUT = Path(__file__).resolve().parent.parent
RUN_CONFIG = "config.json"
STAGES = ("tokenizer", "generator", "critic")
BYTES = "bytes"  # the text.vocabulary that is no file
CHANGEABLE = ("sampling.", "provenance.", "text.path", "text.vocabulary")  # of a trained model
DEFAULT = "default"  # the provenance.deny_list that comes with the package
_POSITIVE = ("batch_size", "train.steps", "train.log_every", "train.checkpoint_every", "train.keep",
             "train.accumulate", "train.evaluate_every", "text.length")
PATHS = ("tokenizer_run", "generator_run", "train.init_from", "data.data_dir", "data.token_cache", "text.path",
          "text.vocabulary", "text.cache", "provenance.deny_list", "provenance.frame_checker",
          "provenance.certificate", "provenance.key")
# Fields that a config may leave out, and what they are then.
OPTIONAL = {"data.schedule": (), "data.sizes": (), "data.buckets": (), "data.token_cache": "",
            "data.workers": 0, "data.patience": 45.0, "data.max_bad": 0.01, "generator.conditions": (),
            "tokenizer.first_frame": "apart", "train.accumulate": 1, "train.ends_given": 0.0,
            "train.several_given": 0.0, "train.init_from": "", "train.noise_augmentation": 0.0,
            "sampling.noise_augmentation": 0.0,
            "text.path": "", "text.vocabulary": "", "text.activation": "", "text.dtype": "float32", "text.cache": "",
            "optimizer.mu_dtype": "float32",
            "train.spike": 0.0, "train.max_skipped": 10, "train.save_patience": 600.0, "train.wandb": "",
            "train.evaluate": (), "train.evaluate_every": 10_000, "train.evaluate_data": "", "train.evaluate_clips": 0,
            "provenance.label": True, "provenance.watermark": True, "provenance.deny_list": DEFAULT,
            "provenance.frame_checker": "", "provenance.certificate": "", "provenance.key": "",
            "tokenizer.attention_block": 512, "generator.attention_block": 512, "critic.attention_block": 512}


def load_config(source: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """A config from a file, with some of its fields changed.

    source: "configs/NAME.py" or "configs/NAME.py:arg" (a Python file with ``get_config(arg) -> ConfigDict``), or a
      run's folder, or its config.json. A relative path is looked for in the working directory, then in the checkout.
    overrides: {"tokenizer.codebook_size": 1024, ...}, values of the fields' own types (an int serves for a float, a
      list for a tuple).

    Raises: UserError for a missing file, an unknown argument or field, a wrong type, an impossible value.
    """
    source = os.fspath(source)
    if source.endswith(".json") or os.path.isdir(source):
        config = read_run_config(source)
    else:
        config = _read_python(source)
    for name, value in (overrides or {}).items():
        set_field(config, name, value)
    check(config)
    return config


def _read_python(source: str) -> ConfigDict:
    name, _, argument = source.partition(":")
    candidates = [Path(name)] if Path(name).is_absolute() else [Path.cwd() / name, CHECKOUT / name]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        found = ", ".join(sorted(f"configs/{p.name}" for p in (CHECKOUT / "configs").glob("[!_]*.py")))
        raise UserError(f"There is no config file {name!r}" + (f"; the checkout has {found}." if found else "."))
    spec = importlib.util.spec_from_file_location(f"phenaki_config_{path.stem}", path)
    if spec is None:
        raise UserError(f"The config {name!r} is no Python file; its name has to end in .py.")
    module = importlib.util.module_from_spec(spec)
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))  # a config may build on another one
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"The config file {name!r} has no function get_config(arg).")
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    if argument and not takes_argument:
        raise UserError(f"The config file {name!r} takes no argument, but was given {argument!r}.")
    config = module.get_config(argument) if argument else module.get_config()
    return from_dict(config.to_dict())


def named(file: str, arg: str, names: Mapping | tuple[str, ...], scales: Mapping) -> tuple[str, str]:
    """The name and the scale, the first of `scales` where none is said, of an argument "name,scale" of a config file.

    Raises: UserError for one that the file does not have.
    """
    name, _, scale = arg.partition(",")
    scale = scale or next(iter(scales))
    for what, value, known in (("model", name, names), ("scale", scale, scales)):
        if value not in known:
            raise UserError(f"{file} has no {what} {value!r}; it has {', '.join(known)}.")
    return name, scale


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("tokenizer.codebook_size", 1024), ... for every field, in order."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def get_field(config: ConfigDict, name: str) -> Any:
    """The value of a dotted name. Raises: UserError that names the nearest existing field."""
    known = dict(fields(config))
    if name in known:
        return known[name]
    inside = [field for field in known if field.startswith(name + ".")]
    if inside:
        raise UserError(f"Config field {name!r} is a group; set one of its fields, such as {inside[0]!r}.")
    raise UserError(f"There is no config field {name!r}; the nearest is {_nearest(name, known)!r}.")


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """The most alike dotted name, where the last part counts most ("codebok_size" means tokenizer.codebook_size)."""
    last = name.rsplit(".", 1)[-1]

    def likeness(field):
        ratio = difflib.SequenceMatcher(None, last, field.rsplit(".", 1)[-1]).ratio()
        return 2 * ratio + difflib.SequenceMatcher(None, name, field).ratio()

    return max(known, key=likeness)


def set_field(config: ConfigDict, name: str, value: Any) -> None:
    """Give a field another value of its own type. Raises: UserError for an unknown field or a wrong type."""
    value = _fit(name, value, get_field(config, name))
    *groups, last = name.split(".")
    for group in groups:
        config = config[group]
    with config.ignore_type():
        config[last] = value


def set_fields_of_model(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """As `set_field`, of a trained model's config. Raises: UserError also for what only training can change."""
    for name, value in values.items():
        if not name.startswith(CHANGEABLE):
            raise UserError(f"Config field {name!r} cannot be changed of a trained model; what can is "
                            f"{', '.join(CHANGEABLE)}.")
        if name.startswith("text.") and config.get("text", {}).get("encoder") != "t5":
            raise UserError(f"Config field {name!r} is of a pretrained text encoder; this model has none.")
        set_field(config, name, value)
    check(config)


def _fit(name: str, value: Any, old: Any) -> Any:
    """The value as the type of the old one."""
    if old is None:
        return tuple(value) if isinstance(value, list) else value
    if isinstance(old, tuple):
        if isinstance(value, (tuple, list)):
            kind = type(old[0]) if old and not isinstance(old[0], tuple) else None
            return _plain(value) if kind is None else tuple(_fit(name, item, kind()) for item in value)
    elif isinstance(old, bool) or isinstance(value, bool):
        if isinstance(old, bool) and isinstance(value, bool):
            return value
    elif isinstance(old, float) and isinstance(value, int):
        return float(value)
    elif isinstance(value, type(old)):
        return value
    raise UserError(f"Config field {name!r} takes {_kind(old)}, such as {old!r}, but was given {value!r}.")


def _kind(value: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a list of values"}
    return names.get(type(value), type(value).__name__)


def parse_field(config: ConfigDict, name: str, text: str) -> Any:
    """The value of a command line's --config.NAME=TEXT, by the type that the field has.

    Lists are written 8,5,5,5 or (8,5,5,5), lists of pairs 0:one,300:other. Raises: UserError for an unknown field or a
    text that does not parse.
    """
    old = get_field(config, name)
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        value = {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    else:
        try:
            value = ast.literal_eval(_as_tuple(text) if isinstance(old, tuple) else text)
        except (ValueError, SyntaxError):
            value = text
            if isinstance(old, tuple) and (not old or isinstance(old[0], (str, tuple))):
                value = tuple(_pair_or_text(part.strip()) for part in text.split(",") if part.strip())
    return _fit(name, value, old)


def _as_tuple(text: str) -> str:
    """Python's spelling of a list that may lack its brackets."""
    text = text.strip()
    return text if text.startswith(("(", "[")) else f"({text.rstrip(',')},)" if text else "()"


def _pair_or_text(part: str) -> tuple[int, str] | str:
    number, _, name = part.partition(":")
    return (int(number), name.strip()) if number.strip().isdecimal() and name.strip() else part


def parse_overrides(source: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The command line's overrides of a config, typed: {"train.steps": "100"} -> {"train.steps": 100}."""
    config = load_config(source)
    return {name: parse_field(config, name, text) for name, text in texts.items()}


def check(config: ConfigDict) -> None:
    """What can be said of a config without building anything. Raises: UserError."""
    known = dict(fields(config))
    if known.get("stage") not in STAGES:
        raise UserError(f"Config field 'stage' is {known.get('stage')!r}; it has to be one of {', '.join(STAGES)}.")
    for name in _POSITIVE:
        if name in known and known[name] < 1:
            raise UserError(f"Config field {name!r} is {known[name]}; it has to be at least 1.")
    if known.get("data.workers", 0) < 0:
        raise UserError(f"Config field 'data.workers' is {known['data.workers']}; it has to be at least 0.")
    if known.get("data.patience", 1) <= 0:
        raise UserError(f"Config field 'data.patience' is {known['data.patience']}; it has to be above 0.")
    for name in ("data.text_drop", "data.max_bad", "train.ema_decay", "optimizer.end_factor", "generator.dropout"):
        if name in known and not 0 <= known[name] <= 1:
            raise UserError(f"Config field {name!r} is {known[name]}; it has to be between 0 and 1.")
    _check_schedule(known.get("data.schedule") or ())
    _check_sizes(known)


def _check_schedule(schedule: Any) -> None:
    said = f"Config field 'data.schedule' is {schedule!r}; "
    if not (isinstance(schedule, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], str)
            for pair in schedule)):
        raise UserError(said + "it has to be pairs of a step and a mixture, written 0:one,300:other.")
    steps = [step for step, _ in schedule]
    if steps and steps[0] != 0:
        raise UserError(said + "its first step has to be 0.")
    if any(later <= step for step, later in zip(steps, steps[1:])):
        raise UserError(said + "each of its steps has to be larger than the one before.")


def _check_sizes(known: Mapping[str, Any]) -> None:
    """That clips of `data.sizes` and `data.buckets` are whole patches, and whole groups of a generator's tokens."""
    patch = known.get("tokenizer.patch") or (1, 1, 1)
    if len(patch) != 3 or min(patch) < 1:
        raise UserError(f"Config field 'tokenizer.patch' is {patch!r}; it has to be frames, rows and columns, each at "
                        "least 1.")
    buckets = known.get("data.buckets") or ()
    if not all(isinstance(size, tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
               for size in buckets):
        raise UserError(f"Config field 'data.buckets' is {buckets!r}; it has to be heights and widths, written "
                        "(64,64),(48,80).")
    group = (1, 1) if known["stage"] == "tokenizer" else known.get("generator.group") or (1, 1)
    rows, columns = (p * g for p, g in zip(patch[1:], group))
    for name, sizes in (("sizes", known.get("data.sizes") or ()), ("buckets", buckets)):
        for size in sizes:
            if isinstance(size, tuple) and len(size) > 1 and (size[-2] % rows or size[-1] % columns):
                raise UserError(f"Config field 'data.{name}' has {size!r}; the height has to be a multiple of {rows} "
                                f"and the width one of {columns}, a patch times a generator's group.")


def mixtures(config: ConfigDict) -> tuple[tuple[int, str], ...]:
    """The phases of a run's data, (number of its first batch, mixture) each, the first from 0.

    They are `data.schedule` where it is not empty (`data.mixture` is not read then), else `data.mixture` for good.
    """
    return tuple(config.data.get("schedule") or ()) or ((0, config.data.mixture),)


def resolve(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """The config as a run keeps it: a copy whose files and folders are found from whatever folder it is read."""
    config = from_dict(config.to_dict())
    if not config.data.data_dir:
        config.data.data_dir = str(Path(workdir).parent / "data")
    for name in PATHS:
        group, _, field = name.rpartition(".")
        values = config.get(group, {}) if group else config
        given = values.get(field)
        if given and given not in (BYTES, DEFAULT) and "://" not in given and not given.startswith("columns/"):
            values[field] = os.path.abspath(given)
    return config


def _plain(value: Any) -> Any:
    """Nested dicts and values with tuples where there are lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def from_dict(tree: Mapping[str, Any]) -> ConfigDict:
    """Nested dicts -> ConfigDict; every list becomes a tuple, and OPTIONAL fields that are left out are added.

    `provenance` is of every model, also where no config says a word of it.
    """
    config = ConfigDict(_plain(tree))
    for name, value in OPTIONAL.items():
        group, field = name.split(".")
        if group == "provenance" and group not in config:
            config.provenance = ConfigDict()
        if group in config and field not in config[group]:
            config[group][field] = value
    return config


def to_json(config: ConfigDict) -> str:
    """The config as JSON text, for config.json."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """What to_json wrote."""
    return from_dict(json.loads(text))


def read_run_config(path: str | os.PathLike) -> ConfigDict:
    """The config.json of a run's folder (or the file itself). Raises: UserError where it is missing or unreadable."""
    path = Path(path)
    file = path if path.suffix == ".json" else path / RUN_CONFIG
    if not path.exists():
        raise UserError(f"There is no model folder {str(path)!r}; give a run's folder, as `phenaki train` makes it.")
    if not file.is_file():
        raise UserError(f"{str(path)!r} is no run's folder: it has no {RUN_CONFIG}.")
    try:
        return from_json(file.read_text())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is not readable as a run's config: {error}.") from error


def read_model_config(path: str | os.PathLike) -> ConfigDict:
    """As `read_run_config`, of what can be sampled or reconstruct."""
    config = read_run_config(path)
    if missing := [name for name in ("stage", "tokenizer", "sampling", "data") if name not in config]:
        raise UserError(f"{str(path)!r} has a {RUN_CONFIG} that is no model's: it has no {missing[0]!r}.")
    return config


def differing_field(old: ConfigDict, new: ConfigDict, free: tuple[str, ...] = ()) -> tuple[str, Any, Any] | None:
    """The first field in which two configs differ and its two values, or None; fields starting with ``free`` may."""
    before, after = dict(fields(old)), dict(fields(new))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name) and not name.startswith(free):
            return name, before.get(name), after.get(name)
    return None
