"""How frames look to a pretrained network: the Fréchet inception distance between sets, and CLIP's score of prompts.

Videos are uint8 [N, F, Y, X, 3], images [N, Y, X, 3]. Inception's weights come with a package (see
`weights.INCEPTION`), CLIP's from a folder that the user has.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenaki_jax import media, weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.features import frechet_distance, in_batches
from phenaki_jax.models import inception
from phenaki_jax.models.clip import load_clip

FEWEST_IMAGES = 2048
FID_PROTOCOL = {  # what a report says beside the figure
    "network": "Inception v3, TensorFlow's graph of December 2015", "weights_sha256": weights.INCEPTION.sha256,
    "layer": "pool3, 2048 values",
    "resize": "299 x 299 bicubic with antialiasing, by Pillow, each channel in float32, not rounded, within 0 to 255",
    "crop": "none", "range": "0 to 255 as -1 to 1, 128 as 0", "precision": "float32", "covariance": "unbiased",
}
_AT_ONCE = 256  # images that are held at the network's size: 275 MB


# ---------------------------------------------------------------------------------------------------- FID

def frechet_inception_distance(real: np.ndarray, generated: np.ndarray, *, force: bool = False) -> float:
    """FID (Heusel et al. 2017, arXiv 1706.08500): the Fréchet distance between two sets of `inception_features`.

    Images are resized as clean-fid does it (Parmar et al. 2022, arXiv 2104.11222). Covariances are unbiased.

    Args:
      real, generated: uint8 videos [N, F, Y, X, 3], of which every frame is an image, or images [N, Y, X, 3]; their
        numbers and sizes may differ.
      force: computes it for fewer than 2048 images as well, where their number says more than what they show.

    Raises:
      UserError: fewer than 2048 images on a side without `force`, fewer than 2 with it, or arrays of another form.
    """
    sets = []
    for name, given in (("real", real), ("generated", generated)):
        images = _images(name, given)
        if len(images) < FEWEST_IMAGES and not force:
            raise UserError(f"{name} has {len(images)} images; FID means little under {FEWEST_IMAGES}, "
                            "so give more, or say force=True and report the number")
        sets.append(images)
    return frechet_distance(*map(inception_features, sets))


def inception_features(images: np.ndarray) -> np.ndarray:
    """Inception's pool3 of images, each resized to 299 x 299 as FID_PROTOCOL says, squashed and not cropped.

    Args:
      images: uint8 [N, Y, X, 3].

    Returns:
      float64 [N, 2048].
    """
    images = _images("images", images)
    return np.concatenate([_inception()(clean_resize(images[start:start + _AT_ONCE]))
                           for start in range(0, len(images), _AT_ONCE)])


def clean_resize(images: np.ndarray, side: int = inception.SIDE) -> np.ndarray:
    """uint8 [N, Y, X, 3] -> float32 [N, side, side, 3] from 0 to 255: each channel by Pillow's bicubic, in float32."""
    from PIL import Image
    found = np.empty((len(images), side, side, 3), np.float32)
    for image, out in zip(images, found):
        for channel in range(3):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32))
            out[:, :, channel] = plane.resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(found, 0, 255, out=found)


@functools.cache
def _inception() -> Callable:
    network = inception.make_inception()

    def pool3(params, given):
        with jax.default_matmul_precision("highest"):
            return network.bind(params, {})(given[0])

    return in_batches(pool3, inception.inception_params(weights.read_inception()), 8)


def _images(name: str, given: np.ndarray) -> np.ndarray:
    """Images [N, Y, X, 3], or those of a video's frames."""
    given = np.asarray(given)
    if given.ndim not in (4, 5) or given.shape[-1] != 3 or given.dtype != np.uint8 or given.size == 0:
        raise UserError(f"{name} is {given.dtype} {list(given.shape)}; it should be uint8 [N, F, Y, X, 3] or "
                        "[N, Y, X, 3]")
    return given.reshape(-1, *given.shape[-3:])


# ----------------------------------------------------------------------------------------------- CLIP score

