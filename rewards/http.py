"""A reward behind HTTP: for scorers whose dependencies clash with ours, and for a GPU on another machine.

    python -m diffalign.rewards.http --reward hpsv3 --port 8000                  where the scorer's dependencies are
    load_reward("http://127.0.0.1:8000").score(images, prompts)                  where the images are

The protocol, for servers written without this package: JSON both ways.

    GET  /state    {"reward": id, "modality": "image", "needs_prompt": bool, "batch_size": int, "state": {...}}
    POST /score    {"images": [PNG in base64, ...], "prompts": [text, ...]}  ->  {"scores": [number, or null for no answer, ...]}
    any error      a status from 400 up and {"error": "one line"}

There is no password and no encryption: the server listens on the machine itself unless told otherwise.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
import tyro
import yaml
from PIL import Image
from torch import Tensor

from diffalign.rewards.base import Reward
from diffalign.rewards.images import to_rgb

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
MOST_BYTES = 2 * 2**30  # of one request


# Client ---------------------------------------------------------------------------------------------------------------------------------


class HTTPReward(Reward):
    """A reward that another process computes. Images travel as PNG, so the scores are those of the same reward here.

    ``name`` is the server's id for it, and ``state`` carries the server's, not its address: the same reward elsewhere scores the same.
    """

    packages = ("pillow",)

    def __init__(self, url: str, about: dict[str, Any], timeout: float):
        super().__init__(about["reward"], server=about["state"])
        self.url, self.timeout = url, timeout
        self.needs_prompt, self.batch_size = about["needs_prompt"], about["batch_size"]

    def prepare(self, decoded: Image.Image) -> str:
        buffer = io.BytesIO()
        (decoded if decoded.mode in PNG_MODES else to_rgb(decoded)).save(buffer, format="PNG", compress_level=1)
        return base64.b64encode(buffer.getvalue()).decode()

    def collate(self, prepared: list[str]) -> list[str]:
        return prepared

    def measure(self, batch: list[str], prompts: list[str]) -> Tensor:
        scores = call(f"{self.url}/score", {"images": batch, "prompts": prompts}, timeout=self.timeout).get("scores")
        if not isinstance(scores, list) or len(scores) != len(batch):
            raise ValueError(f"{self.url} answered {str(scores)[:80]} to {len(batch)} images: it must answer as many scores")
        return torch.tensor([math.nan if score is None else float(score) for score in scores])


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, url: str, timeout: float = 600.0
) -> HTTPReward:
    """The reward that a server at ``url`` (http://host:port) has; ``timeout`` in seconds, of one batch.

    Errors: ConnectionError where nobody answers; ValueError for a server's error, an answer that is not of this protocol, a reward
        of something else than images, and weights or a config, which are the server's.
    """
    if weights is not None or config is not None:
        raise ValueError(f"reward '{name}': weights and config are the server's: give them where it is started")
    url = url.rstrip("/")
    about = call(f"{url}/state", timeout=timeout)
    if lacking := [key for key in ("reward", "modality", "needs_prompt", "batch_size", "state") if key not in about]:
        raise ValueError(f"{url} is no reward server: its state lacks {', '.join(lacking)}")
    if about["modality"] != "image":
        raise ValueError(f"{url} has '{about['reward']}', a reward of {about['modality']}; only images travel")
    return HTTPReward(url, about, timeout)


def call(url: str, body: dict[str, Any] | None = None, *, headers: dict[str, str] | None = None, timeout: float = 60.0) -> dict[str, Any]:
    """JSON from ``url``: a POST of ``body``, or a GET without one. A proxy of the environment is not used for this machine itself.

    Errors: ConnectionError where nobody answers in time, ValueError with the server's own line for a status from 400 up, and for an answer
        that is no JSON object.
    """
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
        direct = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in LOOPBACK else []
        with urllib.request.build_opener(*direct).open(request, timeout=timeout) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answered {error.code}: {_said(error.read())}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(f"{url} does not answer ({error}): is the server running there?") from error
    except ValueError as error:  # json's, and urllib's for what is no address
        raise ValueError(f"{url} did not answer in JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{url} answered a {type(found).__name__}, and a JSON object is needed")
    return found


def _said(content: bytes) -> str:
    """The error in a server's answer, in one line: ours is text, OpenAI's an object with a message."""
    try:
        error = json.loads(content)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = content.decode("utf-8", "replace")
    return " ".join(str(text).split())[:500]


# Server ---------------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve one reward over HTTP until stopped."""

    reward: str
    """An id such as hpsv3, or a function of your own as module:attr."""
    port: int = 8000
    """0 takes a free one."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every network the machine is in. There is no password."""
    weights: str | None = None
    """A local copy of the weights."""
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    """Options of the reward, such as scale 100."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def server(reward: Reward, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server that is bound and waits for ``serve_forever``; one request is scored at a time.

    Errors: ValueError for a reward of something else than images; OSError where the port is taken.
    """
    if reward.modality != "image":
        raise ValueError(f"'{reward.name}' is a reward of {reward.modality}; only images travel")
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("/state", self._state)

        def do_POST(self) -> None:
            self._answer("/score", self._scores)

        def _state(self) -> dict[str, Any]:
            about = {"reward": reward.name, "modality": reward.modality, "needs_prompt": reward.needs_prompt}
            return {**about, "batch_size": reward.batch_size, "state": reward.state()}

        def _scores(self) -> dict[str, Any]:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= MOST_BYTES:
                raise ValueError(f"a request has 1 to {MOST_BYTES} bytes, not {length}")
            body = json.loads(self.rfile.read(length))
            if not isinstance(body, dict) or not {"images", "prompts"} <= body.keys():
                raise ValueError("a request is a JSON object with images and prompts")
            images = [base64.b64decode(text, validate=True) for text in body["images"]]
            with turn:
                scores = reward.score(images, body["prompts"])
            return {"scores": [None if math.isnan(score) else score for score in scores.tolist()]}

        def _answer(self, path: str, compute: Callable[[], dict[str, Any]]) -> None:
            if self.path != path:
                return self._send(404, {"error": f"{self.command} {self.path} is not known here; it is {path}"})
            try:
                self._send(200, compute())
            except Exception as error:  # whatever it is, the client is told and the server goes on
                status = 400 if isinstance(error, ValueError | OSError) else 500
                self._send(status, {"error": " ".join(f"{type(error).__name__}: {error}".split())})

        def _send(self, status: int, found: dict[str, Any]) -> None:
            content = json.dumps(found, default=str).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Quiet: a line a batch is of no use."""

    return ThreadingHTTPServer((host, port), Handler)


def main(argv: list[str] | None = None) -> int:
    from diffalign.rewards import load_reward

    command = tyro.cli(Serve, args=argv, prog="python -m diffalign.rewards.http")
    try:
        options = {name: yaml.safe_load(value) for name, value in command.options.items()}
        reward = load_reward(command.reward, command.weights, device=command.device, dtype=getattr(torch, command.dtype), **options)
        listening = server(reward, command.host, command.port)
    except (ValueError, OSError, ImportError) as error:
        print(f"diffalign.rewards.http: {error}", file=sys.stderr)
        return 2
    print(f"{reward.name} at http://{command.host}:{listening.server_address[1]}", flush=True)
    try:
        listening.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        listening.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
