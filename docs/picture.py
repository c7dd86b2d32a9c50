"""Take docs/dashboard.png from a running demo: `python docs/picture.py` (chromium and playwright)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from loadtest.stage.ports import free_port

REPOSITORY = Path(__file__).parents[1]
PICTURE = REPOSITORY / "docs" / "dashboard.png"
PHASE_S = 45
WIDTH, HEIGHT = 1440, 1000
WITHIN_S = 120
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def wait_for(address: str) -> None:
    """Until something listens there."""
    host, _, port = address.partition(":")
    deadline = time.monotonic() + WITHIN_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        if time.monotonic() > deadline:
            sys.exit("the demo's control plane does not answer")
        time.sleep(0.2)


def main() -> None:
    """Run the demo, and take the picture in its third phase."""
    control = f"127.0.0.1:{free_port()}"
    token = secrets.token_urlsafe(16)
    command = [sys.executable, "-m", "control.cli", "demo", "--phase-seconds", str(PHASE_S), "--control", control]
    command += ["--rate", "60", "--listen", f"127.0.0.1:{free_port()}"]
    environment = os.environ | {"PHASEGATE_TOKEN": token}
    demo = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        take(control, token)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


def take(control: str, token: str) -> None:
    """Sign in, wait for the third phase, and take the picture in the midst of it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("chromium is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        expect.set_options(timeout=6 * PHASE_S * 1000)
        wait_for(control)
        page.goto(f"http://{control}/admin/migration", timeout=WITHIN_S * 1000)
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator(".rail .current .name")).to_have_text("half")
        page.wait_for_timeout(PHASE_S * 600)
        box = page.locator(".charts").bounding_box()
        assert box is not None
        height = box["y"] + box["height"] + 8
        page.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
