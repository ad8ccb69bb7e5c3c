"""The scripts of launch/: read by a linter and a schema, and run with stand-ins for the commands of a cluster.

A stand-in (tests/launch) notes how it was called and does the little that a script relies on: `gcloud … ssh` runs its
command in a home of each host, `srun` each task with the environment that SLURM gives it.
"""

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jsonschema
import pytest
import yaml
from jax._src.clusters import SlurmCluster

from phenaki_jax.parallel import join_processes

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
STAND_INS = ROOT / "tests" / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *(f for f in STAND_INS.iterdir() if f.is_file())])
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "tests" / "data" / "jobset.schema.json").read_text()))

class World:
    """A folder with stand-ins for commands, files that tell them what to do, and notes of their calls."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.checkout = folder / "checkout"
        self.bin.mkdir()
        shutil.copytree(LAUNCH, self.checkout / "launch")
        shutil.copy(ROOT / "setup.py", self.checkout)
        self.add("python", folder / "venv" / "bin")
        self.env = {**{k: v for k, v in os.environ.items() if not k.startswith(("JAX", "CUDA", "PHENAKI", "SLURM"))},
                    "WORLD": str(folder), "PATH": f"{self.bin}:{os.environ['PATH']}", "WAIT": "0",
                    "PHENAKI_VENV": str(folder / "venv"), "TMPDIR": str(folder), "STAND_INS": str(STAND_INS),
                    "REAL_PYTHON": sys.executable}
        self.tell(code="0")

    def add(self, name, folder=None):
        """The stand-in of that name, or one that only notes its calls."""
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(STAND_INS / name if (STAND_INS / name).exists() else STAND_INS / "anything", path)
        path.chmod(0o755)

    def tell(self, **files):
        """Files for the stand-ins to go by; an underscore stands for a hyphen."""
        for name, text in files.items():
            (self.folder / name.replace("_", "-")).write_text(f"{text}\n" if text != "" else "")

    def commit(self):
        git = ["git", "-C", str(self.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
            subprocess.run([*git, *words], check=True)

    def run(self, script, *arguments, code=0, **env):
        done = subprocess.run(["bash", str(self.checkout / "launch" / script), *arguments], env={**self.env, **env},
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def calls(self, *names):
        notes = (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""
        found = [note.split("\x1f")[:-1] for note in notes.split("\x1e")[:-1]]
        return [call for call in found if not names or call[0] in names]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def settings(call):
    return dict(word.split("=", 1) for word in call if re.match(r"[A-Z_]+=", word))


# ---------------------------------------------------------------------------------------------------- as they are read

@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for command in (["bash", "-n"], [str(shellcheck), "--external-sources", "--source-path=SCRIPTDIR"]):
        done = subprocess.run([*command, str(script.relative_to(ROOT))], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_of_cluster_has_its_script_and_lines_fit_the_page():
    names = {path.name for path in LAUNCH.iterdir()}
    assert names >= {"tpu_vm.sh", "gke_jobset.yaml", "slurm.sbatch", "multi_gpu.sh", "Dockerfile", "test.sh"}
    wide = [f"{path.name}:{i}" for path in LAUNCH.iterdir() if path.is_file()
            for i, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
    assert not wide


# ---------------------------------------------------------------------------------------------------- GKE

def jobset(**names):
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    for name, value in names.items():
        text = text.replace(name, value)
    return yaml.safe_load(text)


def job_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset):
    return job_of(jobset)["template"]["spec"]


def test_the_jobset_is_one():
    SCHEMA.validate(jobset())


@pytest.mark.parametrize("mistake, where", [
    (lambda j: j["spec"].update(maxRestarts=3), "maxRestarts"),
    (lambda j: job_of(j).update(paralelism=4), "paralelism"),
    (lambda j: job_of(j).update(parallelism="4"), "'4'"),
    (lambda j: job_of(j)["podFailurePolicy"]["rules"][0].update(action="Restart"), "Restart"),
    (lambda j: job_of(j)["podFailurePolicy"]["rules"][0]["onPodConditions"][0].update(status=True), "True"),
    (lambda j: pod_of(j).update(terminationGracePeriod=300), "terminationGracePeriod"),
    (lambda j: pod_of(j)["nodeSelector"].update(chips=4), "4"),
    (lambda j: pod_of(j)["containers"][0]["env"][0].update(value=1), "1"),
    (lambda j: pod_of(j)["containers"][0].pop("name"), "name"),
    (lambda j: pod_of(j)["volumes"][0]["csi"].update(attributes={}), "attributes"),
    (lambda j: job_of(j)["template"]["metadata"]["annotations"].update({"gke-gcsfuse/volumes": True}), "True"),
    (lambda j: j.update(apiVersion="jobset.x-k8s.io/v1alpha1"), "v1alpha2"),
])
def test_a_mistake_in_the_jobset_is_found(mistake, where):
    wrong = copy.deepcopy(jobset())
    mistake(wrong)
    assert any(where in error.message for error in SCHEMA.iter_errors(wrong))


def test_the_jobset_fits_its_slice_and_its_image():
    all_of_it, text = jobset(IMAGE="somewhere/phenaki", BUCKET="a-bucket"), (LAUNCH / "gke_jobset.yaml").read_text()
    job, pod = job_of(all_of_it), pod_of(all_of_it)
    container, = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert job["completions"] == job["parallelism"] and f"--tpu-type=v5litepod-{chips} " in text
    assert container["image"] == "somewhere/phenaki"
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "a-bucket"
    docker = (LAUNCH / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["bash", "launch/task.sh"]' in docker and (LAUNCH / "task.sh").exists()
    assert re.search(r"WORKDIR (\S+)", docker)[1] == re.search(r'--command="cd (\S+) ', text)[1]
    words = container["args"]
    assert words[0] == "train" and (ROOT / words[1].removeprefix("--config=").split(":")[0]).exists()
    assert all(word in text.split("apiVersion")[0] for word in words)  # the line for xpk starts the same run


def test_an_evicted_pod_starts_all_pods_anew_and_uses_up_no_restart():
    spec, job = jobset()["spec"], job_of(jobset())
    assert job["backoffLimit"] == 0 and pod_of(jobset())["restartPolicy"] == "Never"
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in spec["failurePolicy"]["rules"]] == [
        ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])]
    assert pod_of(jobset())["terminationGracePeriodSeconds"] == 300


def test_pods_join_also_where_each_slice_has_one_host(monkeypatch):
    """GKE names a slice's own hosts alone; several slices of one host are several processes too."""
    for variable in pod_of(jobset())["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "phenaki-slice-0-0.phenaki")
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: asked.append(given))
    join_processes()
    assert asked == [()]


