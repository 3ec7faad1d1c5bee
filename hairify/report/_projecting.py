"""GIVs on a plane, by PCA and by t-SNE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sklearn.manifold import TSNE
from torch import Tensor

from hairify.report._findings import Projection

_PERPLEXITY = 30.0  # scikit-learn's default


def project(givs: Mapping[str, Tensor], composites: Sequence[str], seed: int) -> tuple[Projection, ...]:
    """GIVs by t-SNE and PCA, first without the composites, then with them.

    PCA has the axes of the single degradations in both, so that composites are seen where they fall between these;
    t-SNE has no axes that could be kept, and is made afresh.

    Args:
        givs: for each degradation (count, D), one at least.
        composites: degradations that are not in the first pictures.
        seed: of t-SNE.

    Returns:
        Two projections, or four where there are composites.
    """
    singles = {name: vectors.double() for name, vectors in givs.items() if name not in composites}
    everything = {name: vectors.double() for name, vectors in givs.items()}
    axes, centre, shares = principal_axes(torch.cat(list(singles.values())))
    found = []
    for chosen, composed in ((singles, False), (everything, True))[: 2 if composites else 1]:
        linear = {name: (vectors - centre) @ axes for name, vectors in chosen.items()}
        together = tsne(torch.cat(list(chosen.values())), torch.cat(list(linear.values())), seed)
        parts = together.split([len(vectors) for vectors in chosen.values()])
        found += [
            Projection("t-SNE", composed, dict(zip(chosen, parts, strict=True))),
            Projection("PCA", composed, linear, shares),
        ]
    return tuple(found)


def principal_axes(vectors: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """The two directions in which vectors (count, D) vary most, (D, 2), their mean (D,), and shares of the variance.

    Each axis points to where its largest component is positive, so that equal vectors give equal pictures. Where the
    vectors vary in fewer directions, the missing axes are zero.
    """
    centre = vectors.mean(0)
    _, spread, directions = torch.linalg.svd(vectors - centre, full_matrices=False)
    variance = torch.nn.functional.pad(spread.square(), (0, 2))
    axes = torch.nn.functional.pad(directions.T, (0, 2))[:, :2]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    first, second = (variance[:2] / variance.sum().clamp(min=1e-30)).tolist()
    return axes * torch.where(largest < 0, -1.0, 1.0), centre, (first, second)


def tsne(vectors: Tensor, start: Tensor, seed: int) -> Tensor:
    """Vectors (count, D) on a plane (count, 2) by t-SNE, from a linear projection (count, 2) on.

    The perplexity is scikit-learn's default, or less where there are few vectors: a third of the others.
    """
    if len(vectors) < 2:
        return start
    perplexity = max(1.0, min(_PERPLEXITY, (len(vectors) - 1) / 3))
    scale = start[:, 0].std().item()
    small = 1e-4 * start / scale if scale > 0 else start  # as scikit-learn scales its own start by PCA
    made = TSNE(perplexity=perplexity, init=small.numpy(), random_state=seed).fit_transform(vectors.numpy())
    return torch.from_numpy(made).double()
