"""phenaki-pytorch's C-ViViT, timed by `phenaki benchmark tokenizer --peer=PYTHON`, which runs this under PYTHON.

Needs torch and phenaki-pytorch and nothing of phenaki_jax. One JSON object a line: the first line in has the sizes and
the answer says what was built; then {"do": "train" | "encode" | "decode" | "product"} is answered with seconds of wall
clock and of CPU, and {"do": "memory"} with what the process holds. An answer {"error": text} ends it.
"""

import importlib.metadata
import importlib.util
import json
import os
import resource
import sys
import time
import types


def load():
    """Their CViViT class and their optimizer's maker.

    The package's own __init__ also loads transformers and torchvision, of which C-ViViT without its perceptual loss
    needs nothing: leaving them out spares the peer their memory and a build of torchvision that fits torch.
    """
    found = importlib.util.find_spec("phenaki_pytorch")
    if found is None:
        raise ImportError("No module named 'phenaki_pytorch'")
    package = types.ModuleType("phenaki_pytorch")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["phenaki_pytorch"] = package
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    from phenaki_pytorch.cvivit import CViViT
    from phenaki_pytorch.optimizer import get_optimizer

    return CViViT, get_optimizer


class Peer:
    """Their model of the given sizes, a batch of random clips, and what is timed."""

    def __init__(self, sizes):
        CViViT, get_optimizer = load()
        import torch

        self.torch = torch
        torch.set_num_threads(sizes["threads"])
        torch.manual_seed(0)
        pt, py, px = sizes["patch"]
        self.model = CViViT(
            dim=sizes["embed_dim"], codebook_size=sizes["codebook_size"], image_size=(sizes["height"], sizes["width"]),
            patch_size=(py, px), temporal_patch_size=pt, spatial_depth=sizes["spatial_layers"],
            temporal_depth=sizes["temporal_layers"], heads=sizes["heads"],
            dim_head=sizes["embed_dim"] // sizes["heads"], use_vgg_and_gan=False, lookup_free_quantization=False)
        self.optimizer = get_optimizer(self.model.parameters(), lr=1e-4, wd=1e-4, betas=(0.9, 0.99))
        self.video = 2 * torch.rand(sizes["batch"], 3, sizes["frames"], sizes["height"], sizes["width"]) - 1
        side = sizes["product"]
        self.factors = torch.randn(side, side), torch.randn(side, side)
        self.tokens = None
        self.autocast = sizes["autocast"]

    def facts(self):
        versions = {name: importlib.metadata.version(name) for name in ("phenaki-pytorch", "torch")}
        return {"parameters": sum(p.numel() for p in self.model.parameters()), "versions": versions,
                "device": "cpu"}

    def train(self):
        self.model.train()
        self.optimizer.zero_grad()
        with self.precision():
            loss = self.model(self.video)
        loss.backward()
        self.optimizer.step()

    def encode(self):
        self.model.eval()
        with self.torch.inference_mode(), self.precision():
            self.tokens = self.model(self.video, return_only_codebook_ids=True)

    def decode(self):
        with self.torch.inference_mode(), self.precision():
            self.model.decode_from_codebook_indices(self.tokens.reshape(len(self.tokens), -1))

    def precision(self):
        return self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.autocast)

    def product(self):
        self.torch.mm(*self.factors)


def peak_bytes():
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        sizes = json.loads(sys.stdin.readline())
        peer = Peer(sizes)
    except ImportError as error:
        return answer({"error": "its packages are incomplete: %s" % error})
    answer(peer.facts())
    for line in sys.stdin:
        do = json.loads(line)["do"]
        if do == "memory":
            answer({"peak_bytes": peak_bytes()})
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        getattr(peer, do)()
        answer({"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu})


if __name__ == "__main__":
    main()
