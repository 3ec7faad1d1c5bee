"""The split: the module whose output F_g feeds the DAC."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from torch import nn

from hairify._support.counting import count
from hairify._support.module_names import all_names
from hairify._support.nested import Size
from hairify.errors import OptionError, SplitError
from hairify.nn._converted import within_converted
from hairify.nn._features import Feature, find_feature
from hairify.nn._layers import is_layer, why_not
from hairify.planning._families import Siblings
from hairify.planning._pairs import Pairs
from hairify.planning._probe import Probe
from hairify.planning._recording import Call

# What runs at a resolution whose layers hold less than this is a side branch: pooled gates, pyramid arms.
_LEAST_HELD = 0.1
# A split that leaves a smaller part of the layers' parameters to convert is too late.
_LEAST_REMAINING = 0.1
# Convolutions without padding shrink a map a little; a stride of two leaves a quarter of it.
_SAME_RESOLUTION = 1.4
# The first layer's input may be the padded image, but then not of quite another shape.
_MOST_PADDED = 1.5

# What returns maps (B, C, h, w) for certain, where the shape of a small one may fit channels last as well. Classes
# derived from these are not, for they may permute.
_RETURN_MAPS = frozenset(
    (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.PixelShuffle, nn.PixelUnshuffle)
)

Found: TypeAlias = tuple[str, Feature]


def possible_splits(probe: Probe, pairs: Pairs, split_at: str | float | None) -> Iterator[Found]:
    """The split and the feature it returns, then what to take where nothing depends on that: side outputs look alike.

    Args:
        probe: the recorded model.
        pairs: what batches of two images showed.
        split_at: a module's name, which is the only choice; a fraction in (0, 1) of the traced layer calls; or None:
            the first feature at the lowest resolution (the paper's 3+4 of Restormer), and in networks of constant
            resolution half-way through the repeated blocks that hold most parameters.

    Yields:
        At least one name with its feature.

    Raises:
        OptionError: `split_at` is neither.
        SplitError: there is no such module, it never runs, or its output is no feature.
    """
    splitter = _Splitter(probe, pairs)
    if split_at is None:
        yield from splitter.automatic()
    elif isinstance(split_at, str):
        yield splitter.named(split_at)
    elif isinstance(split_at, (int, float)) and not isinstance(split_at, bool) and 0 < split_at < 1:
        yield from splitter.at_fraction(split_at)
    else:
        raise OptionError(
            f"`split_at` is {split_at!r}; accepted are the name of a module, a fraction of the layer calls in (0, 1), "
            "and None for the automatic choice."
        )


class _Splitter:
    def __init__(self, probe: Probe, pairs: Pairs) -> None:
        self._model, self._pairs = probe.model, pairs
        self._batch, self._image, self._padded = probe.inputs.batch, probe.inputs.image, _padded_size(probe)
        self._image_channels = max(t.shape[1] if t.ndim == 4 else 0 for t in probe.inputs.tensors)
        inner = within_converted(probe.model)
        self._calls = [call for call in probe.recording.calls if call.module not in inner]
        self._first = probe.recording.first_calls()
        self._modules = dict(probe.model.named_modules())
        self._canonical = {alias: name for name, aliases in all_names(probe.model).items() for alias in aliases}
        self._layer_calls = [c for c in self._calls if is_layer(self._modules[c.module])]
        self._usable = {c.module for c in self._layer_calls if why_not(self._modules[c.module]) is None}
        self._sizes = {layer: sum(p.numel() for p in self._modules[layer].parameters()) for layer in self._usable}
        ordered = dict.fromkeys(c.module for c in self._layer_calls if c.module in self._usable)
        self._groups = Siblings(self._model, ordered, self._first).groups()
        self._repeated = {name for group in self._groups for name in group}
        self._around_call = _around(self._calls)
        self._features: dict[tuple[int, bool], Feature | None] = {}

    def named(self, name: str) -> Found:
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
                "2 to 4 dimensions: (B, C, h, w), (B, h, w, C), (B, L, C) or (B, C), of real numbers. Choose another "
                "`split_at`."
            )
        if self._pairs.output_alike_for_all(name, feature.index):
            raise SplitError(
                f"The split {name!r} returns the same for every image, so its output cannot tell them apart. Choose a "
                "`split_at` whose output comes from the image."
            )
        if not self._pairs.output_kept_apart(name, feature.index):
            raise SplitError(
                f"The split {name!r} does not keep the images of a batch apart, so its output cannot give one GIV per "
                "image. Choose another `split_at`, before windows or patches are folded into the batch."
                + self._if_it_varies()
            )
        return name, feature

    def at_fraction(self, fraction: float) -> Iterator[Found]:
        self._check_layers()
        found = None
        for found in self._from_fraction(fraction):
            yield found
        if found is None:
            raise SplitError(
                f"No module that ends at or after the fraction {fraction} of the {len(self._layer_calls)} layer "
                "calls returns a feature of the whole image. Name the split: `split_at='...'`."
            )

    def automatic(self) -> Iterator[Found]:
        self._check_layers()
        half = next(self._from_fraction(0.5), None)
        choices = [self._at_lowest_resolution(), self._half_way(), half, self._early()]
        found = [choice for choice in choices if choice is not None]
        if not found:
            raise SplitError(
                "No module returns a feature to split at: a map of the whole image that comes from the image and keeps "
                "the images of a batch apart. Name one yourself: `split_at='...'`." + self._if_it_varies()
            )
        yield from sorted(found, key=lambda choice: self._remaining_after(choice[0]) < _LEAST_REMAINING)

    def _from_fraction(self, fraction: float) -> Iterator[Found]:
        """The features from a part of the layer calls on, those of the whole image first."""
        earliest = self._layer_calls[math.ceil(fraction * len(self._layer_calls)) - 1]
        for strict in (True, False):
            for call in self._calls:
                if call.end >= earliest.end and (found := self._outermost(call, strict)):
                    yield found

    def _check_layers(self) -> None:
        if not self._layer_calls:
            raise SplitError("The model calls no convolution and no linear layer, so there is nothing to split.")
        if is_layer(self._model):
            raise SplitError(
                f"The model is itself a single layer ({type(self._model).__name__}), so nothing comes after a split."
            )

    def _at_lowest_resolution(self) -> Found | None:
        """The first feature at the lowest resolution; None where the resolution is constant."""
        path = self._main_path()
        lowest = self._lowest_resolution(path)
        if lowest is None:
            return None
        reached = (self._outermost(call, strict=True) for call, feature in path if feature.area <= lowest)
        return next((found for found in reached if found), None)

    def _main_path(self) -> list[tuple[Call, Feature]]:
        """The calls that return features, without those in side branches, unless there are no others."""
        features = [(c, f) for c in self._calls if c.module and (f := self._feature(c, strict=True)) is not None]
        return [(c, f) for c, f in features if not self._aside(c, f)] or features

    def _lowest_resolution(self, path: list[tuple[Call, Feature]]) -> int | None:
        """The area of the smallest maps, of layers that hold enough; None where that of the first layer is no larger.

        Resolutions that differ by the border of a convolution without padding count as one, by the largest.
        """
        held: dict[int, int] = defaultdict(int)  # area, in the order of first use -> parameters of its layers
        for call, feature in path:
            if is_layer(module := self._modules[call.module]) and self._first[call.module] is call:
                held[feature.area] += count(module)
        if not held:
            return None
        alike = {area: [a for a in held if area <= a <= _SAME_RESOLUTION * area] for area in held}
        least = _LEAST_HELD * sum(held.values())
        smallest = min(area for area in held if sum(held[a] for a in alike[area]) >= least)
        lowest = max(alike[smallest])
        return lowest if lowest < next(iter(held)) else None

    def _half_way(self) -> Found | None:
        """The end of the first half of the repeated blocks that hold most parameters."""
        for group in self._groups:
            call = self._first.get(group[(len(group) - 1) // 2])
            found = call and self._outermost(call, strict=True)
            if call and found and not self._aside(call, found[1]):
                return found
        return None

    def _early(self) -> Found | None:
        """The feature that leaves most to convert: in a recursive network, that before the repetition."""
        remaining = {name: self._remaining_after(name) for name in self._first if name}
        latest_first = reversed([self._first[name] for name in remaining])
        by_what_remains = sorted(latest_first, key=lambda call: -remaining[call.module])
        reached = (self._outermost(call, strict=True) for call in by_what_remains if remaining[call.module])
        return next((found for found in reached if found), None)

    def _remaining_after(self, name: str) -> float:
        """The part of the parameters in usable layers whose first call comes after that of a module."""
        after = sum(n for layer, n in self._sizes.items() if self._first[layer].start > self._first[name].end)
        return after / max(1, sum(self._sizes.values()))

    def _aside(self, call: Call, feature: Feature) -> bool:
        """Whether a call lies in a side branch: one that ends in no feature, or a block that goes there and back.

        What returns an image is no block but one of several networks in a row, whose bottlenecks count.
        """
        for outer in self._around_call[call.start]:
            returned = self._feature(outer, strict=True)
            if returned is None:
                return True
            there_and_back = feature.area < min(returned.area, self._enters_at(outer))
            if there_and_back and outer.module in self._repeated and returned.channels > self._image_channels:
                return True
        return False

    def _enters_at(self, outer: Call) -> int:
        """The resolution of the first feature inside a call."""
        inside = (c for c in self._calls if outer.start < c.start and c.end < outer.end)
        return next((f.area for c in inside if (f := self._feature(c, strict=True)) is not None), 0)

    def _outermost(self, call: Call, strict: bool) -> Found | None:
        """The outermost module that returns exactly what `call` returned, if it can be the split."""
        for outer in (*reversed(self._around_call[call.start]), call):
            if outer.returned != call.returned or not outer.module or self._first[outer.module] is not outer:
                continue
            feature = self._feature(outer, strict)
            if feature is not None and self._tells_images_apart(outer.module, feature.index):
                return outer.module, feature
        return None

    def _if_it_varies(self) -> str:
        """A further sentence for networks of which two runs differ, as if one image changed another's result."""
        return "" if self._pairs.repeats_itself else " (Two runs of the model on the same images differ: is it random?)"

    def _tells_images_apart(self, name: str, index: int) -> bool:
        return self._pairs.output_kept_apart(name, index) and not self._pairs.output_alike_for_all(name, index)

    def _feature(self, call: Call, strict: bool) -> Feature | None:
        key = call.start, strict
        if key not in self._features:
            shapes = [r.shape if r.real else () for r in call.returned]
            maps = type(self._modules[call.module]) in _RETURN_MAPS
            padded = find_feature(shapes, self._batch, self._padded, strict=True, are_maps=maps)
            self._features[key] = padded or find_feature(shapes, self._batch, self._image, strict=strict, are_maps=maps)
        return self._features[key]


def _padded_size(probe: Probe) -> Size | None:
    """(H, W) of what the first layer receives: networks pad images to a multiple of their windows."""
    received = next(iter(probe.recording.received.values()), None)
    image = probe.inputs.image
    if received is None or len(received[0].shape) != 4 or image is None:
        return image
    height, width = received[0].shape[2:]
    return (height, width) if abs(math.log(height * image[1] / (width * image[0]))) < math.log(_MOST_PADDED) else image


def _around(calls: list[Call]) -> dict[int, list[Call]]:
    """{start of a call: the calls around it, innermost first}, without that of the model itself."""
    running: list[Call] = []
    around: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda c: c.start):
        while running and running[-1].end < call.end:
            running.pop()
        around[call.start] = [outer for outer in reversed(running) if outer.module]
        running.append(call)
    return around


def _outermost_child(called: list[str], parent: str) -> str:
    """The child of `parent` on the way to its last called descendant, as deep as it must be to be called itself."""
    parts = called[-1][len(parent) + 1 :].split(".")
    names = [f"{parent}.{'.'.join(parts[:i])}" for i in range(1, len(parts) + 1)]
    return next(name for name in names if name in called)
