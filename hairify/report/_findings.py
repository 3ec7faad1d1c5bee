"""All that a report shows, as data: independent of how it was found out and of how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hairify.evaluation._conditioning import Conditioning
from hairify.evaluation._results import Results
from hairify.evaluation._scores import Score
from hairify.planning._plans import Plan


@dataclass(frozen=True)
class Example:
    """A test image before and after. All three images are (3, H, W) in [0, 1], on the CPU.

    Attributes:
        task: name of the task.
        name: of the photograph.
        clean: the image as it should be.
        degraded: what the network was given.
        restored: what it made of it.
        before: likeness of `degraded` to `clean`.
        after: likeness of `restored` to `clean`.
    """

    task: str
    name: str
    clean: Tensor
    degraded: Tensor
    restored: Tensor
    before: Score
    after: Score


@dataclass(frozen=True)
class Projection:
    """GIVs on a plane.

    Attributes:
        method: "t-SNE" or "PCA".
        with_composites: whether composite degradations are on it.
        points: for each degradation (count, 2), in the order of its GIVs.
        shares: of the variance, along either axis; None where axes mean nothing (t-SNE).
    """

    method: str
    with_composites: bool
    points: Mapping[str, Tensor]
    shares: tuple[float, float] | None = None


@dataclass(frozen=True)
class GIVFindings:
    """How a converted network tells images apart.

    Attributes:
        crops: for each degradation the names of the crops.
        givs: for each degradation their GIVs, (count, D).
        vectors: for each degradation and block the mean of their selecting vectors, (N,).
        composites: those degradations, last in `givs`, that are compositions shown beside their parts.
        projections: the GIVs on planes.
        notes: what a reader should know.
    """

    crops: Mapping[str, tuple[str, ...]]
    givs: Mapping[str, Tensor]
    vectors: Mapping[str, Mapping[str, Tensor]]
    composites: tuple[str, ...]
    projections: tuple[Projection, ...]
    notes: tuple[str, ...] = ()

    @property
    def singles(self) -> tuple[str, ...]:
        """The degradations that are not shown as composites."""
        return tuple(name for name in self.givs if name not in self.composites)


@dataclass(frozen=True)
class Curves:
    """How training went.

    Attributes:
        losses: {degradation: ((step, loss), ...)}, steps ascending.
        validation: {task: ((step, PSNR in dB), ...)}, steps ascending.
        conditioning: {what: ((step, dB), ...)}: by how much images' own GIVs are better than others.
        unreadable: lines of the log that are no JSON object, as a killed process may leave.
    """

    losses: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    validation: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    conditioning: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True)
class Baseline:
    """What the model is compared with.

    Attributes:
        name: of the other network, in words, such as "the unconverted network".
        results: of its evaluation on the same images.
    """

    name: str
    results: Results


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    Attributes:
        title: the network's name.
        parameters: how many it has.
        facts: further facts, {what: value}.
        tasks: {task: its degradation}, for colours.
        plan: what was converted; None for a static network.
        conditioning: GIVs and selecting vectors; None for a static network, or without test images.
        use: whether the GIV is used; None where `conditioning` is, or where no two degradations are tested.
        baseline: what `results` are compared with, if anything.
        examples: images before and after.
        results: of the evaluation, if there was one.
        curves: how training went.
        unreadable: {test image: why it could not be shown}.
    """

    title: str
    parameters: int
    facts: Mapping[str, str]
    tasks: Mapping[str, str]
    plan: Plan | None
    conditioning: GIVFindings | None
    examples: tuple[Example, ...]
    results: Results | None
    curves: Curves
    unreadable: Mapping[str, str] = field(default_factory=dict)
    use: Conditioning | None = None
    baseline: Baseline | None = None
