"""phenaki-pytorch, timed by `phenaki benchmark SUBJECT --peer=PYTHON`, which runs this under PYTHON.

Needs torch and phenaki-pytorch and nothing of phenaki_jax. One JSON object a line: the first line in has the sizes and
the answer says what was built; then {"do": CALL} is answered with seconds of wall clock and of CPU, for the calls of
the subject and for "product", and {"do": "memory"} with what the process holds. An answer {"error": text} ends it.
"""

import importlib.metadata
import importlib.util
import json
import os
import resource
import sys
import time
import types


def prepare():
    """Makes their modules importable one by one, without what their package's own __init__ loads besides.

    That is transformers and torchvision. C-ViViT without its perceptual loss and MaskGit over given embeddings need
    nothing of them: leaving them out spares the peer their memory and a build of torchvision that fits torch.
    """
    found = importlib.util.find_spec("phenaki_pytorch")
    if found is None:
        raise ImportError("No module named 'phenaki_pytorch'")
    package = types.ModuleType("phenaki_pytorch")
    package.__path__ = list(found.submodule_search_locations)
    text = types.ModuleType("phenaki_pytorch.t5")
    text.t5_encode_text = text.get_encoded_dim = lambda name: None
    text.DEFAULT_T5_NAME = ""
    sys.modules.update({"phenaki_pytorch": package, "phenaki_pytorch.t5": text,
                        "torchvision": types.ModuleType("torchvision")})


def make_cvivit(sizes):
    from phenaki_pytorch.cvivit import CViViT

    pt, py, px = sizes["patch"]
    return CViViT(
        dim=sizes["embed_dim"], codebook_size=sizes["codebook_size"], image_size=(sizes["height"], sizes["width"]),
        patch_size=(py, px), temporal_patch_size=pt, spatial_depth=sizes["spatial_layers"],
        temporal_depth=sizes["temporal_layers"], heads=sizes["heads"],
        dim_head=sizes["embed_dim"] // sizes["heads"], use_vgg_and_gan=False, lookup_free_quantization=False)


def make_phenaki(sizes):
    """Their MaskGit over their C-ViViT, and text embeddings [B, P, E] of the batch, every position of which counts."""
    import torch
    from phenaki_pytorch.phenaki_pytorch import MaskGit, Phenaki

    given = sizes["generator"]
    cvivit = make_cvivit(sizes["tokenizer"])
    maskgit = MaskGit(
        dim=given["embed_dim"], depth=given["layers"], heads=given["heads"],
        dim_head=given["embed_dim"] // given["heads"], dim_context=given["text_dim"],
        num_tokens=sizes["tokenizer"]["codebook_size"], max_seq_len=cvivit.num_tokens_per_frames(given["frames"]))
    phenaki = Phenaki(maskgit=maskgit, cvivit=cvivit, steps=given["steps"], text_embed_dim=given["text_dim"],
                      cond_drop_prob=given["text_drop"])
    return phenaki, torch.randn(sizes["batch"], given["text_length"], given["text_dim"])


def optimizer_of(model, sizes):
    from phenaki_pytorch.optimizer import get_optimizer

    return get_optimizer(model.parameters(), lr=1e-4, wd=sizes["weight_decay"], betas=(0.9, 0.99))


class Peer:
    """What every subject has. A subclass is their model of the given sizes, random inputs, and what is timed."""

    def __init__(self, sizes):
        import torch

        self.torch, self.autocast = torch, sizes["autocast"]
        torch.set_num_threads(sizes["threads"])
        torch.manual_seed(0)
        side = sizes["product"]
        self.factors = torch.randn(side, side), torch.randn(side, side)

    def facts(self):
        versions = {name: importlib.metadata.version(name) for name in ("phenaki-pytorch", "torch")}
        return {"parameters": sum(p.numel() for p in self.model.parameters()), "versions": versions,
                "device": "cpu"}

    def precision(self):
        return self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.autocast)

    def product(self):
        self.torch.mm(*self.factors)


class Tokenizer(Peer):
    """C-ViViT and a batch of random clips."""

    def __init__(self, sizes):
        super().__init__(sizes)
        given = sizes["tokenizer"]
        self.model = make_cvivit(given)
        self.optimizer = optimizer_of(self.model, sizes)
        self.video = 2 * self.torch.rand(sizes["batch"], 3, given["frames"], given["height"], given["width"]) - 1
        self.tokens = None

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


class Generator(Peer):
    """MaskGit on a batch of random tokens and text embeddings; the step is that of their PhenakiTrainer."""

    def __init__(self, sizes):
        super().__init__(sizes)
        self.phenaki, self.text = make_phenaki(sizes)
        self.model = self.phenaki.maskgit
        self.optimizer = optimizer_of(self.model, sizes)
        shape = self.phenaki.cvivit.get_video_patch_shape(sizes["generator"]["frames"])
        self.tokens = self.torch.randint(sizes["tokenizer"]["codebook_size"], (sizes["batch"], *shape))
        self.phenaki.train()

    def train(self):
        with self.precision():
            loss = self.phenaki(video_codebook_ids=self.tokens, text_embeds=self.text)
            loss.item()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Sampling(Peer):
    """Their `Phenaki.sample` from given text embeddings: masked tokens in, pixels out."""

    def __init__(self, sizes):
        super().__init__(sizes)
        self.phenaki, text = make_phenaki(sizes)
        self.phenaki.encode_texts = lambda texts, output_device: text
        self.model = self.phenaki.maskgit
        self.given, self.texts = sizes["generator"], [""] * len(text)
        shape = self.phenaki.cvivit.get_video_patch_shape(self.given["frames"])
        self.tokens = self.torch.randint(sizes["tokenizer"]["codebook_size"], (len(text), *shape))
        self.phenaki.eval()

    def sample(self):
        with self.precision():
            self.phenaki.sample(num_frames=self.given["frames"], texts=self.texts, cond_scale=self.given["cond_scale"])

    def decode(self):
        with self.torch.no_grad(), self.precision():
            self.phenaki.cvivit.decode_from_codebook_indices(self.tokens.flatten(1))


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
        prepare()
        peer = {"tokenizer": Tokenizer, "generator": Generator, "sampling": Sampling}[sizes["subject"]](sizes)
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
