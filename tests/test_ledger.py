"""A ledger outlasts restarts and kills."""

import json
import os
import time

import pytest

from phenaki_jax.ledger import Ledger


def test_the_ledger_outlasts_a_restart(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    with ledger.timed("data"):
        time.sleep(0.05)
    with pytest.raises(KeyboardInterrupt), ledger.timed("tokenizer"):
        raise KeyboardInterrupt
    with Ledger(tmp_path / "ledger.json").timed("data"):
        time.sleep(0.05)
    again = Ledger(tmp_path / "ledger.json")
    assert 0.1 <= again.book["seconds"]["data"] < 5 and "tokenizer" in again.book["seconds"] and again.peak_gb > 0.01
    file = tmp_path / "story.gif"
    again.done("story", {"generator": 10})
    assert not again.is_done("story", {"generator": 10}, [file])
    file.write_text("")
    assert Ledger(tmp_path / "ledger.json").is_done("story", {"generator": 10}, [file])
    assert not Ledger(tmp_path / "ledger.json").is_done("story", {"generator": 20}, [file])


def test_a_killed_step_counts_up_to_its_last_sign_of_life(tmp_path):
    run = tmp_path / "tokenizer"
    run.mkdir()
    start = time.time() - 500
    (tmp_path / "ledger.json").write_text(json.dumps({"running": ["tokenizer", start, str(run)]}))
    (run / "metrics.jsonl").write_text("{}")
    os.utime(run / "metrics.jsonl", (start + 120, start + 120))
    ledger = Ledger(tmp_path / "ledger.json")
    assert ledger.seconds == pytest.approx(120, abs=0.01) and ledger.book["running"] is None
    assert Ledger(tmp_path / "ledger.json").seconds == pytest.approx(120, abs=0.01)
