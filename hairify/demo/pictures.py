"""The demo's three pictures. Drawing never opens a window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = {"noise": "#0072B2", "rain": "#009E73", "haze": "#D55E00"}
"""A colour for each degradation, told apart by colour-blind eyes too (Okabe and Ito's palette)."""

MARKERS = {"noise": "o", "rain": "^", "haze": "s"}


@dataclass(frozen=True)
class Row:
    """One photograph in several versions, side by side.

    `images` holds them by name, (3, H, W) in [0, 1] each; `psnr`, in dB, has those names that are to show one.
    """

    title: str
    images: Mapping[str, Tensor]
    psnr: Mapping[str, float]


def draw_before_after(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows, all with as many images, below each other to the PNG `path`."""
    columns = len(rows[0].images)
    # Rows as high as their photographs, so that no picture is stretched and none floats in white.
    ratios = [max(image.shape[1] / image.shape[2] for image in row.images.values()) for row in rows]
    width = 3.2
    figure = _figure(width * columns, sum(width * ratio + 0.45 for ratio in ratios))
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axes, row in zip(grid, rows, strict=True):
        for cell, (name, image) in zip(axes, row.images.items(), strict=True):
            cell.imshow(image.permute(1, 2, 0).numpy(), interpolation="lanczos")
            cell.set_title(f"{name}, {row.psnr[name]:.2f} dB" if name in row.psnr else name, fontsize=11)
            _bare(cell)
        axes[0].set_ylabel(row.title, fontsize=12)
    figure.savefig(path)


def draw_givs(givs: Mapping[str, Tensor], path: Path) -> None:
    """The GIVs of each degradation, (count, D), projected on their two principal components."""
    everything = torch.cat(list(givs.values())).double()
    centre = everything.mean(0)
    _, spread, components = torch.linalg.svd(everything - centre, full_matrices=False)
    share = spread.square() / spread.square().sum().clamp(min=1e-30)
    figure = _figure(6.4, 5.4)
    axes = figure.subplots()
    for degradation, vectors in givs.items():
        x, y = ((vectors.double() - centre) @ components[:2].T).T.numpy()
        axes.scatter(x, y, s=34, alpha=0.75, marker=MARKERS[degradation], color=COLOURS[degradation], label=degradation)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%} of the variance)")
    axes.set_title("Global information vectors of held-out crops")
    axes.grid(alpha=0.25)
    axes.legend(frameon=True)
    figure.savefig(path)


def draw_selecting_vectors(vectors: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Two rows of heat maps: what each block weighs under each degradation, and how that departs from the mean of all.

    Args:
        vectors: for each degradation and block the mean selecting vector (N,); N may differ between blocks.
        path: the PNG to write.
    """
    blocks = list(next(iter(vectors.values())))
    tables = {degradation: _table([of[block] for block in blocks]) for degradation, of in vectors.items()}
    mean = torch.stack(list(tables.values())).mean(0)
    departures = {degradation: table - mean for degradation, table in tables.items()}
    largest = max(float(table.nan_to_num().abs().max()) for table in departures.values())

    height = max(2.2, 0.26 * len(blocks))
    figure = _figure(3.0 * len(tables) + 2.4, 2 * height + 1.6)
    grid = figure.subplots(2, len(tables), squeeze=False, sharex=True, sharey=True)
    kinds = (
        (tables, "viridis", Normalize(0, 1), "weight"),
        (departures, "RdBu_r", CenteredNorm(0, max(largest, 1e-6)), "departure from the mean\nof all degradations"),
    )
    for axes, (maps, colours, norm, label) in zip(grid, kinds, strict=True):
        for cell, (degradation, table) in zip(axes, maps.items(), strict=True):
            drawn = cell.imshow(table.numpy(), cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
            cell.set_facecolor("#dddddd")  # where a block has fewer weight sets
            cell.set_title(degradation, fontsize=11)
        axes[0].set_yticks(range(len(blocks)), blocks, fontsize=8)
        figure.colorbar(drawn, ax=list(axes), label=label, fraction=0.04)
    for cell in grid[-1]:
        cell.set_xticks(range(mean.shape[1]), [str(i + 1) for i in range(mean.shape[1])])
        cell.set_xlabel("weight set")
    figure.suptitle("Selecting vectors of each block, mean over held-out crops")
    figure.savefig(path)


def _table(rows: Sequence[Tensor]) -> Tensor:
    """Rows of unequal length as one matrix, NaN where a row has ended."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=float("nan"))


def _figure(width: float, height: float) -> Figure:
    """A figure that only the Agg renderer draws: pyplot would look for a display and keep the figure alive."""
    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
