"""Chromium without a window, driven over a pipe by the DevTools protocol: the standard library is enough."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
]  # fmt: skip


class Browser:
    """One browser with a profile of its own in ``folder``; ``tab()`` gives pages. Close it at the end."""

    def __init__(self, folder: Path):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4: lift the pipe's ends above those two before they are put there.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        command = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._in, self._out, self._rest, self._last, self.events = ours_in, ours_out, b"", 0, []

    def send(self, method: str, session: str | None = None, **parameters) -> dict:
        """Ask and wait for the answer; events that come meanwhile are kept in ``events``."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read(60)).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, method: str, session: str) -> None:
        """Until the next event of that name."""
        while True:
            event = self._read(60)
            self.events.append(event)
            if event.get("method") == method and event.get("sessionId") == session:
                return

    def _read(self, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {seconds} s")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise RuntimeError(f"Chromium ended with {self.process.wait()}")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def tab(self, width: int = 1280, height: int = 800, dark: bool = False, script: bool = True) -> "Tab":
        return Tab(self, width, height, dark, script)

    def close(self) -> None:
        try:
            self.send("Browser.close")
            self.process.wait(20)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        os.close(self._out)


class Tab:
    """One page of a given size. ``call`` runs JavaScript in it, ``press`` a key, ``click`` the mouse."""

    KEYS = {"ArrowLeft": 37, "ArrowRight": 39, " ": 32, "Tab": 9}

    def __init__(self, browser: Browser, width: int, height: int, dark: bool, script: bool):
        self.browser = browser
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)

    def send(self, method: str, **parameters) -> dict:
        return self.browser.send(method, self.session, **parameters)

    def open(self, path: Path) -> "Tab":
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.browser.wait("Page.loadEventFired", self.session)
        return self

    def call(self, expression: str):
        """The value of an expression, as JSON holds it."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception']['description']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=self.KEYS[key], **text)

    def click(self, selector: str) -> None:
        """The middle of the first element of a selector, scrolled into view."""
        self.call(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def box(self, selector: str) -> dict:
        """``x``, ``y``, ``width``, ``height``, ``bottom`` ... in CSS pixels of the window."""
        return self.call(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")

    def choose(self, selector: str, value: str) -> None:
        """Pick an option of a select, or type into a field, with the event that a reader's hand would cause."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.call(f"{field}.value = {json.dumps(value)}")
        self.call(f"['input', 'change'].forEach((kind) => {field}.dispatchEvent(new Event(kind, {{bubbles: true}})))")

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def _events(self, method: str) -> list[dict]:
        self.call("0")  # whatever was said before this answer has been read now
        return [event["params"] for event in self.browser.events if event.get("sessionId") == self.session and event["method"] == method]

    def complaints(self) -> list[str]:
        """What the browser reported: uncaught errors, console errors and warnings, refusals of the security policy, failed loads."""
        thrown = [event["exceptionDetails"]["text"] for event in self._events("Runtime.exceptionThrown")]
        logged = [event["entry"]["text"] for event in self._events("Log.entryAdded") if event["entry"]["level"] in ("error", "warning")]
        said = [str(event["args"]) for event in self._events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning", "assert")]
        return thrown + logged + said

    def requests(self) -> list[str]:
        """Addresses that were asked for, data addresses left out."""
        urls = [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]
