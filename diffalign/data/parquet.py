"""Pack pairs into one parquet file that holds their images: a folder of files becomes a file to ship."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from diffalign.data.image import Image
from diffalign.data.records import Pair

ROWS_AT_ONCE = 64


def write_parquet(records: Sequence[Pair], path: str | Path) -> None:
    """Write pairs in the canonical columns, images as the encoded bytes they already are ({'bytes', 'path'}, path the bare file name).

    ``read(path, ties="half")`` gives the pairs back: ids, numbers and image bytes the same. The file appears whole or not at all. An
    optional column that no pair uses is left out.
    Raises ValueError for records that are not pairs, for none at all, and for images that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    strange = [type(record).__name__ for record in records if not isinstance(record, Pair)]
    if strange or not records:
        found = f"a {strange[0]} among them" if strange else "no records"
        raise ValueError(f"write_parquet: {found}; it packs pairs, one or more.")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    optional = {
        "prompt_chosen": pa.string(), "prompt_rejected": pa.string(), "scores": pa.list_(pa.float64()),
        "source": image, "mask": image, "origin": pa.string(),
    }  # fmt: skip
    first = {"id": pa.string(), "prompt": pa.string(), "chosen": image, "rejected": image}
    numbers = {"probability": pa.float64(), "weight": pa.float64(), "margin": pa.float64()}
    used = {name: kind for name, kind in optional.items() if any(vars(record)[name] is not None for record in records)}
    schema = pa.schema({**first, **numbers, **used})

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with pq.ParquetWriter(unfinished, schema, compression="none") as writer:  # the images are compressed already
            for start in range(0, len(records), ROWS_AT_ONCE):
                rows = [_packed(record, schema.names) for record in records[start : start + ROWS_AT_ONCE]]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _packed(record: Pair, names: Sequence[str]) -> dict:
    return {name: _encoded(value) for name, value in vars(record).items() if name in names}


def _encoded(value):
    if isinstance(value, Image):
        return {"bytes": value.read(), "path": value.path.name if value.path else None}
    return value
