"""Restorers as folders, and on the Hub without a network."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn
from util import assert_differs, perturb

from hairify import HairModel
from hairify.errors import CheckpointError, NetworkError
from hairify.evaluation import Results, Score
from hairify.networks import Network, NetworkSettings
from hairify.restoring import KnownGIV, KnownGIVs
from hairify.sharing import CARD, CONFIG, RESULTS, WEIGHTS, Restorer, from_pretrained, push_to_hub, save_pretrained

SMALL = {"dim": 8, "num_blocks": [1, 1, 1, 2], "num_refinement_blocks": 1}
RESULT = Results(
    {"BSD68 noise25": Score(31.51, 0.892), "SOTS": Score(math.inf, 1.0)},
    {"BSD68 noise25": 68, "SOTS": 500},
    {"BSD68 noise25": Score(20.2, 0.4), "SOTS": Score(15.0, 0.7)},
    {"broken.png": "it is empty"},
)
OWN = "own_nets:Own"


class Own(nn.Sequential):
    def __init__(self, width: int = 4) -> None:
        body = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(4)]
        super().__init__(nn.Conv2d(3, width, 1), nn.Sequential(*body), nn.Conv2d(width, 3, 1))


def pooled(channels: int, giv_dim: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, giv_dim))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module `own_nets`, with what is defined here."""
    import sys
    import types

    module = types.ModuleType("own_nets")
    module.Own, module.pooled = Own, pooled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_nets", module)


GIVS = KnownGIVs({"noise25": KnownGIV((1 / 3, *[2.0] * 63), 0.5), "clean": KnownGIV((0.0, *[-1e-9] * 63), 1.5)})


def restorer(converted: bool = True, name: str = "restormer", options: dict[str, Any] | None = None) -> Restorer:
    settings = NetworkSettings(network=name, options=SMALL if options is None else options, convert=converted)
    model = settings.restorer(seed=0)
    if isinstance(model, HairModel):
        perturb(model)
    return Restorer(model.eval(), settings.named(), 8, about={"degradations": "noise25, rain"}, results=RESULT)


def assert_same_restorer(got: Restorer, expected: Restorer) -> None:
    x = torch.rand(2, 3, 64, 64)
    fresh = expected.network.build().eval()
    with torch.no_grad():
        assert_differs(expected.model(x), fresh(x))
        assert torch.equal(got.model(x), expected.model(x))
    assert not got.model.training
    assert (got.network, got.multiple, got.about, got.dac) == (
        expected.network,
        expected.multiple,
        expected.about,
        expected.dac,
    )


def test_the_givs_that_it_knows_come_back_and_go_with_the_next(tmp_path: Path) -> None:
    knowing = dataclasses.replace(restorer(), givs=GIVS)
    save_pretrained(knowing, tmp_path)
    got = from_pretrained(tmp_path)
    assert got.givs is not None
    assert dict(got.givs) == dict(GIVS)
    save_pretrained(restorer(), tmp_path)
    assert from_pretrained(tmp_path).givs is None
    assert not (tmp_path / "givs.json").exists()


@pytest.mark.parametrize("converted", [True, False])
def test_a_restorer_comes_back_as_it_was(converted: bool, tmp_path: Path) -> None:
    saved = restorer(converted)
    save_pretrained(saved, tmp_path / "new" / "folder")
    got = from_pretrained(tmp_path / "new" / "folder")
    assert_same_restorer(got, saved)
    assert got.results == RESULT
    assert isinstance(got.model, HairModel) == converted
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == {CARD, CONFIG, RESULTS, WEIGHTS}


def test_res_hair_comes_back(tmp_path: Path) -> None:
    options = {"dim": 8, "num_blocks": [2, 2, 2, 2], "num_refinement_blocks": 2}
    saved = restorer(name="res_hair", options=options)
    save_pretrained(saved, tmp_path)
    assert_same_restorer(from_pretrained(tmp_path), saved)


def test_a_run_stands_for_the_restorer_in_it(tmp_path: Path) -> None:
    saved = restorer()
    save_pretrained(saved, tmp_path / "model")
    assert_same_restorer(from_pretrained(tmp_path), saved)


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    save_pretrained(restorer(), tmp_path)
    save_pretrained(dataclasses.replace(restorer(converted=False), results=None), tmp_path)
    got = from_pretrained(tmp_path)
    assert got.results is None
    assert not isinstance(got.model, HairModel)


