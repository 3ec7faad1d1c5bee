"""The page, by Gradio: everything comes from this machine, and nothing is sent elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from hairify.data.images import SUFFIXES, read
from hairify.errors import OptionError
from hairify.restoring import Sight, TilingSettings
from hairify.restoring._failures import failure_in_words
from hairify.serving._darkroom import AS_SEEN, Darkroom, shown
from hairify.serving._settings import ServingSettings
from hairify.sharing import Restorer

if TYPE_CHECKING:
    import gradio

_ROWS = 5  # of the degradations that are nearest
_KEPT, _SWEPT = 3600, 600  # seconds: how long a visitor's files are kept, and how often that is looked after
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network"}  # also looking waits its turn


def serve(restorer: Restorer, tiling: TilingSettings, settings: ServingSettings) -> Any:
    """Serve the page, in threads of its own.

    Args:
        restorer: its model on the device it is to run on.
        tiling: of large photographs.
        settings: where, and what is taken.

    Returns:
        The page, a `gradio.Blocks`: `block_thread()` waits until it is interrupted, `close()` ends it.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
        OptionError: `tiling` does not fit the network, or the port cannot be listened at.
    """
    tiling.check(restorer.multiple)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    import gradio

    _check_port(settings)
    kept = tempfile.TemporaryDirectory(prefix="hairify-")  # gone with the server
    made: Any = page(Darkroom(restorer, tiling, settings.pixel_limit), Path(kept.name))
    made.kept = kept
    made.launch(
        server_name=settings.host,
        server_port=settings.port,
        max_file_size=settings.upload_limit * 2**20,
        theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        share=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return made


def _check_port(settings: ServingSettings) -> None:
    """Gradio's own words for a port that is taken are about its variables and arguments."""
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((settings.host, settings.port))
    except OSError as error:
        raise OptionError(
            f"`port` is {settings.port} of {settings.host}, where nothing can be served: {error.strerror}."
        ) from error


def page(darkroom: Darkroom, kept: Path) -> gradio.Blocks:
    """The page of a restorer, not served yet, which keeps restored files in a folder."""
    import gradio

    with gradio.Blocks(title="hairify", analytics_enabled=False, delete_cache=(_SWEPT, _KEPT)) as made:
        gradio.Markdown(_HEAD.format(network=darkroom.restorer.network.name))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                dropped = gradio.File(label="Photograph", file_types=sorted(SUFFIXES), height=140)
                seen = gradio.Markdown(visible=False)
                choice = gradio.Dropdown(
                    darkroom.choices, value=AS_SEEN, label="Restore from", visible=len(darkroom.choices) > 1
                )
                strength = gradio.Slider(
                    0, 2, value=1, step=0.05, label="Strength", visible=darkroom.knows_clean, info="0: as a clean one"
                )
                restore = gradio.Button("Restore", variant="primary", interactive=False)
                download = gradio.DownloadButton("Download", visible=False)
            with gradio.Column(scale=3, min_width=320):
                # No download here: it would be of what is shown, in 8 bits and small.
                shown_as: dict[str, Any] = {"visible": False, "type": "pil", "buttons": ["fullscreen"]}
                before = gradio.Image(label="Before", interactive=False, **shown_as)
                slider = gradio.ImageSlider(label="Before and after", max_height=900, **shown_as)
                note = gradio.Markdown(visible=False)

        made_before = gradio.State(None, time_to_live=_KEPT, delete_callback=_remove)

        def look(path: str | None) -> list[Any]:
            gone = gradio.update(visible=False)
            cleared = [gone, gone, gradio.update(interactive=False), gone, gone, gone]
            if path is None:
                return cleared
            try:
                picture, sight = darkroom.look(Path(path))
            except Exception as error:  # a visitor should see what failed, whatever it was
                return [*cleared[:-1], gradio.update(value=_told(error, path), visible=True)]
            table = gone if sight is None else gradio.update(value=_in_words(sight), visible=True)
            return [
                gradio.update(value=picture, visible=True),
                table,
                gradio.update(interactive=True),
                gone,
                gone,
                gone,
            ]

        def run(path: str, chosen: str, much: float, old: str | None, progress: Any = gradio.Progress()) -> list[Any]:  # noqa: B008 (Gradio's way)
            def on_tile(done: int, of: int) -> None:
                progress((done, of), desc="restoring", unit="tiles")

            gone = gradio.update(visible=False)
            folder = Path(tempfile.mkdtemp(dir=kept))
            _remove(old)
            try:
                target, message = darkroom.restore(Path(path), folder, chosen, much, on_tile)
                pictures: tuple[PIL.Image.Image, ...] = (shown(read(path)), shown(read(target)))
            except Exception as error:
                return [gradio.update(), gone, gone, gradio.update(value=_told(error, path), visible=True), str(folder)]
            return [
                gone,
                gradio.update(value=pictures, visible=True),
                gradio.update(value=str(target), visible=True),
                gradio.update(value=message, visible=bool(message)),
                str(folder),
            ]

        changed = [before, seen, restore, slider, download, note]
        dropped.change(look, dropped, changed, show_progress="minimal", **_ONE_AT_A_TIME)
        given, results = [dropped, choice, strength, made_before], [before, slider, download, note, made_before]
        restore.click(run, given, results, show_progress_on=[slider, before], **_ONE_AT_A_TIME)
    return made


def _in_words(sight: Sight) -> str:
    rows = [f"| {name} | {distance:.2f} |" for name, distance in [*sight.distances.items()][:_ROWS]]
    sure = f"{sight.certainty:.0%} certain" if sight.is_known else "unlike all that it knows"
    return "\n".join([f"Seen: **{sight.nearest}**, {sure}\n", "| nearest | distance |", "|---|---:|", *rows])


def _told(error: Exception, path: str) -> str:
    """What failed, without the place where visitors' files are kept."""
    words = failure_in_words(error, "Out of memory; smaller tiles (`--tile`) take less.")
    return "⚠️ " + words.replace(path, Path(path).name)


def _remove(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


_HEAD = """# hairify
Drop a photograph: `{network}` tells what it sees in it, and restores it from that. It stays on this machine."""
