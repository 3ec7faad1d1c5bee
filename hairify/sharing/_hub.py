"""Restorers as folders: on disk, on the Hugging Face Hub, and one that comes with hairify.

A folder holds `model.safetensors`, `config.json` (which network, with which options), `README.md` (the model card),
`givs.json` (where the GIVs of the degradations lie that a trained HairModel knows) and, where the restorer was
evaluated, `results.json`. Nothing in it is run or unpickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from hairify._support.counting import count
from hairify._support.files import write_text
from hairify._support.tensor_files import replacing_tensors
from hairify.errors import CheckpointError, NetworkError
from hairify.evaluation._results import Results, read_results
from hairify.model import HairModel
from hairify.networks._named import Network, find_object
from hairify.nn._dac import DACSource
from hairify.restoring._known_givs import KnownGIVs
from hairify.serialization import load, save

FORMAT = 1
CONFIG, WEIGHTS, CARD, RESULTS = "config.json", "model.safetensors", "README.md", "results.json"
GIVS = "givs.json"
FILES = (CONFIG, WEIGHTS, CARD, RESULTS, GIVS)
BUNDLED = "bundled"
"""The name of the restorer that comes with hairify (docs/bundled.md); a folder called so is "./bundled"."""

BUNDLED_FOLDER = Path(__file__).parent / BUNDLED
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Restorer:
    """A network that restores images, and what is needed to make and use it again.

    Attributes:
        model: a HairModel, or a static network.
        network: what `model` was made from.
        multiple: the sides of its inputs are multiples of it.
        dac: "package.module:factory" of a DAC of the user's own; None for hairify's.
        about: facts for people, such as what it was trained on.
        results: of its evaluation.
        givs: of the degradations that a trained HairModel knows, and of clean images.
    """

    model: nn.Module
    network: Network
    multiple: int
    dac: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    results: Results | None = None
    givs: KnownGIVs | None = None


def save_pretrained(restorer: Restorer, folder: Path) -> None:
    """Write a restorer to a folder, which is made if missing; files of the same names are replaced.

    Raises:
        NetworkError: an option of the network is nothing that JSON has.
        CheckpointError: the model cannot be saved.
    """
    config = {
        "format": FORMAT,
        "network": {"name": restorer.network.name, "options": dict(restorer.network.options)},
        "converted": isinstance(restorer.model, HairModel),
        "dac": restorer.dac,
        "multiple": restorer.multiple,
        "about": dict(restorer.about),
    }
    try:
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    except TypeError as error:
        raise NetworkError(
            f"The options of {restorer.network.name!r} cannot be written down: {error}. Accepted are numbers, strings, "
            "booleans, and lists and dicts of them; let your factory make the rest."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(restorer.model, HairModel):
        save(restorer.model, folder / WEIGHTS)
    else:
        _save_static(restorer.model, folder / WEIGHTS)
    write_text(folder / CONFIG, text)
    if restorer.givs is not None:
        restorer.givs.save(folder / GIVS)
    else:
        (folder / GIVS).unlink(missing_ok=True)  # of a model that was here before
    save_results(restorer, folder)


def save_results(restorer: Restorer, folder: Path) -> None:
    """Write a restorer's numbers, and its model card with them, into the folder that has the rest.

    Raises:
        OSError: they cannot be written.
    """
    write_text(folder / CARD, model_card(restorer))
    if restorer.results is not None:
        write_text(folder / RESULTS, restorer.results.to_json())
    else:
        (folder / RESULTS).unlink(missing_ok=True)  # of a model that was here before


def from_pretrained(
    source: str | os.PathLike[str] = BUNDLED,
    *,
    network: str | None = None,
    dac: DACSource | str = None,
    revision: str | None = None,
    token: str | None = None,
) -> Restorer:
    """Read a restorer that `save_pretrained` wrote, from a folder or from the Hugging Face Hub.

    Args:
        source: a folder, the folder of a training run, or the name "owner/name" of a repository on the Hub, which is
            downloaded into its cache; "bundled" for the one that comes with hairify.
        network: "package.module:factory", where the restorer is not of one of hairify's own networks: a folder from
            somebody else does not decide which code runs here.
        dac: where the DAC is not one of hairify's own: "package.module:factory", a factory or a module.
        revision: branch, tag or commit on the Hub.
        token: for the Hub; None takes what `hf auth login` stored.

    Returns:
        The restorer, its model in evaluation mode on the CPU, its network by the name that the folder has.

    Raises:
        CheckpointError: there is no such folder or repository, or it is damaged or does not fit.
        NetworkError: the network cannot be built, or is foreign and was not named.
    """
    folder = _folder_of(source, revision, token)
    config = _read_config(folder)
    recorded = Network(config["network"]["name"], config["network"]["options"])
    if not recorded.is_built_in and network is None:
        raise NetworkError(
            f"{folder} is a restorer of the network {recorded.name!r}, which is not hairify's own. A folder does not "
            f"decide which code runs: if you trust it, name it yourself, network={recorded.name!r} (--network)."
        )
    chosen = Network(network or recorded.name, recorded.options)
    base = chosen.unconverted().build()
    if config["converted"]:
        own_dac = find_object(dac) if isinstance(dac, str) else dac
        model: nn.Module = load(folder / WEIGHTS, base, own_dac)
    else:
        model = base
        _load_static(model, folder / WEIGHTS)
    results = read_results(folder / RESULTS) if (folder / RESULTS).is_file() else None
    givs = KnownGIVs.load(folder / GIVS) if (folder / GIVS).is_file() else None
    if givs is not None and isinstance(model, HairModel) and givs.giv_dim != model.plan.giv_dim:
        raise CheckpointError(f"{folder / GIVS} is of another network: its GIVs have {givs.giv_dim} numbers.")
    return Restorer(model.eval(), recorded, config["multiple"], config["dac"], config["about"], results, givs)


def network_of(source: str | os.PathLike[str]) -> Network:
    """The network of a restorer in a folder or on the Hugging Face Hub; nothing is built.

    Raises:
        CheckpointError: there is none.
    """
    recorded = _read_config(_folder_of(source, None, None))["network"]
    return Network(recorded["name"], recorded["options"])


def push_to_hub(folder: Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a folder that `save_pretrained` wrote to the Hugging Face Hub.

    Args:
        folder: the restorer's.
        repository: "owner/name"; made if it does not exist.
        private: whether a new one is hidden from others.
        token: None takes what `hf auth login` stored.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the folder holds no restorer.
    """
    from huggingface_hub import HfApi

    _read_config(folder)
    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        allow_patterns=list(FILES),
        delete_patterns=[RESULTS, GIVS],  # of a restorer that was there before, where this one has none
        commit_message="A restorer made by hairify",
    )
    return str(commit.commit_url)


