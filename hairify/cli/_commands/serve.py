"""`hairify serve`."""

from __future__ import annotations

import signal
import threading

from hairify.cli._common import BUNDLED, DacOption, DeviceOption, ModelOption, TrustOption, open_restorer, say
from hairify.restoring._settings import TilingSettings
from hairify.serving._settings import ServingSettings


def run(
    tiling: TilingSettings,
    serving: ServingSettings,
    model: ModelOption = BUNDLED,
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve a page on which photographs are dropped and restored, on this machine.

    It shows what the network sees in a photograph, the photograph before and after, and has sliders for strength and
    degradation. Large photographs are restored in tiles; depth, colour profile and the rest stay in the file that is
    downloaded, as with hairify restore. Nothing is sent elsewhere. Ctrl+C ends it.

    [dim]hairify serve
    hairify serve --model run --port 8000[/dim]
    """
    from hairify.serving import serve

    if threading.current_thread() is threading.main_thread():  # no other can say what signals do
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: what visitors left is removed
    page = serve(open_restorer(model, device, network, dac), tiling, serving)
    say("The page is at ", (f"http://{serving.host}:{serving.port}", "bold"), "; Ctrl+C ends it.")
    page.block_thread()
