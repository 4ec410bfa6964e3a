"""A configuration, written in Python, YAML or flags: the same thing, checked all at once."""

import dataclasses

import pytest
import yaml

from diffalign import methods
from diffalign.train import ConfigError, TrainConfig
from diffalign.train.command import resolve
from diffalign.train.presets import PRESETS
from diffalign.train.problems import checked, problems

GOOD = ["--model", "m", "--data", "d"]


def refused(argv, tmp_path=None, text="") -> list[str]:
    """The lines of the refusal; ``text`` is a YAML file given first."""
    if text:
        (tmp_path / "c.yaml").write_text(text)
        argv = [str(tmp_path / "c.yaml"), *argv]
    with pytest.raises(ConfigError) as error:
        resolve(argv)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def written(tmp_path, text, *flags) -> TrainConfig:
    (tmp_path / "c.yaml").write_text(text)
    return resolve([str(tmp_path / "c.yaml"), *flags])[0]


def test_flags_win_over_yaml_over_preset(tmp_path):
    text = "preset: sdxl-lora-own-pairs\ndata: d\nbeta: 4000\nlora_rank: 32\n"
    config = written(tmp_path, text, "--lora-rank", "64", "--no-gradient-checkpointing")
    values = dict(PRESETS["sdxl-lora-own-pairs"].values)
    assert (config.lora_rank, config.beta, config.gradient_checkpointing) == (64, 4000.0, False)
    assert config == TrainConfig(**{**values, "data": "d", "beta": 4000.0, "lora_rank": 64, "gradient_checkpointing": False})
    assert written(tmp_path, text, "--preset", "diffusion-dpo-sd15").train == "full"  # a flag wins over the file's preset, too


def test_the_file_may_come_after_flags(tmp_path):
    (tmp_path / "c.yaml").write_text("lora_rank: 3\n")
    assert resolve([*GOOD, str(tmp_path / "c.yaml")])[0].lora_rank == 3


def test_yaml_is_the_flags_written_down(tmp_path):
    flags = [
        "--flip", "--no-aspect-ratio-buckets", "--learning-rate", "1e-4", "--mixed-precision", "no", "--reference", "start",
        "--validation-prompts", "a red square", "--columns", "chosen", "image_a", "rejected", "image_b", "--objective", "cdpo",
        "--beta", "10", "--objective-options", "label_smoothing", "0.2", "--lora-alpha", "8", "--timesteps", "249,499",
    ]  # fmt: skip
    text = """
flip: true
aspect_ratio_buckets: false
learning_rate: 1e-4       # YAML 1.1 reads this as text
mixed_precision: no       # ... and this as false
reference: start
validation_prompts: [a red square]
columns: {chosen: image_a, rejected: image_b}
objective: cdpo
beta: 10
objective_options: {label_smoothing: 0.2}
lora_alpha: 8
timesteps: 249,499
"""
    assert written(tmp_path, text, *GOOD) == resolve([*GOOD, *flags])[0]


def test_mappings_and_lists_of_a_file_are_replaced_whole(tmp_path):
    text = "columns: {prompt: text}\nvalidation_prompts: [a, '-b']\nobjective: cdpo\nbeta: 1\nobjective_options: {label_smoothing: 0.2}\n"
    config = written(tmp_path, text, *GOOD, "--columns", "chosen", "x", "--validation-prompts", "c")
    assert (config.columns, config.validation_prompts, config.objective_options) == ({"chosen": "x"}, ["c"], {"label_smoothing": 0.2})
    assert written(tmp_path, text, *GOOD).validation_prompts == ["a", "-b"]


@pytest.mark.parametrize("name", [None, *PRESETS])
def test_the_resolved_yaml_gives_the_same_configuration(name, tmp_path):
    flags = ["--data", "d", "--columns", "chosen", "1", "--validation-prompts", "no", "1", "ein rotes Quadrat: größer", "--vae", "v"]
    first = resolve([*flags, *(["--preset", name] if name else ["--model", "m"])])[0]
    again = written(tmp_path, first.to_yaml())
    assert again == first and again.to_yaml() == first.to_yaml()


