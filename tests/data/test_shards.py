"""WebDataset shards: what is in them, the order in which it is taken, and runs that are killed."""

from __future__ import annotations

import collections
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
import webdataset
from layouts import photographs, pixels
from PIL import Image

from hairify.data import _shards
from hairify.data.datasets import DataSettings, Task, training_tasks
from hairify.data.samples import TrainingSamples
from hairify.errors import DataError, OptionError

P = 8


def png(name: str, negative: bool = False, size: int = P) -> bytes:
    picture = pixels(name, size, size)
    file = io.BytesIO()
    Image.fromarray(255 - picture if negative else picture).save(file, "PNG")
    return file.getvalue()


def shards(folder: Path, counts: Sequence[int], parts: Sequence[str] = ("png",)) -> str:
    """Shards as the library writes them; of pairs, the first part is the negative."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"s-{i:03}.tar")) as sink:
            for n in range(count):
                key = f"{i}_{n}"
                images = {part: png(key, negative=part != parts[-1]) for part in parts}
                sink.write({"__key__": key, "json": {"number": n}, **images})
    return f"{folder}/s-{{000..{len(counts) - 1:03}}}.tar"


def samples(
    pattern: str, seed: int = 0, degradations: tuple[str, ...] = ("noise0",), **options: object
) -> TrainingSamples:
    settings = DataSettings(shards=(pattern,), degradations=degradations, **options)  # type: ignore[arg-type]
    return TrainingSamples(training_tasks(settings), P, seed, 2**20, augmentation="none")


def keys(of: TrainingSamples, numbers: Sequence[int]) -> list[str]:
    return [Path(of[i]["image"]).name for i in numbers]


def every(counts: Sequence[int]) -> list[str]:
    return sorted(f"{i}_{n}" for i, count in enumerate(counts) for n in range(count))


# What is in them.


@pytest.mark.parametrize(
    "parts", [("lq.png", "gt.png"), ("png", "gt.png"), ("degraded.png", "png"), ("input.PNG", "target.png")]
)
def test_pairs_are_told_by_their_names(parts: tuple[str, str], tmp_path: Path) -> None:
    pattern = shards(tmp_path, [3, 3], parts)
    of = samples(f"fog={pattern}")
    assert [(task.name, task.degradation, task.count) for task in of.tasks] == [("fog in shards", "fog", 6)]
    for i in range(6):
        sample = of[i]
        clean = torch.from_numpy(pixels(Path(sample["image"]).name, P, P).copy()).permute(2, 0, 1) / 255
        assert torch.allclose(sample["clean"], clean)
        assert torch.allclose(sample["degraded"], 1 - clean)


def test_the_library_reads_the_same_samples(tmp_path: Path) -> None:
    pattern = shards(tmp_path, [4, 2, 3])
    wanted = {one["__key__"]: one["png"] for one in webdataset.WebDataset(pattern, shardshuffle=False)}
    tars = _shards.Tars(3, 0)
    for url in _shards._expanded(pattern):
        for record in tars.records(url):
            (image,) = tars.read(url, record).values()
            with Image.open(io.BytesIO(wanted.pop(record.key))) as opened:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(opened))
    assert not wanted


def test_clean_photographs_are_degraded_and_several_degradations_share_them(tmp_path: Path) -> None:
    of = samples(shards(tmp_path, [3] * 4), degradations=("noise0", "rain", "haze"), shard_window=2)
    assert [task.degradation for task in of.tasks] == ["noise0", "rain", "haze"]
    assert of.epoch == 36
    assert sorted(keys(of, range(12))) == every([3] * 4), "each is taken once, whatever is put on it"
    tasks = collections.Counter(of[i]["task"] for i in range(12))
    assert tasks == {0: 4, 1: 4, 2: 4}
    for i in range(12):
        sample = of[i]
        assert torch.equal(sample["degraded"], sample["clean"]) == (sample["task"] == 0)


def test_real_pairs_in_shards_keep_synthetic_ones_out(tmp_path: Path) -> None:
    pairs, clean = shards(tmp_path / "a", [2], ("lq.png", "gt.png")), shards(tmp_path / "b", [2])
    photographs(tmp_path / "c", 4)
    settings = DataSettings(data=(tmp_path / "c",), shards=(f"rain={pairs}", clean), degradations=("rain", "noise25"))
    with pytest.warns(match="real pairs of rain"):
        tasks = training_tasks(settings)
    assert [(task.name, task.count) for task in tasks] == [
        ("noise25", 3),
        ("rain in shards", 2),
        ("noise25 in shards", 2),
    ]


# The order.


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_an_epoch_has_every_sample_once_and_each_its_own_order(window: int, tmp_path: Path) -> None:
    counts = [5] * 4
    pattern = shards(tmp_path, counts)
    of = samples(pattern, shard_window=window)
    epochs = [keys(of, range(20 * e, 20 * (e + 1))) for e in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [every(counts)] * 2
    assert collections.Counter(keys(of, range(20 * 5 * window))) == dict.fromkeys(every(counts), 5 * window)
    assert epochs[0] != epochs[1]
    assert keys(samples(pattern, seed=1, shard_window=window), range(20)) != epochs[0]


def test_the_samples_of_a_window_are_mixed_and_no_others(tmp_path: Path) -> None:
    of = samples(shards(tmp_path, [6] * 6), shard_window=3)
    for start in (0, 18):
        came = [key.partition("_")[0] for key in keys(of, range(start, start + 18))]
        assert sorted(collections.Counter(came).values()) == [6, 6, 6]
        assert len({*came[:6]}) > 1, "not one shard after another"


def test_a_sample_follows_from_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    pattern = shards(tmp_path / "a", [5, 3, 4])
    of = samples(pattern, shard_window=2)
    in_turn = [of[i] for i in range(40)]
    for i in (39, 0, 17, 18, 3):
        for other in (samples(pattern, shard_window=2), pickle.loads(pickle.dumps(of)), of):
            assert other[i]["image"] == in_turn[i]["image"]
            assert torch.equal(other[i]["degraded"], in_turn[i]["degraded"])
    (tmp_path / "a").rename(tmp_path / "b")  # wherever they lie
    moved = samples(pattern.replace("/a/", "/b/"), shard_window=2)
    assert keys(moved, range(40)) == [Path(one["image"]).name for one in in_turn]
    assert moved.about() == of.about()
    assert samples(pattern.replace("/a/", "/b/"), shard_window=1).about() != of.about()


def test_shards_of_unequal_size(tmp_path: Path) -> None:
    # The first has 4: of that with 7, each is taken in time; those of that with 2 come more often.
    of = samples(shards(tmp_path, [4, 7, 2]), shard_window=1)
    came = collections.Counter(keys(of, range(12 * 30)))
    assert sorted(came) == every([4, 7, 2])
    by_shard = collections.Counter(key.partition("_")[0] for key in came.elements())
    assert by_shard == {"0": 120, "1": 120, "2": 120}
    assert {came[key] for key in every([4])} == {30}
    assert {came[f"2_{n}"] for n in range(2)} == {60}
    assert samples(f"{tmp_path}/s-*.tar", shard_samples=7).epoch == 21


def test_shares_count_and_repeats_are_refused(tmp_path: Path) -> None:
    photographs(tmp_path / "c", 5)
    settings = DataSettings(data=(tmp_path / "c",), shards=(shards(tmp_path / "s", [4, 4]),), degradations=("noise0",))
    tasks = training_tasks(settings)
    tasks[0] = Task("jpeg", "jpeg", tasks[0].clean, None)
    of = TrainingSamples(tasks, P, 0, 2**20, shares={"noise0": 3})
    assert collections.Counter(of[i]["task"] for i in range(16)) == {0: 4, 1: 12}
    assert len({of[i]["image"] for i in range(16) if of[i]["task"] == 1}) == 8
    with pytest.raises(DataError, match=r"`repeats` says how often.*, and noise0 in shards is no list"):
        TrainingSamples(tasks, P, 0, 2**20, repeats={"noise0": 3})


# What is wrong.


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_a_sample_that_cannot_be_read_is_named_and_another_of_its_shard_taken(tmp_path: Path) -> None:
    good = {f"{n}.png": png(str(n)) for n in range(3)}
    url = write_tar(tmp_path / "s.tar", {**good, "bad.png": b"no image", "notes.txt": b"none"})
    of = samples(url)
    drawn = [of[i] for i in range(4)]
    assert {Path(one["image"]).name for one in drawn} == {"0", "1", "2"}
    (left,) = [one for sample in drawn for one in sample["unreadable"]]
    assert left[0] == f"{url}/bad"
    assert "bad.png cannot be read as an image" in left[1]


def test_pairs_of_other_parts_or_sizes(tmp_path: Path) -> None:
    files = {"a.lq.png": png("a"), "a.gt.png": png("a"), "b.lq.png": png("b"), "b.gt.png": png("b", size=9)}
    files |= {"c.png": png("c"), "d.lq.png": png("d"), "d.hq.png": png("d"), "d.mask.png": png("d")}
    files |= {"e.x.png": png("e"), "e.y.png": png("e")}
    of = samples(f"fog={write_tar(tmp_path / 's.tar', files)}")
    reasons = {Path(path).name: reason for i in range(10) for path, reason in of[i]["unreadable"]}
    assert {Path(of[i]["image"]).name for i in range(10)} == {"a", "d"}
    assert "b has 8×8 pixels, and its clean image has 9×9" in reasons["b"]
    assert reasons["c"].startswith("a sample should have a degraded and a clean image, such as lq.png and gt.png")
    assert "e" in reasons


@pytest.mark.parametrize("damage", ["compressed", "truncated", "no tar", "without images"])
def test_a_shard_that_cannot_be_read_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    write_tar(path, {f"{n}.png": png(str(n)) for n in range(3)}, "w:gz" if damage == "compressed" else "w")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1100])
    elif damage == "no tar":
        path.write_bytes(b"nothing")
    elif damage == "without images":
        write_tar(path, {"a.txt": b"a"})
    words = "has no images" if damage == "without images" else "cannot be read: .*whole tar file, not compressed"
    with pytest.raises(DataError, match=rf"The shard .*s.tar {words}"):
        samples(str(path))


def test_a_shard_that_breaks_later_ends_the_run_by_a_named_error(tmp_path: Path) -> None:
    pattern = shards(tmp_path, [3, 3, 3])
    of = samples(pattern, shard_window=1)
    (tmp_path / "s-001.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"The shard .*s-001.tar cannot be read"):
        keys(of, range(9))


def test_what_is_no_pattern_of_shards(tmp_path: Path) -> None:
    pattern = shards(tmp_path, [2])
    with pytest.raises(DataError, match=r"has the pattern .*nowhere.tar', and there is no file .*nowhere.tar"):
        samples(f"{tmp_path}/nowhere.tar")
    with pytest.raises(DataError, match=r"has the pattern .*x\*.tar', and there is none such"):
        samples(f"{tmp_path}/x*.tar")
    with pytest.raises(DataError, match=r"begins with 0_0 \(png\): leave out the name of a degradation"):
        samples(f"rain={pattern}")
    pairs = shards(tmp_path / "pairs", [2], ("lq.png", "gt.png"))
    with pytest.raises(DataError, match=r"begins with 0_0 \(gt.png, lq.png\): give a degradation, as in rain="):
        samples(pairs)
    for options in ({"shards": ("rain= ",)}, {"shard_samples": 0}, {"shard_window": 0}, {"shard_cache": -1.0}):
        with pytest.raises(OptionError, match=f"`{next(iter(options))}` (is|has)"):
            DataSettings(**options)  # type: ignore[arg-type]


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = shards(tmp_path, [2])
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(DataError, match=r"`shards` needs the package webdataset .*pip install 'hairify\[shards\]'"):
        samples(pattern)


# Remote ones.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_shards, "_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("pattern", ["memory://bucket/s-{000..003}.tar", "memory://bucket/s-*.tar"])
def test_remote_shards_are_the_same_and_kept_as_far_as_there_is_room(pattern: str, tmp_path: Path, cache: Path) -> None:
    local = shards(tmp_path / "here", [3] * 4)
    remote = fsspec.filesystem("memory")
    remote.put(f"{tmp_path}/here/", "/bucket/", recursive=True)
    fetched = []
    remote_open = type(remote)._open
    try:
        type(remote)._open = lambda *args, **more: fetched.append(args[1]) or remote_open(*args, **more)
        of = samples(pattern, shard_window=1)
        assert keys(of, range(12)) == keys(samples(local, shard_window=1), range(12))
        assert len(fetched) == 4, "each is fetched once"
        assert len([*cache.glob("*.tar")]) == 4
        size = (tmp_path / "here/s-000.tar").stat().st_size
        small = samples(pattern, shard_window=1, shard_cache=1.5 * size / 2**30)
        wanted = keys(of, range(24))
        shutil.rmtree(cache)
        assert keys(small, range(24)) == wanted
        assert len([*cache.glob("*.tar")]) == 1
        assert not [*cache.glob("*.part")]
        with pytest.raises(DataError, match=r"`shard_cache` is .* GiB, and 3 shards as large as memory:.*s-000\.tar"):
            samples(pattern, shard_window=3, shard_cache=2.5 * size / 2**30)
        samples(pattern, shard_window=9, shard_cache=4 * size / 2**30)
        samples(local, shard_window=3, shard_cache=0.0)
    finally:
        type(remote)._open = remote_open
        remote.rm("/bucket", recursive=True)


def test_a_remote_shard_that_is_not_there(cache: Path) -> None:
    with pytest.raises(DataError, match=r"The shard memory://nowhere/s.tar cannot be read: .*nowhere"):
        samples("memory://nowhere/s.tar")


# Runs.

RUN = """
import os, signal, sys
from pathlib import Path
from training_runs import Plain, keep, run, seeded
from hairify.data.datasets import DataSettings, training_tasks
from hairify.data.samples import TrainingSamples

