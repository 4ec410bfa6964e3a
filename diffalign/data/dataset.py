"""Records as a model sees them: encoded once, kept in a cache, assembled on demand."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from tqdm import tqdm

from diffalign.data.cache import TensorCache
from diffalign.data.encoded import Encoded
from diffalign.data.geometry import Plan, View, pixels
from diffalign.data.image import Image
from diffalign.data.keys import content_key
from diffalign.data.masks import at_latent_size, mask_key, mask_view
from diffalign.data.records import Record

EMPTY = content_key("empty prompt")
DECODING_THREADS = 4

EncodeImages = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
EncodePrompts = Callable[[list[str]], dict[str, torch.Tensor]]


class Store:
    """``store[i, flip]`` is the i-th record, encoded.

    ``build`` encodes what the cache lacks; a process that only reads (another rank) constructs the store after that and never encodes.
    An image that occurs in many records, and a caption, is encoded once: keys name the image's bytes and its view, or the caption.

    Args:
        records: one or more.
        plan: their geometry. Image headers are read here, so an unreadable file is found at once.
        cache: whose provenance names everything else that the encoders depend on (models, dtype).
        uniform: (record id, name) -> number in [0, 1), which places a random crop; asked for ``crop_top`` and ``crop_left``. One crop a
            record for all epochs, because the latents are cached. Needed for ``crop="random"``.
        flip: also keep the mirrored variants.
        own_captions: an image goes with its own caption, where it has one; else all of a record go with its prompt.
    """

    def __init__(
        self,
        records: Sequence[Record],
        plan: Plan,
        cache: TensorCache,
        *,
        uniform: Callable[[str, str], float] | None = None,
        flip: bool = False,
        own_captions: bool = False,
    ):
        if not records:
            raise ValueError("Store: no records; it holds one or more.")
        if plan.crop == "random" and uniform is None:
            raise ValueError("Store: crop='random' needs uniform, a function (record id, name) -> number in [0, 1).")
        self.records, self.plan, self.cache, self.flip, self.own_captions = list(records), plan, cache, flip, own_captions
        planned = [self._plan_views(record, uniform) for record in self.records]
        self._views, self._mask_views = [views for views, _ in planned], [view for _, view in planned]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: tuple[int, bool]) -> Encoded:
        """The record ``(i, flip)``. ValueError when flips were not asked for, or ``build`` has not encoded it."""
        i, flip = place
        if flip and not self.flip:
            raise ValueError(f"Store: record {i} asked for mirrored; construct the store with flip=True to keep mirrored variants.")
        record = self.records[i]
        views = [view.flipped() if flip else view for view in self._views[i]]
        images = [self._get(_image_key(image, view), record.id) for image, view in zip(record.images, views, strict=True)]
        texts = [self._get(_text_key(caption), record.id) for caption in self._captions(record)]
        mask = self._mask_views[i]
        if mask is not None:
            variant = mask.flipped() if flip else mask
            mask = self._get(mask_key(record.mask, variant, images[0]["mean"].shape[-2:]), record.id)["mask"]
        return Encoded(
            record=record,
            mean=torch.stack([image["mean"] for image in images]),
            std=torch.stack([image["std"] for image in images]),
            text={name: torch.stack([text[name] for text in texts]) for name in texts[0]},
            original_size=torch.tensor([view.original for view in views]),
            crop=torch.tensor([view.crop_top_left for view in views]),
            target_size=torch.tensor([view.target for view in views]),
            mask=mask,
        )

    def id_of(self, i: int) -> str:
        return self.records[i].id

    def bucket_of(self, i: int) -> tuple[int, int, int]:
        """(height and width in pixels, number of images); records of one bucket have tensors of one shape."""
        return *self._views[i][0].target, len(self._views[i])

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """The bucket of every record, as ``order.batches`` takes them."""
        return [self.bucket_of(i) for i in range(len(self))]

    @property
    def empty_text(self) -> dict[str, torch.Tensor]:
        """name -> (1, ...): the state of the empty prompt. ValueError before ``build``."""
        return {name: state.unsqueeze(0) for name, state in self._get(EMPTY, "the empty prompt").items()}

    def build(
        self,
        encode_images: EncodeImages,
        encode_prompts: EncodePrompts,
        *,
        encode_empty: Callable[[], dict[str, torch.Tensor]] | None = None,
        batch_size: int = 8,
        progress: bool = True,
        skip: bool = False,
    ) -> list[str]:
        """Encode what the cache lacks. Killed and called again, it continues. Returns a sentence about every record that was left out.

        Args:
            encode_images: (N, 3, H, W) float32 in [-1, 1] -> (mean, std), each (N, C, h, w).
            encode_prompts: N captions -> name -> (N, ...).
            encode_empty: -> name -> (1, ...), what inference uses as unconditional (SDXL: zeros); default: ``encode_prompts([""])``.
            skip: a record with an image that cannot be decoded (its header was read before) is left out, and the store holds the others;
                otherwise it stops the build.

        Raises ValueError for an unreadable image and for moments that are not finite, naming the image; for a mask of which nothing is
        left within the crop, naming the record; and where no record is left.
        """
        try:
            self._build_texts(encode_prompts, encode_empty or (lambda: encode_prompts([""])), batch_size, progress)
            unreadable = self._build_images(encode_images, batch_size, progress, skip)
            left_out = self._leave_out(unreadable)
            self._build_masks()
        finally:
            self.cache.flush()  # also when interrupted: what is done stays done
        return left_out

    def there(self) -> dict[str, tuple[int, int]]:
        """images, captions -> (how many the cache holds, how many these records need, each view of an image counted)."""
        needed = {
            "images": {_image_key(image, view) for image, view, _ in self._places()},
            "captions": {EMPTY, *(_text_key(caption) for record in self.records for caption in self._captions(record))},
        }
        return {name: (sum(key in self.cache for key in keys), len(keys)) for name, keys in needed.items()}

    def _build_texts(self, encode_prompts: EncodePrompts, encode_empty: Callable[[], dict], batch_size: int, progress: bool) -> None:
        if EMPTY not in self.cache:
            self._put(EMPTY, encode_empty(), 0)
        captions = dict.fromkeys(caption for record in self.records for caption in self._captions(record))
        captions = [caption for caption in captions if _text_key(caption) not in self.cache]
        for batch in tqdm(_chunks(captions, batch_size), desc="captions", disable=not progress or not captions):
            states = encode_prompts(batch)
            for row, caption in enumerate(batch):
                self._put(_text_key(caption), states, row)

    def _build_images(self, encode_images: EncodeImages, batch_size: int, progress: bool, skip: bool) -> dict[str, str]:
        """Key of an image that cannot be decoded -> what is wrong with it; empty unless ``skip``."""
        jobs = self._image_jobs()
        unreadable = {}

        def decoded(job: tuple[str, Image, View]) -> torch.Tensor | None:
            key, image, view = job
            try:
                return pixels(image.load(), view)
            except ValueError as error:
                if not skip:
                    raise
                unreadable[key] = str(error)
                return None

        with ThreadPoolExecutor(DECODING_THREADS) as pool, tqdm(total=len(jobs), desc="images", disable=not progress or not jobs) as bar:
            for target in dict.fromkeys(view.target for _, view in jobs.values()):
                same_size = [(key, *job) for key, job in jobs.items() if job[1].target == target]
                for batch in _chunks(same_size, batch_size):
                    inputs = [(job, tensor) for job, tensor in zip(batch, pool.map(decoded, batch), strict=True) if tensor is not None]
                    if inputs:
                        mean, std = encode_images(torch.stack([tensor for _, tensor in inputs]))
                        moments = {"mean": mean.float(), "std": std.float()}
                    for row, ((key, image, _), _) in enumerate(inputs):
                        _require_finite(image, moments, row)
                        self._put(key, moments, row)
                    bar.update(len(batch))
        return unreadable

    def _leave_out(self, unreadable: dict[str, str]) -> list[str]:
        """Go on without the records of these images (by key); a sentence about each record."""
        said = {}  # number of the record -> what is wrong with one of its images
        for image, view, number in self._places():
            if (key := _image_key(image, view)) in unreadable:
                said[number] = f"{self.records[number].id}: {unreadable[key]}"
        if len(said) == len(self.records):
            raise ValueError(f"no record is left, an image of every one cannot be read; {next(iter(said.values()))}")
        for name in ("records", "_views", "_mask_views"):
            vars(self)[name] = [part for number, part in enumerate(vars(self)[name]) if number not in said]
        return list(said.values())

    def _build_masks(self) -> None:
        """After the images, whose latents say how large a mask becomes."""
        for record, views, mask in zip(self.records, self._views, self._mask_views, strict=True):
            if mask is None:
                continue
            size = self._get(_image_key(record.images[0], views[0]), record.id)["mean"].shape[-2:]
            for variant in (mask, mask.flipped()) if self.flip else (mask,):
                if (key := mask_key(record.mask, variant, size)) not in self.cache:
                    self.cache.put(key, {"mask": at_latent_size(record.mask, variant, size, record.id)})

    def _image_jobs(self) -> dict[str, tuple[Image, View]]:
        """What is still to be encoded, each (image, view) once."""
        jobs = {_image_key(image, view): (image, view) for image, view, _ in self._places()}
        return {key: job for key, job in jobs.items() if key not in self.cache}

    def _places(self) -> Iterator[tuple[Image, View, int]]:
        """(image, view, number of its record) of everything that is encoded, as often as it occurs."""
        for number, (record, views) in enumerate(zip(self.records, self._views, strict=True)):
            for image, view in zip(record.images, views, strict=True):
                for variant in (view, view.flipped()) if self.flip else (view,):
                    yield image, variant, number

    def _captions(self, record: Record) -> tuple[str, ...]:
        return record.captions if self.own_captions else (record.prompt,) * len(record.images)

    def _plan_views(self, record: Record, uniform: Callable[[str, str], float] | None) -> tuple[tuple[View, ...], View | None]:
        """The views of the record's images, and of its mask."""
        places = (0.5, 0.5) if self.plan.crop == "center" else (uniform(record.id, "crop_top"), uniform(record.id, "crop_left"))
        sizes = [image.size for image in record.images]
        views = self.plan.views(*sizes, uniforms=places)
        return views, None if record.mask is None else mask_view(self.plan, record.mask, views, places, record.id)

    def _put(self, key: str, tensors: dict[str, torch.Tensor], row: int) -> None:
        self.cache.put(key, {name: tensor[row] for name, tensor in tensors.items()})

    def _get(self, key: str, id: str) -> dict[str, torch.Tensor]:
        if key not in self.cache:
            raise ValueError(f"Store: {id} is not encoded yet; call build(encode_images, encode_prompts) first.")
        return self.cache.get(key)


def _text_key(caption: str) -> str:
    return content_key("text", caption)


def _image_key(image: Image, view: View) -> str:
    return content_key("image", image.digest, view.resized, view.corner, view.target, view.flip)


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _require_finite(image: Image, moments: dict[str, torch.Tensor], row: int) -> None:
    if not all(torch.isfinite(tensor[row]).all() for tensor in moments.values()):
        raise ValueError(
            f"{image.name}: the VAE gave values that are not finite. In half precision SDXL's original VAE overflows; "
            "encode in float32, or use a VAE made for float16."
        )
