"""The split: the module whose output F_g feeds the DAC."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterator

from hairify.errors import OptionError, SplitError
from hairify.families import Siblings
from hairify.features import Feature, find_feature
from hairify.layers import is_layer, why_not
from hairify.plan import all_names
from hairify.probing import Call, Probe

# What runs at a resolution whose layers hold less than this is a side branch: pooled gates, pyramid arms.
_LEAST_HELD = 0.1


def choose_split(probe: Probe, split_at: str | float | None) -> tuple[str, Feature]:
    """The name of the split and the feature it returns.

    Args:
        probe: the recorded model.
        split_at: a module's name, a fraction in (0, 1) of the traced layer calls, or None: the first feature
            at the lowest resolution (the paper's 3+4 of Restormer), and in networks of constant resolution
            half-way through the repeated blocks that hold most parameters.

    Raises:
        OptionError: `split_at` is neither.
        SplitError: there is no such module, it never runs, or its output is no feature.
    """
    splitter = _Splitter(probe)
    if split_at is None:
        return splitter.automatic()
    if isinstance(split_at, str):
        return splitter.named(split_at)
    if isinstance(split_at, (int, float)) and not isinstance(split_at, bool) and 0 < split_at < 1:
        return splitter.at_fraction(split_at)
    raise OptionError(
        f"`split_at` is {split_at!r}; accepted are the name of a module, a fraction of the layer calls in (0, 1), "
        "and None for the automatic choice."
    )


class _Splitter:
    def __init__(self, probe: Probe) -> None:
        self._model = probe.model
        self._batch, self._image = probe.inputs.batch, probe.inputs.image
        self._calls = probe.recording.calls
        self._first = probe.recording.first_calls()
        self._modules = dict(probe.model.named_modules())
        self._canonical = {alias: name for name, aliases in all_names(probe.model).items() for alias in aliases}
        self._layer_calls = [c for c in self._calls if is_layer(self._modules[c.module])]

    def named(self, name: str) -> tuple[str, Feature]:
        name = self._canonical.get(name, name)
        if name not in self._modules or not name:
            near = difflib.get_close_matches(name, [n for n in self._modules if n], n=3, cutoff=0.4)
            hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
            raise SplitError(
                f"`split_at` is {name!r}, but the model has no such module.{hint} `model.named_modules()` lists all."
            )
        call = self._first.get(name)
        if call is None:
            inner = [c.module for c in self._calls if c.module.startswith(name + ".")]
            hint = f" Its last called child is {_outermost_child(inner, name)!r}." if inner else ""
            raise SplitError(
                f"`split_at` is {name!r}, which is never called itself in the model's forward.{hint} Name a "
                "module that is."
            )
        feature = self._feature(call, strict=False)
        if feature is None:
            shapes = ", ".join(str(r.shape) for r in call.returned) or "no tensor"
            raise SplitError(
                f"The split {name!r} returned {shapes} for {self._batch} image(s); a feature has the batch first and "
                "2 to 4 dimensions: (B, C, h, w), (B, h, w, C), (B, L, C) or (B, C). Choose another `split_at`."
            )
        return name, feature

    def at_fraction(self, fraction: float) -> tuple[str, Feature]:
        if not self._layer_calls:
            raise SplitError("The model calls no convolution and no linear layer, so there is nothing to split.")
        earliest = self._layer_calls[math.ceil(fraction * len(self._layer_calls)) - 1]
        for strict in (True, False):
            for call in self._calls:
                if call.end >= earliest.end and (found := self._outermost(call, strict)):
                    return found
        raise SplitError(
            f"No module that ends at or after the fraction {fraction} of the {len(self._layer_calls)} layer "
            "calls returns a feature of the whole image. Name the split: `split_at='...'`."
        )

    def automatic(self) -> tuple[str, Feature]:
        features = [(c, f) for c in self._calls if c.module and (f := self._feature(c, strict=True)) is not None]
        held: dict[int, int] = defaultdict(int)  # resolution, in the order of first use -> parameters of its layers
        for c, f in features:
            if is_layer(module := self._modules[c.module]) and self._first[c.module] is c:
                held[f.area] += sum(p.numel() for p in module.parameters())
        if not held:
            return self.at_fraction(0.5)
        lowest = min(area for area in held if held[area] >= _LEAST_HELD * sum(held.values()))
        if lowest >= next(iter(held)):  # the first layer is already at the lowest resolution: it is constant
            return self._half_way()
        reached = (found for c, f in features if f.area == lowest and (found := self._outermost(c, strict=True)))
        return next(reached, None) or self.at_fraction(0.5)

    def _half_way(self) -> tuple[str, Feature]:
        """The end of the first half of the repeated blocks that hold most parameters."""
        called = dict.fromkeys(c.module for c in self._layer_calls)
        usable = [name for name in called if why_not(self._modules[name]) is None]
        for group in Siblings(self._model, usable, self._first).groups():
            call = self._first.get(group[(len(group) - 1) // 2])
            if call is not None and (found := self._outermost(call, strict=True)):
                return found
        return self.at_fraction(0.5)

    def _outermost(self, call: Call, strict: bool) -> tuple[str, Feature] | None:
        """The outermost module that returns exactly what `call` returned, if it is its first call and a feature."""
        for outer in sorted(self._around(call), key=lambda c: -c.end):
            feature = self._feature(outer, strict)
            if outer.module and self._first[outer.module] is outer and feature is not None:
                return outer.module, feature
        return None

    def _around(self, call: Call) -> Iterator[Call]:
        for other in self._calls:
            if other.start <= call.start and other.end >= call.end and other.returned == call.returned:
                yield other

    def _feature(self, call: Call, strict: bool) -> Feature | None:
        return find_feature([r.shape for r in call.returned], self._batch, self._image, strict=strict)


def _outermost_child(called: list[str], parent: str) -> str:
    """The child of `parent` on the way to its last called descendant, as deep as it must be to be called itself."""
    parts = called[-1][len(parent) + 1 :].split(".")
    names = [f"{parent}.{'.'.join(parts[:i])}" for i in range(1, len(parts) + 1)]
    return next(name for name in names if name in called)
