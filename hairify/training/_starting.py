"""Second stages: a run, a restorer or a checkpoint as the point from which another run starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hairify.errors import CheckpointError, OptionError
from hairify.model import HairModel
from hairify.networks._named import SPANDREL, Network, NetworkSettings, find_object
from hairify.serialization import load
from hairify.sharing._hub import Restorer, from_pretrained, network_of
from hairify.training._checkpoints import read
from hairify.training._folders import CHECKPOINTS, MODEL, START

ORIGIN = "begun from"
"""The fact of a restorer that says where its training began."""

_ITS_OWN = ("network", "options", "dac")  # the restorer has them; who names them trusts it


@dataclass(frozen=True)
class Start:
    """The network that a run begins with.

    Attributes:
        model: with its weights; converted, unless it is to stay as it is.
        settings: which network it is, and how it was converted where it was converted now.
        network: the network by name.
        dac: "package.module:factory" of a DAC of the user's own.
        origin: where it comes from, in words for a model card; None for a fresh one.
        notes: what a user should know.
    """

    model: nn.Module
    settings: NetworkSettings
    network: Network
    dac: str | None
    origin: str | None = None
    notes: tuple[str, ...] = ()


def fresh(settings: NetworkSettings, seed: int) -> Start:
    """A network as the settings have it."""
    return Start(settings.restorer(seed), settings, settings.named(), settings.own_dac)


def begun_again(settings: NetworkSettings, output: Path, seed: int) -> Start:
    """The network with which a run began that is gone on with, and whose weights come from its checkpoint."""
    if settings.network != SPANDREL:
        return fresh(settings, seed)
    # What it was recognised by may be gone; the run's own restorer has what it was recognised as.
    made = dataclasses.replace(settings, options=network_of(output / MODEL).options, weights=None)
    return dataclasses.replace(fresh(made, seed), settings=settings)


def started_from(
    source: str,
    settings: NetworkSettings,
    *,
    seed: int = 0,
    said: Mapping[str, Any] | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> Start:
    """The network of a run, a restorer or a checkpoint; one that is not converted is converted now.

    What it computes is what it computed there: bit by bit if it was converted, else up to rounding.

    Args:
        source: folder of a run or of a restorer, "owner/name" on the Hub, a checkpoint of a run, or a file of
            `hairify.save`.
        settings: of an unconverted network, how it is converted; of a network or a DAC of your own, and of a file of
            `hairify.save`, its name.
        seed: of what a conversion draws.
        said: those of the settings that the user gave; by default, those that are not as ever.
        made_with: settings that the source itself was made with, as far as they are known; they may be said again.

    Raises:
        OptionError: the settings ask for another network, or for what a converted one has already.
        CheckpointError: there is nothing of the kind, or it is damaged.
        NetworkError: the network cannot be built, or is foreign and was not named.
    """
    said = _unusual(settings) if said is None else said
    path = Path(source)
    restorer = _of_file(path, settings, said) if path.is_file() else _of_folder(source, settings, said)
    new = {key: value for key, value in said.items() if (made_with or {}).get(key) != value}
    _check(source, new, restorer)
    own: dict[str, Any] = {"network": restorer.network.name, "options": dict(restorer.network.options)}
    origin = _origin(source, restorer)
    if isinstance(restorer.model, HairModel):
        kept = NetworkSettings(**own, dac=restorer.dac)
        note = (
            "The network is not calibrated: it comes as it was trained, and calibrating it now would change what it "
            "computes."
        )
        notes = (note,) if restorer.model.is_calibrated else ()  # else the run itself says why it is not, or it is
        return Start(restorer.model, kept, restorer.network, restorer.dac, origin, notes)
    mine = dataclasses.replace(settings, **own, weights=None)
    return Start(mine.converted(restorer.model, seed), mine, restorer.network, mine.own_dac, origin)


def resumed(output: Path, settings: NetworkSettings) -> Start:
    """The network that a second stage, which is gone on with, began with."""
    name = None if settings.named().is_built_in else settings.network
    restorer = from_pretrained(output / START, network=name, dac=settings.own_dac)
    return Start(restorer.model, settings, restorer.network, restorer.dac, restorer.about.get(ORIGIN))


def _unusual(settings: NetworkSettings) -> dict[str, Any]:
    usual = NetworkSettings()
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def _of_folder(source: str, settings: NetworkSettings, said: Mapping[str, Any]) -> Restorer:
    recorded = network_of(source)
    if said.get("network", recorded.name) != recorded.name:
        raise OptionError(
            f"`network` is {settings.network!r}, but {source} is a restorer of {recorded.name!r}, with which a second "
            "stage goes on. Leave `network` out, or start without `start_from`."
        )
    return from_pretrained(source, network=said.get("network"), dac=settings.own_dac)


def _of_file(path: Path, settings: NetworkSettings, said: Mapping[str, Any]) -> Restorer:
    """A checkpoint of a run, whose network and plan its restorer has; or a file of `save`, whose network is named."""
    if path.parent.name == CHECKPOINTS:
        restorer = _of_folder(str(path.parent.parent), settings, said)
        checkpoint = read(path)
        try:
            restorer.model.load_state_dict(checkpoint.part("model") | checkpoint.part("average"))
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit the restorer of its run: {error}") from error
        about = {**restorer.about, "steps": f"{checkpoint.about.step:,}"}
        return dataclasses.replace(restorer, about=about)
    if path.suffix != ".safetensors" or (path.parent / "config.json").is_file():
        instead = f"give its folder, {path.parent}" if path.suffix == ".safetensors" else "`weights` reads such files"
        raise CheckpointError(
            f"{path} is no checkpoint of a run, nor a file of `hairify.save`; for a checkpoint of a base network, or a "
            f"restorer: {instead}."
        )
    if "network" not in said:
        raise OptionError(f"{path} does not say of which network it is: give `network`, and its `options`.")
    named = settings.named()
    own_dac = None if settings.own_dac is None else find_object(settings.own_dac)
    model = load(path, named.unconverted().build(), own_dac)
    return Restorer(model.eval(), named, multiple=1, dac=settings.own_dac)


def _check(source: str, new: Mapping[str, Any], restorer: Restorer) -> None:
    """Refuse, by name, what the source decides already."""
    converted = isinstance(restorer.model, HairModel)
    fields = {field.name: field for field in dataclasses.fields(NetworkSettings)}
    options = dict(restorer.network.options)
    for key, value in new.items():
        default = {} if key == "options" else fields[key].default
        if key == "options" and value and value != options:
            what = f"is a restorer of {restorer.network.name!r} with the options {options}"
        elif key == "weights" and value is not None:
            what = "has weights, with which a second stage goes on"
        elif key == "init" and value != default:
            what = "is to be gone on with, and fresh weights would forget it"
        elif key == "dac" and converted and value not in (None, restorer.dac):
            what = "is converted already, and its DAC comes along"
        elif key not in _ITS_OWN and converted and value != default:
            what = "is converted already, and its plan comes along"
        else:
            continue
        raise OptionError(f"`{key}` is {value!r}, but {source} {what}. Leave `{key}` out.")


def _origin(source: str, restorer: Restorer) -> str:
    facts = [f"{name}: {restorer.about[name]}" for name in ("degradations", "steps", ORIGIN) if name in restorer.about]
    return f"{source} ({'; '.join(facts) or 'nothing is known of its training'})"
