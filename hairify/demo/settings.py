"""The demo's settings, and the command line that sets them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DESCRIPTION = """\
Trains one small restoration network twice, from the same initial weights on the same patches with synthetic noise,
rain and haze: once as it is (static) and once converted (hairified). Prints PSNR and SSIM of both on held-out
photographs, whatever they are, and draws what the converted network has learnt to tell apart.

Nothing is downloaded: the photographs come with scikit-image. Ctrl-C ends it at any time and leaves the output
folder as it was.
"""

EPILOG = """\
what is written to the output folder:
  before_after.png        held-out photographs: clean, degraded, restored by either network
  givs.png                the global information vectors of many crops, coloured by degradation
  selecting_vectors.png   what each block's selecting vector weighs, for each degradation
  results.json            settings, every score, the training losses, versions

examples:
  python -m hairify demo                              the whole demo, some minutes on two CPU cores
  python -m hairify demo --steps 20 --output glance   a glance: hardly trained, every output
  python -m hairify demo --seed 1                     the same comparison from other initial weights
"""


@dataclass(frozen=True)
class Settings:
    """Everything a run of the demo depends on; two runs with equal settings on one machine measure the same."""

    output: Path = Path("demo-output")
    """Folder for the results; made if missing, files of the same names are replaced."""
    steps: int = 450
    """Training steps of each network; 0 compares the networks untrained."""
    seed: int = 0
    """Seeds the initial weights, the training patches and the held-out degradations."""
    patch: int = 64
    """Side of a training patch in pixels; a multiple of 8 (the network halves its features three times).

    From 64 on, all of the DAC is trained: the feature that it gets, at an eighth, is then large enough for both of
    its downsamplings. On smaller patches the second one would be met, untrained, by the larger images later.
    """
    patches: int = 2
    """Training patches of each degradation in a step."""
    learning_rate: float = 2e-3
    """AdamW's learning rate at the first step; it falls to 0 along a cosine."""
    crop: int = 256
    """Longest side, in pixels, of the centre of a held-out photograph that is evaluated."""
    draws: int = 4
    """Independent draws of each degradation for each held-out photograph."""


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from command-line words (None: those of this process).

    Raises:
        SystemExit: on `--help`, and with status 2 and a message on a value that is not accepted.
    """
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m hairify demo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=default.output, metavar="DIR", help="folder for the results (%(default)s)")
    add(
        "--steps",
        type=_at_least(0),
        default=default.steps,
        metavar="N",
        help="training steps of each network (%(default)s)",
    )
    add(
        "--seed",
        type=_at_least(0),
        default=default.seed,
        metavar="S",
        help="of initial weights, patches and degradations (%(default)s); one seed is one sample, try several",
    )
    add(
        "--patch",
        type=_multiple_of_8,
        default=default.patch,
        metavar="PIXELS",
        help="side of a training patch, a multiple of 8 (%(default)s)",
    )
    add(
        "--patches",
        type=_at_least(1),
        default=default.patches,
        metavar="N",
        help="patches of each degradation in a training step (%(default)s)",
    )
    add(
        "--learning-rate",
        type=_positive,
        default=default.learning_rate,
        metavar="X",
        help="of AdamW, falling to 0 along a cosine; the same for both networks (%(default)s)",
    )
    add(
        "--crop",
        type=_multiple_of_8,
        default=default.crop,
        metavar="PIXELS",
        help="longest side of the part of a held-out photograph that is evaluated, a multiple of 8 (%(default)s)",
    )
    add(
        "--draws",
        type=_at_least(1),
        default=default.draws,
        metavar="N",
        help="draws of each degradation for each held-out photograph (%(default)s)",
    )
    return Settings(**vars(parser.parse_args(arguments)))


def _at_least(minimum: int) -> Callable[[str], int]:
    """A reader of whole numbers that accepts none below `minimum`."""

    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be {minimum} or more, got {value}")
        return value

    return number


def _multiple_of_8(text: str) -> int:
    value = int(text)
    # Below 32 the lowest resolution, an eighth, has next to no pixels left to attend to.
    if value < 32 or value % 8:
        raise argparse.ArgumentTypeError(f"must be a multiple of 8 from 32 on, got {value}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value
