"""WebDataset shards: which there are, where they lie, and what is in one.

A shard is an uncompressed tar file. Files that follow one another and are called alike up to the first dot are one
sample: `0001.png` alone, a clean photograph; or `0001.lq.png` and `0001.gt.png`, a pair.
"""

from __future__ import annotations

import contextlib
import getpass
import glob
import hashlib
import importlib
import os
import re
import shutil
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hairify.data._formats import IMAGES
from hairify.data._halves import kind_of
from hairify.data.images import integers_in
from hairify.errors import DataError, ImageError, OptionError

_PAIRS = re.compile(r"([A-Za-z_][\w+.-]*)=(.+)")
_AGAIN = 3  # attempts at a shard that other processes may remove from the cache


@dataclass(frozen=True)
class Shards:
    """Some shards, all of pairs of one degradation or all of clean photographs.

    Attributes:
        pattern: by which they were given.
        urls: where they lie: paths, or addresses that fsspec opens. At least one.
        is_pairs: what their samples are.
        samples: how many are taken of a shard each time that it is its turn.
        window: how many shards are mixed.
        cache_bytes: how much of remote shards is kept on disk.
    """

    pattern: str
    urls: tuple[str, ...]
    is_pairs: bool
    samples: int
    window: int
    cache_bytes: int

    @property
    def count(self) -> int:
        """The samples of an epoch."""
        return len(self.urls) * self.samples

    def about(self) -> str:
        """What decides what they hold, wherever they lie."""
        names = "/".join(url.rstrip("/").rpartition("/")[2] for url in self.urls)
        digest = hashlib.blake2b(names.encode(errors="surrogateescape"), digest_size=4).hexdigest()
        return f"{len(self.urls)} with {self.samples} samples, {self.window} mixed (their names: {digest})"


@dataclass(frozen=True)
class Record:
    """One sample of a shard: for each of its images, what the name says of it, its place and its size in bytes."""

    key: str
    images: tuple[tuple[str, int, int], ...]


def degradation_and_pattern(text: str) -> tuple[str | None, str]:
    """Of `rain=PATTERN` the degradation and the pattern; of a pattern alone, of clean photographs, None and itself."""
    match = _PAIRS.fullmatch(text)
    return (match[1], match[2]) if match else (None, text)


def check_shards(given: Sequence[str], samples: int | None, window: int, cache: float) -> None:
    """See to it that settings are accepted.

    Raises:
        OptionError: one is not.
    """
    for text in given:
        if not degradation_and_pattern(text)[1].strip():
            raise OptionError(
                f"`shards` has {text!r}; accepted is a pattern of shards of clean photographs, such as "
                "photos-{000..099}.tar, or of pairs with their degradation, such as rain=rain-*.tar."
            )
    if samples is not None and samples < 1:
        raise OptionError(f"`shard_samples` is {samples}; accepted are 1, 2, 3, ....")
    if window < 1:
        raise OptionError(f"`shard_window` is {window}; accepted are 1, 2, 3, ....")
    if not 0 <= cache < float("inf"):
        raise OptionError(f"`shard_cache` is {cache}; accepted are 0 and positive numbers.")