# ---------------------------------------------------------------------------------------------------- a task of a job

def test_a_task_that_was_told_to_stop_is_not_done(world):
    python = str(world.folder / "venv" / "bin" / "python")
    for code in ("0", "2", "1"):
        world.tell(code=code)
        world.run("task.sh", "train", "--workdir=w", code=int(code), PYTHON=python)
    assert world.calls("phenaki")[0][2:] == ["train", "--workdir=w"]
    world.tell(until_term="yes")
    task = subprocess.Popen(["bash", str(world.checkout / "launch" / "task.sh"), "train"],
                            env={**world.env, "PYTHON": python})
    wait_for(world.folder / "begun")
    task.send_signal(signal.SIGTERM)
    assert task.wait(20) == 143


def wait_for(path, seconds=20):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------- SLURM

@pytest.fixture
def slurm(world):
    world.add("srun")
    world.add("scontrol")
    world.env |= {"SLURM_SUBMIT_DIR": str(world.checkout), "SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "8"}
    world.tell(job="RUNNING")
    return world


def test_slurm_gives_each_task_its_gpu(slurm, monkeypatch):
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    arguments = ["train", "--config=c", "--workdir=w"]
    slurm.run("slurm.sbatch", *arguments[1:])
    srun, = slurm.calls("srun")
    assert srun[1:] == ["--gpu-bind=none", "bash", f"{slurm.checkout}/launch/task.sh", *arguments]
    assert slurm.calls("pip") and not slurm.calls("scontrol")
    tasks = slurm.calls("phenaki")
    assert all(task[1:5] == [str(slurm.checkout), *arguments] for task in tasks)
    seen = set()
    for task in tasks:
        for name, value in settings(task).items():
            monkeypatch.setenv(name, value)
        assert SlurmCluster.is_env_present() and SlurmCluster.get_process_count() == 4
        assert SlurmCluster.get_coordinator_address(None, None).split(":")[0] == "node07"
        seen.add((SlurmCluster.get_process_id(), SlurmCluster.get_local_process_id()))
    assert seen == {(0, 0), (1, 1), (2, 0), (3, 1)}
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: asked.append(given))
    join_processes()
    assert asked == [()]


