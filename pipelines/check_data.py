"""What ``diffalign check`` says of the data: rows, kinds, buckets, captions, and a sheet of records as they come out of the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from diffalign import data, models
from diffalign.eval.pages import sheet
from diffalign.eval.pages.content import Comparison, Grid, Picture
from diffalign.train import setup
from diffalign.train.config import TrainConfig
from diffalign.train.health import cautions
from diffalign.train.records import divide, read_rows, some

SHOWN = 8  # records on the contact sheet
SIDES = {data.Pair: ("chosen", "rejected"), data.Ranking: ("best", "worst")}


def about_data(config: TrainConfig, decode: bool, problem: Callable[[str], None]) -> tuple[list[data.Record], data.Counts]:
    """The usable rows, and what became of all. Rows that cannot be used are told: as a problem, unless the run skips them.

    Raises ValueError where nothing can be read.
    """
    records, counts = read_rows(config, decode=decode, on_bad="skip")
    print(f"data: {counts}")
    bad = sum(count for reason, count in counts.dropped.items() if reason != "tie")
    if bad:
        more = [f"... and {bad - len(counts.bad)} more"] if bad > len(counts.bad) else []
        if config.on_bad_data == "error":
            problem("\n".join([f"{bad} of {counts.read} rows cannot be used; mend them, or leave them out with --on-bad-data skip:",
                               *counts.bad, *more]))  # fmt: skip
        else:
            print("\n".join(["skipped:", *(f"  {sentence}" for sentence in [*counts.bad, *more])]))
    return records, counts


def about_records(
    config: TrainConfig, model: models.DiffusionModel, records: list[data.Record], counts: data.Counts
) -> list[data.Record]:
    """The records to train on, after saying how they divide, their doubles, buckets and captions. Raises ValueError as the trainer does."""
    point = config.point()
    doubles = _doubles(records)
    train, held_out, notes = divide(config, point, records, counts)
    print("\n".join(notes[1:] + cautions(point.objective, point.build_objective(), train, config.train_batch_size) + doubles))
    store = setup.store_of(config, model, [*train, *held_out])
    sizes = Counter((height, width) for height, width, _ in store.buckets)
    print("buckets (height x width): " + ", ".join(f"{height} x {width}: {count}" for (height, width), count in sizes.most_common()))
    own = point.conditioning == "dual captions"
    captions = list(dict.fromkeys(text for record in store.records for text in (record.captions if own else [record.prompt])))
    long = model.too_long(captions)
    for name, (limit, over) in long.items():
        print(f"captions: {over} of {len(captions)} have more than the {limit} tokens that the encoder of {name} sees, and are cut")
    if not long:
        limits = ", ".join(f"{limit} ({name})" for name, limit in model.token_limits().items())
        print(f"captions: {len(captions)}, all within what the encoders see: {limits or 'they read none'}")
    return train


def samples(records: list[data.Record], seed: int) -> list[data.Record]:
    """Some of the records; the first two are of one shape, the most frequent one, where it has two."""
    shapes = [(record.images[0].size, len(record.images)) for record in records]
    usual = Counter(shapes).most_common(1)[0][0]
    alike = some([record for record, shape in zip(records, shapes, strict=True) if shape == usual], 2, seed)
    ids = {record.id for record in alike}
    return [*alike, *some([record for record in records if record.id not in ids], SHOWN - len(alike), seed)]


def contact_sheet(model: models.DiffusionModel, store: data.Store, path: Path) -> Path:
    """Records from the cache, decoded by the VAE: the first and the last picture of each; of a record of one, the file beside it."""
    rows = []
    for number, record in enumerate(store.records):
        decoded = [_picture(image) for image in model.decode_images(store[number, False].mean)]
        if len(decoded) == 1:
            pictures = [Picture(record.images[0].load(), "the file"), Picture(decoded[0], "good" if record.label else "bad")]
        else:
            pictures = [Picture(decoded[end], side) for end, side in zip((0, -1), SIDES[type(record)], strict=True)]
        rows.append(Comparison(record.prompt, *pictures))
    note = "What the model is trained on: encoded, kept in the cache, decoded from there."
    return sheet.contact_sheet([Grid("Records from the cache", note, rows)], path, columns=2, rows=-(-len(rows) // 2))


def _doubles(records: list[data.Record]) -> list[str]:
    """Lines about pairs that say nothing, or twice or against each other."""
    pairs = [record for record in records if isinstance(record, data.Pair)]
    keys = [(pair.prompt, pair.chosen.digest, pair.rejected.digest) for pair in pairs]
    seen = Counter(keys)
    same = sum(chosen == rejected for _, chosen, rejected in keys)
    repeated = sum(count - 1 for count in seen.values())
    turned = sum((prompt, rejected, chosen) in seen for prompt, chosen, rejected in seen if chosen < rejected)
    said = ((repeated, "the same prompt and pictures as another"), (turned, "the same pictures the other way round in another"),
            (same, "one and the same file on both sides, and so nothing to learn from"))  # fmt: skip
    return [f"pairs: {count} with {what}" for count, what in said if count]


def _picture(image) -> Image.Image:
    """(3, H, W) in [-1, 1] as a picture."""
    return Image.fromarray(((image.cpu() + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
