"""What an ablation compares, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_args

from typing_extensions import Doc

from hairify.errors import OptionError
from hairify.networks._named import number_or_name

if TYPE_CHECKING:
    from torch import nn

Variant: TypeAlias = Literal["static", "dac", "hsn", "both"]
VARIANTS: tuple[str, ...] = get_args(Variant)


@dataclass(frozen=True)
class AblationSettings:
    """What is compared."""

    variants: Annotated[
        tuple[str, ...],
        Doc(
            "static: the network as it is; dac: the GIV as an embedding of ordinary blocks; hsn: learned vectors in "
            "place of the GIV; both: as converted"
        ),
    ] = VARIANTS
    splits: Annotated[
        tuple[str, ...],
        Doc("positions of the split to compare: names of modules, or fractions of the layer calls in (0, 1)"),
    ] = ()
    sweep: Annotated[
        int, Doc("number of further positions, evenly spaced over the layer calls; the paper compares 6, by name")
    ] = 0
    combinations: Annotated[
        tuple[str, ...],
        Doc(
            "which degradations to learn together, such as noise/rain, or all for every combination, noise of any "
            "strength being one; each by the static and the converted network"
        ),
    ] = ()
    seeds: Annotated[int, Doc("runs of each setting, with the seeds 0, 1, ...")] = 3

    def __post_init__(self) -> None:
        for name, values in (
            *(("variants", self.variants), ("splits", self.splits)),
            ("combinations", self.combinations),
        ):
            if len(set(values)) < len(values) or "" in values:
                raise OptionError(f"`{name}` is {values!r}; accepted are names that differ.")
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise OptionError(f"`variants` holds {unknown[0]!r}; accepted are {', '.join(map(repr, VARIANTS))}.")
        for name, number, least in (("sweep", self.sweep, 0), ("seeds", self.seeds, 1)):
            if number < least:
                raise OptionError(f"`{name}` is {number}; accepted is an integer from {least} up.")
        if not (self.variants or self.splits or self.sweep or self.combinations):
            raise OptionError(
                "`variants` is empty, and so are `splits`, `sweep` and `combinations`; there is nothing to compare."
            )

    def positions(self, network: nn.Module) -> list[tuple[str, str | float]]:
        """All positions in a network, each as it was asked for and as `split_at`.

        Module names may look like numbers ("0.5" in nested `nn.Sequential`s); they go before fractions.
        """
        names = {name for name, _ in network.named_modules(remove_duplicate=False)}
        asked = [(text, text if text in names else number_or_name(text)) for text in self.splits]
        fractions = [i / (self.sweep + 1) for i in range(1, self.sweep + 1)]
        return list(dict.fromkeys([*asked, *((f"{fraction:.3g}", fraction) for fraction in fractions)]))
