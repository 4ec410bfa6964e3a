"""Rewards over HTTP: our server and client, and a judge behind a server that answers canned text. Real sockets on loopback."""

import base64
import io
import json
import math
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.rewards import http, load_reward, templates, vlm

REWARDS = """
import torch

def reds(images, prompts):
    return torch.tensor([float("nan") if "no answer" in prompt else float(image.getpixel((0, 0))[0]) + len(prompt)
                         for image, prompt in zip(images, prompts)])

def broken(images, prompts):
    raise RuntimeError("no memory\\nleft at all")
"""


@contextmanager
def listening(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def rewards(tmp_path):
    (tmp_path / "remote_rewards.py").write_text(REWARDS)
    return lambda name: load_reward(f"{tmp_path / 'remote_rewards.py'}:{name}", images="pil")


def images(count, mode="RGB"):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode) for _ in range(count)]


# Our client and our server --------------------------------------------------------------------------------------------------------------


def test_scores_travel_unchanged(rewards):
    here = rewards("reds")
    with listening(http.server(here, port=0)) as url:
        there = load_reward(url)
        by_id = load_reward("http", url=url + "/")
        prompts = ["a", "no answer", "ccc", "dddd", "eeeee"]
        for mode in ("RGB", "RGBA", "P", "L", "1", "CMYK"):
            samples = images(5, mode)
            wanted = here.score(samples, prompts).tolist()
            assert there.score(samples, prompts, batch_size=2).tolist() == pytest.approx(wanted, nan_ok=True), mode
        assert math.isnan(wanted[1]) and by_id.score(samples[:1], "a").tolist() == wanted[:1]
        assert there.state()["server"] == json.loads(json.dumps(here.state())) and url not in json.dumps(there.state())
        assert there.state() == by_id.state() and there.name == here.name
        assert there.needs_prompt and there.batch_size == here.batch_size
        pixels = torch.from_numpy(np.array(samples[0].convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        assert there.score(pixels, "a").tolist() == wanted[:1]


def test_the_servers_errors_reach_the_client_in_one_line(rewards):
    with listening(http.server(rewards("broken"), port=0)) as url:
        with pytest.raises(ValueError, match=rf"^{url}/score answered 500: RuntimeError: no memory left at all$"):
            load_reward(url).score(images(1), "x")
        with pytest.raises(ValueError, match="answered 400: ValueError: 1 samples and 2 prompts"):
            http.call(f"{url}/score", {"images": [""], "prompts": ["a", "b"]})
        lacking = "400: ValueError: a request is a JSON object with images and prompts"
        for body, text in (({"images": []}, lacking), ([], lacking), ({"images": ["%"], "prompts": ["a"]}, "400: Error")):
            with pytest.raises(ValueError, match=text):
                http.call(f"{url}/score", body)
        with pytest.raises(ValueError, match="404: GET /scores is not known here; it is /state"):
            http.call(f"{url}/scores")
        request = urllib.request.Request(f"{url}/score", b"", method="POST")
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(request)
        assert "a request has 1 to" in json.loads(told.value.read())["error"]


def test_where_nobody_answers():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"{url}/state does not answer .* is the server running"):
        load_reward(url)
    with pytest.raises(ValueError, match="are the server's"):
        load_reward(url, weights="x")
    with pytest.raises(ValueError, match="needs the option url"):
        load_reward("http")
    with pytest.raises(ValueError, match="only images travel"):
        http.server(load_reward("lidar-iou"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"state": {}}, "no reward server: its state lacks reward, modality"),
        ({"reward": "clap", "modality": "audio", "needs_prompt": True, "batch_size": 1, "state": {}}, "'clap', a reward of audio"),
        ("<html>", "did not answer in JSON"),
        ([1], "a JSON object is needed"),
    ],
)
def test_what_is_no_reward_server(answer, said):
    with canned(lambda _: answer) as (url, _), pytest.raises(ValueError, match=said):
        load_reward(url.removesuffix("/v1"))


def test_a_server_that_answers_too_few():
    about = {"reward": "r", "modality": "image", "needs_prompt": True, "batch_size": 4, "state": {}}
    with canned(lambda body: {"scores": [1]} if body else about) as (url, _):
        reward = load_reward(url.removesuffix("/v1"))
        with pytest.raises(ValueError, match=r"answered \[1\] to 2 images"):
            reward.score(images(2), "x")


