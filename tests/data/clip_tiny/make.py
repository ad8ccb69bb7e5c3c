"""Makes what lies beside it: a tiny random CLIP, and what transformers makes of texts and images with it.

``python tests/data/clip_tiny/make.py`` where torch and transformers are installed. The tests read the files, and the
inputs from here; torch they do not need.
"""

import collections
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES, POSITIONS, SIDE, PATCH = 90, 24, 32, 8
CORPUS = """a red circle moves left and a blue square moves right. the teddy bear is swimming under water; it's raining!
they're walking on the street, we've seen 3 dogs and 12 cats. a photo of a cat. the man's hat doesn't fit"""
TEXTS = [
    "a red circle moves left",
    "A RED Circle   moves\tleft\n",
    "The man's hat: it's 12.5 €, they're told, and WE'VE seen 3!!! \"'s\" '",
    "Ünïcödé ÀÉÎ e\u0301 ΟΔΟΣ ΣΑΣ ñandú İstanbul ß ﬁ",
    "東京の猫 🐈\u200d⬛ кошка\u00a0плывёт قطة ²½Ⅷ",
    "under_score a-b/c <b>&amp;</b> @#%^ ~`",
    "",
    "the teddy bear is swimming under water and the cat is walking on the street and the dog is in the rain",
]


def images() -> np.ndarray:
    """uint8 [4, 32, 32, 3]: noise, ramps, black, and a wave."""
    y, x, c = np.mgrid[:SIDE, :SIDE, :3]
    wave = 127 + 120 * np.sin(0.5 * y + c) * np.cos(0.3 * x)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    return np.stack([noise, 8 * x + 0 * y, 0 * x, wave]).astype(np.uint8)


def frame() -> np.ndarray:
    """uint8 [37, 54, 3]: neither square nor of the network's size."""
    y, x, c = np.mgrid[:37, :54, :3]
    return (127 + 60 * np.sin(0.9 * y + c) + 60 * np.cos(0.7 * x * (c + 1))).astype(np.uint8)


def ids() -> np.ndarray:
    """Texts as ids [3, 24] in which ids larger than the end's occur, so that its place is not the largest id's."""
    rng, (_, _, end, size) = np.random.default_rng(1), vocabulary()
    found = rng.integers(0, end - 2, (3, POSITIONS))
    found[:, 0] = end - 1
    for row, at in enumerate((5, 23, 12)):
        found[row, at:] = end
        found[row, 3 + row] = size - 1
    return found


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]], int, int]:
    """Names with their ids, merges learned from CORPUS, the end's id, and how many ids there are."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = {byte: chr(byte) for byte in shown}
    signs |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in signs)}
    base = [signs[byte] for byte in [*shown, *(b for b in range(256) if b not in shown)]]
    words = collections.Counter(CORPUS.replace(".", " .").replace(",", " ,").split())
    split = {word: [*map(signs.get, word[:-1].encode()), signs[word.encode()[-1]] + "</w>"] for word in words}
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        best = max(sorted(pairs), key=pairs.get)
        merges.append(best)
        for word, parts in split.items():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at:at + 2] = ["".join(best)]
                at += 1
    names = [*base, *(sign + "</w>" for sign in base), *map("".join, merges), START, END]
    assert len(set(names)) == len(names)
    return {name: i for i, name in enumerate(names)}, merges, len(names) - 1, len(names) + 3


def main() -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocab, merges, end, size = vocabulary()
    (FOLDER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (FOLDER / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS)
    tokenizer.save_pretrained(FOLDER)
    (FOLDER / "tokenizer_config.json").unlink()

    config = CLIPConfig(
        text_config=dict(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=POSITIONS, bos_token_id=end - 1,
                         eos_token_id=end, pad_token_id=end),
        vision_config=dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
                           image_size=SIDE, patch_size=PATCH),
        projection_dim=24)
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from 0 and 1, so that each one counts
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(FOLDER)

    found = {"token_ids": np.array(tokenizer(TEXTS, padding="max_length", truncation=True)["input_ids"])}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    pixels = processor(list(images()), return_tensors="pt")["pixel_values"]
    found["frame"] = np.asarray(processor([frame()], return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    for name, activation, end_id in (("quick_gelu_first", "quick_gelu", end), ("quick_gelu_largest", "quick_gelu", 2),
                                     ("gelu_first", "gelu", end)):
        config.text_config.hidden_act = config.vision_config.hidden_act = activation
        config.text_config.eos_token_id = end_id
        other = CLIPModel(config).eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            of = other(input_ids=torch.tensor(np.concatenate([found["token_ids"], ids()])), pixel_values=pixels)
        found[f"text_{name}"], found[f"image_{name}"] = of.text_embeds.numpy(), of.image_embeds.numpy()
    np.savez_compressed(FOLDER / "expected.npz", **found)


if __name__ == "__main__":
    main()
