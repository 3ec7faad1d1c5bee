"""`hairify report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import (
    DacOption,
    DeviceOption,
    ModelArgument,
    TrustOption,
    console,
    folder_named,
    open_restorer,
    say,
    say_left_out,
)
from hairify.data._settings import DataSettings
from hairify.report._settings import ReportSettings


def run(
    data: DataSettings,
    report: ReportSettings,
    model: ModelArgument,
    output: Annotated[Path | None, typer.Option(help="the HTML page; by default report.html in the run")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="results.json of a network to compare with, such as the unconverted one, evaluated on the same images"
        ),
    ] = None,
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Write one HTML page that shows a restorer: its plan, what it tells apart, pictures before and after, numbers.

    The page is self-contained and opens offline. What cannot be read or restored is named and left out, and the exit
    status is 1.

    [dim]hairify report run
    hairify report run --baseline static/results.json[/dim]
    """
    from hairify.data.datasets import test_tasks
    from hairify.evaluation import read_results
    from hairify.report import Baseline, collect, write_report

    restorer = open_restorer(model, device, network, dac)
    folder = folder_named(model)
    is_here = folder is not None and folder.is_dir()
    log = folder / "log.jsonl" if folder is not None and is_here else None
    path = output or (folder / "report.html" if folder is not None and is_here else Path("report.html"))
    with console.status("looking at the restorer"):
        findings = collect(
            restorer.model,
            test_tasks(data),
            report,
            multiple=restorer.multiple,
            title=restorer.network.name,
            facts=restorer.about,
            results=restorer.results,
            baseline=Baseline(str(baseline), read_results(baseline)) if baseline else None,
            log=log if log is not None and log.is_file() else None,
        )
        write_report(findings, path)
    say_left_out(findings.unreadable)
    say("The report is in ", (str(path), "bold"), ".")
    return int(bool(findings.unreadable))