def model_card(restorer: Restorer) -> str:
    """The README of a shared restorer, in Markdown with the front matter that the Hub reads."""
    model, network = restorer.model, restorer.network
    parameters = count(model)
    kind = "an all-in-one restorer by HAIR" if isinstance(model, HairModel) else "an image restoration network"
    named = "" if network.is_built_in else f', network="{network.name}"'
    own_dac = "" if restorer.dac is None else f', dac="{restorer.dac}"'
    parts = [
        "---\nlibrary_name: hairify\npipeline_tag: image-to-image\ntags:\n- image-restoration\n- all-in-one\n"
        f"- {network.name.partition(':')[2] or network.name}\n---",
        f"# {network.name}: {kind}",
        f"{parameters:,} parameters, made by hairify. Images are RGB in [0, 1], of any size; their sides are padded to "
        f"multiples of {restorer.multiple}.",
        "```bash\nhairify restore PHOTOGRAPH --model FOLDER_OR_REPOSITORY --output restored\n```",
        "```python\nfrom hairify.sharing import from_pretrained\n\n"
        f'restorer = from_pretrained("FOLDER_OR_REPOSITORY"{named}{own_dac})\n```',
    ]
    if restorer.about:
        rows = "\n".join(f"| {name} | {value} |" for name, value in restorer.about.items())
        parts.append(f"## Training\n\n| | |\n|---|---|\n{rows}")
    if restorer.results is not None:
        parts.append(f"## Evaluation\n\n{restorer.results.about}.\n\n{restorer.results.to_markdown()}")
    if isinstance(model, HairModel):
        parts.append(f"## Plan\n\n```text\n{model.plan}\n```")
    parts.append(
        "## Method\n\nHAIR: Cao, Cao, Pang, Meng and Cao, *HAIR: Hypernetworks-based All-in-One Image Restoration*, "
        "2024."
    )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _folder_of(source: str | os.PathLike[str], revision: str | None, token: str | None) -> Path:
    if source == BUNDLED:
        return BUNDLED_FOLDER
    path = Path(source)
    if path.is_dir():
        return path if (path / CONFIG).is_file() or not (path / "model" / CONFIG).is_file() else path / "model"
    name = os.fspath(source)
    if path.is_file():
        way_out = f"beside it there is no {CONFIG}. `hairify train` starts from such files (`weights`)."
        if (path.parent / CONFIG).is_file():
            way_out = f"give its folder, {path.parent}."
        raise CheckpointError(f"{name} is no folder of a restorer, but a file; {way_out}")
    if path.exists() or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(
            f"{name} is no folder of a restorer; accepted are a folder that `hairify train` wrote, 'owner/name' of a "
            f"repository on the Hugging Face Hub, and {BUNDLED!r} for the restorer that comes with hairify."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"There is no folder {name} here, and the repository of this name cannot be had from the Hugging Face Hub: "
            f"{error}"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    kinds = {"format": int, "network": dict, "converted": bool, "multiple": int, "about": dict}
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        well_formed = all(isinstance(config[name], kind) for name, kind in kinds.items())
        well_formed &= isinstance(config["network"]["name"], str) and isinstance(config["network"]["options"], dict)
        well_formed &= config["dac"] is None or isinstance(config["dac"], str)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no folder of a restorer: {_what_it_is(folder)}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is no folder of a restorer ({type(error).__name__}: {error}); `hairify train` and "
            "`save_pretrained` write such folders."
        ) from error
    if not well_formed:
        raise CheckpointError(f"{folder / CONFIG} is damaged.")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{folder} has format {config['format']}; this hairify reads up to {FORMAT}. Install a newer hairify."
        )
    return dict(config)


def _what_it_is(folder: Path) -> str:
    """What a folder without a restorer seems to be, and the way out."""
    if (folder / "runs").is_dir() and (folder / "config.toml").is_file():
        return "it is that of an ablation, which keeps scores, and no restorers. `hairify train` makes one."
    if (folder / "checkpoints").is_dir() or (folder / "config.toml").is_file():
        return (
            "it is that of a training run that has written no restorer yet; it does so with each checkpoint and "
            f"validation, and at the end. Go on with it: hairify train --output {folder} --resume. With --steps at the "
            "number taken, it ends at once."
        )
    if folder.name == "checkpoints":
        return f"it has a training run's checkpoints. The restorer, written with each, is opened by {folder.parent}."
    within = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    hint = f" Those within it have one: {', '.join(within[:5])}." if within else ""
    return f"it has no {CONFIG}. `hairify train` and `save_pretrained` write such folders.{hint}"


def _save_static(model: nn.Module, path: Path) -> None:
    with replacing_tensors(path) as file:
        safetensors.torch.save_model(model, str(file))


def _load_static(model: nn.Module, path: Path) -> None:
    try:
        safetensors.torch.load_model(model, path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read, or does not fit {type(model).__name__}: {error}") from error
