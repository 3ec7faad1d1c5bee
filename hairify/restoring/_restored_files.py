"""Restoring image files: what a file is beside its pixels stays as it was."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from hairify._support.files import DISK_FULL
from hairify._support.modes import evaluation_mode
from hairify.data.images import (
    FOR_OTHER_PROGRAMS,
    IMAGES,
    SUFFIXES,
    find_images,
    find_unread,
    lost,
    needed_for,
    read,
    write,
)
from hairify.data.videos import SUFFIXES as VIDEOS
from hairify.errors import ImageError, OptionError
from hairify.model import HairModel
from hairify.restoring._failures import failure_in_words
from hairify.restoring._guidance import Guidance
from hairify.restoring._processes import ALONE, Processes
from hairify.restoring._settings import RestoringSettings, TilingSettings, VideoSettings
from hairify.restoring._tiling import giv_of, on_model, restore_tiled
from hairify.restoring._videos import restore_video

AS_SEEN = Guidance()
USUAL_VIDEOS = VideoSettings()


@dataclass(frozen=True)
class Job:
    """One photograph to restore.

    Attributes:
        source: the file.
        target: the file to write; None if `source` cannot be restored.
        problem: why it cannot.
    """

    source: Path
    target: Path | None
    problem: str = ""


Status = Literal["restored", "restored in part", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph.

    Attributes:
        source: the file, or what was given in place of one.
        target: the file written or left as it was; None if there was none to write.
        status: "skipped" are photographs whose output exists; "restored in part" is the first of several pages or
            frames.
        message: why it was skipped or failed; of a restored one, what is left out, or its format could not keep.
        seconds: that it took.
    """

    source: Path
    target: Path | None
    status: Status
    message: str
    seconds: float


def planned(inputs: Sequence[Path], output: Path, settings: RestoringSettings) -> list[Job]:
    """What `restore_files` does, in its order; nothing is read or written.

    Files go into `output` under their own names; of folders, searched with all their folders, each image has its place
    below `output` as it has below the folder. A photograph of a format that is read and not written, such as GIF or
    HEIC, goes into a PNG file: `a.heic` into `a.heic.png`. What lies in `output` already is no input, also where a
    folder that was given holds `output`.

    Raises:
        OptionError: `output` is a file, an image would be written over an input, or two to one place.
    """
    if output.exists() and not output.is_dir():
        raise OptionError(f"`output` is {output}, a file; it should be a folder, which need not exist.")
    jobs = list(dict.fromkeys(job for path in inputs for job in _jobs(path, output, settings.output_format)))
    sources = {job.source.resolve() for job in jobs}
    sources_by_target: dict[Path, Path] = {}
    for job in jobs:
        if job.target is None:
            continue
        target = job.target.resolve()
        if target in sources:
            raise OptionError(
                f"{job.source} would be restored to {job.target}, which is an input. Give another output folder."
            )
        other = sources_by_target.setdefault(target, job.source)
        if other.resolve() != job.source.resolve():
            raise OptionError(
                f"{other} and {job.source} would both be restored to {job.target}. Restore them to different output "
                "folders, one after the other."
            )
    return jobs


def looked_at(inputs: Sequence[Path]) -> list[Job]:
    """The photographs that inputs name, in the order of `planned`; their targets mean nothing."""
    return list(dict.fromkeys(job for path in inputs for job in _jobs(path, path, "png")))


def _jobs(path: Path, output: Path, output_format: str | None) -> Iterator[Job]:
    """The photographs to restore that one of the inputs names: a file, or those in a folder."""
    if not path.is_dir():
        yield _job(path, output / path.name, output_format)
        return
    made = output.resolve()
    within = made != path.resolve()
    files = sorted([*find_images(path), *find_unread(path)])
    found = [file for file in files if not (within and made in file.resolve().parents)]
    if not found:
        yield Job(path, None, f"The folder has no images; these end in {', '.join(sorted(SUFFIXES))}.")
    for file in found:
        yield _job(file, output / file.relative_to(path), output_format)


def _job(source: Path, target: Path, output_format: str | None) -> Job:
    if not source.exists():
        return Job(source, None, "There is no such file.")
    suffix = target.suffix.lower()
    if suffix in VIDEOS:
        return Job(source, target)
    if suffix in FOR_OTHER_PROGRAMS:
        return Job(source, None, f"Files {needed_for(suffix)}.")
    if output_format is not None:
        return Job(source, target.with_suffix(f".{output_format}"))
    if suffix in IMAGES - SUFFIXES:
        return Job(source, target.with_name(f"{target.name}.png"))
    if suffix not in SUFFIXES:
        return Job(
            source, None, f"The ending is not among {', '.join(sorted(SUFFIXES))}; name the format by `output_format`."
        )
    return Job(source, target)


