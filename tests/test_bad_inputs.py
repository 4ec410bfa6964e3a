"""What goes wrong, with the line that the user sees and the exit code: never a traceback, and no run left behind."""

import shlex

import pytest

from diffalign import cli
from tests import bad_files

ON_CPU = " --output-dir {run} --device cpu "
TRAIN = "train --model {root}/model --data {root}/pairs" + ON_CPU
WITH_DATA = "train --model {root}/model" + ON_CPU + "--data {root}/"
WITH_MODEL = "train --data {root}/pairs" + ON_CPU + "--model {root}/"
INTO = "train --model {root}/model --data {root}/pairs --device cpu --output-dir {root}/"
SCORE = "score --reward tests.bad_files:brightness --cache off --device cpu --prompt x "
GENERATE = "generate --model {root}/model --num-inference-steps 1" + ON_CPU + "--prompts {root}/"
GOOD = "{root}/images/good.png"

TABLE = {  # what the calls of a group have in common -> exit code, {the rest of the call: what the user reads}
    "": (2, {
        "trian": "unknown command 'trian'; did you mean 'train'?",
        "train --learning-rat 1": "Unrecognized options: --learning-rat",
        "train": "model is missing: a hub id, a diffusers folder",
        "check": "2 problems: model is missing: a hub id",
    }),
    TRAIN: (2, {
        "--max-train-steps five": "Error parsing --max-train-steps: invalid literal for int()",
        "--mixed-precision fp8": "invalid choice 'fp8' for argument '--mixed-precision'",
        "--modality audio": "modality is 'audio'; it must be one of image, text",
        "--held-out 1.5": "held_out is 1.5; it must be in [0, 1)",
        "--beta 0": "beta must be positive and finite; got 0.0",
        "--learning-rate nan": "learning_rate is nan; it must be a finite number",
        "--learning-rate -1": "learning_rate is -1.0; it must be positive",
        "--train-batch-size 0": "train_batch_size is 0; it must be at least 1",
        "--method diffusion-dop": "unknown method 'diffusion-dop'; did you mean 'diffusion-dpo'?",
        "--objective dpoo": "unknown objective 'dpoo'; did you mean 'dpo'?",
        "--objective-options smooth 1": "unknown option of dpo 'smooth'. Allowed: beta",
        "--reference None": "--reference is None, which is no value",
        "--timesteps soon": "timesteps is 'soon'; use uniform",
        "--timesteps 10,5000": "timesteps is '10,5000'; positions must lie in [0, 1000)",
        "--preset sdxl-lora-own-pair": "unknown preset 'sdxl-lora-own-pair'; did you mean 'sdxl-lora-own-pairs'?",
        "--train full --reference base": "reference is 'base', which means the adapter switched off, but train is 'full'",
        "--train full --init-lora x": "train is 'full', and init_lora and reference past are about adapters",
        "--beta 5 --objective-options beta 5": "beta is given twice",
        "--lr-scheduler constant --lr-warmup-steps 5": "lr_scheduler constant has no warm-up: use constant_with_warmup",
        "--reference past": "name the adapter with reference_lora",
        "--reference-ema-decay 0.9": "reference is 'start': drop it, or use reference ema",
        "--cache-inversion": "cache_inversion keeps an inversion by a reference that stays as it is; this one is none",
        "--soft-label-scale -1": "soft_label_scale is -1.0; it must be positive",
        "--mixed-precision fp16": "mixed_precision is 'fp16', which needs a GPU",
        "--columns chosn a": "unknown key 'chosn'",
        "--columns chosen nowhere": "'chosen' is mapped to 'nowhere', which is not there. Columns found: prompt",
        "--resolution 17": "a side of 17 pixels; allowed are multiples of 2",
        "--held-out 0.9999999": "no record is left to train on: 4 read, 4 kept; 4 are held out",
        "--lora-targets to_x": "no module of the denoiser is named ['to_x']",
        "--guidance 3": "guidance=3.0 is read by family 'flux' only",
        "--max-sequence-length 9": "max_sequence_length=9 is read by families sd3",
        "--model-config x": "brings its own configs, so leave config out",
        "--vae {root}/nowhere": "/nowhere' does not exist: pass a diffusers folder",
        "--init-lora {root}/nowhere": "no adapter at {root}/nowhere/pytorch_lora_weights.safetensors",
        "--init-lora {root}/corrupt.safetensors": "corrupt.safetensors' is damaged or no .safetensors file",
        "--cache-dir {root}/file/cache": "cache_dir is {root}/file/cache, which cannot be written to (Not a directory)",
        "--method dcpo": "dual captions need a caption of each side, and 4 of 4 pairs have neither",
        "--method smpo": "soft labels are needed and every pair has probability 1",
    }),
    "train --model m --data d {root}/": (2, {
        "nowhere.yaml": "cannot read the configuration {root}/nowhere.yaml: [Errno 2] No such file",
        "binary.yaml": "cannot read the configuration {root}/binary.yaml: 'utf-8' codec",
        "syntax.yaml": "cannot read the configuration {root}/syntax.yaml: while parsing",
        "list.yaml": "must hold 'name: value' lines; it holds list",
        "nothing.yaml": "must hold 'name: value' lines; it holds nothing",
        "key.yaml": "key.yaml: unknown option 'learning_rat'; did you mean 'learning_rate'?",
        "type.yaml": "type.yaml: max_train_steps is 'five'; it must be a whole number",
        "nested.yaml": "columns is ['chosen']; it must be 'name: value' pairs, each value text",
        "flag.yaml": "flag.yaml: unknown option 'dry_run'",
        "choice.yaml": "mixed_precision is 'fp8'; it must be one of no, fp16, bf16",
        "modality.yaml": "modality is 'audio'; it must be one of image, text",
    }),
    INTO: (2, {
        "file": "{root}/file exists and no run of this program wrote it: use another --output-dir",
        "file/run": "output_dir is {root}/file/run, which cannot be written to (Not a directory): use another --output-dir",
        "taken": "{root}/taken/README.md exists and no run of this program wrote it",
        "other-run": "{root}/other-run holds a run with another configuration",
        "torn-run": "torn-run/config.yaml was not written by this program",
        "strange-run": "strange-run/config.yaml was not written by this program",
    }),
    WITH_DATA: (2, {
        "nowhere": "{root}/nowhere: there is no such file or folder. Allowed: a folder with chosen/ and rejected/",
        "empty-folder": "no known layout; the folder holds nothing",
        "empty.jsonl": "no usable record (0 read, 0 kept)",
        "notes.txt": "files of type '.txt' are not read",
        "object.json": "needed is a list of objects",
        "fields.csv": "row 1 has more or fewer fields than the header",
        "broken.parquet": "not a readable parquet file",
        "lost-side": "lost-side: 001: rejected is None; it is needed. Mend the row, or leave such rows out",
        "twins": "001.jpg and 001.png have the same stem",
        "lines": "2 lines for 4 pairs",
        "no-json.jsonl": "no-json.jsonl:1: not JSON",
        "list.jsonl": "list.jsonl:1: a list; needed is one object a line",
        "layout.jsonl": "no layout fits the columns found: prompt, rejected",
        "no-prompt.jsonl": "prompt is '  '; a record needs a prompt",
        "no-prompt.jsonl --on-bad-data skip": "no usable record (1 read, 0 kept, 1 dropped (empty prompt 1))",
        "mistyped-text.jsonl": "prompt is a bool, 'True'; one text is needed",
        "probability.jsonl": "probability is 1.5; allowed is a finite number from 0 to 1",
        "weight.jsonl": "weight is -1.0; allowed is a finite number from 0 to inf",
        "margin.jsonl": "margin is 'much'; a finite number is needed",
        "label.jsonl": "label is 2; allowed are 1 or true (good) and 0 or false (bad)",
        "label_0.jsonl": "label_0 is -0.5; allowed is the probability that jpg_0 wins, 0 to 1",
        "labels.jsonl": "the method takes pairs and the data holds labels",
        "ties.jsonl": "no usable record (1 read, 0 kept, 1 dropped (tie 1))",
        "rank.jsonl": "ranks are [0.0, 1.0]; allowed are whole numbers from 1 (best)",
        "ranks.jsonl": "ranks is [1.0]; it must be 2 numbers, one for each image",
        "alone.jsonl": "1 samples; a ranking needs at least 2",
        "scores.jsonl --method rankdpo": "scores of a ranking are read as win probabilities in [0, 1]",
        "tall-mask.jsonl": "a mask and all images of a record must have the same proportions",
        "black-mask.jsonl": "is black wherever the record's images are looked at",
        "no-file.jsonl": "chosen: there is no file {root}/images/nowhere.png",
        "empty.png.jsonl": "empty.png: not a readable image (cannot identify image file",
        "text.png.jsonl": "text.png: not a readable image (cannot identify image file",
        "bomb.png.jsonl": "bomb.png: not a readable image (Image size (900000000 pixels) exceeds limit",
        "1x1.png.jsonl": "1x1.png: 1 x 1 pixels; a picture has at least 4 on each side",
        "thread.png.jsonl": "thread.png: 900 x 1 pixels",
        "float.tiff.jsonl": "float.tiff: not a readable image (a float image has no agreed white",
        "truncated.png.jsonl": "truncated.png: not a readable image (image file is truncated)",
        "truncated.jpg.jsonl": "truncated.jpg: not a readable image (image file is truncated",
        "truncated.png.jsonl --on-bad-data skip": "no record is left, an image of every one cannot be read",
    }),
    WITH_MODEL: (2, {
        "nowhere": "/nowhere' does not exist: pass a diffusers folder, a .safetensors file, a hub id (owner/name) or builtin:shapes",
        "pairs": "has no model_index.json: pass the top folder of a diffusers pipeline",
        "model.ckpt": "is a pickle, which can run code when it is opened: convert it to safetensors first",
        "model.onnx": "is a .onnx file: a model is a .safetensors file, a diffusers folder or a hub id",
        "corrupt.safetensors": "corrupt.safetensors' is damaged or no .safetensors file",
        "bare.safetensors": "is not a whole checkpoint in the original layout",
        "model-index-no-json": "model_index.json is no JSON of a diffusers pipeline",
        "model-other-pipeline": "is a KolorsPipeline, supported are StableDiffusionPipeline (sd)",
        "model-no-vae-in-index": "has no VAE in its model_index.json: pass one with vae=",
        "model-no-text-in-index": "has no text_encoder in its model_index.json, and prompts need it",
        "model-no-vae": "names a VAE in its model_index.json but has no folder vae/",
        "model-no-unet": "names a unet in its model_index.json but has no folder unet/",
        "model-no-text_encoder": "names a text_encoder in its model_index.json but has no folder text_encoder/",
        "model-no-tokenizer": "names a tokenizer in its model_index.json but has no folder tokenizer/",
        "model-no-scheduler": "names a scheduler in its model_index.json but has no folder scheduler/",
        "model-no-vocabulary": "has a vocabulary of 2 entries, its text encoder was built for",
        "model-no-weights": "no file named diffusion_pytorch_model.safetensors found in directory {root}/model-no-weights/unet",
        "model-corrupt": "Unable to load weights from checkpoint file for '{root}/model-corrupt/unet/",
        "model-truncated": "Unable to load weights from checkpoint file for '{root}/model-truncated/unet/",
        "model-config-no-json": "the config file at '{root}/model-config-no-json/unet/config.json' is not a valid JSON file",
        "model-corrupt-text": "/model-corrupt-text' could not be loaded, a .safetensors file is damaged",
        "model --model builtin:nope": "there is no embedded model 'builtin:nope'; there is: builtin:shapes",
    }),
    "check" + ON_CPU: (2, {
        "--data {root}/nowhere --model {root}/model-no-unet": "2 problems: {root}/nowhere: there is no such file",
        "--data {root}/no-prompt.jsonl --model {root}/nowhere --lora-rank 0": "3 problems: lora_rank is 0; it must be at least 1",
        "--data {root}/pairs --model {root}/model --output-dir {root}/file --beta 0": "2 problems: beta must be positive",
    }),
    "cache --model {root}/model" + ON_CPU + "--data {root}/": (2, {
        "truncated.png.jsonl": "truncated.png: not a readable image (image file is truncated)",
        "pairs --modality text": "diffalign cache encodes pictures, and modality is text",
    }),
    "cache --model {root}/model" + ON_CPU: (0, {
        "--data {root}/unusual.jsonl": "images: 4 needed, 0 were there, 4 made",  # CMYK, RGBA, 16 bits, animated
    }),
    SCORE: (2, {
        "": "name something to score",
        "{root}/nowhere.png": "{root}/nowhere.png: there is no such file or folder",
        "{root}/empty-folder": "no file of images was found",
        "{root}/broken.parquet": "broken.parquet: not a readable parquet file",
        GOOD + " --prompts {root}/nowhere.txt": "give one prompt for all (--prompt) or a file of them (--prompts), not both",
        GOOD + " --shard 4/4": "shard is '4/4'; it must be i/N with i from 0 to N - 1",
        GOOD + " --output a.txt": "output is 'a.txt'; allowed are files that end in .csv",
        GOOD + " --batch-size 0": "batch_size is 0; it must be at least 1",
        GOOD + " --weights x": "weights is 'x'; it must be ID=PATH",
        GOOD + " --device gpu": "device is 'gpu'; it must be auto, or as torch names one",
        GOOD + " --reward pickscor": "no reward 'pickscor'; did you mean 'pickscore'?",
        GOOD + " --reward a:b a:b": "reward a:b is asked for twice",
        GOOD + " --reward no.module:nothing": "no.module could not be imported",
        GOOD + " --reward tests.bad_files:nothing": "tests.bad_files has no 'nothing'",
    }),
    SCORE + "{root}/images/": (1, {name: "nothing could be scored" for name in (
        "truncated.png", "truncated.jpg", "text.png", "empty.png", "bomb.png",
    )}),
    GENERATE: (2, {
        "nowhere.txt": "nowhere.txt': there is no such file, and no list has this name",
        "empty.jsonl": "hold none: nothing can be drawn",
        "prompts.txt --count 0": "count is 0; it must be at least 1",
        "prompts.txt --height 17": "an image of 17 x 16 has no latents",
        "prompts.txt --shard 1": "shard is '1'; it must be i/N",
        "prompts.txt --images-per-prompt 0": "images_per_prompt 0 and batch_size 4 must be at least 1",
        "prompts.txt --num-inference-steps 0": "num_inference_steps is 0; it must be at least 1",
        "prompts.txt --output-dir {root}/file": "{root}/file is a file: pictures go into a folder",
        "prompts.txt --layout png": "invalid choice 'png' for argument '--layout'",
        "prompts.txt --adapter {root}/nowhere": "there is no pytorch_lora_weights.safetensors",
        "prompts.txt --model {root}/model-no-unet": "has no folder unet/",
    }),
    "compare {root}/a.csv ": (2, {
        "": "Table of the model it is compared with. (required)",
        "{root}/nowhere.csv": "there is no table {root}/nowhere.csv",
        "{root}/notes.txt": "notes.txt is none of .jsonl, .json, .csv, .parquet",
        "{root}/broken.parquet": "broken.parquet: not a readable parquet file",
        "{root}/d.csv": "the two do not hold the same prompt_id and seed",
        "{root}/twice.csv": "a second score of r for prompt_id 0, seed 0",
        "{root}/words.csv": "r is 'good'; a score is a number",
        "{root}/b.csv --metrics other": "metrics asks for 'other', which is not in both tables",
        "{root}/b.csv --confidence 2": "confidence is 2.0; it must lie between 0 and 1",
        "{root}/b.csv --by nowhere": "no column nowhere; found are prompt_id",
        "{root}/b.csv --resamples 0": "resamples is 0; it must be at least 1",
    }),
    "demo": (2, {
        " --prompts 3": "prompts is 3; allowed are 17 to 800",
        " --reward none": "invalid choice 'none' for argument '--reward'",
        " --max-train-steps 0 --output-dir {run}": "max_train_steps is 0; it must be at least 1",
        " --output-dir {root}/file": "{root}/file is a file: use another --output-dir",
    }),
}  # fmt: skip
CASES = [(call + rest, code, line) for call, (code, rows) in TABLE.items() for rest, line in rows.items()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return bad_files.build(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize(("call", "code", "line"), CASES, ids=[call for call, *_ in CASES])
def test_one_line_and_an_exit_code(call, code, line, root, tmp_path, capsys):
    places = {"root": root, "run": tmp_path / "run"}
    got = cli.main([part.format(**places) for part in shlex.split(call)])
    out, err = capsys.readouterr()
    said = " ".join((out if code == 0 else err).replace("│", " ").split())  # tyro writes boxes
    assert " ".join(line.format(**places).split()) in said
    assert got == code and "Traceback" not in err and "DIFFALIGN_TRACEBACK" not in err
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {"cache"}, "what was encoded may stay; no run was begun"


def test_the_table_is_long_and_says_nothing_twice():
    assert len(CASES) >= 150 and len({call for call, *_ in CASES}) == len(CASES)