@pytest.mark.parametrize("job, requeued", [("RUNNING", True), ("CANCELLED", False)])
def test_slurm_queues_what_was_stopped_again_unless_it_was_cancelled(slurm, job, requeued):
    assert "#SBATCH --signal=TERM@" in (LAUNCH / "slurm.sbatch").read_text()  # to the tasks, not to the script
    slurm.tell(until_term="yes", signal="TERM", job=job)
    slurm.run("slurm.sbatch", "--config=c", code=143)
    assert (["scontrol", "requeue", "4711"] in slurm.calls()) == requeued


def test_slurm_leaves_what_is_done_or_broken(slurm):
    slurm.tell(code=3)
    slurm.run("slurm.sbatch", "--config=c", code=3)
    assert not slurm.calls("scontrol")
    assert "is no checkout" in slurm.run("slurm.sbatch", code=2, SLURM_SUBMIT_DIR="/nowhere")


# ---------------------------------------------------------------------------------------------------- one host of GPUs

def test_one_process_drives_all_gpus(world):
    world.add("nvidia-smi")
    world.tell(nvidia_smi="0\n1\n2\n3")
    world.run("multi_gpu.sh", "--config=c")
    call, = world.calls("phenaki")
    assert call[2:4] == ["train", "--config=c"] and not settings(call)


@pytest.mark.parametrize("given, shares", [({}, ["0,1", "2,3"]), ({"CUDA_VISIBLE_DEVICES": "5,7"}, ["5", "7"])])
def test_several_processes_share_the_gpus(world, given, shares):
    world.add("nvidia-smi")
    world.tell(nvidia_smi="0\n1\n2\n3")
    world.run("multi_gpu.sh", "--config=c", PROCESSES="2", **given)
    found = [settings(call) for call in world.calls("phenaki")]
    assert sorted((s["JAX_PROCESS_ID"], s["CUDA_VISIBLE_DEVICES"]) for s in found) == [*zip("01", shares)]
    assert len({s["JAX_COORDINATOR_ADDRESS"] for s in found}) == 1 and {s["JAX_NUM_PROCESSES"] for s in found} == {"2"}


@pytest.mark.parametrize("given, said", [
    ({"PROCESSES": "3"}, "PROCESSES=3 has to divide the number of GPUs, 4."),
    ({"PROCESSES": "many"}, "PROCESSES=many has to be a number"),
    ({"CUDA_VISIBLE_DEVICES": ""}, "no GPU that could be used"),
])
def test_what_the_gpus_cannot_do_is_said(world, given, said):
    world.add("nvidia-smi")
    world.tell(nvidia_smi="0\n1\n2\n3")
    assert said in world.run("multi_gpu.sh", "--config=c", code=2, **given)
    assert not world.calls("phenaki", "pip")


# ---------------------------------------------------------------------------------------------------- TPU VMs

@pytest.fixture
def tpu(world):
    """Nothing there yet; a request is granted at the third look, and the TPU has two hosts with a share of NFS."""
    world.add("gcloud")
    for name in ("findmnt", "mountpoint", "sudo", "mount.nfs"):
        world.add(name)
    world.tell(tpu_vm="none\nREADY", queued_resources="none\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE", hosts=2,
               findmnt="nfs4")
    world.commit()
    world.env |= {"ZONE": "us-east5-b", "PROJECT": "p", "ACCELERATOR": "v5litepod-16"}
    return world


RUN = ("--config=configs/sprites.py:tokenizer", "--workdir=")


def verbs(world):
    return [f"{call[3]} {call[4]}" for call in world.calls("gcloud") if call[4] != "describe"]