def test_the_command_serves(rewards, tmp_path, capsys):
    command = [sys.executable, "-m", "diffalign.rewards.http", "--port", "0", "--reward"]
    options = ["--options", "images", "pil"]
    process = subprocess.Popen([*command, f"{tmp_path / 'remote_rewards.py'}:reds", *options], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        assert load_reward(url).score(images(2), "ab").tolist() == rewards("reds").score(images(2), "ab").tolist()
    finally:
        process.terminate()
        process.wait()
    assert http.main(["--reward", "pickscor"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("diffalign.rewards.http: no reward 'pickscor'; did you mean 'pickscore'?")


# A judge behind an endpoint -------------------------------------------------------------------------------------------------------------


@contextmanager
def canned(answer):
    """A server that answers ``answer(body)``: text as it is, else JSON; (status, what) for another status. Yields url and requests."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            requests.append((self.path, dict(self.headers), body))
            found = answer(body)
            status, found = found if isinstance(found, tuple) else (200, found)
            content = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/v1", requests


def said(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def asked(body):
    """The images' first pixels and the text of a request."""
    content = body["messages"][0]["content"]
    pixels = []
    for part in content[:-1]:
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/jpeg;base64"
        pixels.append(Image.open(io.BytesIO(base64.b64decode(data))).getpixel((4, 4)))
    return pixels, content[-1]["text"]


def grey(*values, size=(16, 12)):
    return [Image.new("RGB", size, (value,) * 3) for value in values]


def test_a_judge_scores_each_image_against_its_prompt(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")

    def answer(body):
        (pixel,), text = asked(body)
        return said(f"It is {text.splitlines()[0].split(': ')[1]}.\nScore: {pixel[0] / 100:.1f}\n")

    with canned(answer) as (url, requests):
        judge = load_reward("vlm", url=url, model="qwen")
        assert judge.score(grey(100, 250, 30), ["{curly}", "b", "c"], batch_size=2).tolist() == [1.0, 2.5, pytest.approx(0.3)]
        path, headers, body = requests[0]
        assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer a key"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("qwen", 0, 512)
        assert sorted(asked(body)[1].splitlines()[0] for _, _, body in requests)[2] == "Look at the image and at this caption: {curly}"
        assert judge.state()["model"] == "qwen" and "a key" not in json.dumps(judge.state(), default=str)
        squeezed = load_reward("vlm", url=url, model="qwen", size=32, key_variable="NO_SUCH_VARIABLE")
        squeezed.score(grey(100), "x")
        data = requests[-1][2]["messages"][0]["content"][0]["image_url"]["url"].split(",")[1]
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32) and "Authorization" not in requests[-1][1]


def test_what_cannot_be_read_is_asked_twice_and_nan():
    counts = {}

    def answer(body):
        pixel = asked(body)[0][0][0]
        counts[pixel] = counts.get(pixel, 0) + 1
        return said({0: "Score: 7", 100: "I would rather not." if counts[pixel] == 1 else "Score: 8/10", 200: "no"}[pixel])

    with canned(answer) as (url, _):
        found = load_reward("vlm", url=url, model="m").score(grey(0, 100, 200), "x").tolist()
    assert found[:2] == [7, 8] and math.isnan(found[2])
    assert counts == {0: 1, 100: 2, 200: 2}


def test_a_pattern_of_ones_own():
    with canned(lambda _: said("quality=3 quality=4")) as (url, _):
        assert load_reward("vlm", url=url, model="m", template="{prompt}?", pattern=r"quality=(\d)").score(grey(0), "x").tolist() == [4]


def test_pairs_are_asked_in_both_orders_and_averaged():
    def answer(body):
        (first, second), _ = asked(body)
        if {first[0], second[0]} == {10, 20}:
            return said("Better: 1")  # whichever comes first
        return said("no idea" if 200 in (first[0], second[0]) else f"Better: {1 if first[0] > second[0] else 2}")

    with canned(answer) as (url, requests):
        judge = load_reward("vlm", url=url, model="m")
        found = judge.preference(grey(10, 90, 30, 200), grey(20, 40, 80, 0), "x").tolist()
        assert found[:3] == [0.5, 1.0, 0.0] and math.isnan(found[3])
        swapped = judge.preference(grey(20, 40, 80), grey(10, 90, 30), "x").tolist()
        assert [1 - value for value in swapped] == found[:3]


@pytest.mark.parametrize(
    ("form", "answer", "score"),
    [
        ("plain", "Score: 7", 7), ("plain", "**Score: 7.5**", 7.5), ("plain", "Score: **7**/10", None), ("plain", "Score: 11", None),
        ("plain", "Score: 7/10.", 7), ("plain", "Score: -3", None), ("plain", "The Score: 7 is fair", None),
        ("plain", "Score: 3\nScore: 4", 4),
        ("unifiedreward", "cat (object): 1\nFinal Score: 4", 4), ("unifiedreward", "Final Score: 3.5\n", 3.5),
        ("unifiedreward", "Final Score: 0", None), ("unifiedreward", "Final Score:", None), ("unifiedreward", "Score: 4", None),
        ("unifiedreward-2", "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.5\nStyle Score (1-5): 3", 8.1947 / 3),
        ("unifiedreward-2", "Alignment Score (1-5): 2\nCoherence Score (1-5): 2.5", None),
        ("unifiedreward-2", "Alignment Score (1-5): 2\nCoherence Score (1-5): 6\nStyle Score (1-5): 3", None),
    ],
)  # fmt: skip
def test_scores_in_answers(form, answer, score):
    found = vlm.FORMS[form].point(answer)
    assert math.isnan(found) if score is None else found == pytest.approx(score)


SHARES = (
    "Alignment Score:\n Image 1: {}\n Image 2: {}\n\nCoherence Score:\n Image 1: 0.4\n Image 2: 0.6\n\n"
    "Style Score:\n Image 1: 0.5\n Image 2: 0.5\n"
)


@pytest.mark.parametrize(
    ("form", "answer", "share"),
    [
        ("plain", "Better: 1", 1), ("plain", "The second is sharper.\nBetter: 2.", 0), ("plain", "Better: tie", 0.5),
        ("plain", "Better: 3", None), ("plain", "Better: 1 or 2", None),
        ("unifiedreward", "Image 1 is better.", 1), ("unifiedreward", "So **Image 2 is better than Image 1.**", 0),
        ("unifiedreward", "Both images are equally good.", 0.5), ("unifiedreward", "Image 1 is sharper.", None),
        ("unifiedreward", "Image 1 is better in colour. Conclusion: Image 2 is better.", 0),
        ("unifiedreward-2", SHARES.format(0.3, 0.7), 0.4),
        ("unifiedreward-2", SHARES.format(0.435699999332428, 0.564300000667572), 1.335699999332428 / 3),
        ("unifiedreward-2", SHARES.format(0.7, 0.7), None), ("unifiedreward-2", SHARES.format("X", "Y"), None),
    ],
)  # fmt: skip
def test_preferences_in_answers(form, answer, share):
    found = vlm.FORMS[form].pair(answer)
    assert math.isnan(found) if share is None else found == pytest.approx(share)


def test_published_questions_are_read_from_their_files(tmp_path):
    """The way the published scripts hold them: an f-string over several lines, among others."""
    (tmp_path / "point.py").write_text(
        'import llava\nprompt = ""\nproblem = ("Judge this {image}. "\n    "Say it.\\n"\n    f"Text Caption: [{prompt}]")\n'
        'example = "a much longer text, which is not the question at all, and which has no place for a caption"\n'
    )
    (tmp_path / "point.txt").write_text("Judge {prompt} now")
    assert templates.template("r", tmp_path / "point.py", "Text Caption: [") == "Judge this {image}. Say it.\nText Caption: [{prompt}]"
    assert templates.template("r", str(tmp_path / "point.txt")) == "Judge {prompt} now"
    assert templates.fill("{prompt} {image}", "a {prompt}") == "a {prompt} {image}"
    with canned(lambda body: said("Final Score: 2" if asked(body)[1].endswith("Text Caption: [a {b}]") else "")) as (url, _):
        judge = load_reward("unifiedreward", url=url, model="UnifiedReward", template=str(tmp_path / "point.py"))
        assert judge.score(grey(1), "a {b}").tolist() == [2]
        with pytest.raises(ValueError, match="no question that compares two images: give pair_template=.*qwen_pair_rank_image_gen"):
            judge.preference(grey(1), grey(2), "x")
        with pytest.raises(ValueError, match="no question that scores an image: give template="):
            load_reward("unifiedreward-2", url=url, model="m").score(grey(1), "x")


def test_mistakes_and_refusals_are_named(tmp_path):
    (tmp_path / "other.py").write_text("x = 'Text Caption:'")
    base = dict(url="http://127.0.0.1:9/v1", model="m")
    wrong = [
        (dict(form="xml"), "allowed are plain, unifiedreward, unifiedreward-2"), (dict(pattern="("), "is no regular expression"),
        (dict(pattern="score"), "has 0 groups; it needs one"), (dict(template=str(tmp_path / "other.py")), "no string with|no question"),
        (dict(weights="x"), "of the model that is served"),
    ]  # fmt: skip
    for options, text in wrong:
        with pytest.raises(ValueError, match=text):
            load_reward("vlm", **base | options)
    with pytest.raises(FileNotFoundError, match="neither holds {prompt} nor is a file"):
        load_reward("vlm", **base, template="what is it?")
    with pytest.raises(ValueError, match="needs the option url, model"):
        load_reward("vlm")
    refusal = (401, {"error": {"message": "wrong\nkey", "type": "auth"}})
    with canned(lambda _: refusal) as (url, _), pytest.raises(ValueError, match="chat/completions answered 401: wrong key$"):
        load_reward("vlm", url=url, model="m").score(grey(0), "x")
    with canned(lambda _: {"choices": []}) as (url, _), pytest.raises(ValueError, match=r"without choices\[0\]"):
        load_reward("vlm", url=url, model="m").score(grey(0), "x")
