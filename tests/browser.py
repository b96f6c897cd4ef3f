"""The real TensorBoard and a real browser, for the tests of the dashboard."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1500,1100 --hide-scrollbars"
)
_OPENER = build_opener(ProxyHandler({}))  # straight to this machine


class Server:
    """A running TensorBoard, asked over HTTP as its own page asks it."""

    def __init__(self, url):
        self.url = url

    def get(self, path, **query):
        """The JSON at ``data/…``; or the bytes, if it is something else."""
        return self._read(f"{self.url}data/{path}" + (f"?{urlencode(query)}" if query else ""))

    def post(self, path, **body):
        return self._read(
            Request(f"{self.url}data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        )

    @staticmethod
    def _read(request):
        with _OPENER.open(request, timeout=30) as response:
            content = response.read()
            return json.loads(content) if "json" in response.headers["Content-Type"] else content


@contextmanager
def tensorboard(logdir, *options):
    """TensorBoard on a free port of 127.0.0.1, with all of ``logdir`` loaded."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        try:
            yield Server(_wait(lambda: _url(log, process), 60))
        finally:
            process.terminate()
            process.wait(30)


def _url(log, process):
    log.seek(0)
    text = log.read()
    assert process.poll() is None, text
    found = re.search(r"http://127\.0\.0\.1:\d+/", text)
    return found and found[0]


def _wait(what, seconds):
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"nothing came in {seconds} seconds"
        time.sleep(0.1)
    return value


def wait_for_runs(server, n_runs):
    """The names of the runs, once there are so many, with their scalars read."""
    return _wait(lambda: sorted(server.get("plugin/scalars/tags")) if len(server.get("runs")) >= n_runs else None, 60)


def why_no_browser():
    """Why the browser cannot be had, in one line; empty if it can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian's chromium and chromium-driver)" if missing else ""


@contextmanager
def browser():
    """Headless Chromium with a new profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver"), env=clean))
        try:
            yield driver
        finally:
            driver.quit()


def page_text(driver):
    """All text of the page, through the shadow roots in which TensorBoard's older parts live."""
    return driver.execute_script(
        """
        const texts = [];
        const walk = node => {
            if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
            if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return;
            if (node.shadowRoot) walk(node.shadowRoot);
            node.childNodes.forEach(walk);
        };
        walk(document.body);
        return texts.join(' ').replace(/\\s+/g, ' ');
        """
    )


def open_page(driver, server, tab, expected, screenshot: Path):
    """Open a tab of the dashboard, wait until all expected texts are on it, keep a screenshot; returns the text."""
    driver.get("about:blank")
    driver.get(f"{server.url}?darkMode=false#{tab}")
    end, text = time.monotonic() + 60, page_text(driver)
    while missing := [part for part in expected if part not in text]:
        assert time.monotonic() < end, f"{tab}: {missing} not in {text}"
        time.sleep(0.3)
        text = page_text(driver)
    time.sleep(1.5)  # charts and pictures are drawn after their titles
    driver.save_screenshot(str(screenshot))
    return text
