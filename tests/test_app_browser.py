"""The web app in a real browser: opened, dropped on, explained, slid, stopped."""

import base64
import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the extra app is not installed")
client = pytest.importorskip("websockets.sync.client", reason="it comes with the extra app")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """Chromium without a window, driven by its DevTools protocol."""

    def __init__(self, folder):
        options = "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server"
        port = ("--remote-debugging-port=0", "--remote-allow-origins=*")
        self.process = subprocess.Popen(
            [CHROMIUM, *options, *port, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told, self.count = folder / "DevToolsActivePort", 0
        until(lambda: told.exists() and told.read_text().strip())
        with OPEN.open(f"http://127.0.0.1:{told.read_text().split()[0]}/json") as answer:
            pages = [one for one in json.load(answer) if one["type"] == "page"]
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(
            client.connect(pages[0]["webSocketDebuggerUrl"], max_size=None, proxy=None)
        )

    def __call__(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.count:
                return answer.get("result", answer)

    def value(self, script):
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def text(self):
        return self.value("document.body.innerText") or ""

    def click(self, label):
        # Streamlit has a button of its own to stop a page, above it.
        buttons = "[...document.querySelectorAll('[data-testid=stMain] button')]"
        self.value(f"{buttons}.find(b => b.innerText.trim() == {label!r}).click()")

    def type(self, label, text):
        self.value(f"document.querySelector('input[aria-label={json.dumps(label)}]').focus()")
        self("Input.insertText", text=text)
        self.press("Enter")

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Enter": 13, "ArrowRight": 39, "Home": 36}[key]
            self("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def drop(self, path):
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def colours(self):
        shot = base64.b64decode(self("Page.captureScreenshot", format="png")["data"])
        with Image.open(io.BytesIO(shot)) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def close(self):
        self.stack.close()
        self.process.terminate()
        self.process.wait(20)


def until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--headless", "--port", str(port), "--address", "127.0.0.1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "captum_unioncam", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def is_up():
        with contextlib.suppress(OSError):
            return OPEN.open(f"http://127.0.0.1:{port}/_stcore/health").status == 200

    try:
        until(is_up)
        yield f"http://127.0.0.1:{port}"
    finally:
        # Ending the command ends what it serves.
        server.terminate()
        server.wait(20)


@pytest.fixture
def browser(address, tmp_path):
    made = Browser(tmp_path)
    made("Page.navigate", url=address)
    try:
        until(lambda: "makes this very map" in made.text())
        yield made
    finally:
        made.close()


def test_a_picture_is_dropped_explained_and_slid(browser, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((400, 300)).save(tmp_path / "dropped.png")
    browser.drop(tmp_path / "dropped.png")
    until(lambda: "Press Explain" in browser.text())
    browser.click("Explain")
    until(lambda: "load_picture(Path('dropped.png'))" in browser.text())
    assert "above 50%" in browser.text()
    before = browser.colours()
    # By the keyboard alone: the second slider is the threshold.
    browser.value("document.querySelectorAll('[data-testid=stMain] input[type=range]')[1].focus()")
    browser.press("ArrowRight")
    until(lambda: "above 55%" in browser.text())
    assert (before != browser.colours()).any()


def test_a_broken_file_is_one_sentence(browser, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    browser.drop(tmp_path / "broken.png")
    until(lambda: "broken.png: not a readable picture" in browser.text())


def test_work_is_stopped_and_goes_on(browser):
    browser.value(
        "[...document.querySelectorAll('summary')]"
        ".find(s => s.innerText.includes('Parameters')).click()"
    )
    browser.type("Methods with options", "rise:n_masks=6000")
    until(lambda: "Press Explain" in browser.text())
    browser.click("Explain")
    until(lambda: re.search(r"of about \d+ forwards, \d+ \w+ left", browser.text()))
    browser.click("Stop")
    until(lambda: "Stopped." in browser.text(), 20)
    browser.value("document.querySelector('input[aria-label=\"Methods with options\"]').select()")
    browser.type("Methods with options", "layercam")
    until(lambda: "Press Explain" in browser.text())
    browser.click("Explain")
    until(lambda: "LayerCAM" in browser.text() and "makes this very map" in browser.text())


def test_a_large_photograph_is_explained(browser, tmp_path):
    # 40 megapixels, as telephones make them.
    small = np.random.default_rng(0).integers(0, 256, (55, 73, 3), dtype=np.uint8)
    Image.fromarray(small).resize((7300, 5500)).save(tmp_path / "large.jpg")
    browser.drop(tmp_path / "large.jpg")
    until(lambda: "Press Explain" in browser.text())
    browser.click("Explain")
    until(lambda: "load_picture(Path('large.jpg'))" in browser.text())