@pytest.mark.usefixtures("own")
def test_a_folder_does_not_decide_which_code_runs(tmp_path: Path) -> None:
    saved = restorer(name=OWN, options={"width": 6})
    save_pretrained(saved, tmp_path)
    with pytest.raises(NetworkError, match="if you trust it, name it yourself"):
        from_pretrained(tmp_path)
    assert_same_restorer(from_pretrained(tmp_path, network=OWN), saved)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"network": {"name": "os:remove", "options": {"path": "x"}}}))
    with pytest.raises(NetworkError, match="if you trust it"):
        from_pretrained(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_dac_of_ones_own_is_given_again(tmp_path: Path) -> None:
    settings = NetworkSettings(options=SMALL, dac="own_nets:pooled")
    model = perturb(settings.restorer(seed=0)).eval()  # type: ignore[arg-type]
    saved = Restorer(model, settings.named(), 8, dac="own_nets:pooled")
    save_pretrained(saved, tmp_path)
    assert 'dac="own_nets:pooled"' in (tmp_path / CARD).read_text()
    assert_same_restorer(from_pretrained(tmp_path, dac="own_nets:pooled"), saved)


def test_the_model_card_has_plan_numbers_and_front_matter(tmp_path: Path) -> None:
    saved = restorer()
    save_pretrained(saved, tmp_path)
    card = (tmp_path / CARD).read_text(encoding="utf-8")
    front = card.split("---\n")[1]
    assert huggingface_hub.ModelCard(card).data.pipeline_tag == "image-to-image"
    assert "library_name: hairify" in front
    assert str(saved.model.plan).rstrip() in card
    assert "| BSD68 noise25 | 68 | 20.20 / 0.400 | 31.51 / 0.892 |" in card
    assert "| degradations | noise25, rain |" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no folder of a restorer"),
        ("[]", "is no folder of a restorer"),
        ('{"format": "1", "network": {}, "converted": 1, "multiple": 8, "about": {}}', "is no folder of a restorer"),
        (
            '{"format": 1, "network": {"name": 3, "options": {}}, "converted": true, "multiple": 8, "about": {}, '
            '"dac": null}',
            "is damaged",
        ),
        (
            '{"format": 2, "network": {"name": "restormer", "options": {}}, "converted": true, "multiple": 8, '
            '"about": {}, "dac": null}',
            "Install a newer hairify",
        ),
    ],
)
def test_damaged_folders_are_named(content: str, message: str, tmp_path: Path) -> None:
    save_pretrained(restorer(), tmp_path)
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("converted", [True, False])
def test_damaged_weights_are_named(converted: bool, tmp_path: Path) -> None:
    save_pretrained(restorer(converted), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not much")
    with pytest.raises(CheckpointError, match=WEIGHTS):
        from_pretrained(tmp_path)


def test_what_json_does_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    saved = dataclasses.replace(restorer(), network=Network("restormer", {"norm": object()}))
    with pytest.raises(NetworkError, match="cannot be written down"):
        save_pretrained(saved, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


class FakeHub:
    """The Hub as a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []

    def __call__(self, token: str | None = None) -> FakeHub:
        return self

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        (self.root / name).mkdir(parents=True, exist_ok=exist_ok)
        self.calls.append(f"create {name} private={private}")

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        allow_patterns: list[str],
        delete_patterns: list[str],
        commit_message: str,
    ) -> Any:
        for name in delete_patterns:
            (self.root / repo_id / name).unlink(missing_ok=True)
        for name in allow_patterns:
            if (folder_path / name).exists():
                (self.root / repo_id / name).write_bytes((folder_path / name).read_bytes())
        return type("Commit", (), {"commit_url": f"https://huggingface.co/{repo_id}/commit/1"})

    def snapshot_download(self, name: str, **options: Any) -> str:
        if not (self.root / name).is_dir():
            raise LocalEntryNotFoundError("no such repository")
        self.calls.append(f"download {name} {options['revision']}")
        return str(self.root / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_what_a_restorer_has_no_more_goes_from_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    save_pretrained(dataclasses.replace(restorer(), givs=GIVS), tmp_path / "one")
    push_to_hub(tmp_path / "one", "somebody/derain")
    assert from_pretrained("somebody/derain").givs is not None
    save_pretrained(dataclasses.replace(restorer(), results=None), tmp_path / "two")
    push_to_hub(tmp_path / "two", "somebody/derain")
    pulled = from_pretrained("somebody/derain")
    assert (pulled.givs, pulled.results) == (None, None)


def test_givs_of_another_network_are_refused(tmp_path: Path) -> None:
    save_pretrained(dataclasses.replace(restorer(), givs=GIVS), tmp_path)
    (tmp_path / "givs.json").write_text((tmp_path / "givs.json").read_text().replace("[0.0, ", "[0.0, 0.0, "))
    with pytest.raises(CheckpointError, match=r"givs\.json is damaged"):
        from_pretrained(tmp_path)
    KnownGIVs({name: KnownGIV((1.0,), 1.0) for name in "ab"}).save(tmp_path / "givs.json")
    with pytest.raises(CheckpointError, match=r"givs\.json is of another network: its GIVs have 1 numbers"):
        from_pretrained(tmp_path)


def test_pushed_and_pulled(hub: FakeHub, tmp_path: Path) -> None:
    saved = restorer()
    save_pretrained(saved, tmp_path / "model")
    (tmp_path / "model" / "private notes.txt").write_text("not for others")
    assert push_to_hub(tmp_path / "model", "me/mine", private=True).endswith("me/mine/commit/1")
    assert not (hub.root / "me" / "mine" / "private notes.txt").exists()
    assert_same_restorer(from_pretrained("me/mine", revision="v2"), saved)
    assert hub.calls == ["create me/mine private=True", "download me/mine v2"]


def test_only_restorers_are_pushed(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder of a restorer"):
        push_to_hub(tmp_path, "me/mine")
    assert not hub.calls


@pytest.mark.usefixtures("hub")
def test_what_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be had from the Hugging Face Hub"):
        from_pretrained("me/nothing")
    with pytest.raises(CheckpointError, match="is no folder of a restorer"):
        from_pretrained(tmp_path / "nothing" / "here")


def test_a_mistyped_path_is_no_name_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder \.\./nope here"):
        from_pretrained("../nope")


def test_the_real_client_takes_the_arguments_that_the_fake_one_takes() -> None:

    import inspect

    for method, names in (
        ("create_repo", {"private", "exist_ok"}),
        ("upload_folder", {"repo_id", "allow_patterns", "delete_patterns"}),
    ):
        assert names <= inspect.signature(getattr(huggingface_hub.HfApi, method)).parameters.keys()
    assert {"revision", "allow_patterns"} <= inspect.signature(huggingface_hub.snapshot_download).parameters.keys()
