"""Scenes as people write them, checked before anything is made, and the names under which what was made is kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.input.schema import KNOWN_FRAMES
from phenaki_jax.sampling.options import Sampling, chosen

TRANSITIONS = ("hold", "cut", "blend")
TRANSITION_FRAMES = 4
SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(Sampling))
TOLD = ("motion", "fps")  # beside the text, for models with these conditions
OPTIONS = ("num_frames", "negative_prompt", "context_frames", "transition", "transition_frames", "preset", *TOLD,
           *SAMPLING_FIELDS)  # of all scenes, or of one
KEYS = ("prompt", "seed", *OPTIONS)  # of one scene


@dataclasses.dataclass(frozen=True)
class SceneOptions:
    """What a scene asks for.

    Attributes:
      prompt: what it shows.
      num_frames: how many it has, exactly.
      context_frames: K; each of its windows grows out of the K frames before it, 1 + patch[0] * k of them.
      transition: 'hold': the scene grows out of the last K frames before it (Phenaki, section 2.3); 'cut': it starts
        from nothing; 'blend': it starts from nothing and fades in from the last frame before it. Nothing grows out of
        what lies before a cut or a blend.
      transition_frames: how many of a blend's frames are faded.
      negative_prompt: what guidance leads away from.
      seed: its own draw, that of a clip with this seed; None: the story's, another one in every scene.
      sampling: how its tokens are drawn.
      motion, fps: what the model is told beside the text, see `PhenakiPipeline`; None: nothing.
    """
    prompt: str
    num_frames: int
    context_frames: int
    transition: str
    transition_frames: int
    negative_prompt: str | None
    seed: int | None
    sampling: Sampling
    motion: str | float | None
    fps: float | None


def read_scenes(scenes: Any, config: Any, options: Mapping[str, Any]) -> list[SceneOptions]:
    """Reads the scenes of one story.

    Args:
      scenes: prompts, or dicts with "prompt" and any of `KEYS`; None counts as not given.
      config: of the run, with its sections `tokenizer` and `sampling`.
      options: of all scenes that do not say otherwise, any of `OPTIONS`. A scene with a preset of its own takes none of
        their fields of `Sampling`. Where nobody says how long a scene is, one that starts from nothing has as many
        frames as a training clip, and one that holds on has whole latent steps of about that length.

    Raises:
      UserError: a key that is not known, or a value that does not fit, with the number of the scene.
    """
    if isinstance(scenes, (str, Mapping)) or not isinstance(scenes, Sequence) or not scenes:
        raise UserError(f'a story is a list of scenes, [{{"prompt": "…", "num_frames": {config.tokenizer.frames}}}, …]')
    for name in options:
        if name not in OPTIONS:
            raise UserError(f"{name!r} is no option of a story; it has {', '.join(OPTIONS)}")
    read = []
    for number, scene in enumerate(scenes, 1):
        scene = {"prompt": scene} if isinstance(scene, str) else scene
        try:
            read.append(_read_scene(scene, config, options, first=number == 1))
        except UserError as error:
            raise UserError(f"scene {number}: {error}") from None
    return read


def overlay(general: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """The options of both that are not None; those of `special` go first, its preset before any field of sampling."""
    general, special = ({name: value for name, value in options.items() if value is not None}
                        for options in (general, special))
    hidden = SAMPLING_FIELDS if "preset" in special else ()
    return {name: value for name, value in general.items() if name not in hidden} | special


def _read_scene(scene: Any, config: Any, options: Mapping[str, Any], first: bool) -> SceneOptions:
    if not isinstance(scene, Mapping):
        raise UserError(f"{scene!r} is neither a prompt nor an object with one")
    for name in scene:
        if name not in KEYS:
            raise UserError(f"{name!r} is unknown; a scene has {', '.join(KEYS)}")
    given = overlay(options, scene)
    for name in ("prompt", "negative_prompt"):
        text = given.get(name)
        if (name == "prompt" or text is not None) and not (isinstance(text, str) and text.strip()):
            raise UserError(f"{name}={text!r} has to be a text that is not empty")
    transition = given.get("transition", "hold")
    if transition not in TRANSITIONS:
        raise UserError(f"transition={transition!r} is unknown; it is one of {', '.join(TRANSITIONS)}")
    frames, step = config.tokenizer.frames, config.tokenizer.patch[0]
    num_frames = given.get("num_frames", frames if first or transition != "hold" else frames + step - 1)
    at_least("num_frames", num_frames, 1)
    if "seed" in given:
        check_seed(given["seed"])
    fps = given.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 1e6):
        raise UserError(f"fps={fps!r} has to be a number above 0")
    context = _context_frames(given.get("context_frames"), frames, step)
    fade = given.get("transition_frames", TRANSITION_FRAMES)
    at_least("transition_frames", fade, 1)
    if transition == "blend" and fade >= num_frames:
        raise UserError(f"transition_frames={fade} has to be below num_frames={num_frames}, so that the fade ends")
    sampling = chosen(config.sampling, given.get("preset"), **{n: given[n] for n in SAMPLING_FIELDS if n in given})
    if "negative_prompt" in given and not sampling.guided:
        raise UserError("negative_prompt needs a guidance_scale other than 0")
    return SceneOptions(given["prompt"], num_frames, context, transition, fade, given.get("negative_prompt"),
                        given.get("seed"), sampling, *(given.get(name) for name in TOLD))


def _context_frames(given: Any, frames: int, step: int) -> int:
    """K: what is given, checked, or 5, or as many as leave a window of `frames` room for something new."""
    most = max(frames - step, 1)
    if given is None:
        known = min(KNOWN_FRAMES, most)
        return known - (known - 1) % step
    at_least("context_frames", given, 1)
    if given > most or (given - 1) % step:
        raise UserError(f"context_frames={given} has to be one of {', '.join(map(str, range(1, most + 1, step)))}")
    return given


def check_seed(seed: Any) -> None:
    """Raises UserError for what JAX does not tell from another seed, or cannot take."""
    at_least("seed", seed, 0)
    if seed >= 2 ** 32:
        raise UserError(f"seed={seed} must be below {2 ** 32}")


def together(stories: Sequence[Sequence[SceneOptions]]) -> list[list[SceneOptions]]:
    """Stories as scenes with one entry a story. Raises: UserError where they cannot be told in one batch."""
    if not stories or len({len(story) for story in stories}) != 1:
        raise UserError(f"stories told together need the same number of scenes; these have {[len(s) for s in stories]}")
    for number, scenes in enumerate(zip(*stories), 1):
        if len({scene.negative_prompt is None for scene in scenes}) != 1:
            raise UserError(f"scene {number}: stories told together need a negative_prompt each, or none")
        for field in dataclasses.fields(SceneOptions):
            values = [getattr(scene, field.name) for scene in scenes]
            if field.name not in ("prompt", "negative_prompt", "seed") and any(value != values[0] for value in values):
                raise UserError(f"scene {number}: stories told together need the same {field.name}")
    return [list(scenes) for scenes in zip(*stories)]


def scene_names(scenes: Sequence[Sequence[SceneOptions]], seeds: Sequence[int], model: str) -> list[str]:
    """A name for each scene, with a hash of all that its frames depend on: equal names, equal frames.

    Args:
      scenes: of stories told together, see `together`. seeds: of the stories. model: what tells the model from others.
    """
    names, before = [], None
    for index, scene in enumerate(scenes):
        holds = bool(index) and scene[0].transition == "hold"
        asked = [{"prompt": one.prompt, "negative_prompt": one.negative_prompt,
                  "draw": [int(seed), index] if one.seed is None else [int(one.seed)]}
                 for one, seed in zip(scene, seeds)]
        whole = {"model": model, "scenes": asked, "num_frames": int(scene[0].num_frames),
                 "context_frames": int(scene[0].context_frames), "grows_out_of": before if holds else None,
                 "told": [str(getattr(scene[0], name)) for name in TOLD],
                 "sampling": {name: value if isinstance(value, str) else float(value)
                              for name, value in dataclasses.asdict(scene[0].sampling).items()}}
        before = digest(whole)
        names.append(f"scene_{index + 1:03}_{before[:16]}")
    return names
