"""What is told of the processor, on systems that tell it differently."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from hairify._support import processor as module

LINUX = """processor\t: 0
vendor_id\t: {vendor}
model name\t: A {vendor} of many cores

processor\t: 1
vendor_id\t: another
"""


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is kept, so the tests ask what finds it."""
    monkeypatch.setattr(module, "processor", module.processor.__wrapped__)
    monkeypatch.setattr(module, "mkl_is_at_home", module.mkl_is_at_home.__wrapped__)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)


@pytest.mark.parametrize(("vendor", "at_home"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_on_linux(vendor: str, at_home: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: LINUX.format(vendor=vendor))
    assert module.processor().startswith(f"A {vendor} of many cores (")
    assert module.mkl_is_at_home() == at_home
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not module.mkl_is_at_home()


def test_on_arm_linux_tells_no_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor\t: 0\nCPU implementer\t: 0x41\n")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert module.processor().startswith("aarch64 (")
    assert not module.mkl_is_at_home()


@pytest.mark.parametrize("at_home", [True, False])
def test_elsewhere(at_home: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    name = f"Intel64 Family 6 Model 85 Stepping 7, {'GenuineIntel' if at_home else 'AuthenticAMD'}"
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: name)
    assert module.processor().startswith(f"{name} (")
    assert module.mkl_is_at_home() == at_home
