"""PhenakiPipeline: a trained run, ready to generate, tell, edit and reconstruct."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phenaki_jax.bound import Bound, BoundGenerator, Tokenizer
from phenaki_jax.config import DEFAULT, read_model_config, set_fields_of_model
from phenaki_jax.digest import tree_digest
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.export.folder import check_config
from phenaki_jax.export.reading import open_run
from phenaki_jax.media import to_uint8
from phenaki_jax.models.build import make_critic, make_generator, make_tokenizer
from phenaki_jax.models.cvivit import CViViTConfig
from phenaki_jax.models.tree import ARRAYS, Pure, Tree
from phenaki_jax.parallel import enable_compilation_cache, make_mesh, tree_shardings
from phenaki_jax.prompts import Prompt, PromptReader
from phenaki_jax.provenance.prompt_filter import DenyList
from phenaki_jax.sampling.decoding import Sampler
from phenaki_jax.sampling.scenes import TOLD, read_scenes, scene_names, together
from phenaki_jax.sampling.story import Scene, Told, tell, window_keys
from phenaki_jax.tasks import PipelineResult, Tasks, finished
from phenaki_jax.windows import Windows, seeds_of


class PhenakiPipeline(Windows, Tasks):
    """Loads a run or an exported model and generates.

    Every way of generating takes `preset`, one of `sampling.options.PRESETS` ('nuwa', 'ablation', 'showcase', the
    paper's), and the fields of `sampling.options.Sampling` (num_inference_steps, guidance_scale, temperature, …) as
    keywords; what is left out is the run's `config.sampling`. A model with conditions (`generator.conditions`) also
    takes `motion`, how much moves (low, medium, high, extreme, or a number, see `motion.motion_score`), and `fps`.
    And every way takes

      output_type: 'np' (default), 'pil', 'jax' or 'tokens', see `PipelineResult`; not `stream` and `tell`.
      callback_on_step_end: called after each pass of the decoder, in every window, as callback(pipe, step, steps,
        {"tokens", "confidence"}) with step from 0; tokens int32 [N, T, H, W], `pipe.mask_id` where they are not
        decided yet; confidence float32 alike, the probability of each decided token when it was drawn. Where it
        returns a dict with "tokens", these go on. It costs a transfer a pass.

    Attributes:
      prompt_filter: prompt -> None, or in a few words why it is refused (then: UserError); None for no filter. By
        default the deny list of `config.provenance.deny_list`.
      safety_checker: frames uint8 [F, Y, X, 3] of a video -> None, or why it is refused (then it is black, and
        `PipelineResult.refused` says so); None for none, or the ONNX model of `config.provenance.frame_checker`.
      say: is told what takes long, once for each shape; None to be silent.
      mesh: over whose devices the rows of a call are spread; None for one device.
    """

    def __init__(self, config, tokenizer: Tokenizer, generator: BoundGenerator | None, critic: Bound | None = None,
                 mesh: jax.sharding.Mesh | None = None):
        self.config, self.tokenizer, self.generator = config, tokenizer, generator
        self.critic, self.mesh = critic, mesh
        self._sampler = Sampler(generator.pure, tokenizer.pure, critic.pure if critic else None) if generator else None
        self.read = PromptReader(config)
        self.say: Callable[[str], None] | None = None
        self._compiled: set = set()
        responsible = config.provenance
        self.prompt_filter: Callable[[str], str | None] | None = None
        self.safety_checker: Callable[[np.ndarray], str | None] | None = None
        if responsible.deny_list:
            self.prompt_filter = DenyList.read(None if responsible.deny_list == DEFAULT else responsible.deny_list)
        if responsible.frame_checker:
            from phenaki_jax.provenance.frame_checker import OnnxChecker
            self.safety_checker = OnnxChecker(responsible.frame_checker)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, *, mesh: Mapping[str, int] | jax.sharding.Mesh | None = None,
                        overrides: Mapping[str, Any] | None = None) -> "PhenakiPipeline":
        """Loads a run's folder, one that holds `generator/` or `tokenizer/`, or one that `phenaki export` made.

        A tokenizer's run can only reconstruct. A critic's run is its generator's, sampled with the critic.

        Args:
          mesh: devices to spread the rows of a call and the parameters over: a mesh, or sizes such as {"data": -1} for
            all local devices (`parallel.make_mesh`).
          overrides: fields of the config to change, such as {"provenance.watermark": False}.

        Raises: UserError for a folder that is missing, damaged, or holds no trained run.
        """
        enable_compilation_cache()
        read_model_config(check_config(path))
        run = open_run(path)
        for name, given in (("overrides", overrides), ("mesh", mesh)):
            if not isinstance(given, (Mapping, type(None), *[jax.sharding.Mesh] * (name == "mesh"))):
                raise UserError(f"{name}={given!r} has to be a dict")
        set_fields_of_model(run.config, overrides or {})
        if isinstance(mesh, Mapping):
            mesh = make_mesh(mesh, jax.local_devices())
        arrays = run.params, run.variables, run.frozen
        pipe = cls.of_arrays(run.config, *(jax.device_put(arrays) if mesh is None else arrays), mesh=mesh)
        pipe.say = functools.partial(print, file=sys.stderr, flush=True)
        return pipe

    @classmethod
    def of_arrays(cls, config: Any, params: Any, variables: Any, frozen: Any,
                  mesh: jax.sharding.Mesh | None = None) -> "PhenakiPipeline":
        """The arrays of a stage, as a run that trains holds them."""
        def bound(kind, pure: Pure, params: Tree, variables: Tree):
            if mesh is not None:
                params, variables = (jax.device_put(tree, tree_shardings(mesh, tree, axes)) for tree, axes in (
                    (params, pure.axes), (variables, pure.variable_axes)))
            return kind(pure, params, variables)

        if config.stage == "tokenizer":
            return cls(config, bound(Tokenizer, make_tokenizer(config), params, variables), None, mesh=mesh)
        critic = None
        if config.stage == "critic":
            critic = bound(Bound, make_critic(config), params, variables)
            (params, variables), frozen = (frozen["generator"][name] for name in ARRAYS), frozen["tokenizer"]
        generator = bound(BoundGenerator, make_generator(config), params, variables)
        tokenizer = bound(Tokenizer, make_tokenizer(config), *(frozen[name] for name in ARRAYS))
        return cls(config, tokenizer, generator, critic, mesh)

    @finished
    def __call__(self, prompt: str | Sequence[str] | None = None, *, num_frames: int | None = None,
                 height: int | None = None, width: int | None = None,
                 seed: int | Sequence[int] = 0, num_videos_per_prompt: int = 1,
                 negative_prompt: str | Sequence[str] | None = None, prompt_embeds: np.ndarray | None = None,
                 prompt_attention_mask: np.ndarray | None = None, preset: str | None = None,
                 **sampling: Any) -> PipelineResult:
        """Generates a clip for each prompt.

        Args:
          prompt: None for a model without text, or where `prompt_embeds` are given.
          num_frames: 1 (an image) or more; more than a training clip is made window by window.
          height, width: in pixels, for a model trained on several sizes (`data.buckets`); whole patches and groups of
            tokens, the config's at most, which is the default.
          seed: of the first video, the others' count up from it; or one for each. A video depends on its own seed
            alone, not on the others of the call.
          negative_prompt: what guidance leads away from, for all prompts or for each; guidance_scale must not be 0.
          prompt_embeds: instead of a prompt, embeddings [N, P, E] of the pretrained encoder that the model was trained
            with; prompt_attention_mask: boolean [N, P], which positions count (default: all).
        """
        prompts = self.read.listed(prompt, prompt_embeds, prompt_attention_mask)
        num_frames = self.config.tokenizer.frames if num_frames is None else num_frames
        at_least("num_frames", num_frames, 1)
        sizes = self._sized(height, width)
        at_least("num_videos_per_prompt", num_videos_per_prompt, 1)
        if negative_prompt is not None:
            negative_prompt = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
            if not isinstance(negative_prompt, Sequence) or not all(isinstance(p, str) for p in negative_prompt):
                raise UserError(f"negative_prompt={negative_prompt!r} has to be a text, or a list of texts")
            if len(negative_prompt) != len(prompts):
                raise UserError(f"negative_prompt has {len(negative_prompt)} texts; there are {len(prompts)} prompts")
            negative_prompt = [p for p in negative_prompt for _ in range(num_videos_per_prompt)]
        prompts = [p for p in prompts for _ in range(num_videos_per_prompt)]
        return self._clip(prompts, num_frames, seed, negative_prompt, preset, sampling, sizes=sizes)

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
        previews = window(given, prompts, keys, frozen)
        return (self.checked(PipelineResult(frames, np.asarray(tokens))) for tokens, frames in previews)

    def story(self, scenes: Sequence[Mapping[str, Any]], *, seed: int = 0, **options: Any) -> PipelineResult:
        """Tells [{"prompt": str, "num_frames": int, ...}, ...] in one video, each scene growing out of the last frames.

        The last K = 5 frames are encoded anew, their tokens frozen, and what follows is generated under the next
        prompt (Phenaki, section 2.3). A scene may set all of `scenes.KEYS`: also how it goes on from the one before,
        and how it is sampled. `options` are those of all scenes, see `scenes.read_scenes`.
        """
        return self.stories([scenes], seed=seed, **options)

    @finished
    def stories(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int] = 0,
                **options: Any) -> PipelineResult:
        """Several stories at once, alike in all but their prompts and seeds."""
        return _joined(self._tell(stories, seed=seed, **options))

    def tell(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int] = 0,
             parts: Any = None, **options: Any) -> Iterator[PipelineResult]:
        """Tells stories scene by scene, in the memory of one scene however many there are; all are checked beforehand.

        Args:
          parts: scenes by names that stand for all that their frames depend on, see `story.tell`: a dict, or
            `story_files.Parts` of a folder.
        """
        return map(self.checked, self._tell(stories, seed=seed, parts=parts, **options))

    def _tell(self, stories: Sequence[Sequence[Mapping[str, Any]]], *, seed: int | Sequence[int], parts: Any = None,
              callback_on_step_end: Callable | None = None, **options: Any) -> Iterator[PipelineResult]:
        """`tell`, as the safety checker has not seen it."""
        if not isinstance(stories, Sequence) or isinstance(stories, str):
            raise UserError(f"stories={stories!r} has to be a list of stories, each a list of scenes")
        if self.config.text.encoder == "none":
            raise UserError("a story is told by its prompts; this model was trained without text (text.encoder='none')")
        asked = together([read_scenes(story, self.config, options) for story in stories])
        keys = self._keys(seed, len(stories))
        windows, scenes = [], []
        for number, several in enumerate(asked, 1):
            negative = [scene.negative_prompt for scene in several] if several[0].negative_prompt else None
            try:
                told = {name: getattr(several[0], name) for name in TOLD} | {
                    "callback_on_step_end": callback_on_step_end}
                windows.append(self._window([scene.prompt for scene in several], negative, None,
                                            dataclasses.asdict(several[0].sampling) | told))
            except UserError as error:
                raise UserError(f"scene {number}: {error}") from None
        seeds = seeds_of(seed, len(stories))
        names = [""] * len(asked) if parts is None else scene_names(asked, seeds, self.fingerprint)
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
              preset: str | None, sampling: Mapping[str, Any], begin: np.ndarray | None = None,
              sizes: CViViTConfig | None = None) -> PipelineResult:
        """`count` frames, behind those of `begin`, uint8 [B, F, Y, X, 3], out of which they grow."""
        at_least("num_frames", count, 1)
        scene = Scene(self._window(prompts, negative, preset, sampling), prompts, count, self._keys(seed, len(prompts)))
        made = _joined(tell([scene], sizes or self.tokenizer.config, begin))
        return made if begin is None else dataclasses.replace(made, frames=np.concatenate([begin, made.frames], 1))


def _joined(parts: Iterable[Told | PipelineResult]) -> PipelineResult:
    frames, tokens = zip(*((part.frames, part.tokens) for part in parts))
    return PipelineResult(np.concatenate(frames, 1), np.concatenate(tokens, 1))