def find_shards(text: str, samples: int | None, window: int, cache: float) -> tuple[str | None, Shards]:
    """The degradation of pairs, None of clean photographs, and the shards of a text of settings.

    Args:
        text: DEGRADATION=PATTERN or PATTERN.
        samples: how many are in a shard; None: as many as in the first.
        window: see `Shards`.
        cache: GiB of remote shards that are kept on disk.

    Raises:
        DataError: there are none, the first one cannot be read or has other samples than it should, or remote ones
            that are mixed are more than is kept on disk.
    """
    name, pattern = degradation_and_pattern(text)
    urls = _expanded(pattern)
    cache_bytes = int(cache * 2**30)
    tars = Tars(1, cache_bytes)
    records = tars.records(urls[0])
    has_pairs = len(records[0].images) > 1
    if has_pairs != (name is not None):
        parts = ", ".join(part for part, *_ in records[0].images)
        way = f"give a degradation, as in rain={pattern}" if has_pairs else "leave out the name of a degradation"
        raise DataError(f"`shards` has {text!r}, and {urls[0]} begins with {records[0].key} ({parts}): {way}.")
    mixed = min(window, len(urls)) * tars.size(urls[0])
    if is_remote(urls[0]) and mixed > cache_bytes:  # each sample would fetch its shard anew
        raise DataError(
            f"`shard_cache` is {cache:g} GiB, and {min(window, len(urls))} shards as large as {urls[0]}, which are "
            f"mixed, take {mixed / 2**30:.3g} GiB. Give so many at least, or a smaller `shard_window`."
        )
    count = samples if samples is not None else len(records)
    return name, Shards(pattern, urls, name is not None, count, min(window, len(urls)), cache_bytes)


def _expanded(pattern: str) -> tuple[str, ...]:
    """All shards of a pattern, in order.

    Raises:
        DataError: there are none.
    """
    urls: list[str] = []
    for url in _webdataset("shardlists").expand_urls(pattern):
        if not any(sign in url for sign in "*?["):
            urls.append(url)
        elif is_remote(url):
            found, path = _fsspec().core.url_to_fs(url)
            urls.extend(sorted(found.unstrip_protocol(one) for one in found.glob(path)))
        else:
            urls.extend(sorted(glob.glob(os.path.expanduser(url), recursive=True)))
    missing = [url for url in urls if not is_remote(url) and not os.path.isfile(os.path.expanduser(url))]
    if missing or not urls:
        what = f"there is no file {missing[0]}" if missing else "there is none such"
        raise DataError(f"`shards` has the pattern {pattern!r}, and {what}.")
    return tuple(urls)


def is_remote(url: str) -> bool:
    """Whether it takes fsspec to open a shard."""
    return "://" in url


class Tars:
    """The shards read last: what is in them, and where the remote ones lie on disk.

    Args:
        most: shards of which it is kept what is in them.
        cache_bytes: how much of remote shards stays on disk, for all processes of this machine together.
    """

    def __init__(self, most: int, cache_bytes: int) -> None:
        self.most, self.cache_bytes = most, cache_bytes
        self._records: OrderedDict[str, list[Record]] = OrderedDict()

    def records(self, url: str) -> list[Record]:
        """What is in a shard, one or more samples.

        Raises:
            DataError: it cannot be read, or has no images.
        """
        if url in self._records:
            self._records.move_to_end(url)
            return self._records[url]
        with self._opened(url) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    members = [(one.name, one.offset_data, one.size) for one in tar if one.isfile()]
                    file.seek(tar.offset)
                    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # what is cut off may look like an end
                        raise tarfile.ReadError("it has no end")
            except tarfile.TarError as error:
                raise DataError(
                    f"The shard {url} cannot be read: {error}. It should be a whole tar file, not compressed."
                ) from error
        records = _grouped(members)
        if not records:
            raise DataError(f"The shard {url} has no images.")
        self._records[url] = records
        if len(self._records) > self.most:
            self._records.popitem(last=False)
        return records

    def size(self, url: str) -> int:
        """The bytes of a shard."""
        with self._opened(url) as file:
            return int(file.seek(0, os.SEEK_END))

    def read(self, url: str, record: Record) -> dict[str, Tensor]:
        """The images of a sample, (3, H, W) uint8 or uint16 each, by what their names say.

        Raises:
            ImageError: one cannot be read.
            DataError: the shard cannot be.
        """
        images = {}
        with self._opened(url) as file:
            for part, place, size in record.images:
                file.seek(place)
                images[part] = integers_in(file.read(size), f"{url}/{record.key}.{part}")
        return images

    def _opened(self, url: str) -> Any:
        """A shard, opened for reading."""
        try:
            if not is_remote(url):
                return open(os.path.expanduser(url), "rb")
            for _ in range(_AGAIN):
                path = self._fetched(url)
                with contextlib.suppress(FileNotFoundError):  # another process made room in the meantime
                    return path.open("rb")
            raise FileNotFoundError(f"it is gone from {_folder()} each time; give more of `shard_cache`")
        except DataError:
            raise
        except Exception as error:  # fsspec's file systems raise whatever their libraries do
            raise DataError(f"The shard {url} cannot be read: {str(error) or type(error).__name__}") from error

    def _fetched(self, url: str) -> Path:
        """Where a remote shard lies on disk; of the processes of this machine, the first fetches it for all."""
        from filelock import FileLock  # of torch

        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{hashlib.blake2b(url.encode(), digest_size=12).hexdigest()}.tar"
        if not path.exists():
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    part = path.with_suffix(".part")
                    with _fsspec().open(url, "rb") as remote, part.open("wb") as local:
                        shutil.copyfileobj(remote, local, 2**20)
                    part.replace(path)
            self._make_room(folder, path)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # it was used now
        return path

    def _make_room(self, folder: Path, newest: Path) -> None:
        """Remove the shards used least lately, beyond what is kept."""
        sizes = {}
        for path in folder.glob("*.tar"):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                status = path.stat()
                sizes[path] = status.st_mtime, status.st_size
        room = self.cache_bytes - sum(size for _, size in sizes.values())
        for path in sorted(sizes, key=lambda one: sizes[one]):
            if room >= 0:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                room += sizes[path][1]