def test_numbers_are_read_where_text_is_kept(tmp_path):
    text = "method: inpo\ninversion: {steps: 4, eta: 0.1}\ncolumns: {chosen: 1}\n"
    config = written(tmp_path, text, *GOOD)
    assert (config.inversion, config.columns) == ({"steps": "4", "eta": "0.1"}, {"chosen": "1"})
    assert dict(config.point().inversion) == {"steps": 4, "eta": 0.1}


@pytest.mark.parametrize("flag", ["--reference", "--beta"])
def test_none_is_no_value(flag):
    advice = ", or write --reference none for no reference" if flag == "--reference" else ""
    assert refused([*GOOD, flag, "None"]) == [f"{flag} is None, which is no value: leave the option out for its default{advice}"]


def test_a_preset_that_does_not_exist_is_all_that_is_said():
    (line,) = refused(["--preset", "diffusion-dpo-sd51"])
    assert line.startswith("unknown preset 'diffusion-dpo-sd51'; did you mean 'diffusion-dpo-sd15'?")


@pytest.mark.parametrize("method", methods.names())
def test_a_resolved_configuration_says_what_its_point_is(method, tmp_path):
    """Nothing is left to the table of methods; saying a default aloud is no other configuration; and it can be written down."""
    short = TrainConfig(model="m", data="d", method=method)
    full = short.resolved()
    assert (full.point(), full.resolved()) == (short.point(), full)
    assert dataclasses.replace(short, objective=full.objective, reference=full.reference, noising=full.noising).resolved() == full
    assert written(tmp_path, full.to_yaml()) == full


def test_every_preset_is_a_valid_configuration():
    for preset in PRESETS.values():
        assert problems(TrainConfig(**{**preset.values, "data": "d"})) == [], preset.name
        assert "unproven" in str(preset)


def test_all_problems_are_said_together(tmp_path):
    text = "learning_rat: 1e-4\nmax_train_steps: five\nflip: 1\nmixed_precision: fp8\nvalidation_prompts: [a, 3]\nheld_out: 1.5\nfresh:\n"
    assert refused(["--gpus", "0", "--beta", "0"], tmp_path, text) == [
        "c.yaml: unknown option 'learning_rat'; did you mean 'learning_rate'?",
        "c.yaml: max_train_steps is 'five'; it must be a whole number",
        "c.yaml: flip is 1; it must be true or false",
        "c.yaml: mixed_precision is 'fp8'; it must be one of no, fp16, bf16",
        "c.yaml: validation_prompts is ['a', 3]; it must be text",
        "c.yaml: fresh is None; it must be true or false",
        "model is missing: a hub id, a diffusers folder, a .safetensors file, or builtin:shapes",
        "data is missing: a folder with chosen/ and rejected/, a .jsonl, .csv or .parquet file, or a data set",
        "held_out is 1.5; it must be in [0, 1)",
        "beta must be positive and finite; got 0.0",
        "gpus is 0; it must be at least 1",
    ]


@pytest.mark.parametrize(("text", "message"), [
    ("- a\n- b\n", "c.yaml must hold 'name: value' lines; it holds list"),
    ("# nothing\n", "c.yaml must hold 'name: value' lines; it holds nothing"),
    ("a: [1\n", "cannot read the configuration c.yaml: while parsing"),
    ("dry_run: true\n", "c.yaml: unknown option 'dry_run'"),
    ("inversion: {steps: few}\nmethod: inpo\n", "inversion steps is 'few'; it must be a number"),
    ("preset: sdxl-lora-own-pair\n", "unknown preset 'sdxl-lora-own-pair'; did you mean 'sdxl-lora-own-pairs'?"),
    ("learning_rate: .nan\n", "c.yaml: learning_rate is nan; it must be a finite number"),
    ("lora_rank: 4.0\n", "c.yaml: lora_rank is 4.0; it must be a whole number"),
    ("lora_rank: true\n", "c.yaml: lora_rank is True; it must be a whole number"),
    ("columns: [chosen]\n", "c.yaml: columns is ['chosen']; it must be 'name: value' pairs, each value text"),
    ("objective_options: {a: b}\n", "c.yaml: objective_options is {'a': 'b'}; it must be a finite number"),
    ("reference: base\ntrain: full\n", "reference is 'base', which means the adapter switched off, but train is 'full': use"),
])  # fmt: skip
def test_a_file_that_is_wrong(text, message, tmp_path):
    assert any(line.startswith(message) for line in refused(GOOD, tmp_path, text))


