"""Several processes (gloo, on the CPU) give what one gives, whatever their number; what stops one stops all, with one line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign import objectives
from diffalign.train import ConfigError, checkpoint
from diffalign.train.command import resolve
from diffalign.train.parts import NO_LABELS
from diffalign.train.ranks import Ranks, _buckets, coupling_problem, fingerprint
from tests.llm import tiny as tiny_text
from tests.train.ranks_worker import execute
from tests.train.runs import config, metrics, write_pairs

REPO = Path(__file__).resolve().parents[2]
# beta 1 and an epsilon of 1 make a step proportional to its gradient (test_train.py: test_accumulation_is_exact)
PROPORTIONAL = {"beta": 1.0, "adam_epsilon": 1.0, "learning_rate": 100.0, "max_grad_norm": 1e9}
EVERY_STEP = {"checkpointing_steps": 1, "checkpoints_total_limit": 20, "max_train_steps": 10}
RUNS = {
    2: {
        "even": dict(**PROPORTIONAL, **EVERY_STEP, train_batch_size=4, flip=True, caption_dropout=0.5, held_out=0.3, held_out_draws=1),
        "accumulated": dict(
            method="diffusion-kto", train="full", adam_epsilon=1.0, learning_rate=1.0, max_grad_norm=1e9, train_batch_size=3,
            gradient_accumulation_steps=2, max_train_steps=3, checkpointing_steps=1, checkpoints_total_limit=20,
        ),
    },
    3: {
        "uneven": dict(**PROPORTIONAL, **{**EVERY_STEP, "max_train_steps": 4}, train_batch_size=4),
        "idle": dict(
            **PROPORTIONAL, objective_options={"adaptive_beta": 0.2}, reference="ema", train_batch_size=2, gradient_accumulation_steps=2,
            max_train_steps=3, checkpointing_steps=1, checkpoints_total_limit=20,
        ),
    },
}  # fmt: skip
DOUBLE = ("even", "uneven", "idle")  # of an adapter; the reference of full training is a copy in float32


@pytest.fixture(scope="module")
def ran(folders, tmp_path_factory):
    """The folder with every run of RUNS by one process, and by its number of them; what else the processes of a number did, and said."""
    root = tmp_path_factory.mktemp("ranks")
    pairs = write_pairs(root / "pairs", 8)
    texts = tiny_text.write(root / "texts.jsonl", tiny_text.rows(12))
    language = tiny_text.build(root / "llama")
    said = {}
    for size, runs in RUNS.items():
        listed = []
        for name, changes in runs.items():
            for folder in (name, f"{name}-{size}"):
                settings = vars(config(folders("sd15"), pairs, root / folder, cache_dir=str(root / "cache" / folder), **changes))
                listed.append({"settings": settings, "double": name in DOUBLE})
            execute(**listed.pop(-2))
        if size == 2:
            listed += [text_run(language, texts, root, "text-2"), resumed_run(root), *refused_runs(folders, pairs, root)]
            execute(**text_run(language, texts, root, "text"))
        said[size] = processes(size, listed, root)
    return root, said


def text_run(language, texts, root, folder) -> dict:
    settings = dict(
        model=str(language), data=str(texts), output_dir=str(root / folder), max_train_steps=3, train_batch_size=4, held_out=0.4,
        device="cpu", adam_epsilon=1.0, learning_rate=1.0, max_grad_norm=1e9, num_validation_samples=0, logging_steps=1, lora_rank=2,
        precompute_ref_log_probs=True,
    )  # fmt: skip
    return {"settings": settings, "modality": "text"}


def resumed_run(root) -> dict:
    """The run "even" of one process as it is killed after step 4, for two processes to go on with."""
    shutil.copytree(root / "even", root / "resumed")
    (root / "resumed" / "summary.json").unlink()
    for path in (root / "resumed").glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > 4:
            shutil.rmtree(path)
    stored = resolve([str(root / "even" / "config.yaml"), "--output-dir", str(root / "resumed")])[0]
    return {"settings": vars(stored), "double": True}


def refused_runs(folders, pairs, root) -> list[dict]:
    encoded = {"cache_dir": str(root / "cache" / "even")}
    broken = config(folders("sd15"), pairs, root / "broken", **encoded)
    coupled = config(folders("sd15"), pairs, root / "call", objective="aot", beta=1.0, **encoded)
    return [{"settings": vars(broken), "breaks": 1}, {"settings": vars(coupled)}]


def processes(size: int, runs: list[dict], root: Path) -> list[list]:
    """Run these in that many processes; what each said, a list a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / f"{size}.json").write_text(json.dumps(runs))
    group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.ranks_worker", str(root / f"{size}.json")], cwd=REPO, text=True,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]  # fmt: skip
    ends = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * size, "\n".join(err for _, err in ends)
    return [[json.loads(line) for line in out.splitlines() if line.startswith("[")] for out, _ in ends]


