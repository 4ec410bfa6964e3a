"""The command line as a user meets it: help, one clear line when something is wrong, an exit code, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from diffalign import __version__, cli
from tests import tiny
from tests.train.runs import write_pairs

REPO = Path(__file__).resolve().parents[1]
COMMANDS = (
    "demo", "train", "check", "cache", "train-reward", "generate", "export", "score", "compare", "eval", "self-play", "bench-methods",
    "presets", "methods", "objectives", "doctor",
)  # fmt: skip


def call(capsys, *argv) -> tuple[int, str, str]:
    code = cli.main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.build("sd15", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4)


def process(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "diffalign", *map(str, argv)], cwd=REPO, capture_output=True, text=True)


def test_help_of_the_whole(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        code, out, err = call(capsys, *argv)
        assert code == 0 and err == "" and all(f"diffalign {name}" in out for name in COMMANDS)
    assert call(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    code, out, err = call(capsys, name, "--help")
    assert code == 0 and err == "" and out.startswith(f"usage: diffalign {name} [-h]")
    assert "Traceback" not in out and max(map(len, out.splitlines())) <= 200
    assert len(out.split("\n\n")[1].strip()) > 30, "says what the command does"


def test_help_of_train_names_options_with_what_they_mean(capsys):
    out = " ".join(call(capsys, "train", "--help")[1].replace("│", " ").split())
    for part in ("--learning-rate FLOAT", "Step size, after the warm-up", "A YAML file: these same options written down", "--dry-run"):
        assert part in out


def test_module_and_exit_code_in_a_process():
    done = process("trian")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "diffalign: error: unknown command 'trian'; did you mean 'train'?\n"


def test_unknown_commands_and_flags(capsys):
    assert call(capsys, "xyz") == (2, "", f"diffalign: error: unknown command 'xyz'; known: {', '.join(COMMANDS)}\n")
    code, out, err = call(capsys, "train", "--learning-rat", "1e-4")
    assert code == 2 and out == "" and "--learning-rate" in err and "Traceback" not in err
    code, out, err = call(capsys, "presets", "now")
    assert code == 2 and "now" in err


def test_lists(capsys):
    assert "sdxl-lora-own-pairs: 50 to 2,000 pairs" in call(capsys, "presets")[1]
    code, out, _ = call(capsys, "methods")
    assert code == 0 and "diffusion-dpo: -log sigmoid(-beta/2" in out and "arXiv:2311.12908, eq. 14" in out
    assert "noising shared; conditioning same; reference start;\n  objective dpo with beta = 5000. Published: released code" in out
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "torch " in out and "bitsandbytes" in out and ("no GPU; CPU" in out or "GPU 0" in out)


def test_dry_run_prints_yaml_that_can_be_passed_back(capsys, tmp_path):
    code, out, err = call(capsys, "train", "--preset", "sdxl-lora-own-pairs", "--data", "d", "--dry-run", "--lora-rank", "4")
    assert code == 0 and "sdxl-lora-own-pairs: 50 to 2,000 pairs" in err
    assert yaml.safe_load(out)["lora_rank"] == 4
    (tmp_path / "c.yaml").write_text(out)
    assert call(capsys, "train", tmp_path / "c.yaml", "--dry-run")[:2] == (0, out)


def refusal(capsys, *argv, command="train", code=2) -> str:
    """The one line (and, of a run that failed, how to get the traceback) that a command prints instead of working."""
    got, _, err = call(capsys, command, *argv)
    assert got == code and "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith("An error occurred while trying to fetch")]  # diffusers' own words
    assert lines[0].startswith("diffalign: error: ")
    assert lines[1:] == (["  (DIFFALIGN_TRACEBACK=1 shows where)"] if code == 1 else [])
    return lines[0]


def test_what_is_missing_or_wrong_is_said_in_one_line(capsys, model, pairs, tmp_path):
    """Mistakes in the call: exit code 2, and the output folder is not touched."""
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n')

    def refused(*flags, model=model, data=pairs):
        return refusal(capsys, "--model", model, "--data", data, "--output-dir", tmp_path / "run", "--device", "cpu", *flags)

    assert "nowhere: there is no such file or folder" in refused(data=tmp_path / "nowhere")
    assert "no layout fits the columns found: a" in refused(data=other)
    assert "'chosen' is mapped to 'image_a', which is not there" in refused("--columns", "chosen", "image_a")
    assert "has no model_index.json" in refused(model=pairs)
    assert "does not exist" in refused(model=tmp_path / "nowhere")
    assert "there is no embedded model 'builtin:cats'" in refused(model="builtin:cats")
    assert "no file named diffusion_pytorch_model.fp16" in refused("--variant", "fp16")
    assert "no adapter at" in refused("--init-lora", tmp_path / "nowhere")
    assert "guidance=3.0 is read by family 'flux' only" in refused("--guidance", "3")
    assert "unknown objective 'dpoo'; did you mean 'dpo'" in refused("--objective", "dpoo")
    assert "ipo needs beta (strength" in refused("--objective", "ipo")
    assert "no record is left to train on" in refused("--held-out", "0.999999")
    assert "beta must be positive and finite; got 0.0" in refused("--beta", "0")
    assert "timesteps is 'soon'" in refused("--timesteps", "soon")
    assert "timesteps is 'uniform:0:2000'; the range" in refused("--timesteps", "uniform:0:2000")
    assert "timesteps is 'uniform:900:100'; the range" in refused("--timesteps", "uniform:900:100")
    assert "gpus is 0; it must be at least 1" in refused("--gpus", "0")
    assert "a side of 17 pixels; allowed are multiples of 2" in refused("--resolution", "17")
    assert "no module of the denoiser is named ['to_x']" in refused("--lora-targets", "to_x")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(("command", "flags", "message"), [
    ("train", ["--data", "PAIRS"], "model is missing: a hub id, a diffusers folder"),
    ("train", ["NOWHERE.yaml"], "cannot read the configuration NOWHERE.yaml"),
    ("train", ["--modality", "text", "--model", "NOWHERE", "--data", "PAIRS"], "NOWHERE' does not exist: pass a transformers folder"),
    ("train", ["--modality", "text", "--model", "builtin:sums", "--data", "NOWHERE"], "NOWHERE: there is no such file or folder"),
    ("train", ["--modality", "text", "--model", "builtin:sums", "--data", "PAIRS"], "text or a list of turns is needed"),
    ("train-reward", ["--model", "MODEL", "--data", "NOWHERE"], "NOWHERE: there is no such file or folder"),
    ("train-reward", ["--model", "MODEL", "--data", "PAIRS"], "MODEL' could not be loaded as a transformers CLIP"),
    ("self-play", ["--model", "MODEL", "--data", "NOWHERE"], "NOWHERE: there is no such file or folder"),
    ("self-play", ["--model", "NOWHERE", "--data", "PAIRS"], "NOWHERE' does not exist: pass a diffusers folder"),
    ("demo", ["--prompts", "3"], "prompts is 3; allowed are 17 to"),
    ("demo", ["--modality", "text", "--problems", "3"], "problems is 3; allowed are 20 to"),
])  # fmt: skip
def test_a_mistake_in_the_call_of_any_command_exits_with_2(command, flags, message, capsys, model, pairs, tmp_path):
    places = {"NOWHERE": str(tmp_path / "nowhere"), "MODEL": str(model), "PAIRS": str(pairs)}

    def placed(text):
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    assert placed(message) in refusal(capsys, *map(placed, flags), "--output-dir", tmp_path / "run", command=command)


def test_train_without_any_option_says_what_is_missing(capsys):
    code, _, err = call(capsys, "train")
    assert code == 2 and "model is missing: a hub id" in err and "data is missing: a folder with chosen/ and rejected/" in err


def test_a_broken_image_is_named(capsys, model, pairs, tmp_path):
    copy = write_pairs(tmp_path / "pairs", 2)
    (copy / "rejected" / "001.png").write_bytes(b"no image")
    line = refusal(capsys, "--model", model, "--data", copy, "--output-dir", tmp_path / "run", "--device", "cpu")
    assert "001.png" in line


def test_a_traceback_on_request(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFALIGN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="there is no such file"):
        cli.main(["train", "--model", str(model), "--data", str(tmp_path / "nowhere"), "--output-dir", str(tmp_path / "run")])


def test_train_end_to_end_in_a_process(model, pairs, tmp_path):
    """Everything a user sees of a small run, and what is left in the folder."""
    done = process(
        "train", "--model", model, "--data", pairs, "--output-dir", tmp_path / "run", "--max-train-steps", "2", "--train-batch-size", "2",
        "--held-out", "0.5", "--num-validation-images", "1", "--validation-inference-steps", "2", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "diffusion-dpo: dpo with beta = 5000: -p log sigma(z) - (1 - p) log sigma(-z),  r = policy - reference; "
        "l is a mean-over-latent squared error, evidence -l/2"
    )
    assert "data: 4 read, 4 kept" in lines and any(line.startswith("step-0 identity: loss ") for line in lines)
    assert lines[-1].startswith(f"{tmp_path}/run/lora  {tmp_path}/run/summary.json  (")
    assert "Traceback" not in done.stderr and "Loading" not in done.stderr and "Warning" not in done.stderr
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {"README.md", "cache", "checkpoint-00000002", "config.yaml", "lora", "metrics.jsonl", "samples", "summary.json"}
    assert Image.open(tmp_path / "run" / "samples" / "step_000002" / "00.png").size == (16, 16)
    assert os.listdir(tmp_path / "run" / "lora") == ["pytorch_lora_weights.safetensors"]
