"""What disks do to a run, and kills: damaged checkpoints, no room, no time to finish."""

import errno
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from phenaki_jax.errors import DataError, UserError
from phenaki_jax.training.checkpoints import checkpoint_steps, load_run
from phenaki_jax.training.metrics import MetricsFile, read_lines

sys.path.insert(0, str(Path(__file__).parent))
from runs import lines, run, spawn, wait_for_step  # noqa: E402
from tiny_run import TinyLoader, tiny_config  # noqa: E402


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("item", ["model", "training"])
@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["a byte flipped", "a file missing"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(tmp_path, capsys, item, harm):
    run(tmp_path / "run", tiny_config(10))
    largest = max((tmp_path / "run" / "checkpoints" / "10" / item).rglob("*"), key=lambda file: file.stat().st_size)
    harm(largest)
    if item == "model":
        with pytest.raises(UserError, match="Checkpoint 10 of .* is damaged .model/"):
            load_run(tmp_path / "run")
    run(tmp_path / "run", tiny_config(12))
    said = capsys.readouterr().out
    assert f"checkpoint 10 is damaged ({item}/" in said and "the run goes on from step 5" in said
    assert len(list((tmp_path / "run" / "damaged").iterdir())) == 1
    whole = tmp_path / "whole"
    run(whole, tiny_config(10))  # the schedule of learning rates is that of the two parts
    shutil.rmtree(whole / "checkpoints" / "10")
    run(whole, tiny_config(12))
    assert lines(tmp_path / "run") == lines(whole)


def test_nothing_but_damage_is_no_new_beginning(tmp_path):
    run(tmp_path, tiny_config(5))
    (tmp_path / "checkpoints" / "5" / "seal.json").write_text("{")
    with pytest.raises(UserError, match="The only checkpoint of .* 5, is damaged .seal.json is unreadable"):
        run(tmp_path, tiny_config(12))


class Filling(TinyLoader):
    """From when checkpoint 5 is there to step 17 no file may grow beyond 4 kB: what is written then finds no room."""

    def iterate(self, start_step: int = 0):
        for step, batch in enumerate(super().iterate(start_step), start_step):
            if step == 8:
                while not checkpoint_steps(self.config.data.data_dir):
                    time.sleep(0.02)
            if step in (8, 17):
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if step == 8 else LIMIT[1], LIMIT[1]))
            yield batch


LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, capsys):
    config = tiny_config(24)
    config.data.data_dir = str(tmp_path / "run")
    monitor = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        run(tmp_path / "run", config, make_loader=Filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMIT)
        signal.signal(signal.SIGXFSZ, monitor)
    said = capsys.readouterr().out
    assert "checkpoint 10 could not be written" in said and "the last good one is 5" in said
    assert checkpoint_steps(tmp_path / "run") == [20, 24]
    run(tmp_path / "whole", tiny_config(24))
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_disk_that_stays_full_ends_it_with_the_last_good_checkpoint(tmp_path):
    config = tiny_config(12)
    config.data.data_dir = str(tmp_path / "run")
    monitor = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(DataError, match="step 12 could not be saved.*; saved at step 5 of 12"):
            run(tmp_path / "run", config, make_loader=Filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMIT)
        signal.signal(signal.SIGXFSZ, monitor)
    run(tmp_path / "run", config)
    run(tmp_path / "whole", config)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_lines_wait_for_room(tmp_path):
    file = MetricsFile(tmp_path)
    whole, room = file._file, [3, 0, 10**6]

    class Full:
        def write(self, data):
            if not room[0]:
                room.pop(0)
                raise OSError(errno.ENOSPC, "No space left on device")
            part, room[0] = data[:room[0]], max(0, room[0] - len(data))
            if not room[0] and len(room) == 3:
                room.pop(0)
            return whole.write(part)

        close = whole.close

    file._file = Full()
    for step in (1, 2, 3):
        file.write(step, {"loss": 0.5})
    file.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_twenty_kills_and_the_metrics_of_an_unkilled_run(tmp_path, number):
    steps, chance = 400, random.Random(0)
    for _ in range(20):
        process = spawn(tmp_path / "killed", steps, delay=0.03)
        done = checkpoint_steps(tmp_path / "killed")
        wait_for_step(process, tmp_path / "killed", (done[-1] if done else 0) + 3)
        time.sleep(chance.random() * 0.5)
        process.send_signal(number)
        process.wait()
        for step in checkpoint_steps(tmp_path / "killed"):
            load_run(tmp_path / "killed", step)
    assert checkpoint_steps(tmp_path / "killed")[-1] < steps
    run(tmp_path / "killed", tiny_config(steps))
    run(tmp_path / "whole", tiny_config(steps))
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
