"""People's preferences: a page that shows two models' videos side by side, which side at random, and the tally."""

import base64
import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.array_files import read_json
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.page import page, paragraph
from phenaki_jax.evaluation.sprites import share

ANSWERS = ("left", "right", "same")
QUESTION = "Which video is better?"
SCRIPT = """<script>
const votes = {}, total = document.querySelectorAll(".pair").length;
function vote(button, pair, answer) {
  votes[pair] = answer;
  button.parentNode.querySelectorAll("button").forEach(one => one.style.fontWeight = one === button ? "bold" : "");
  document.getElementById("done").textContent = Object.keys(votes).length + " of " + total;
}
function save() {
  const text = JSON.stringify({page: PAGE, voter: document.getElementById("voter").value, votes: votes}, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "votes.json";
  link.click();
}
</script>"""


def main(a: str = "", b: str = "", output: str = "", question: str = QUESTION, seed: int = 0, tally: str = "",
         key: str = "") -> int:
    """`phenaki vote`: writes a page, or with `tally`, votes.json files with commas, prints what they say. Returns 0."""
    if not tally:
        for name, value in (("a", a), ("b", b), ("output", output)):
            if not value:
                raise UserError(f"--{name} is missing; a page wants --a, --b and --output, a tally --tally and --key")
        made = write_page(a, b, output, question=question, seed=seed)
        print(f"{output} ({len(made['left'])} pairs)\n{key_of(pathlib.Path(output))}")
        return 0
    if not key:
        raise UserError("--key is missing; a tally wants the NAME.key.json that was written with the page")
    found = count_votes(read_json(pathlib.Path(key)), [read_json(pathlib.Path(name)) for name in tally.split(",")])
    won = found["preferred_a"]
    print(f"a {found['a']}, b {found['b']}, same {found['same']}, of {found['voters']} voters")
    if won["of"]:
        low, high = won["interval"]
        print(f"a preferred in {won['share']:.1%} of {won['of']} votes for one of them (95 %: {low:.1%} to "
              f"{high:.1%}); sign test: p = {found['p']:.2g}")
    return 0


def write_page(a: str, b: str, output: str, *, question: str = QUESTION, seed: int = 0) -> dict[str, Any]:
    """Writes a page of the videos that both folders have by one name, and beside it NAME.key.json, which says what was
    left. The page itself does not: whoever votes does not know whose a video is.

    Returns:
      The key: {"page", "a", "b", "question", "left": {video: "a" or "b"}}.

    Raises: UserError where the folders have no name in common.
    """
    target = pathlib.Path(output)
    if target.suffix != ".html":
        raise UserError(f"--output={output!r} has to end in .html")
    sides = {name: _videos(folder, f"--{name}") for name, folder in (("a", a), ("b", b))}
    names = sorted(sides["a"].keys() & sides["b"].keys())
    if not names:
        raise UserError(f"--a={a!r} and --b={b!r} have no video of one name; a pair is two files called alike")
    rng = np.random.default_rng(seed)
    left = {name: "ab"[int(rng.integers(2))] for name in names}
    key = {"page": f"{target.stem}-{seed}", "a": str(a), "b": str(b), "question": question, "left": left}
    parts = [paragraph("Each pair shows the same task twice. Choose, then save your votes at the end of the page.")]
    for number in rng.permutation(len(names)):
        name = names[number]
        order = ("a", "b") if left[name] == "a" else ("b", "a")
        shown = "".join(f"<figure>{_shown(sides[side][name])}</figure>" for side in order)
        text = sides["a"][name].with_suffix(".txt")
        caption = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
        buttons = "".join(f"<button onclick='vote(this, {_quoted(name)}, \"{answer}\")'>{answer}</button> "
                          for answer in ANSWERS)
        parts.append(f'<div class="pair"><p>{html.escape(caption)}</p>{shown}<p>{html.escape(question)} {buttons}</p>'
                     "</div><hr>")
    parts.append('<p><span id="done">none</span> answered. Your name or none: <input id="voter"> '
                 '<button onclick="save()">save the votes</button></p>')
    parts.append(SCRIPT.replace("PAGE", json.dumps(key["page"])))
    media.write_text(target, page(question, parts))
    media.write_text(key_of(target), json.dumps(key, indent=1) + "\n")
    return key


def key_of(target: pathlib.Path) -> pathlib.Path:
    """Where the key of a page lies: keep it from those who vote."""
    return target.with_suffix(".key.json")


def count_votes(key: Mapping[str, Any], votes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What votes.json files say together.

    Returns:
      "a", "b", "same": votes for each; "preferred_a": share of the votes that preferred one of the two, with "of" and
      its 95 % "interval" (Wilson's); "p": of a sign test, two-sided; "voters"; "by_pair": {video: {"a", "b", "same"}}.

    Raises: UserError for votes on another page, an unknown video or answer.
    """
    for what, of, fields in (("the key", key, ("page", "left")), *((f"votes {number}", one, ("page", "votes"))
                                                                   for number, one in enumerate(votes, 1))):
        if missing := [name for name in fields if name not in of]:
            raise UserError(f"{what} has no field {missing[0]!r}; give the NAME.key.json of a page and the votes.json "
                            "files that were saved on it")
    by_pair = {name: dict.fromkeys(("a", "b", "same"), 0) for name in key["left"]}
    for number, one in enumerate(votes, 1):
        if one.get("page") != key["page"]:
            raise UserError(f"votes {number} are of the page {one.get('page')!r}; the key is of {key['page']!r}")
        for name, answer in one["votes"].items():
            if name not in by_pair or answer not in ANSWERS:
                raise UserError(f"votes {number} have {name!r}: {answer!r}, which is no pair of the page or none of "
                                f"{', '.join(ANSWERS)}")
            other = {"a": "b", "b": "a"}[key["left"][name]]
            by_pair[name][{"left": key["left"][name], "right": other}.get(answer, "same")] += 1
    counts = {what: sum(pair[what] for pair in by_pair.values()) for what in ("a", "b", "same")}
    decided = counts["a"] + counts["b"]
    fewer = min(counts["a"], counts["b"])
    p = min(1.0, 2 * sum(math.comb(decided, k) for k in range(fewer + 1)) / 2 ** decided)
    return counts | {"preferred_a": share([True] * counts["a"] + [False] * counts["b"]), "p": p,
                     "voters": len(votes), "by_pair": by_pair}


def _videos(folder: str, field: str) -> dict[str, pathlib.Path]:
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UserError(f"{field}={folder!r} is no folder; give one with videos")
    kinds = media.VIDEOS + media.IMAGES
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*"))
            if path.suffix.lower() in kinds}


def _shown(path: pathlib.Path) -> str:
    """A video or picture within the page: what browsers play as it is, all else as a picture that moves."""
    kind = path.suffix.lower()
    data = base64.b64encode(path.read_bytes()).decode()
    if kind in (".mp4", ".webm"):
        return (f'<video autoplay loop muted playsinline width="256" src="data:video/{kind[1:]};base64,{data}">'
                "</video>")
    return f'<img width="256" src="data:image/{"jpeg" if kind == ".jpg" else kind[1:]};base64,{data}">'


def _quoted(text: str) -> str:
    return html.escape(json.dumps(text), quote=True)
