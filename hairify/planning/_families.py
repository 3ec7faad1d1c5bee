"""Families of repeated blocks: the candidates for levels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from hairify._support.torch_internals import own_parameters
from hairify.nn._layers import is_layer, settings
from hairify.planning._recording import Call

# Two equal layers in a row are more often conv1 and conv2 of one residual block than a repeat.
_LEAST_BARE_LAYERS = 3
# Elsewhere layers have roles: q, k and v of an attention are no repeat, however alike.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Family:
    """Structurally identical siblings.

    Attributes:
        parent: name of the module that holds them.
        blocks: their names, in the order of their first use.
        layers: names within a block of the layers that belong to the family; `("",)` where blocks are layers.
    """

    parent: str
    blocks: tuple[str, ...]
    layers: tuple[str, ...]


class Siblings:
    """Finds identical siblings in a model.

    Siblings share a parent and have the same classes, parameter shapes, layer settings, eligible layers and
    call interface. Submodules without parameters do not count: a DropPath beside an Identity makes no
    difference to a Weight Box.

    Args:
        model: the model.
        eligible: names of the layers that may be converted, in the order of their first call.
        first_calls: the first call of each module that ran.
    """

    def __init__(self, model: nn.Module, eligible: Collection[str], first_calls: Mapping[str, Call]) -> None:
        self._eligible = set(eligible)
        self._order = {name: i for i, name in enumerate(eligible)}
        self._calls = first_calls
        self._ids: dict[Hashable, int] = {}
        self._signatures: dict[str, int | None] = {}
        self._within: dict[str, list[str]] = defaultdict(list)  # module -> its eligible layers
        self._groups: dict[str, tuple[str, ...]] = {}  # module -> its identical siblings, itself included
        names = {id(module): name for name, module in model.named_modules()}
        self._children = {  # {parent: {attribute: child}}, all under the names by which they are first found
            names[id(module)]: {attribute: names[id(child)] for attribute, child in module.named_children()}
            for module in model.modules()
        }
        holders = Counter(child for children in self._children.values() for child in children.values())
        self._shared = {child for child, count in holders.items() if count > 1}
        self._modules = dict(model.named_modules())
        for layer in eligible:
            for ancestor in self._and_ancestors(layer):
                self._within[ancestor].append(layer)
        for parent, children in self._children.items():
            self._group(parent, list(children.values()))

    def groups(self) -> dict[tuple[str, ...], int]:
        """Every group of siblings that counts as a repeat, with the number of parameters it holds."""
        sizes = {group: self._parameters(group) for group in self._groups.values() if len(group) > 1}
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def families(self) -> list[Family]:
        """Each eligible layer in the largest group of blocks around it, else in its own; ties go to the innermost.

        Layers without a repeat around them are left out.
        """
        members: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for layer in self._order:
            around = [a for a in self._and_ancestors(layer) if a in self._groups]
            repeated = [a for a in around if a != layer and len(self._groups[a]) > 1]
            best = max(repeated or around, key=lambda a: len(self._groups[a]), default=layer)  # the first of equals
            group = self._groups.get(best, ())
            if len(group) > 1 and best == group[0]:  # the first block speaks for all: they are identical
                members[group].append(layer[len(best) :].lstrip("."))
        return [Family(_parent(group[0]), group, tuple(layers)) for group, layers in members.items()]

    def _group(self, parent: str, children: list[str]) -> None:
        alike: dict[Hashable, list[str]] = defaultdict(list)
        for child in children:
            if _parent(child) == parent and child in self._within:  # a shared module belongs to its first parent
                call = self._calls.get(child)
                alike[self._signature(child), call and call.interface].append(child)
        for group in alike.values():
            if not is_layer(self._modules[group[0]]) or (
                len(group) >= _LEAST_BARE_LAYERS and isinstance(self._modules[parent], _CONTAINERS)
            ):
                ordered = tuple(sorted(group, key=lambda name: self._order[self._within[name][0]]))
                self._groups.update(dict.fromkeys(group, ordered))

    def _signature(self, name: str) -> int | None:
        """A number equal for modules of equal structure; None for those without parameters."""
        if name not in self._signatures:
            module = self._modules[name]
            inside = [
                (attribute, child if child in self._shared else signature)
                for attribute, child in self._children[name].items()
                if (signature := self._signature(child)) is not None
            ]
            if inside or own_parameters(module):
                key = (settings(module), name in self._eligible, tuple(inside))
                self._signatures[name] = self._ids.setdefault(key, len(self._ids))
            else:
                self._signatures[name] = None
        return self._signatures[name]

    def _and_ancestors(self, name: str) -> Iterator[str]:
        """The name itself and those of the modules around it, innermost first, without the model itself.

        It ends at a module that several others hold: that is no part of one block.
        """
        while name:
            yield name
            name = "" if name in self._shared else _parent(name)

    def _parameters(self, group: tuple[str, ...]) -> int:
        return sum(p.numel() for name in group for p in self._modules[name].parameters())


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