pattern, folder, workers, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
settings = DataSettings(shards=(pattern,), degradations=("noise25", "rain", "jpeg"), shard_window=2)
samples = TrainingSamples(training_tasks(settings), 16, 0, 2**20)

def on_step(report):
    if report.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

options = {"steps": 30, "save_every": 7, "workers": workers, "resume": kill_at < 0, "on_step": on_step}
keep(run(seeded(Plain), folder, samples, **options), folder / "result.safetensors")
"""


def trained(pattern: str, folder: Path, workers: int, kill_at: int) -> int:
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests/helpers")])}
    arguments = [pattern, str(folder), str(workers), str(kill_at)]
    return subprocess.run([sys.executable, "-c", textwrap.dedent(RUN), *arguments], env=env, timeout=300).returncode


@pytest.mark.slow
def test_a_run_on_shards_that_is_killed_and_resumed_is_an_unbroken_one(tmp_path: Path) -> None:
    pattern = shards(tmp_path / "s", [11, 11, 11, 9])  # 30 steps of 4 go around them three times
    assert trained(pattern, tmp_path / "whole", 2, 0) == 0
    assert trained(pattern, tmp_path / "broken", 2, 17) == -signal.SIGKILL
    assert trained(pattern, tmp_path / "broken", 1, -1) == 0  # gone on with by another number of workers
    whole, broken = (
        safetensors.torch.load_file(tmp_path / name / "result.safetensors") for name in ("whole", "broken")
    )
    assert len(whole["losses"]) == 30
    assert len(set(whole["losses"].tolist())) == 30
    for name in whole:
        assert torch.equal(whole[name], broken[name]), name
