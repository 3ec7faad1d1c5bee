"""The sections of the page: words, tables and where the drawings stand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from hairify.evaluation._conditioning import PERFECT, Conditioning
from hairify.evaluation._results import Results
from hairify.evaluation._scores import Score, mean
from hairify.planning._plans import Plan
from hairify.report._curve_drawing import draw_curves
from hairify.report._findings import Baseline, Curves, Example, Findings, GIVFindings
from hairify.report._giv_drawing import draw_givs
from hairify.report._markup import Markup, decibels, join, millions, tag
from hairify.report._palette import Style, key, styles, task_styles
from hairify.report._pictures import data_uri
from hairify.report._plan_drawing import draw_plan
from hairify.report._section_parts import count_of, fact_tile, html_table, scrolling, switch
from hairify.report._vector_drawing import departures, draw_vectors


def header(findings: Findings) -> Markup:
    """What the model is."""
    plan = findings.plan
    if plan is None:
        lead = (
            "A static restorer: every image is restored with the same weights. So this report has no plan of a "
            "conversion, no global information vectors and no selecting vectors; these belong to converted networks."
        )
        tiles = [("Parameters", millions(findings.parameters), f"{findings.parameters:,}")]
    else:
        lead = (
            "A network converted by HAIR: a classifier half-way sums up the degradation of each image in a vector, and "
            "from it every later block gets weights for that image, mixed out of a few stored sets."
        )
        before, after = plan.parameters
        blocks = sum(len(level.blocks) for level in plan.levels)
        tiles = [
            ("Parameters", f"{millions(before)} → {millions(after)}", f"{before:,} → {after:,}"),
            ("Split", plan.split, f"F_g {' × '.join(map(str, plan.feature.shape))} of inputs {plan.inputs}"),
            ("GIV", f"D = {plan.giv_dim}", f"from {plan.dac}"),
            ("Blocks with their own weights", str(blocks), f"in {count_of(len(plan.levels), 'level')}"),
            ("Converted", f"{plan.share:.0%}", "of the parameters after the split"),
        ]
    return tag(
        "header",
        tag("p", "hairify report", class_="eyebrow"),
        tag("h1", findings.title),
        tag("p", lead, class_="lead"),
        tag("dl", [fact_tile(what, value, small) for what, value, small in tiles], class_="tiles"),
        tag("dl", [fact_tile(*fact) for fact in findings.facts.items()], class_="facts") if findings.facts else None,
    )


def sections(findings: Findings) -> dict[str, Markup]:
    """{id: section} of all that there is to show, in the page's order."""
    conditioning = findings.conditioning
    names = dict.fromkeys(
        [*(conditioning.givs if conditioning else ()), *findings.tasks.values(), *findings.curves.losses]
    )
    of_degradations = styles(names, conditioning.composites if conditioning else ())
    unknown = {task: task for task in findings.curves.validation if task not in findings.tasks}
    of_tasks = task_styles({**findings.tasks, **unknown}, of_degradations | styles(unknown))
    found = {
        "use": _use(findings.use, findings.curves) if findings.use else None,
        "gain": _gain(findings.results, findings.baseline) if findings.results and findings.baseline else None,
        "plan": _plan(findings.plan) if findings.plan else None,
        "givs": _givs(conditioning, of_degradations) if conditioning else None,
        "vectors": _vectors(conditioning, findings.plan, of_degradations) if conditioning and findings.plan else None,
        "examples": _examples(findings.examples) if findings.examples else None,
        "numbers-table": _numbers(findings) if findings.results or findings.unreadable else None,
        "training": _training(findings.curves, of_degradations, of_tasks),
    }
    return {name: section for name, section in found.items() if section is not None}


def contents(names: Sequence[str]) -> Markup:
    """Links to the sections."""
    links = [tag("li", tag("a", _TITLES[name][0], href=f"#{name}")) for name in names]
    return tag("nav", tag("ul", links), aria_label="Sections")


