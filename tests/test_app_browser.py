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
import torch
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
        self.value(f"document.querySelector('input[aria-label={json.dumps(label)}]').select()")
        self("Input.insertText", text=text)
        self.press("Enter")

    def choose(self, label, text):
        # What is chosen now is part of the label.
        self.value(f"document.querySelector('input[aria-label$={json.dumps(label)}]').focus()")
        self("Input.insertText", text=text)
        self.press("Enter")

    def explain(self, methods):
        self.value(
            "[...document.querySelectorAll('details:not([open]) summary')]"
            ".find(s => s.innerText.includes('Parameters'))?.click()"
        )
        self.type("Methods with options", methods)
        until(lambda: "Press Explain" in self.text())
        self.click("Explain")

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


@contextlib.contextmanager
def served(model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--model", model, "--headless"]
    words += ["--port", str(port), "--address", "127.0.0.1"]
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
        server.wait(60)


@pytest.fixture(scope="module")
def address():
    with served("demo") as found:
        yield found


@pytest.fixture(scope="module")
def small_address():
    with served("tests.test_cli:small_network") as found:
        yield found


@contextlib.contextmanager
def opened(address, folder):
    folder.mkdir(exist_ok=True)
    made = Browser(folder)
    try:
        made("Page.navigate", url=address)
        yield made
    finally:
        made.close()


@pytest.fixture
def browser(address, tmp_path):
    with opened(address, tmp_path) as made:
        until(lambda: "makes this very map" in made.text())
        yield made


@pytest.fixture
def small_browser(small_address, tmp_path):
    with opened(small_address, tmp_path) as made:
        until(lambda: "makes this very map" in made.text())
        yield made


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
    browser.explain("rise:n_masks=6000")
    until(lambda: re.search(r"of about \d+ forwards, \d+ \w+ left", browser.text()))
    browser.click("Stop")
    until(lambda: "Stopped." in browser.text(), 20)
    browser.explain("layercam")
    until(lambda: "LayerCAM" in browser.text() and "makes this very map" in browser.text())


def test_a_large_photograph_is_explained(browser, tmp_path):
    # 40 megapixels, as telephones make them.
    small = np.random.default_rng(0).integers(0, 256, (55, 73, 3), dtype=np.uint8)
    Image.fromarray(small).resize((7300, 5500)).save(tmp_path / "large.jpg")
    browser.drop(tmp_path / "large.jpg")
    until(lambda: "Press Explain" in browser.text())
    browser.click("Explain")
    until(lambda: "load_picture(Path('large.jpg'))" in browser.text())


@pytest.mark.exhaustive
def test_two_pages_take_turns(small_browser, small_address, tmp_path):
    browser = small_browser
    browser.explain("rise:n_masks=200000")
    until(lambda: re.search(r"of about \d+ forwards", browser.text()))
    with opened(small_address, tmp_path / "other") as other:
        until(lambda: "waiting for another page to finish" in other.text())
        browser.click("Stop")
        until(lambda: "makes this very map" in other.text())
        assert "Stopped." in browser.text()
        # Both at once: each has its own.
        browser.explain("layercam")
        other.explain("hirescam")
        for page, own, foreign in (
            (browser, "LayerCAM", "HiResCAM"),
            (other, "HiResCAM", "LayerCAM"),
        ):
            until(lambda: own in page.text() and "makes this very map" in page.text())  # noqa: B023
            assert foreign not in page.text()


@pytest.fixture
def trained(tmp_path):
    """Names of networks with their files of weights, as they are typed into the page."""
    timm = pytest.importorskip("timm", reason="the extra models is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra models is not installed")
    torch.manual_seed(0)
    weights, folder = tmp_path / "resnet10t.pth", tmp_path / "vit"
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), weights)
    config = transformers.ViTConfig(
        image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return {f"hf:{folder}": "", "timm:resnet10t": str(weights)}


@pytest.mark.exhaustive
def test_networks_are_typed_into_the_page(small_browser, trained):
    browser = small_browser
    browser.choose("Network", "another one")
    until(lambda: "Give the name of a network" in browser.text())
    for name, weights in trained.items():
        if weights:
            browser.type("File of its weights", weights)
        browser.type("Its name", name)
        until(lambda: "Press Explain" in browser.text())
        browser.click("Explain")
        until(lambda: f"load_network({name!r}" in browser.text())  # noqa: B023