def restore_files(
    model: nn.Module,
    inputs: Sequence[Path],
    output: Path,
    *,
    multiple: int,
    tiling: TilingSettings,
    settings: RestoringSettings,
    video: VideoSettings = USUAL_VIDEOS,
    guidance: Guidance = AS_SEEN,
    processes: Processes = ALONE,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_tile: Callable[[Path, int, int], None] | None = None,
) -> list[Outcome]:
    """Restore photographs of any size, in files and folders of them, and videos; see `planned` for where they go.

    Depth, alpha, EXIF and colour profile stay as they were, as far as the format goes. Of a grey photograph the network
    sees three equal channels; the mean of the three that it makes is written, for they are three estimates of the same
    grey. A file that fails is reported, and the others go on.

    Args:
        model: a HairModel, or any other network that `hairify.networks.apply` can run. It runs in evaluation mode, and
            is put back into its own.
        inputs: image files, and folders of them; and videos, of which folders' own are left alone.
        output: the folder to write to; made where it does not exist.
        multiple: the network takes images whose sides are multiples of it.
        tiling: see `hairify.restoring.restore_tiled`.
        settings: how the results are written; of a video, whether one that exists is replaced.
        video: how videos are restored and written.
        guidance: which GIV a HairModel restores with; by default each photograph's own.
        processes: those that share the photographs; each calls this with the same network and arguments.
        on_outcome: is told each outcome at once; the main process those of others at the end.
        on_tile: is told after each tile the photograph, how many tiles are done, and of how many; of a video, after
            each frame.

    Returns:
        The outcome of each photograph, in the order of `planned`; the same for all processes.

    Raises:
        OptionError: `tiling` or `guidance` does not fit the network, `bake` is set and the network is no HairModel, or
            as `planned` has it; before anything is read or written.
        ImageError: the disk is full. Whatever was restored before stays.
    """
    tiling.check(multiple)
    if settings.bake and not isinstance(model, HairModel):
        raise OptionError(f"`bake` is for HairModels; this {type(model).__name__} is a static network already.")
    guidance.check(model)
    restore = _Restoring(model, multiple, tiling, settings, video, guidance, on_tile)
    jobs = planned(inputs, output, settings)
    processes.everywhere(None)  # where an output exists already, none of these has made it
    own = []
    with evaluation_mode(model):
        for job in processes.mine(jobs):
            own.append(restore(job))
            if on_outcome is not None:
                on_outcome(own[-1])
    outcomes = processes.gathered(own)
    if processes.is_main and on_outcome is not None:
        for number, outcome in enumerate(outcomes):
            if number % processes.count:
                on_outcome(outcome)
    return outcomes


@dataclass(frozen=True)
class _Restoring:
    """Restores one photograph after another."""

    model: nn.Module
    multiple: int
    tiling: TilingSettings
    settings: RestoringSettings
    video: VideoSettings
    guidance: Guidance
    on_tile: Callable[[Path, int, int], None] | None

    def __call__(self, job: Job) -> Outcome:
        """Whatever happens is an outcome, but for a full disk."""
        start = time.perf_counter()
        status, message = self._attempt(job)
        return Outcome(job.source, job.target, status, message, time.perf_counter() - start)

    def _attempt(self, job: Job) -> tuple[Status, str]:
        if job.target is None:
            return "failed", job.problem
        if job.target.is_dir():
            return "failed", f"{job.target}, where it should go, is a folder."
        if job.target.exists() and not self.settings.overwrite:
            return "skipped", f"{job.target} exists; `overwrite` replaces it."
        restore = self._restore_video if job.target.suffix.lower() in VIDEOS else self._restore_file
        try:
            return restore(job.source, job.target)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise ImageError(
                    f"The disk is full: {job.target} could not be written. Make room on it and start again; "
                    "photographs whose outputs exist are skipped then."
                ) from error
            tile = self.tiling.tile
            lack = f"Out of memory with tiles of {tile} × {tile} pixels; a smaller `tile` takes less."
            return "failed", failure_in_words(error, lack)

    def _restore_file(self, source: Path, target: Path) -> tuple[Status, str]:
        """Read, restore and write; the message says what is not in the result."""
        image = read(source)
        target.parent.mkdir(parents=True, exist_ok=True)  # first: better to fail now than after the work
        image = dataclasses.replace(image, pixels=self._restored(source, image.pixels))
        write(image, target, quality=self.settings.quality)
        suffix = target.suffix.lower()
        without = ", ".join(lost(image, suffix))
        messages = [f"The format {suffix} could not keep: {without}."] if without else []
        if image.frames == 1:
            return "restored", " ".join(messages)
        messages.insert(0, f"Of its {image.frames} pages or frames, the first alone is restored.")
        return "restored in part", " ".join(messages)

    def _restore_video(self, source: Path, target: Path) -> tuple[Status, str]:
        if self.settings.bake:
            return "failed", "`bake` is for photographs: what is seen in a video changes with its frames."
        target.parent.mkdir(parents=True, exist_ok=True)
        without = restore_video(
            self.model,
            source,
            target,
            multiple=self.multiple,
            tiling=self.tiling,
            settings=self.video,
            guidance=self.guidance,
            on_frame=None if self.on_tile is None else partial(self.on_tile, source),
        )
        return ("restored in part", f"Left out: {', '.join(without)}.") if without else ("restored", "")

    def _restored(self, source: Path, pixels: Tensor) -> Tensor:
        """(3, H, W) of the same."""
        image, passes = pixels[None], self.guidance.passes
        for number in range(passes):

            def on_tile(done: int, of: int, before: int = number) -> None:
                if self.on_tile is not None:
                    self.on_tile(source, before * of + done, passes * of)

            image = self._restored_once(image, on_tile)
        return image[0]

    def _restored_once(self, image: Tensor, on_tile: Callable[[int, int], None]) -> Tensor:
        """(1, 3, H, W) of the same."""
        model = self.model

        def own() -> Tensor:
            assert isinstance(model, HairModel)
            return giv_of(model, image, self.tiling, self.multiple)

        giv = self.guidance.applied(own)
        if not self.settings.bake or not isinstance(model, HairModel):
            return restore_tiled(model, image, self.tiling, self.multiple, giv=giv, on_tile=on_tile)
        baked = model.bake(giv=own() if giv is None else on_model(model, giv))
        return restore_tiled(baked, image, self.tiling, self.multiple, on_tile=on_tile)
