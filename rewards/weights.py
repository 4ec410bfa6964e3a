"""Where checkpoints come from, and how they are read: local files, else the hub's cache, else the hub; every key accounted for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.rewards.base import sha256

HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HF_MODEL = (("config.json",), HF_WEIGHTS)  # a transformers folder: its config, and its weights under either name


@dataclass(frozen=True)
class Source:
    """Files as they are published.

    Attributes: ``repository`` on the hub; ``files``, those a loader needs, each by the names it may have, the preferred one first;
    ``optional``, those it takes where they exist. A file that is not on the hub has a ``url`` and the sha256 ``digest`` of its contents,
    and is kept in ``torch.hub``'s folder.
    """

    repository: str
    files: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    url: str = ""
    digest: str = ""

    def find(
        self, reward: str, given: str | Path | None = None, *, option: str = "weights", beside: str | Path | None = None
    ) -> list[Path]:
        """The needed files, one path each: in ``given`` (a folder, or the file itself where one is needed), else in the folder
        ``beside`` if it holds them, else in the hub's cache, else fetched from the hub.

        Errors: FileNotFoundError that names the file, its repository and how to point to a local copy.
        """
        if given is None and beside is not None and not self._lacks(Path(beside).expanduser()):
            given = beside
        if given is None:
            return self._from_hub(reward, option) if not self.url else [self._from_url(reward, option)]
        place = Path(given).expanduser()
        if place.is_file() and len(self.files) == 1:
            return [place]
        if not place.exists():
            raise self._missing(reward, option, self.files, f"{place} does not exist")
        if place.is_file():
            raise self._missing(reward, option, self.files, f"{place} is one file, and a folder with these is needed")
        if lacking := self._lacks(place):
            raise self._missing(reward, option, lacking, f"{place} does not hold it")
        return [_present(place, names) for names in self.files]

    def _lacks(self, folder: Path) -> list[tuple[str, ...]]:
        return [names for names in self.files if _present(folder, names) is None]

    def _from_hub(self, reward: str, option: str) -> list[Path]:
        """All from the cache, under whichever names they are there; else all asked for, so that they are of one revision."""
        found = [self._cached(names) for names in self.files]
        if None not in found:
            return found
        found = []
        for names in self.files:
            try:
                path = next((path for name in names if (path := self._fetched(name))), None)
            except OSError as error:
                why = str(error).strip().splitlines()[0]
                raise self._missing(reward, option, [names], f"not in the hub's cache, and not fetched ({why})") from error
            if path is None:
                raise self._missing(reward, option, [names], "the repository has no such file")
            found.append(path)
        for name in self.optional:
            self._fetched(name)
        return found

    def _cached(self, names: tuple[str, ...]) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        paths = [try_to_load_from_cache(self.repository, name) for name in names]
        return next((Path(path) for path in paths if isinstance(path, str)), None)

    def _from_url(self, reward: str, option: str) -> Path:
        (name,) = self.files[0]
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.digest, progress=False)
            except (OSError, RuntimeError) as error:  # unreachable; another hash than published
                raise self._missing(reward, option, self.files, f"not in {path.parent}, and not fetched ({error})") from error
        return path

    def _fetched(self, name: str) -> Path | None:
        """A file of the repository in the cache; None where the repository has none of this name; OSError where it cannot be reached."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.repository, name))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    def _missing(self, reward: str, option: str, lacking: Iterable[tuple[str, ...]], why: str) -> FileNotFoundError:
        wanted = ", ".join(" or ".join(names) for names in lacking)
        how = f"{option}=PATH in Python" if option != "weights" else f"weights=PATH in Python, --weights {reward}=PATH on the command line"
        together = "" if option == "weights" else "; or put it into one folder with the weights and give that folder as the weights"
        return FileNotFoundError(
            f"reward '{reward}' needs {wanted} of {self.repository} on {'GitHub' if self.url else 'the hub'}: {why}. "
            f"Download it and point to it with {how}{together}"
        )


def _present(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def facts(path: Path) -> dict[str, str]:
    """What provenance says of a file: its name and its hash, not where it lies."""
    return {"file": path.name, "sha256": sha256(path)}


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a safetensors file or of a torch file; what training scripts wrap around them is taken off.

    Errors: ValueError for a damaged file, for a torch file that holds more than tensors (reading it would run its code), and for something
        else than named tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): download it again") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors and is refused, as reading it would run its code: download it again, or save "
            f"its state_dict"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state_dict (names and tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def split(state: dict[str, Tensor], path: Path, *prefixes: str) -> list[dict[str, Tensor]]:
    """The state of each part, by the prefix of its names, which is taken off. ValueError for a name that has none of them."""
    parts = {prefix: {} for prefix in prefixes}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise ValueError(f"{path} is not the checkpoint that is wanted: it holds '{name}', and names start with {', '.join(prefixes)}")
        parts[prefix][name.removeprefix(prefix)] = value
    return list(parts.values())


def build(make: Callable[[], torch.nn.Module], state: dict[str, Tensor], path: Path, unused: tuple[str, ...] = ()) -> torch.nn.Module:
    """The network ``make`` describes with exactly these weights, made without initialising any.

    Args:
        state: names and tensors, in the network's own names.
        path: where they come from, for the error.
        unused: patterns of names that are known to be left over.
    Errors: ValueError that names what is missing, unexpected or of another shape.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = make()
    state = {name: value for name, value in state.items() if not any(fnmatch(name, pattern) for pattern in unused)}
    own = network.state_dict()
    wrong = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape],
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in wrong.items() if names)
        raise ValueError(f"{path} does not fit {type(network).__name__}: {found}. For another architecture than the published one: config=")
    network.load_state_dict(state, assign=True)
    return network


def _some(names: Iterable[str], most: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:most] + ["..."] * (len(names) > most))


def as_config(config: Any, kind: type, default: Callable[[], Any]) -> Any:
    """A transformers config from what a caller gave as ``config=``: one, a dict, or nothing. ValueError for anything else."""
    if config is None:
        return default()
    if isinstance(config, dict):
        return kind(**config)
    if not isinstance(config, kind):
        raise ValueError(f"config must be a {kind.__name__} or a dict of its arguments, got {type(config).__name__}")
    return config
