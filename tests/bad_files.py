"""A folder of things that go wrong: pictures, data sets, models, configurations, tables of scores. For tests/test_bad_inputs.py."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests import tiny
from tests.train.runs import config, write_pairs


def brightness(images, prompts):
    """A reward for diffalign score."""
    return images.float().flatten(1).mean(1)


def build(root: Path) -> Path:
    write_pairs(root / "pairs", 4)
    _images(root / "images")
    _data(root)
    _models(root)
    _configurations(root)
    _tables(root)
    return root


def _images(folder: Path) -> None:
    """Readable ones of unusual kinds, and what only looks like a picture."""
    folder.mkdir()
    plain = Image.new("RGB", (16, 16), (200, 60, 30))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    plain.save(folder / "good.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(folder / "16bit.png")
    plain.save(folder / "animated.gif", save_all=True, append_images=[plain.rotate(90), noise.resize((16, 16))])
    plain.resize((1, 1)).save(folder / "1x1.png")
    plain.resize((1, 900)).save(folder / "thread.png")
    Image.fromarray(np.zeros((16, 16), dtype=np.float32)).save(folder / "float.tiff")
    for name, format in (("truncated.png", "PNG"), ("truncated.jpg", "JPEG")):
        noise.save(folder / "whole", format=format)
        (folder / name).write_bytes((folder / "whole").read_bytes()[:1500])
    (folder / "whole").unlink()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)  # 900 million pixels in 45 bytes
    chunks = [b"IHDR" + header, b"IDAT", b"IEND"]
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    )


def _rows(root: Path, name: str, *rows: dict | list | str) -> None:
    """A .jsonl file; text is a line as it is. Each row is a pair of the good picture, with what it says otherwise (None: not at all)."""
    good = {"prompt": "a red circle", "chosen": "images/good.png", "rejected": "images/rgba.png"}
    lines = []
    for row in rows:
        if isinstance(row, dict):
            row = {key: value for key, value in {**good, **row}.items() if value is not None}
        lines.append(row if isinstance(row, str) else json.dumps(row))
    (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def _data(root: Path) -> None:
    for name in sorted(path.name for path in (root / "images").iterdir()):
        _rows(root, name, {"chosen": f"images/{name}"})
    _rows(root, "unusual", *({"chosen": f"images/{name}"} for name in ("cmyk.jpg", "rgba.png", "16bit.png", "animated.gif")))
    _rows(root, "no-file", {"chosen": "images/nowhere.png"})
    _rows(root, "no-json", "{]")
    _rows(root, "list", [1, 2])
    _rows(root, "no-prompt", {"prompt": "  "})
    _rows(root, "layout", {"chosen": None})
    _rows(root, "mistyped-text", {"prompt": True})
    for name, row in {"probability": {"probability": 1.5}, "weight": {"weight": -1}, "margin": {"margin": "much"}}.items():
        _rows(root, name, row)
    sample = {"chosen": None, "rejected": None}
    _rows(root, "label", {**sample, "sample": "images/good.png", "label": 2})
    _rows(root, "labels", {**sample, "sample": "images/good.png", "label": 1})
    pick = {**sample, "jpg_0": "images/good.png", "jpg_1": "images/rgba.png"}
    _rows(root, "label_0", {**pick, "label_0": -0.5})
    _rows(root, "ties", {**pick, "label_0": 0.5})
    _rows(root, "rank", {**sample, "samples": ["images/good.png", "images/rgba.png"], "ranks": [0, 1]})
    _rows(root, "ranks", {**sample, "samples": ["images/good.png", "images/rgba.png"], "ranks": [1]})
    _rows(root, "alone", {**sample, "samples": ["images/good.png"], "ranks": [1]})
    _rows(root, "scores", {**sample, "samples": ["images/good.png", "images/rgba.png"], "scores": [22.1, 19.0]})
    Image.new("L", (16, 48)).save(root / "images" / "tall-mask.png")
    Image.new("L", (16, 16)).save(root / "images" / "black-mask.png")
    _rows(root, "tall-mask", {"mask": "images/tall-mask.png"})
    _rows(root, "black-mask", {"mask": "images/black-mask.png"})
    (root / "empty-folder").mkdir()
    (root / "empty.jsonl").write_text("")
    (root / "notes.txt").write_text("notes")
    (root / "object.json").write_text('{"prompt": "a"}')
    (root / "fields.csv").write_text("prompt,chosen,rejected\na red, round circle,images/good.png,images/rgba.png\n")
    (root / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (shutil.copytree(root / "pairs", root / "lost-side") / "rejected" / "001.png").unlink()
    twins = shutil.copytree(root / "pairs", root / "twins") / "chosen"
    shutil.copy(twins / "001.png", twins / "001.jpg")
    lines = shutil.copytree(root / "pairs", root / "lines")
    (lines / "metadata.jsonl").unlink()
    (lines / "prompts.txt").write_text("one\ntwo\n")


def _models(root: Path) -> None:
    model = tiny.build("sd15", root / "model")
    index = json.loads((model / "model_index.json").read_text())

    def variant(name: str, change) -> None:
        change(shutil.copytree(model, root / f"model-{name}"))

    def write(path: Path, content: bytes):
        return lambda folder: (folder / path).write_bytes(content)

    def indexed(**changes):
        return write("model_index.json", json.dumps({**index, **changes}).encode())

    weights = "unet/diffusion_pytorch_model.safetensors"
    variant("no-index", lambda folder: (folder / "model_index.json").unlink())
    variant("no-vae-in-index", indexed(vae=[None, None]))
    variant("no-text-in-index", indexed(text_encoder=[None, None]))
    variant("other-pipeline", indexed(_class_name="KolorsPipeline"))
    variant("index-no-json", write("model_index.json", b"{"))
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        variant(f"no-{part}", lambda folder, part=part: shutil.rmtree(folder / part))
    variant("no-vocabulary", lambda folder: [path.unlink() for path in (folder / "tokenizer").iterdir() if "config" not in path.name])
    variant("no-weights", lambda folder: (folder / weights).unlink())
    variant("corrupt", write(weights, b"\xff" * 64))
    variant("truncated", write(weights, (model / weights).read_bytes()[:5000]))
    variant("config-no-json", write("unet/config.json", b"{"))
    variant("corrupt-text", write("text_encoder/model.safetensors", b"\xff" * 64))
    (root / "corrupt.safetensors").write_bytes(b"\xff" * 64)
    (root / "model.ckpt").write_bytes(b"\x80\x02.")
    (root / "model.onnx").write_bytes(b"")
    shutil.copy(model / weights, root / "bare.safetensors")


def _configurations(root: Path) -> None:
    for name, text in {
        "list": "- a\n- b\n", "nothing": "# nothing\n", "syntax": "a: [1\n", "key": "learning_rat: 1e-4\n", "flag": "dry_run: true\n",
        "type": "max_train_steps: five\n", "nested": "columns: [chosen]\n", "choice": "mixed_precision: fp8\n",
        "modality": "modality: audio\n",
    }.items():  # fmt: skip
        (root / f"{name}.yaml").write_text(text)
    (root / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (root / "file").write_text("")
    other = config(root / "model", root / "pairs", root / "other-run", learning_rate=0.5).resolved()
    for name, text in {"other-run": other.to_yaml(), "torn-run": "model: [", "strange-run": yaml.safe_dump({"a": 1})}.items():
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(text)
    (root / "taken").mkdir()
    (root / "taken" / "README.md").write_text("mine")


def _tables(root: Path) -> None:
    header = "prompt_id,seed,prompt,reward,score\n"
    rows = {"a": "0,0,x,r,1.0\n1,0,y,r,2.0\n", "b": "0,0,x,r,0.5\n1,0,y,r,0.7\n", "c": "0,0,x,other,1.0\n", "d": "7,0,z,r,1.0\n",
            "twice": "0,0,x,r,1.0\n0,0,x,r,2.0\n", "words": "0,0,x,r,good\n"}  # fmt: skip
    for name, text in rows.items():
        (root / f"{name}.csv").write_text(header + text)
    (root / "no-header.csv").write_text("1,2\n")
    (root / "prompts.txt").write_text("a red circle\n")