def norm(tensors) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step:08d}" / "trainable.safetensors")


def first_gradient(folder: Path) -> list[torch.Tensor]:
    """Ten times AdamW's first moment after one step."""
    state = torch.load(folder / "checkpoint-00000001" / "state.pt", weights_only=True)["optimizer"]["state"]
    return [10 * state[i]["exp_avg"] for i in sorted(state)]


def distance(one: Path, other: Path, last: int) -> dict[str, float]:
    """Of two runs: gradients of the first step by their norm, worst of the losses, and weights by the way they went since step 1."""
    a, b = first_gradient(one), first_gradient(other)
    losses = [[row["loss"] for row in metrics(folder) if "loss" in row] for folder in (one, other)]
    first, end, found = weights(one, 1), weights(one, last), weights(other, last)
    assert len(losses[0]) == len(losses[1]) == last and set(end) == set(found)
    return {
        "gradient": norm(x - y for x, y in zip(a, b, strict=True)) / norm(a),
        "loss": max(abs(x - y) / abs(x) for x, y in zip(*losses, strict=True)),
        "weights": norm(end[name] - found[name] for name in end) / norm(end[name] - first[name] for name in end),
    }


@pytest.mark.parametrize(("size", "name", "last"), [(2, "even", 10), (3, "uneven", 4), (3, "idle", 3)])
def test_the_run_of_one_process(size, name, last, ran):
    """Batches of four shared by two or by three, and of two by three, of whom one has none: in float64 the same run."""
    root, said = ran
    found = distance(root / name, root / f"{name}-{size}", last)
    assert found["gradient"] < 1e-6 and found["loss"] < 1e-5 and found["weights"] < 1e-6, found
    assert all(f"processes: {size} share the" in note[-1] for note in (process[list(RUNS[size]).index(name)] for process in said[size]))


def test_statistics_of_a_batch_are_those_of_all_processes(ran):
    """Diffusion-KTO measures every reward against the batch's mean; three records in two shares, twice a step, all weights, float32."""
    root, _ = ran
    found = distance(root / "accumulated", root / "accumulated-2", 3)
    assert found["gradient"] < 1e-4 and found["loss"] < 1e-4 and found["weights"] < 1e-4, found


def test_held_out_metrics_are_shared(ran):
    root, _ = ran
    one, two = ([row for row in metrics(root / name) if "held_out/loss" in row] for name in ("even", "even-2"))
    assert len(one) == 5 and two == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in one]


def test_a_run_goes_on_with_another_number_of_processes(ran):
    root, _ = ran
    end, found = weights(root / "even", 10), weights(root / "resumed", 10)
    way = norm(end[name] - tensor for name, tensor in weights(root / "even", 4).items())
    assert norm(end[name] - found[name] for name in end) < 1e-6 * way
    assert [row["step"] for row in metrics(root / "resumed") if "loss" in row] == list(range(1, 11))