_TITLES = {
    "use": ("Use of the GIV", "Does the network use what it sees?"),
    "gain": ("Gain", "What is gained?"),
    "plan": ("Plan", "The network and its plan"),
    "givs": ("GIVs", "Global information vectors"),
    "vectors": ("Selecting vectors", "Selecting vectors of each block"),
    "examples": ("Before and after", "Before and after"),
    "numbers-table": ("Numbers", "Numbers"),
    "training": ("Training", "Training"),
}
"""For each section its short and its full title."""


def _section(name: str, *parts: str | Markup | None) -> Markup:
    return tag(
        "section", tag("h2", _TITLES[name][1], id=f"{name}-title"), *parts, id=name, aria_labelledby=f"{name}-title"
    )


def _use(use: Conditioning, curves: Curves) -> Markup:
    """The answer first; then what it rests on."""
    answer = (
        f"{'Yes' if use.is_used else 'No'}: with the GIV of another degradation, images are restored "
        f"{use.cost_of_wrong:.2f} dB worse than with their own, and {use.gain:.2f} dB worse with the mean GIV of all."
    )
    heads = ("degradation", "own GIV", "mean GIV", "another degradation's")
    rows = [(name, *(decibels(by_name[name].psnr) for by_name in (use.own, use.mean, use.wrong))) for name in use.own]
    told = "" if math.isnan(use.recognised) else f" The nearest mean GIV is the right one in {use.recognised:.0%}."
    text = (
        f"PSNR in dB of {count_of(use.images, 'crop')} of test images. Mean selecting vectors of two degradations "
        f"differ by up to {max(use.spread.values()):.2f}, by level: "
        f"{', '.join(f'{level} {spread:.2f}' for level, spread in use.spread.items())}.{told}"
    )
    drawn = None
    if curves.conditioning:
        of = styles(curves.conditioning)
        drawing = draw_curves(curves.conditioning, of, label="dB by which the own GIV is better")
        drawn = _curves("Own GIV against others, in training", drawing, curves.conditioning, of)
    return _section(
        "use", tag("p", answer, class_="lead"), scrolling(html_table(heads, rows), heads[0]), tag("p", text), drawn
    )


def _gain(results: Results, baseline: Baseline) -> Markup:
    """The answer first; then each task's numbers."""
    others = baseline.results.scores
    apart = {
        name: _rounded(min(one.psnr, PERFECT) - min(others[name].psnr, PERFECT)) for name, one in results.scores.items()
    }
    average = _rounded(sum(apart.values()) / len(apart))
    behind = [name for name, difference in apart.items() if difference < 0]
    answer = (
        f"{abs(average):.2f} dB {'behind' if average < 0 else 'ahead of'} {baseline.name} on average, "
        f"behind it on {', '.join(behind) or 'nothing'}."
    )
    rows = [
        (name, decibels(others[name].psnr), decibels(one.psnr), f"{apart[name]:+.2f}")
        for name, one in results.scores.items()
    ]
    total = (
        "average over tasks",
        decibels(baseline.results.average.psnr),
        decibels(results.average.psnr),
        f"{average:+.2f}",
    )
    text = f"PSNR in dB, to {PERFECT:.0f}, on the same images."
    heads = ("task", baseline.name, "this network", "difference")
    table = scrolling(html_table(heads, rows, total), "Gain")
    return _section("gain", tag("p", answer, class_="lead"), table, tag("p", text))


def _rounded(difference: float) -> float:
    """A difference as it is shown, with two decimals; 0 has no sign."""
    return round(difference, 2) + 0.0


def _plan(plan: Plan) -> Markup:
    text = (
        "What runs before the split stays as it was. At the split the DAC sums up the features in a GIV; one HSN per "
        "block turns it into a selecting vector, which mixes the rows of the level's Weight Box to the block's "
        "weights. Layers between the levels that are left alone are not drawn."
    )
    return _section(
        "plan",
        tag("p", text),
        tag("p", plan.warning, class_="note-text") if plan.warning else None,
        scrolling(draw_plan(plan), "The network as a picture"),
        scrolling(_level_table(plan), "Table of levels"),
        _left_alone(plan.skipped) if plan.skipped else None,
    )


