"""Whether an installed package is whole: run in an environment that has nothing but it, outside of the repository."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import hairify
from hairify import recipes
from hairify.data._image import Image
from hairify.data.images import write


def main() -> None:
    """Convert a network, list what lies beside the code, and run the commands' whole way on a tiny photograph."""
    home = Path(hairify.__file__).parent
    assert home.parent.name == "site-packages", f"hairify is not the installed one, but {home}"
    assert (home / "py.typed").is_file()
    assert recipes.names()
    body = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(4)]
    hair = hairify.hairify(nn.Sequential(nn.Conv2d(3, 8, 1), *body, nn.Conv2d(8, 3, 1)))
    assert hair(torch.rand(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for number in range(3):
            write(Image(pixels=(torch.rand(3, 64, 64) * 255).round() / 255), photographs / f"{number}.png")
        train = "train --network unet --data photographs --degradations noise25,haze --steps 2 --patch-size 32"
        for words in (
            "--help",
            f"{train} --batch-size 2 --workers 0 --calibration 4 --cpu --output run",
            "look photographs --model run",
            "restore photographs --model run --output by_run",
            "look photographs",  # with the restorer that comes along
            "restore photographs",
        ):
            subprocess.run([Path(sys.executable).parent / "hairify", *words.split()], cwd=folder, check=True)
    print(f"hairify {hairify.__version__} works from {home}")


if __name__ == "__main__":
    main()
