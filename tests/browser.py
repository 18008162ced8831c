"""Headless Chromium, driven by its own protocol over loopback."""

import asyncio
import itertools
import os
import re
import signal
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from needed import needed

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip


class Page:
    """A page that is open. What the browser complains about is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.asked: list[str] = []  # the URLs of all requests

    async def send(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command of the protocol and return its answer."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            said = await self._socket.receive_json()
            if said.get("id") == number:
                assert "error" not in said, said["error"]
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])

    async def open(self, url: str) -> None:
        """Go to a page."""
        for domain in ("Log", "Runtime", "Page", "Network", "Accessibility"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)
        while (said := await self._socket.receive_json()).get("method") != "Page.loadEventFired":
            self._note(said)

    async def get(self, script: str) -> Any:
        """Return the value of an expression in the page; of a promise, what it comes to."""
        said = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, script: str) -> Any:
        """Return the value of an expression once it is true."""
        return await self.get(
            f"new Promise(done => {{ const look = () => {{ const found = ({script});"
            " found ? done(found) : setTimeout(look, 20) }; look() })"
        )

    async def press(self, key: str) -> None:
        """Press a key: a letter, or a name such as "Tab"."""
        text = {"text": key} if len(key) == 1 else {}
        codes = {"Tab": 9, "Enter": 13}
        more = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        if key == "Enter":
            text = {"text": "\r"}
        for kind in ("keyDown", "keyUp"):
            extra = text if kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, **more, **extra)

    async def look(self, *, width: int = 1280, height: int = 1000, dark: bool = False) -> bytes:
        """Return a picture of the page, as PNG."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        return b64decode(shot["data"])


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Run Chromium and yield its one page."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        child = await asyncio.create_subprocess_exec(
            needed(*CHROMIUM), *_FLAGS, f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            port = await _port(child)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    found = await answer.json()
                url = next(one for one in found if one["type"] == "page")["webSocketDebuggerUrl"]
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _port(child: asyncio.subprocess.Process) -> int:
    """Return the port of the protocol, which Chromium tells when it listens."""
    assert child.stderr
    while line := await child.stderr.readline():
        if found := re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
    raise AssertionError("Chromium ended")