class ClipScore:
    """A pretrained CLIP, ready to score: (videos, prompts) -> float64 [N], each video's cosine.

    A video's cosine is the mean over its frames of the cosine between the frame and the prompt, from -1 to 1 (as in
    Phenaki's table 2; others give it times 100, and Hessel et al. 2021, arXiv 2104.08718, times 2.5).

    Args:
      folder: Hugging Face's CLIPModel: config.json, model.safetensors, and tokenizer.json or vocab.json and merges.txt.

    Attributes:
      about: what a report says beside the figure; "network" names the model.

    Raises:
      UserError: no such folder, or one of another model.
    """

    def __init__(self, folder: str | Path):
        loaded, folder = load_clip(folder), Path(folder).resolve()
        config, self._tokenizer = loaded.config, loaded.tokenizer
        self._side = config.side
        vision = config.vision
        self.about: dict[str, Any] = {
            "network": f"{folder.name}: CLIP with a ViT of {vision.layers} layers of {vision.width}, patch "
                       f"{config.patch}, at {config.side} x {config.side}",
            "weights_sha256": _sha256(folder),
            "resize": f"the shorter side to {config.side}, bicubic with antialiasing, by Pillow, rounded",
            "crop": f"the middle {config.side} x {config.side}", "precision": "float32",
            "scale": "cosine, mean over frames",
        }

        def of(network):
            def vectors(params, given):
                with jax.default_matmul_precision("highest"):
                    return network.bind(params, {})(given[0])
            return vectors

        self._text = in_batches(of(loaded.text), loaded.text_params, 8)
        self._vision = in_batches(of(loaded.vision), loaded.vision_params, 8)

    def __call__(self, videos: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Args: uint8 [N, F, Y, X, 3] and N texts. Raises: UserError where they are of another form or number."""
        videos = np.asarray(videos)
        if videos.ndim != 5:
            raise UserError(f"videos is {videos.dtype} {list(videos.shape)}; it should be uint8 [N, F, Y, X, 3]")
        images = _images("videos", videos)
        if isinstance(prompts, str) or len(prompts) != len(videos):
            raise UserError(f"prompts has {1 if isinstance(prompts, str) else len(prompts)} texts; it should be a list "
                            f"of one for each of the {len(videos)} videos")
        texts_NE = self._text(self._tokenizer(list(prompts)))
        images_ME = np.concatenate([self._vision(clip_resize(images[start:start + _AT_ONCE], self._side))
                                    for start in range(0, len(images), _AT_ONCE)])
        return np.einsum("nfe,ne->nf", images_ME.reshape(*videos.shape[:2], -1), texts_NE).mean(axis=1)


def clip_score(model: str | Path | ClipScore, videos: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    """The CLIP score of videos for their prompts, by a model in a local folder; nothing is downloaded.

    Args:
      model: a folder, see `ClipScore`, or one that is loaded, for several calls.
      videos: uint8 [N, F, Y, X, 3].
      prompts: N texts; of one that is too long for the model the beginning counts.

    Returns:
      "model": which; "cosine": the mean over videos of the mean over frames; "x100": the same times 100; "per_video":
      float64 [N], the cosines.

    Raises:
      UserError: no such model, or videos and prompts of another form or number.
    """
    scorer = model if isinstance(model, ClipScore) else ClipScore(model)
    each = scorer(videos, prompts)
    return {"model": scorer.about["network"], "cosine": float(each.mean()), "x100": float(100 * each.mean()),
            "per_video": each}


def clip_resize(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, Y, X, 3] -> [N, side, side, 3]: the shorter side to `side`, then the middle square, as CLIP's own."""
    Y, X = images.shape[1:3]
    rows, columns = (side * n // min(Y, X) for n in (Y, X))
    top, left = (rows - side) // 2, (columns - side) // 2
    return media.resize(images, rows, columns)[:, top:top + side, left:left + side]


def _sha256(folder: Path) -> str:
    """Of all the folder's files of weights, in the order of their names."""
    state = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while part := file.read(2 ** 24):
                state.update(part)
    return state.hexdigest()
