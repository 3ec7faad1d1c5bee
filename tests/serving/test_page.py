"""The page in headless Chromium, with real uploads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from browser import CHROMIUM, needs_chromium
from darkrooms import TILES, darkroom

from hairify.data._image import Image
from hairify.data.images import read, write
from hairify.errors import OptionError
from hairify.serving import ServingSettings

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.slow, needs_chromium, pytest.mark.filterwarnings("ignore")]  # theirs
PATIENCE = 60_000  # milliseconds


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from hairify.serving import serve

    port = free_port()
    settings = ServingSettings(port=port, upload_limit=1, pixel_limit=1)
    page = serve(darkroom().restorer, TILES, settings)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(chromium: Any, address: str, size: tuple[int, int] = (1280, 900)) -> tuple[Any, list[str]]:
    """A new visitor's page, and whom it asked for anything."""
    page = chromium.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("text=Photograph", timeout=PATIENCE)
    return page, asked


def drop(page: Any, path: Path) -> None:
    page.set_input_files("input[type=file]", str(path))


def download(page: Any, target: Path) -> Path:
    page.click("button:has-text('Restore')")
    page.wait_for_selector("text=Download", timeout=PATIENCE)
    with page.expect_download(timeout=PATIENCE) as started:
        page.click("text=Download")
    started.value.save_as(target)
    return target


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = (torch.rand(3, 48, 64) * 65535).round() / 65535
    write(Image(pixels=pixels, bits=16), path := tmp_path / "photograph.png")
    return path


def test_a_port_that_is_taken_is_said(address: str) -> None:
    from hairify.serving import serve

    with pytest.raises(OptionError, match="nothing can be served"):
        serve(darkroom().restorer, TILES, ServingSettings(port=int(address.rpartition(":")[2])))


def test_a_server_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hairify", "serve", "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            assert server.stdout is not None
            assert any(b"The page is at" in line for line in server.stdout)  # or it has ended
            assert [*tmp_path.glob("hairify-*")]
            server.terminate()
            server.wait(PATIENCE / 1000)
        finally:
            server.kill()
    assert not [*tmp_path.glob("hairify-*")]


@pytest.mark.parametrize("size", [(1280, 900), (420, 860)])
def test_a_photograph_is_dropped_seen_restored_and_downloaded(
    size: tuple[int, int], chromium: Any, address: str, photograph: Path, tmp_path: Path
) -> None:
    page, asked = visit(chromium, address, size)
    drop(page, photograph)
    page.wait_for_selector("text=Seen:", timeout=PATIENCE)
    plain = read(download(page, tmp_path / "plain.png"))
    room = darkroom()
    expected, _ = room.restore(photograph, tmp_path / "out", "as seen", 1.0, lambda *tile: None)
    assert plain.bits == 16
    assert torch.equal(plain.pixels, read(expected).pixels)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0]  # nothing stands beside the window
    assert page.is_visible("text=Before and after")

    page.fill("input[type=number]", "0.5")
    page.keyboard.press("Tab")
    page.click("button:has-text('Restore')")
    expected, _ = room.restore(photograph, tmp_path / "gently", "as seen", 0.5, lambda *tile: None)
    for _ in range(60):  # until what is there to be downloaded is the new one
        with page.expect_download(timeout=PATIENCE) as started:
            page.click("text=Download")
        started.value.save_as(tmp_path / "gentle.png")
        if torch.equal(read(tmp_path / "gentle.png").pixels, read(expected).pixels):
            break
        page.wait_for_timeout(500)
    else:
        pytest.fail("strength changed nothing")
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.removeprefix("http://")}


def test_bad_files_are_told_of_and_the_next_one_works(
    chromium: Any, address: str, photograph: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no photograph")
    PIL.Image.new("RGB", (1500, 1000)).save(tmp_path / "large.png")
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "heavy.png")
    page, _ = visit(chromium, address)
    for name, message in (
        ("text.png", "text.png"),
        ("large.png", "this page takes 1"),
        ("heavy.png", "exceed the maximum"),
    ):
        drop(page, tmp_path / name)
        page.wait_for_selector(f"text={message}", timeout=PATIENCE)
        assert "/gradio/" not in page.inner_text("body")  # where files are kept is nobody's business
        page.reload()
        page.wait_for_selector("text=Photograph", timeout=PATIENCE)
    drop(page, photograph)
    page.wait_for_selector("text=Seen:", timeout=PATIENCE)


def test_two_visitors_get_their_own(chromium: Any, address: str, tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        write(Image(pixels=(torch.rand(3, 200, 240) * 255).round() / 255), path := tmp_path / f"{number}.png")
        paths.append(path)
    pages = [visit(chromium, address)[0] for _ in paths]
    for page, path in zip(pages, paths, strict=True):
        drop(page, path)
        page.wait_for_selector("text=Seen:", timeout=PATIENCE)
    for page in pages:  # both at once: neither is waited for
        page.click("button:has-text('Restore')")
    room = darkroom()
    for page, path in zip(pages, paths, strict=True):
        page.wait_for_selector("text=Download", timeout=PATIENCE)
        with page.expect_download(timeout=PATIENCE) as started:
            page.click("text=Download")
        started.value.save_as(got := tmp_path / f"restored_{path.name}")
        expected, _ = room.restore(path, tmp_path / "out", "as seen", 1.0, lambda *tile: None)
        assert torch.equal(read(got).pixels, read(expected).pixels)