@pytest.mark.parametrize(("flags", "message"), [
    (["--objective-options", "label_smoothing", "0.1"], "unknown option of dpo 'label_smoothing' (label_smoothing belongs to cdpo)"),
    (["--objective", "cdpo"], "cdpo needs beta (strength"),
    (["--objective", "ddpo"], "unknown objective 'ddpo'; did you mean 'dpo'?"),
    (["--method", "difusion-dpo"], "unknown method 'difusion-dpo'; did you mean 'diffusion-dpo'?"),
    (["--beta", "1", "--objective-options", "beta", "2"], "beta is given twice"),
    (["--reference", "none"], "reference is 'none', but the objective dpo compares with one"),
    (["--reference-ema-decay", "0.9"], "reference_ema_decay is 0.9, but reference is 'start'"),
    (["--timesteps", "uniformly"], "timesteps is 'uniformly'; use uniform, uniform:LOW:HIGH, logit-normal"),
    (["--timesteps", "uniform:3"], "timesteps is 'uniform:3'; use"),
    (["--timesteps", "logit-normal:0:-1"], "timesteps is 'logit-normal:0:-1'; use"),
    (["--lr-scheduler", "constant", "--lr-warmup-steps", "5"], "lr_warmup_steps is 5, but lr_scheduler constant has no warm-up"),
    (["--checkpoints-total-limit", "0"], "checkpoints_total_limit is 0; it must be at least 1"),
    (["--ema-decay", "1"], "ema_decay is 1.0; it must be in [0, 1)"),
    (["--learning-rate", "-1"], "learning_rate is -1.0; it must be positive"),
])  # fmt: skip
def test_values_that_are_wrong(flags, message):
    (line,) = refused([*GOOD, *flags])
    assert line.startswith(message)


@pytest.mark.parametrize(("objective", "option", "flag"), [
    ("ipo", "beta", "--beta NUMBER"), ("adpa", "gamma", "--objective-options gamma NUMBER"),
])  # fmt: skip
def test_an_option_that_has_to_be_given_is_named_with_its_flag(objective, option, flag):
    (line,) = refused([*GOOD, "--objective", objective])
    assert line.startswith(f"{objective} needs {option} (") and line.endswith(f". Give it as {flag}")


def test_a_configuration_made_in_python_is_checked_for_types():
    message = "lora_rank is '16'; it must be a whole number\nattention is 'fast'; it must be one of auto, sdpa, cudnn, flex, flash"
    with pytest.raises(ConfigError, match=message):
        checked(TrainConfig(model="m", data="d", lora_rank="16", attention="fast"))
    assert checked(TrainConfig(model="m", data="d", beta=5000, learning_rate=1)).beta == 5000


def test_every_option_is_explained():
    """The help is the docstrings of the fields; one without would be an empty line there."""
    import inspect

    source = "".join(inspect.getsource(kind) for kind in TrainConfig.__mro__ if dataclasses.is_dataclass(kind))
    for field in dataclasses.fields(TrainConfig):
        assert f"    {field.name}: " in source
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name


def test_the_samplers_that_can_be_written_down():
    def sampler(text):
        return dataclasses.replace(TrainConfig(), timesteps=text).timestep_sampler()

    assert vars(sampler("uniform:100:900")) == {"low": 100, "high": 900}
    assert vars(sampler("logit-normal:0.5:2")) == {"logit_mean": 0.5, "logit_std": 2.0}
    assert vars(sampler("249,499")) == {"timesteps": (249, 499)}
    assert vars(sampler("uniform")) == {"low": 0, "high": None}


def test_the_yaml_is_plain():
    values = yaml.safe_load(TrainConfig(model="m").to_yaml())
    assert values["mixed_precision"] == "no" and values["learning_rate"] == 1e-5 and "fresh" not in values