def test_text(ran):
    """Of a language model, whose reference one process computed before."""
    root, _ = ran
    one, two = (metrics(root / name) for name in ("text", "text-2"))
    assert len(one) == len(two) and two == [pytest.approx(row, rel=1e-4, abs=1e-5) for row in one]
    assert len(list((root / "text-2" / "cache").rglob("*.safetensors"))) == len(list((root / "text" / "cache").rglob("*.safetensors")))


def test_what_is_encoded_is_encoded_once(ran):
    root, _ = ran
    one, two = (sorted(path.name for path in (root / "cache" / name).rglob("*.safetensors")) for name in ("even", "even-2"))
    assert one == two, "the same shards, named by their content"


def test_what_stops_one_process_stops_all(ran):
    root, said = ran
    assert [process[-2] for process in said[2]] == [["elsewhere", 1, 1], ["RuntimeError", "the disk of process 1 is gone"]]
    kind, text = said[2][0][-1]
    assert kind == "ConfigError" and "aot compares the records of a forward pass with each other, and 2 processes" in text
    assert said[2][1][-1] == ["elsewhere", 2, 0]
    assert not (root / "call" / "config.yaml").exists()


def test_a_process_that_is_killed_ends_the_run_with_one_line(folders, pairs, tmp_path):
    settings = config(folders("sd15"), pairs, tmp_path / "run", max_train_steps=100_000, checkpointing_steps=1)
    (tmp_path / "run.yaml").write_text(settings.to_yaml())
    command = [sys.executable, "-m", "diffalign", "train", str(tmp_path / "run.yaml"), "--num-processes", "2"]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while checkpoint.latest(tmp_path / "run") is None:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.kill(child_with_rank(process.pid, 1), signal.SIGKILL)
        error = process.communicate()[1]
    assert process.returncode == 1
    assert [line for line in error.splitlines() if "error" in line] == [
        "diffalign: error: process 1 of 2 was killed (SIGKILL; by the system where memory ran out), and the others were ended: start the "
        "run again, which goes on from its last checkpoint"
    ]
    assert "Traceback" not in error


def child_with_rank(parent: int, rank: int) -> int:
    for folder in Path("/proc").iterdir():
        try:
            ours = folder.name.isdigit() and f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            if ours and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                return int(folder.name)
        except OSError:
            continue
    raise LookupError(f"no child of {parent} has rank {rank}")


def test_numbers_of_processes_that_cannot_be(monkeypatch):
    flags = ["--model", "m", "--data", "d"]
    there = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    many = f"gpus is 99, and this machine has {there}: use no more, or --device cpu"
    for gpus, message in ((0, "gpus is 0; it must be at least 1"), (99, many)):
        with pytest.raises(ConfigError, match=message):
            resolve([*flags, "--gpus", str(gpus)])
    assert resolve([*flags, "--gpus", "99", "--device", "cpu"])[1].gpus == 99
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="gpus is 3, and 2 processes were started already: leave --gpus out"):
        resolve([*flags, "--gpus", "3", "--device", "cpu"])


def test_shares_and_couplings():
    assert [Ranks(rank, 3).share([10, 11, 12, 13]) for rank in range(3)] == [[10, 13], [11], [12]]
    assert [Ranks(rank, 3).share([10, 11]) for rank in range(3)] == [[10], [11], []]
    assert "kto-mismatched compares the records" in coupling_problem("kto-mismatched", Ranks(0, 2))
    assert coupling_problem("kto-mismatched", Ranks()) is coupling_problem("kto", Ranks(0, 2)) is None
    assert fingerprint([torch.tensor([1.0, -2.0])]) != fingerprint([torch.tensor([1.0, -2.0000002])])
    parameters = [torch.nn.Parameter(torch.zeros(2**23)) for _ in range(3)]
    assert [len(bucket) for bucket in _buckets(parameters)] == [2, 1]


def test_labels_of_nothing_are_there_for_all_that_can_be_trained():
    for name, row in objectives.TABLE.items():
        assert row.takes in NO_LABELS or row.takes == "scores", name