def test_a_tpu_is_asked_for_awaited_and_used_by_all_its_hosts(tpu):
    workdir = f"--workdir={tpu.folder}/share/it's mine"
    tpu.tell(closed="the first try of a new VM's ssh")
    tpu.run("tpu_vm.sh", "pod", RUN[0], workdir, SPOT="1", CREATE_FLAGS="--reserved --network=n", EXTRAS="metrics")
    assert verbs(tpu) == ["queued-resources create", "tpu-vm scp", "tpu-vm scp", "tpu-vm ssh"]
    calls = tpu.calls("gcloud")
    create = next(call for call in calls if call[4] == "create")
    assert create[5:] == ["pod", "--zone=us-east5-b", "--project=p", "--node-id=pod", "--accelerator-type=v5litepod-16",
                          "--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--reserved", "--network=n"]
    assert all({"--zone=us-east5-b", "--project=p"} <= set(call) for call in calls)
    assert all("--worker=all" in call for call in calls if call[4] in ("scp", "ssh"))
    hosts = tpu.calls("phenaki")
    assert [host[1] for host in hosts] == [f"{tpu.folder}/host{i}/phenaki_jax" for i in range(2)]
    assert all(host[2:5] == ["train", RUN[0], workdir] for host in hosts)
    assert all(settings(host)["PHENAKI_PROCESSES"] == "auto" for host in hosts)
    assert tpu.calls("pip")[0][1].endswith("[metrics,tpu,train]")


def test_one_host_needs_no_share_and_no_companions(tpu):
    tpu.tell(tpu_vm="READY", hosts=1, findmnt="ext4")
    tpu.run("tpu_vm.sh", "small", *RUN, ACCELERATOR="")
    assert verbs(tpu) == ["tpu-vm scp", "tpu-vm ssh"]
    host, = tpu.calls("phenaki")
    assert "PHENAKI_PROCESSES" not in settings(host)


def test_a_spot_tpu_that_was_taken_away_is_asked_for_anew(tpu):
    tpu.tell(tpu_vm="PREEMPTED\nREADY", queued_resources="SUSPENDING\nSUSPENDED\nACTIVE")
    tpu.run("tpu_vm.sh", "pod", RUN[0], f"--workdir={tpu.folder}/share")
    assert verbs(tpu)[:2] == ["queued-resources delete", "queued-resources create"]
    assert next(call for call in tpu.calls("gcloud") if call[4] == "delete")[-2:] == ["--force", "--quiet"]


def test_a_request_that_fails_ends_with_the_reason(tpu):
    tpu.tell(queued_resources="none\nPROVISIONING\nFAILED")
    said = tpu.run("tpu_vm.sh", "pod", *RUN, code=1)
    assert "the request for v5litepod-16 ended as FAILED" in said and "tpu-vm scp" not in verbs(tpu)


@pytest.mark.parametrize("given, said", [
    ({"ZONE": ""}, "ZONE is not set"),
    ({"ACCELERATOR": ""}, "there is no TPU VM pod in us-east5-b; set ACCELERATOR"),
    ({"ACCELERATOR": "v9-8"}, "ACCELERATOR=v9-8 is none whose software version is known here; set RUNTIME"),
])
def test_what_is_missing_for_a_tpu_is_said(tpu, given, said):
    told = tpu.run("tpu_vm.sh", "pod", *RUN, code=2, **given)
    assert said in told and len(told.strip().splitlines()) == 1 and not verbs(tpu)
    assert "usage:" in tpu.run("tpu_vm.sh", *RUN, code=2)


def test_several_hosts_refuse_a_folder_of_one_of_them(tpu):
    tpu.tell(findmnt="ext4")
    said = tpu.run("tpu_vm.sh", "pod", RUN[0], f"--workdir={tpu.folder}/mine", code=2)
    assert "is on a disk of this host alone, and 2 hosts share a run" in said and not tpu.calls("phenaki", "pip")


def test_a_share_is_mounted(tpu):
    (tpu.bin / "mountpoint").write_text("exit 1")
    tpu.run("tpu_vm.sh", "pod", RUN[0], f"--workdir={tpu.folder}/share", SHARE="10.0.0.2:/runs")
    assert ["sudo", "mount", "-t", "nfs", "10.0.0.2:/runs", "/mnt/phenaki"] in tpu.calls("sudo")


def test_a_run_that_is_still_there_is_told_to_save_first(tpu):
    tpu.tell(tpu_vm="READY", hosts=1, until_term="yes")
    command = ["bash", str(tpu.checkout / "launch" / "tpu_vm.sh"), "small", *RUN]
    first = subprocess.Popen(command, env=tpu.env, stdout=subprocess.DEVNULL)
    wait_for(tpu.folder / "begun")
    tpu.tell(until_term="")
    assert "a run is still on" in tpu.run("tpu_vm.sh", "small", *RUN)
    assert first.wait(20) == 0
    assert [call[0] for call in tpu.calls("phenaki", "stopped")] == ["phenaki", "stopped", "phenaki"]
