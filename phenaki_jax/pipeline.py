"""PhenakiPipeline: a trained run, ready to generate, tell, edit and reconstruct."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.bound import Bound, BoundGenerator, Tokenizer
from phenaki_jax.config import RUN_CONFIG
from phenaki_jax.digest import tree_digest
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.input.motion import LEVELS
from phenaki_jax.media import to_uint8
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.models.tree import ARRAYS
from phenaki_jax.prompts import Prompt, PromptReader
from phenaki_jax.sampling.decoding import Sampler
from phenaki_jax.sampling.options import chosen
from phenaki_jax.sampling.scenes import TOLD, check_seed, read_scenes, scene_names, together
from phenaki_jax.sampling.story import Scene, Told, tell, window_keys
from phenaki_jax.tasks import PipelineResult, Tasks
from phenaki_jax.training.checkpoints import load_run


class PhenakiPipeline(Tasks):
    """Loads a run and generates.

    Every way of generating takes `preset`, one of `sampling.options.PRESETS` ('nuwa', 'ablation', 'showcase', the
    paper's), and the fields of `sampling.options.Sampling` (num_inference_steps, guidance_scale, temperature, …) as
    keywords; what is left out is the run's `config.sampling`. A model with conditions (`generator.conditions`) also
    takes `motion`, how much moves (low, medium, high, extreme, or a number, see `motion.motion_score`), and `fps`.
    """

    def __init__(self, config, tokenizer: Tokenizer, generator: BoundGenerator | None, critic: Bound | None = None):
        self.config, self.tokenizer, self.generator = config, tokenizer, generator
        self.critic = critic
        self._sampler = Sampler(generator.pure, tokenizer.pure, critic.pure if critic else None) if generator else None
        self.read = PromptReader(config)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> "PhenakiPipeline":
        """A run's folder, or one that holds `generator/` or `tokenizer/`. A tokenizer's run can only reconstruct.

        A critic's run is its generator's, sampled with the critic.

        Raises: UserError for a folder that is missing or holds no trained run.
        """
        folder = pathlib.Path(path)
        if not folder.is_dir():
            raise UserError(f"there is no model folder {str(path)!r}; give the folder of a trained run")
        if not (folder / RUN_CONFIG).exists():
            folder = next((folder / name for name in ("generator", "tokenizer") if (folder / name).is_dir()), folder)
        run = load_run(folder)
        return cls.of_arrays(run.config, *jax.device_put((run.params, run.variables, run.frozen)))

    @classmethod
    def of_arrays(cls, config: Any, params: Any, variables: Any, frozen: Any) -> "PhenakiPipeline":
        """The arrays of a stage, as a run that trains holds them."""
        pure = make_tokenizer(config)
        if config.stage == "tokenizer":
            return cls(config, Tokenizer(pure, params, variables), None)
        critic = None
        if config.stage == "critic":
            critic = Bound(make_critic(config), params, variables)
            (params, variables), frozen = (frozen["generator"][name] for name in ARRAYS), frozen["tokenizer"]
        generator = BoundGenerator(make_generator(config), params, variables)
        return cls(config, Tokenizer(pure, *(frozen[name] for name in ARRAYS)), generator, critic)

    def __call__(self, prompt: str | Sequence[str] | None = None, *, num_frames: int | None = None,
                 seed: int | Sequence[int] = 0, num_videos_per_prompt: int = 1,
                 negative_prompt: str | Sequence[str] | None = None, prompt_embeds: np.ndarray | None = None,
                 prompt_attention_mask: np.ndarray | None = None, preset: str | None = None,
                 **sampling: Any) -> PipelineResult:
        """Generates a clip for each prompt.

        Args:
          prompt: None for a model without text, or where `prompt_embeds` are given.
          num_frames: 1 (an image) or 1 + patch[0] * k; more than a training clip is made window by window.
          seed: of the first video, the others' count up from it; or one for each. A video depends on its own seed
            alone, not on the others of the call.
          negative_prompt: what guidance leads away from, for all prompts or for each; guidance_scale must not be 0.
          prompt_embeds: instead of a prompt, embeddings [N, P, E] of the pretrained encoder that the model was trained
            with; prompt_attention_mask: boolean [N, P], which positions count (default: all).
        """
        prompts = self.read.listed(prompt, prompt_embeds, prompt_attention_mask)
        num_frames = self.config.tokenizer.frames if num_frames is None else num_frames
        at_least("num_frames", num_frames, 1)
        self.tokenizer.config.latent_frames(num_frames)
        at_least("num_videos_per_prompt", num_videos_per_prompt, 1)
        if negative_prompt is not None:
            negative_prompt = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(
                negative_prompt)
            if not all(isinstance(p, str) for p in negative_prompt):
                raise UserError(f"negative_prompt={negative_prompt!r} has to be texts")
            if len(negative_prompt) != len(prompts):
                raise UserError(f"negative_prompt has {len(negative_prompt)} texts; there are {len(prompts)} prompts")
            negative_prompt = [p for p in negative_prompt for _ in range(num_videos_per_prompt)]
        prompts = [p for p in prompts for _ in range(num_videos_per_prompt)]
        return self._clip(prompts, num_frames, seed, negative_prompt, preset, sampling)

    def stream(self, prompt: str | Sequence[str] | None = None, *, every: int = 4, num_frames: int | None = None,
               seed: int | Sequence[int] = 0, preset: str | None = None, **sampling: Any) -> Iterator[PipelineResult]:
        """A clip for each prompt as it comes about: a preview after every `every` passes, at last what a call gives.

        Args:
          num_frames: 1, or a training clip's (default).
        """
        prompts = self.read.listed(prompt)
        sizes, num_frames = self.tokenizer.config, self.config.tokenizer.frames if num_frames is None else num_frames
        at_least("every", every, 1)
        at_least("num_frames", num_frames, 1)
        if num_frames not in (1, sizes.frames):
            raise UserError(f"num_frames={num_frames}: previews are of one window, {sizes.frames} frames, or of 1")
        window = self._window(prompts, None, preset, sampling, every)
        given = np.zeros((len(prompts), num_frames, sizes.height, sizes.width, 3), np.float32)
        frozen = np.zeros((sizes.latent_frames(num_frames), *sizes.grid[1:]), bool)
        keys = window_keys(self._keys(seed, len(prompts)), 0)
        return (PipelineResult(frames, np.asarray(tokens)) for tokens, frames in window(given, prompts, keys, frozen))

    def story(self, scenes: Sequence[Mapping[str, Any]], *, seed: int = 0, **options: Any) -> PipelineResult:
        """Tells [{"prompt": str, "num_frames": int, ...}, ...] in one video, each scene growing out of the last frames.

        The last K = 5 frames are encoded anew, their tokens frozen, and what follows is generated under the next
        prompt (Phenaki, section 2.3). A scene may set all of `scenes.KEYS`: also how it goes on from the one before,
        and how it is sampled. `options` are those of all scenes, see `scenes.read_scenes`.
        """
        return self.stories([scenes], seed=seed, **options)

    def stories(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int] = 0,
                **options: Any) -> PipelineResult:
        """Several stories at once, alike in all but their prompts and seeds."""
        return _joined(self.tell(stories, seed=seed, **options))

    def tell(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int] = 0,
             parts: Any = None, **options: Any) -> Iterator[PipelineResult]:
        """Tells stories scene by scene, in the memory of one scene however many there are; all are checked beforehand.

        Args:
          parts: scenes by names that stand for all that their frames depend on, see `story.tell`: a dict, or
            `story_files.Parts` of a folder.
        """
        if self.config.text.encoder == "none":
            raise UserError("a story is told by its prompts; this model was trained without text (text.encoder='none')")
        asked = together([read_scenes(story, self.config, options) for story in stories])
        keys = self._keys(seed, len(stories))
        windows, scenes = [], []
        for number, several in enumerate(asked, 1):
            negative = [scene.negative_prompt for scene in several] if several[0].negative_prompt else None
            try:
                told = {name: getattr(several[0], name) for name in TOLD}
                windows.append(self._window([scene.prompt for scene in several], negative, None,
                                            dataclasses.asdict(several[0].sampling) | told))
            except UserError as error:
                raise UserError(f"scene {number}: {error}") from None
        names = [""] * len(asked) if parts is None else scene_names(asked, _seeds(seed, len(stories)), self.fingerprint)
        for index, (several, window, name) in enumerate(zip(asked, windows, names)):
            drawn = jnp.stack([jax.random.fold_in(key, index) if scene.seed is None else jax.random.key(scene.seed)
                               for scene, key in zip(several, keys)])
            scenes.append(Scene(window, [scene.prompt for scene in several], several[0].num_frames, drawn,
                                several[0].context_frames, several[0].transition, several[0].transition_frames, name))
        return (PipelineResult(*told) for told in tell(scenes, self.tokenizer.config, parts=parts))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells this model from every other, by a hash of its sizes and its arrays."""
        models = [model for model in (self.tokenizer, self.generator, self.critic) if model]
        sizes = [dataclasses.asdict(model.config) for model in models]
        return tree_digest([(model.params, model.variables) for model in models], sizes, self.read.about)

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """uint8 [N, F, Y, X, 3] -> the same after encoding and decoding; any number of frames."""
        return to_uint8(self.tokenizer.decode(self.tokenizer.encode(video), np.shape(video)[1]))

    def encode(self, video: np.ndarray) -> np.ndarray:
        """uint8 [N, F, Y, X, 3] -> tokens int32 [N, T, H, W]."""
        return np.asarray(self.tokenizer.encode(video))

    def _clip(self, prompts: list[Prompt], count: int, seed: int | Sequence[int], negative: list[str] | None,
              preset: str | None, sampling: Mapping[str, Any], begin: np.ndarray | None = None) -> PipelineResult:
        """`count` frames, behind those of `begin`, uint8 [B, F, Y, X, 3], out of which they grow."""
        at_least("num_frames", count, 1)
        scene = Scene(self._window(prompts, negative, preset, sampling), prompts, count, self._keys(seed, len(prompts)))
        made = _joined(tell([scene], self.tokenizer.config, begin))
        return made if begin is None else dataclasses.replace(made, frames=np.concatenate([begin, made.frames], 1))

    def _keys(self, seed: int | Sequence[int], count: int) -> jax.Array:
        """A random key for each of `count` videos."""
        return jnp.stack([jax.random.key(number) for number in _seeds(seed, count)])

    def _window(self, prompts: Sequence[Prompt], negative: list[str] | None, preset: str | None,
                sampling: Mapping[str, Any], every: int | None = None) -> Callable:
        """(given float [B, F, Y, X, 3], prompts, keys, frozen [T, H, W]) -> (tokens, frames uint8).

        `prompts` are all that will be asked for, and are checked beforehand. With `every` it gives an iterator of
        previews, each (tokens, frames).
        """
        sampling = dict(sampling)
        told = self._told(sampling.pop("motion", None), sampling.pop("fps", None))
        options, read = chosen(self.config.sampling, preset, **sampling), self.read
        read.check(prompts, negative)
        if not self.generator.config.is_told and sampling.get("guidance_scale"):
            raise UserError(f"guidance_scale={sampling['guidance_scale']} weighs a prompt; this model was trained "
                            "without text (text.encoder='none'), so leave it out")
        if negative is not None and not options.guided:
            raise UserError("negative_prompt needs a guidance_scale other than 0")
        if options.order == "critic" and self.critic is None:
            raise UserError("order='critic' needs a critic; give the folder of a critic's run, or another order")
        if options.noise_augmentation and "noise" not in told:
            raise UserError(f"noise_augmentation={options.noise_augmentation} needs a model with the condition "
                            f"'noise'; this one has generator.conditions={tuple(told)}")
        arrays = {name: {"params": model.params, "variables": model.variables} for name, model in (
            ("generator", self.generator), ("tokenizer", self.tokenizer), ("critic", self.critic)) if model}

        away = None if negative is None else read(negative)

        def window(given, prompts, keys, frozen):
            numbers = {**told, "noise": options.noise_augmentation if frozen.any() else np.nan}
            conditions = np.tile(np.float32([numbers[name] for name in told]), (len(prompts), 1)) if told else None
            args = arrays, given, *read(prompts), keys, options
            more = dict(frozen=frozen, negative=away, conditions=conditions)
            if every is not None:
                states = self._sampler.stream(*args, every=every, **more)
                return ((tokens, to_uint8(video)) for _, tokens, video in states)
            tokens, video = self._sampler(*args, **more)
            return np.asarray(tokens), to_uint8(video)

        return window

    def _told(self, motion: str | float | None, fps: float | None) -> dict[str, float]:
        """The model's conditions in their order, NaN where nothing is told."""
        if self.generator is None:
            raise UserError("this run is a tokenizer's and can reconstruct only; to generate, give a generator's run")
        names = self.generator.config.conditions
        told = dict.fromkeys(names, np.nan)
        words = f", or one of {', '.join(LEVELS)}"
        for name, value, least, more in (("motion", motion, 0, words), ("fps", fps, 1, "")):
            if value is None:
                continue
            if name not in told:
                raise UserError(f"{name}={value!r} has no effect: this model was trained with generator.conditions="
                                f"{names}; leave it out, or train one with {name!r} among them")
            number = LEVELS.get(value, value) if more and isinstance(value, str) else value
            is_number = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
            if not (is_number and least <= number < np.inf):
                raise UserError(f"{name}={value!r} must be a number of at least {least}{more}")
            told[name] = float(number)
        return told


def _seeds(seed: int | Sequence[int], count: int) -> Sequence[int]:
    """A seed for each of `count` videos: those that are given, or counted up from the one. Raises: UserError."""
    if not isinstance(seed, (Sequence, np.ndarray)):
        check_seed(seed)
        seed = range(seed, seed + count)
    if len(seed) != count:
        raise UserError(f"seed has {len(seed)} numbers; there are {count} videos")
    for number in seed:
        check_seed(number)
    return seed


def _joined(parts: Iterable[Told | PipelineResult]) -> PipelineResult:
    frames, tokens = zip(*((part.frames, part.tokens) for part in parts))
    return PipelineResult(np.concatenate(frames, 1), np.concatenate(tokens, 1))