def _level_table(plan: Plan) -> Markup:
    heads = ("level", "blocks M", "box size N", "layers", "parameters of a set P", "rank", "in the box")
    rows = [
        (
            tag("code", level.name),
            str(len(level.blocks)),
            str(level.box_size),
            tag("span", str(len(level.layers)), title=", ".join(level.layers)),
            f"{level.row_parameters:,}",
            "full" if level.rank is None else str(level.rank),
            f"{level.box_parameters:,}",
        )
        for level in plan.levels
    ]
    return html_table(heads, rows)


def _left_alone(skipped: Mapping[str, str]) -> Markup:
    """Layers that are not converted, by reason, folded."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in skipped.items():
        by_reason[reason].append(name)
    folded = [
        tag(
            "details",
            tag("summary", f"{count_of(len(names), 'layer')}: {reason}"),
            tag("ul", [tag("li", tag("code", name)) for name in names]),
        )
        for reason, names in by_reason.items()
    ]
    return join([tag("h3", f"Left alone: {count_of(len(skipped), 'layer')}"), folded])


def _givs(conditioning: GIVFindings, of: Mapping[str, Style]) -> Markup:
    text = (
        "Each mark is one crop of a test photograph, placed by its GIV. The network is told nothing about the "
        "degradation when it restores: groups are what it has learnt to tell apart. t-SNE shows who is whose "
        "neighbour, PCA keeps distances along the two directions in which single degradations vary most."
    )
    views = []
    for method in dict.fromkeys(one.method for one in conditioning.projections):
        figures = []
        for one in conditioning.projections:
            if one.method == method:
                caption = "With composite degradations" if one.with_composites else "Single degradations"
                drawing = draw_givs(one, conditioning, of)
                figures.append(tag("figure", tag("figcaption", f"{caption}, {method}"), drawing))
        views.append(tag("div", figures, class_="pair", data_view=method))
    legend = [
        tag("li", key(of[name]), f"{name} ({len(givs)}{', composite' if name in conditioning.composites else ''})")
        for name, givs in conditioning.givs.items()
    ]
    return _section(
        "givs",
        tag("p", text),
        switch("projection", [(method, method) for method in ("t-SNE", "PCA")]),
        join(views),
        tag("ul", legend, class_="legend"),
        join(tag("p", note, class_="note-text") for note in conditioning.notes),
    )


def _vectors(conditioning: GIVFindings, plan: Plan, of: Mapping[str, Style]) -> Markup:
    text = (
        "How much each block (row) takes of each parameter set of its level's Weight Box (column), on average over the "
        "crops of a degradation. Departures from the mean over degradations show what changes with the degradation. "
        "Gaps separate levels; pointing at a cell, or the arrow keys, give its number."
    )
    vectors = {name: conditioning.vectors[name] for name in conditioning.singles}
    apart = departures(vectors)
    largest = max(float(one.abs().max()) for blocks in apart.values() for one in blocks.values())

    def maps(kind: str, of_blocks: Mapping[str, Mapping[str, Tensor]], scale: float | None) -> Markup:
        figures = [
            tag(
                "figure",
                tag("figcaption", key(of[name]), name),
                scrolling(draw_vectors(name, blocks, plan.levels, scale), name),
            )
            for name, blocks in of_blocks.items()
        ]
        return tag("div", tag("div", figures, class_="maps"), _bar(scale), data_view=kind)

    return _section(
        "vectors",
        tag("p", text),
        switch("vectors-view", [("mean", "Mean weights"), ("departure", "Departure from the mean")]),
        maps("mean", vectors, None),
        maps("departure", apart, max(largest, 1e-6)),
    )


def _bar(largest: float | None) -> Markup:
    """What the colours mean."""
    ends = ("0", "1") if largest is None else (f"−{largest:.3g}", f"+{largest:.3g}")
    empty = tag("i", class_="both" if largest is not None else None, aria_hidden="true")
    return tag("div", tag("span", ends[0]), empty, tag("span", ends[1]), class_="bar")


def _examples(examples: Sequence[Example]) -> Markup:
    text = (
        "Move the handle, or focus a picture and use the arrow keys: left of it the image as given, right of it as "
        "restored. PSNR and SSIM are of the part that is shown."
    )
    return _section("examples", tag("p", text), tag("div", [_example(one) for one in examples], class_="examples"))


def _example(example: Example) -> Markup:
    height, width = example.clean.shape[1:]

    def picture(kind: str, image: Tensor, hidden: bool = False) -> Markup:
        return tag(
            "img",
            src=data_uri(image),
            alt=f"{example.name}, {kind}",
            class_=kind,
            width=width,
            height=height,
            hidden=hidden,
        )

    compare = tag(
        "div",
        picture("restored", example.restored),
        picture("clean", example.clean, hidden=True),
        picture("degraded", example.degraded),
        tag(
            "input", type="range", min=0, max=100, value=50,
            aria_label=f"{example.task}: share of the picture that shows the degraded image",
        ),
        tag("div", class_="handle"),
        tag("span", "degraded", class_="tag left"),
        tag("span", "restored", class_="tag right"),
        class_="compare",
    )  # fmt: skip
    before, after = example.before, example.after
    scores = [
        tag("span", "PSNR ", tag("b", f"{decibels(before.psnr)} → {decibels(after.psnr)} dB")),
        tag("span", "SSIM ", tag("b", f"{before.ssim:.3f} → {after.ssim:.3f}")),
        tag("label", tag("input", type="checkbox"), " show clean", hidden=True),
    ]
    caption = tag("figcaption", example.task, " ", tag("span", example.name, class_="name"))
    return tag("figure", caption, compare, tag("div", scores, class_="under"))


def _numbers(findings: Findings) -> Markup:
    results = findings.results
    parts: list[Markup] = []
    if results is not None:
        heads = ("task", "images", "PSNR of input", "PSNR", "gain", "SSIM of input", "SSIM")
        rows = [_scored(name, results.counts[name], results.inputs[name], one) for name, one in results.scores.items()]
        total = _scored(
            "average over tasks", sum(results.counts.values()), mean([*results.inputs.values()]), results.average
        )
        lacking = f", which lacks {', '.join(results.missing)}" if results.missing else ""
        text = f"{results.about}; each task counts once in the average{lacking}."
        parts += [tag("p", text), scrolling(html_table(heads, rows, total), "Results")]
    unreadable = {**findings.unreadable, **(results.unreadable if results else {})}
    if unreadable:
        lines = [tag("li", tag("code", path), f": {reason}") for path, reason in unreadable.items()]
        summary = tag("summary", f"{count_of(len(unreadable), 'image')} could not be read or restored, and left out")
        parts.append(tag("details", summary, tag("ul", lines)))
    return _section("numbers-table", *parts)


def _scored(name: str, count: int, before: Score, after: Score) -> tuple[str, ...]:
    return (
        name,
        f"{count:,}",
        decibels(before.psnr),
        decibels(after.psnr),
        f"{after.psnr - before.psnr:+.2f}",
        f"{before.ssim:.4f}",
        f"{after.ssim:.4f}",
    )


def _training(curves: Curves, of: Mapping[str, Style], of_tasks: Mapping[str, Style]) -> Markup | None:
    figures = []
    if curves.losses:
        positive = all(loss > 0 for points in curves.losses.values() for _, loss in points)
        drawing = draw_curves(curves.losses, of, label="loss", logarithmic=positive)
        figures.append(_curves("Loss of each degradation", drawing, curves.losses, of))
    if curves.validation:
        drawing = draw_curves(curves.validation, of_tasks, label="PSNR in dB")
        figures.append(_curves("PSNR in validation", drawing, curves.validation, of_tasks))
    if not figures:
        return None
    lost = None
    if curves.unreadable:
        lost = tag("p", f"{count_of(curves.unreadable, 'line')} of the log could not be read.", class_="note-text")
    return _section("training", tag("div", figures, class_="pair"), lost)


def _curves(title: str, drawing: Markup, names: Mapping[str, object], of: Mapping[str, Style]) -> Markup:
    legend = [tag("li", key(of[name], line=True), name) for name in names]
    return tag("figure", tag("figcaption", title), drawing, tag("ul", legend, class_="legend"))
