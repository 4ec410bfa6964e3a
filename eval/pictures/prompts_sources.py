"""The published prompt lists: where each comes from, under which licence, and what its file hashes to. None is copied into this package."""

from __future__ import annotations

import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from diffalign.rewards.base import sha256
from diffalign.rewards.score_cache import default_folder

TIMEOUT = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Source:
    """A file of a public repository at one commit.

    sha256: of the file at that commit; None where we had no copy to compute it from ("not verified"). reader: of ``prompts_read.READERS``.
    category: of all its prompts. count: prompts in it. note: what one should know before quoting numbers on it.
    """

    title: str
    repository: str
    commit: str
    path: str
    licence: str
    count: int
    sha256: str | None
    reader: str = "table"
    category: str = ""
    note: str = ""
    host: str = "https://github.com"

    @property
    def url(self) -> str:
        return f"{self.host}/{self.repository}/raw/{self.commit}/{self.path}"

    @property
    def where(self) -> str:
        return f"{self.repository} @ {self.commit[:10]}, {self.path}"


def _t2i(part: str, digest: str) -> Source:
    return Source(
        f"T2I-CompBench, {part}", "Karine-Huang/T2I-CompBench", "1b7094991a57f3c22abdd4f6e8ba6c1a15517073",
        f"examples/dataset/{part}_val.txt", "MIT", 300, digest, "lines", part,
    )  # fmt: skip


_SDPO = ("AIDC-AI/Diffusion-SDPO", "1c83c650fccbe7c1262e0b098401490162c7348d")
SOURCES = {
    "parti": Source(
        "PartiPrompts", "google-research/parti", "2c99f6652cbc7f0d0441aa91f4c7e7055bcb0071", "PartiPrompts.tsv", "Apache-2.0", 1632,
        "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
    ),
    "hpdv2": Source(
        "HPDv2 benchmark", *_SDPO, "prompts/hpsv2.json", "Apache-2.0 (of that repository)", 3200,
        "417a2ce00b3307780402c1d27528a0e41ed26651384687bbf3aa06c4c7e559fd", "hpdv2",
        note="this copy has no styles: 800 each of anime, concept-art, paintings, photo in this order is presumed, not verified; "
        "28 prompts repeat an earlier one",
    ),
    "pickapic-v2-test": Source(
        "Pick-a-Pic v2 test, without repetitions", *_SDPO, "prompts/papv2.json", "Apache-2.0 (of that repository)", 487,
        "531f3ca923035b5f17dbcbc60a7d7dfa476219e59b0e99617bb3f0afabf5663b",
        note="prompts of users, some of them explicit; the 500 of papers are rows, of which some repeat a prompt",
    ),
    "drawbench": Source(
        "DrawBench", "openai/dalle3-eval-samples", "cdffac28be2a2d8e9e96f7922c469a8f6dda9647", "prompts/drawbench.txt",
        "no licence file was seen", 200, None, "lines", note="this copy has no categories",
    ),
    "geneval": Source(
        "GenEval", "djghosh13/geneval", "af4902f24d3ca90ebbb446dd9891a59e0f82725f", "prompts/evaluation_metadata.jsonl", "MIT", 553,
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
    ),
    "dpg-bench": Source(
        "DPG-Bench", "TencentQQGYLab/ELLA", "3c228f1dc6c4d3cad0a47493816151a419f14db3", "dpg_bench/dpg_bench.csv", "Apache-2.0", 1065, None,
        "dpg", note="read from the csv of questions; upstream draws from the folder dpg_bench/prompts, which --prompts-file takes too",
    ),
    "unigenbench": Source(
        "UniGenBench, English", "CodeGoat24/UniGenBench", "49d0bcebb0", "data/test_prompts_en.csv", "CC BY 4.0", 600,
        "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459", "unigenbench",
    ),
    "t2i-compbench/color": _t2i("color", "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d"),
    "t2i-compbench/shape": _t2i("shape", "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae"),
    "t2i-compbench/texture": _t2i("texture", "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f"),
    "t2i-compbench/spatial": _t2i("spatial", "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988"),
    "t2i-compbench/non_spatial": _t2i("non_spatial", "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d"),
    "t2i-compbench/complex": _t2i("complex", "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4"),
    "t2i-compbench/3d_spatial": _t2i("3d_spatial", "c9953597315f36a5fcb41291bb19bdc6ab5f64a0fa760d691b4854a73f5d1fe9"),
    "t2i-compbench/numeracy": _t2i("numeracy", "dad8df141604b70ba7554bec724e3db0a80023680769b5c514854ea2d2527bbe"),
}
GROUPS = {"t2i-compbench": tuple(name for name in SOURCES if name.startswith("t2i-compbench/"))}
ALIASES = {"partiprompts": "parti", "unigenbench-en": "unigenbench"}


def obtain(name: str, source: Source, cache: Path | None = None, quiet: bool = False) -> Path:
    """The file of a list: the copy in ``cache`` (default: ``prompts`` in our cache folder), else downloaded there.

    Says the licence when it downloads. The hash is checked whenever one is known, of a copy too, and nothing that fails it is kept.

    Raises:
        ValueError: another hash than the published one; both are named. OSError: it could not be fetched; says which file of which
            repository is wanted, and how to pass a local copy.
    """
    path = (cache or default_folder() / "prompts") / source.repository / source.path
    if path.is_file():
        if source.sha256 and (found := sha256(path)) != source.sha256:
            raise ValueError(f"{path} hashes to {found}, and {source.where} to {source.sha256}: delete it, and it is fetched again")
        return path
    if not quiet:
        print(f"prompts: {source.title} from {source.url}; licence: {source.licence}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            with urllib.request.urlopen(source.url, timeout=TIMEOUT) as answer:
                part.write_bytes(answer.read())
        except (URLError, OSError) as error:
            raise OSError(
                f"prompts '{name}' are {source.where} (licence: {source.licence}), which could not be fetched ({error}): download "
                f"{source.url} and pass it with --prompts-file FILE, or put it at {path}"
            ) from error
        found = sha256(part)
        if source.sha256 and found != source.sha256:
            raise ValueError(
                f"{source.url} hashes to {found}, expected is {source.sha256}: another version, or damaged on the way; nothing was kept. "
                f"Pass a copy you trust with --prompts-file FILE"
            )
        if source.sha256 is None and not quiet:
            print(f"prompts: {source.title}: no published hash is known to us (not verified); this file's is {found}", file=sys.stderr)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