def _grouped(members: Sequence[tuple[str, int, int]]) -> list[Record]:
    """The samples of a shard, those that have images."""
    split = _webdataset("tariterators").base_plus_ext
    records: list[Record] = []
    for name, place, size in members:
        key, ending = split(name)
        if key is None or f".{ending.rpartition('.')[2].lower()}" not in IMAGES:
            continue
        image = (ending, place, size)
        if records and records[-1].key == key:
            records[-1] = Record(key, (*records[-1].images, image))
        else:
            records.append(Record(key, (image,)))
    return records


def halves(images: dict[str, Tensor], is_pairs: bool) -> tuple[Tensor | None, Tensor]:
    """The degraded image of a sample, None where it has none, and the clean one.

    Raises:
        ImageError: its images are other than they should be.
    """
    if not is_pairs:
        if len(images) == 1:
            return None, next(iter(images.values()))
        raise ImageError(f"a sample should have one image, and has {', '.join(images)}")
    kinds = {part: kind_of(part.rpartition(".")[0]) for part in images}
    degraded = [part for part, kind in kinds.items() if kind == "degraded"]
    clean = [part for part, kind in kinds.items() if kind == "clean"]
    others = [part for part, kind in kinds.items() if kind is None]
    if len(degraded) + len(clean) == 1 and len(others) == 1:  # what one says, says the other one's part, too
        degraded, clean = degraded or others, clean or others
    if len(degraded) != 1 or len(clean) != 1:
        raise ImageError(
            f"a sample should have a degraded and a clean image, such as lq.png and gt.png, and has {', '.join(images)}"
        )
    return images[degraded[0]], images[clean[0]]


def permutation(count: int, generator: torch.Generator) -> list[int]:
    """Numbers up to `count` in random order."""
    return torch.randperm(count, generator=generator).tolist()


def _folder() -> Path:
    """Where remote shards are kept, for all processes of a user on this machine."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()  # users of containers may have no name
    return Path(tempfile.gettempdir()) / f"hairify-shards-{user}"


def _webdataset(module: str) -> ModuleType:
    """A module of the library.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(f"webdataset.{module}")
    except ImportError as error:
        raise DataError(f"`shards` needs the package webdataset ({error}): pip install 'hairify[shards]'.") from error


def _fsspec() -> Any:
    """The library for remote files.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module("fsspec")
    except ImportError as error:
        raise DataError(f"Remote `shards` need the package fsspec ({error}): pip install 'hairify[shards]'.") from error
