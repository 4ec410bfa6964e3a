"""Preference data: records, readers, split, geometry, cache. Imports nothing else of ours, and heavy readers only on use."""

from diffalign.data.cache import TensorCache
from diffalign.data.convert import as_source, relevance
from diffalign.data.counts import Counts
from diffalign.data.dataset import Store
from diffalign.data.encoded import Encoded
from diffalign.data.geometry import Plan, View, pixels
from diffalign.data.image import Image, Sample
from diffalign.data.keys import content_key
from diffalign.data.order import batches
from diffalign.data.parquet import write_parquet
from diffalign.data.readers import read
from diffalign.data.records import Label, Pair, Ranking, Record
from diffalign.data.split import hold_out

__all__ = [
    "Counts", "Encoded", "Image", "Label", "Pair", "Plan", "Ranking", "Record", "Sample", "Store", "TensorCache", "View",
    "as_source", "batches", "content_key", "hold_out", "pixels", "read", "relevance", "write_parquet",
]  # fmt: skip
