"""The report: what it finds out is right, and the page says it, alone, in order and whatever names there are."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy
import PIL.Image
import pytest
import torch
from browser import browse, needs_chromium
from networks import UNet, small_restormer
from sklearn.decomposition import PCA
from util import perturb

from hairify import HairModel, hairify
from hairify.data.datasets import Task
from hairify.data.degradations import degradation
from hairify.errors import DataError, OptionError
from hairify.evaluation import Results, Score, score
from hairify.planning import Level, Plan
from hairify.report import Baseline, Curves, Findings, ReportSettings, collect, render, write_report
from hairify.report._axes import Scale
from hairify.report._curve_drawing import thinned
from hairify.report._logs import read_log
from hairify.report._palette import styles
from hairify.report._pictures import data_uri
from hairify.report._plan_drawing import draw_plan
from hairify.report._projecting import project
from hairify.report._vector_drawing import departures

HOSTILE = "</script><b>&\"'<!-- $title \x01 \udc80 .png"
SETTINGS = ReportSettings(givs_per_degradation=4, giv_crop=32, composites=("haze+noise25", "rain+noise25"))
RESULTS = Results(
    scores={"plain noise25": Score(27.123, 0.81234), "Rainy": Score(31.5, 0.9)},
    counts={"plain noise25": 3, "Rainy": 1200},
    inputs={"plain noise25": Score(20.25, 0.5), "Rainy": Score(25.0, 0.75)},
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """Two clean photographs under noise and haze, and a task of pairs whose image has a name for trouble."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = numpy.random.default_rng(0)
    paths = []
    for name, size in (
        ("a.png", (40, 56)),
        ("b<i>.png", (48, 36)),
        ("rain & fog.png", (40, 40)),
        ("wet.png", (40, 40)),
    ):
        small = generator.integers(0, 256, (*(side // 4 for side in size), 3), dtype=numpy.uint8)
        PIL.Image.fromarray(small).resize(size[::-1], PIL.Image.Resampling.BICUBIC).save(folder / name)
        paths.append(folder / name)
    plain, (clean, wet) = tuple(paths[:2]), paths[2:]
    return [
        Task("plain noise25", "noise25", plain, None),
        Task("plain haze", "haze", plain, None),
        Task("Rainy", "rain", (clean,), (wet,)),
    ]


@pytest.fixture(scope="module")
def hair() -> HairModel:
    torch.manual_seed(0)
    return perturb(hairify(small_restormer()))


@pytest.fixture(scope="module")
def findings(hair: HairModel, tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> Findings:
    log = tmp_path_factory.mktemp("run") / "log.jsonl"
    lines = [{"step": s, "loss": 1 / s, "losses": {"noise25": 1 / s, "haze": 2 / s}} for s in range(1, 9)]
    validation = [{"step": 8, "validation": {"plain haze": {"psnr": 21.5, "ssim": 0.7}}}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines + validation))
    return collect(
        hair, tasks, SETTINGS, multiple=8, title=HOSTILE, facts={"data <x>": HOSTILE}, results=RESULTS, log=log
    )


@pytest.fixture(scope="module")
def page(findings: Findings) -> str:
    return render(findings)


def numbers_in(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def drawings_in(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def texts_in(page: str) -> str:
    return "\n".join("".join(drawing.itertext()) for drawing in drawings_in(page))


# What is found out


def test_givs_and_vectors_are_those_of_the_model_on_the_degraded_crops(
    findings: Findings, hair: HairModel, tasks: list[Task]
) -> None:
    found = findings.conditioning
    assert found is not None
    assert list(found.givs) == ["noise25", "haze", "rain", "haze+noise25", "rain+noise25"]
    assert found.singles == ("noise25", "haze", "rain")
    for name in ("noise25", "rain", "haze+noise25"):
        generator, images = torch.Generator().manual_seed(SETTINGS.report_seed), []
        for crop in found.crops[name]:
            file, left, top = re.fullmatch(r"(.+), crop \d+ at \((\d+), (\d+)\)", crop).groups()
            files = [path for task in tasks for i in range(len(task.clean)) for path in task.files(i) if path]
            paired = name == "rain"
            pixels = numpy.asarray(PIL.Image.open(next(path for path in files if path.name == file)))
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
            image = image[None, :, int(top) : int(top) + 32, int(left) : int(left) + 32]
            images.append(image if paired else degradation(name)(image, generator))
        assert len(images) == 4
        with torch.no_grad():
            givs, vectors = hair.giv(torch.cat(images)), hair.selecting_vectors(torch.cat(images))
        torch.testing.assert_close(found.givs[name], givs, rtol=1e-4, atol=1e-5)
        assert list(found.vectors[name]) == [block for level in hair.plan.levels for block in level.blocks]
        for block, vector in vectors.items():
            torch.testing.assert_close(found.vectors[name][block], vector.mean(0), rtol=1e-4, atol=1e-5)
    assert (found.givs["noise25"] - found.givs["haze"]).abs().max() > 1e-3


def test_synthesised_degradations_are_shown_on_the_same_crops(findings: Findings) -> None:
    found = findings.conditioning
    assert found is not None
    assert found.crops["noise25"] == found.crops["haze"] == found.crops["haze+noise25"] != found.crops["rain"]
    assert len(set(found.crops["noise25"])) == 4


def test_examples_have_the_scores_of_what_they_show(findings: Findings, hair: HairModel) -> None:
    assert [one.task for one in findings.examples] == ["plain noise25", "plain haze", "Rainy"]
    for one in findings.examples:
        assert one.before == score(one.degraded, one.clean)
        assert one.after == score(one.restored, one.clean)
        assert one.before.psnr < 60
    square = findings.examples[2]  # needs no padding
    with torch.no_grad():
        torch.testing.assert_close(square.restored, hair(square.degraded[None])[0].clamp(0, 1), rtol=0, atol=1e-5)


def test_the_model_keeps_its_modes(hair: HairModel, tasks: list[Task]) -> None:
    mixed = perturb(hairify(small_restormer())).train()
    mixed.dac.eval()
    before = {name: module.training for name, module in mixed.named_modules()}
    collect(mixed, tasks[:1], dataclasses.replace(SETTINGS, examples=0), multiple=8, title="")
    assert {name: module.training for name, module in mixed.named_modules()} == before


def test_equal_data_give_equal_findings(findings: Findings, hair: HairModel, tasks: list[Task]) -> None:
    again = collect(hair, tasks, SETTINGS, multiple=8, title=HOSTILE)
    assert findings.conditioning is not None
    assert again.conditioning is not None
    for one, other in zip(findings.conditioning.projections, again.conditioning.projections, strict=True):
        for name, points in one.points.items():
            assert torch.equal(points, other.points[name])


def test_a_composite_without_its_parts_is_named(hair: HairModel, tasks: list[Task]) -> None:
    found = collect(hair, tasks[:1], dataclasses.replace(SETTINGS, examples=0), multiple=8, title="").conditioning
    assert found is not None
    assert found.composites == ()
    assert "haze+noise25, rain+noise25" in found.notes[0]
    assert [one.method for one in found.projections] == ["t-SNE", "PCA"]


def test_an_unreadable_image_is_left_out_and_told(hair: HairModel, tasks: list[Task], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    task = Task("some", "noise25", (broken, *tasks[0].clean), None)
    found = collect(hair, [task], SETTINGS, multiple=8, title="")
    assert list(found.unreadable) == [str(broken)]
    assert found.examples[0].name == "a.png"
    assert "1 image could not be read or restored" in render(found)
    nothing = Task("none", "haze", (broken,), None)
    found = collect(hair, [task, nothing], SETTINGS, multiple=8, title="")
    assert found.conditioning is not None
    assert found.conditioning.singles == ("noise25",)
    assert any("Not drawn: haze. None of 1 test images" in note for note in found.conditioning.notes)
    assert render(found)
    with pytest.raises(DataError, match="None of 1 test images"):
        collect(hair, [Task("none", "noise25", (broken,), None)], SETTINGS, multiple=8, title="")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "not finite", "another"])
def test_an_image_that_the_model_fails_on_is_left_out_and_told(tasks: list[Task], kind: str) -> None:
    def failing(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if args[0].shape[-1] != 40:  # the photographs of two tasks have another width
            return None
        if kind == "not finite":
            return (args[0] * math.nan,)
        raise MemoryError if kind == "memory" else IndexError("a table of 32")

    torch.manual_seed(0)
    hair = perturb(hairify(small_restormer()))
    hair.base.register_forward_pre_hook(failing)
    settings = dataclasses.replace(SETTINGS, giv_crop=64)
    found = collect(hair, tasks, settings, multiple=8, title="")
    message = {"memory": "Out of memory", "not finite": "not finite", "another": "failed: IndexError"}[kind]
    # The second is padded to that width.
    assert {Path(path).name for path in found.unreadable} == {"b<i>.png", "wet.png"}
    assert all(message in reason for reason in found.unreadable.values())
    assert found.conditioning is not None
    assert found.conditioning.singles == ("noise25", "haze")
    assert {one.name for one in found.examples} == {"a.png"}
    assert "could not be read or restored" in render(found)


def test_pca_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3, 0.1, 6)
    givs = {name: torch.randn(9, 6, generator=generator) * scales for name in ("noise", "rain", "noise+rain")}
    linear = [one for one in project(givs, ["noise+rain"], 0) if one.method == "PCA"]
    oracle = PCA(2).fit(torch.cat([givs["noise"], givs["rain"]]).double().numpy())
    assert [list(one.points) for one in linear] == [["noise", "rain"], ["noise", "rain", "noise+rain"]]
    for one in linear:
        assert one.shares == pytest.approx(oracle.explained_variance_ratio_, rel=1e-9)
        for name, points in one.points.items():
            expected = torch.from_numpy(oracle.transform(givs[name].double().numpy()))
            torch.testing.assert_close(points.abs(), expected.abs(), rtol=1e-7, atol=1e-9)


def test_tsne_keeps_far_groups_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    givs = {str(i): torch.randn(12, 8, generator=generator) + 40 * i for i in range(3)}
    points = project(givs, [], 0)[0].points
    for name, own in points.items():
        spread = (own - own.mean(0)).norm(dim=1).max()
        for other, others in points.items():
            assert other == name or (others.mean(0) - own.mean(0)).norm() > 2 * spread


@pytest.mark.parametrize("givs", [torch.ones(1, 3), torch.zeros(2, 1), torch.ones(7, 3)])
def test_projections_of_degenerate_givs_are_finite(givs: torch.Tensor) -> None:
    for one in project({"noise": givs}, [], 0):
        assert one.points["noise"].shape == (len(givs), 2)
        assert one.points["noise"].isfinite().all()


def test_log_of_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "losses": {"rain": 0.5}}\n{"step": 2, "losses": {"rain": 0.4}}\n{"step": 3, "los\n'
        '{"step": 2, "losses": {"rain": 0.25, "haze": NaN}}\n'
        '{"step": 2, "validation": {"t": {"psnr": 20.0, "ssim": 1}}}\n'
        '{"step": 2, "conditioning": {"gain": 0.5, "cost_of_wrong": null}}\n'
    )
    assert read_log(log) == Curves(
        {"rain": ((1, 0.5), (2, 0.25))}, {"t": ((2, 20.0),)}, {"the mean GIV": ((2, 0.5),)}, 1
    )
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"givs_per_degradation": 1}, {"giv_crop": 8}, {"examples": -1}, {"example_side": 1024}, {"report_seed": -1}],
)
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=f"`{next(iter(wrong))}` is"):
        ReportSettings(**wrong)


# What the page says


def test_the_page_loads_nothing(page: str) -> None:
    assert "data:image/jpeg;base64," in page
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    addresses = re.findall(r"""\b(?:src|href|action|poster|data|srcset)\s*=\s*["']([^"']*)""", outside)
    addresses += re.findall(r"""url\(\s*["']?([^"')]+)""", outside)
    assert addresses
    assert [one for one in addresses if not one.startswith(("data:", "#"))] == []
    assert not [word for word in ("@import", "fetch(", "XMLHttpRequest", "WebSocket", "import(") if word in outside]
    assert re.findall(r"\w+://", outside) == []


def test_hostile_names_stay_text(page: str) -> None:
    assert page.count("</script>") == 2
    assert "<b>&" not in page
    assert "b<i>" not in page
    assert numbers_in(page)["title"] == HOSTILE
    assert page.encode("utf-8")
    assert "\x01" not in page
    assert "$title \N{REPLACEMENT CHARACTER}" in page  # not filled in


def test_drawings_are_well_formed(page: str, findings: Findings) -> None:
    drawings = drawings_in(page)
    assert findings.conditioning is not None
    assert len(drawings) > 10
    for drawing in drawings:
        for element in drawing.iter():
            for value in element.attrib.values():
                assert "nan" not in value.lower().split()
                assert "inf" not in value.lower().split()
        _, _, width, height = map(float, drawing.get("viewBox", "").split())
        assert width > 0
        assert height > 0
        assert drawing.get("aria-hidden") or drawing.get("aria-label")
    plots = [one for one in drawings if "Global information vectors" in one.get("aria-label", "")]
    assert [len(one.findall(".//title")) for one in plots] == [12, 20, 12, 20]
    assert {t.text for t in plots[0].iter("title")} == {
        f"{name}: {crop}" for name in findings.conditioning.singles for crop in findings.conditioning.crops[name]
    }


def test_heat_maps_say_the_mean_vectors_and_their_departures(page: str, findings: Findings) -> None:
    found, texts = findings.conditioning, texts_in(page)
    assert found is not None
    block = next(iter(found.vectors["haze"]))
    values = {name: found.vectors[name][block] for name in found.singles}
    mean = sum(values.values()) / len(values)
    for name, vector in values.items():
        for i, value in enumerate(vector.tolist()):
            assert f"{name}, {block}, row {i + 1}: {value:.3f}" in texts
            assert f"{name}, {block}, row {i + 1}: {value - mean[i].item():+.4f}" in texts
    apart = departures({name: found.vectors[name] for name in found.singles})
    assert sum(blocks[block] for blocks in apart.values()).abs().max() < 1e-6
    assert max(blocks[block].abs().max() for blocks in apart.values()) > 1e-4


def test_the_numbers_are_in_the_page_and_in_its_json(page: str, findings: Findings) -> None:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert ["plain noise25", "3", "20.25", "27.12", "+6.87", "0.5000", "0.8123"] in cells
    assert ["average over tasks", "1,203", "22.62", "29.31", "+6.69", "0.6250", "0.8562"] in cells
    data = numbers_in(page)
    assert data["results"] == RESULTS.plain()
    assert findings.conditioning is not None
    for name, givs in findings.conditioning.givs.items():
        torch.testing.assert_close(torch.tensor(data["givs"][name]), givs, rtol=1e-4, atol=0)
    assert data["losses"]["haze"][0] == [1, 2.0]
    assert data["validation"] == {"plain haze": [[8, 21.5]]}
    assert findings.plan is not None
    assert Plan.from_json(json.dumps(data["plan"])) == findings.plan
    for one in findings.examples:
        assert f"{one.before.psnr:.2f} → {one.after.psnr:.2f} dB" in page


@pytest.mark.parametrize(
    ("own", "other", "lead", "cells"),
    [
        ((27.123, 31.5), (26.0, 31.75), "0.44 dB ahead of &lt;the other&gt; on average, behind it on Rainy.", "+1.12"),
        (
            (27.123, 31.5),
            (27.124, 30.5),
            "0.50 dB ahead of &lt;the other&gt; on average, behind it on nothing.",
            "+0.00",
        ),
        (
            (27.123, 31.5),
            (28.0, 31.5),
            "0.44 dB behind &lt;the other&gt; on average, behind it on plain noise25.",
            "-0.88",
        ),
        (
            (math.inf, 31.5),
            (math.inf, 31.5),
            "0.00 dB ahead of &lt;the other&gt; on average, behind it on nothing.",
            "+0.00",
        ),
        (
            (math.inf, 31.5),
            (60.0, 31.5),
            "20.00 dB ahead of &lt;the other&gt; on average, behind it on nothing.",
            "+40.00",
        ),
    ],
)
def test_the_gain_follows_the_use(
    findings: Findings, own: tuple[float, float], other: tuple[float, float], lead: str, cells: str
) -> None:
    mine, others = (
        dataclasses.replace(
            RESULTS, scores={name: Score(one, 0.5) for name, one in zip(RESULTS.scores, psnr, strict=True)}
        )
        for psnr in (own, other)
    )
    compared = render(dataclasses.replace(findings, results=mine, baseline=Baseline("<the other>", others)))
    sections = re.findall(r"<section.*?</section>", compared, re.DOTALL)
    assert [re.findall(r'id="(\w+)"', section)[0] for section in sections[:2]] == ["use", "gain"]
    assert lead in sections[1]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", sections[1], re.DOTALL)]
    assert [row[-1] for row in rows if row[0] == "plain noise25"] == [cells]
    assert numbers_in(compared)["baseline"] == {"name": "<the other>", **others.plain()}


def test_only_the_same_images_are_compared(hair: HairModel, tasks: list[Task]) -> None:
    other = Baseline("the other", dataclasses.replace(RESULTS, counts={"plain noise25": 3, "Rainy": 100}))
    with pytest.raises(DataError, match="1200 of 'Rainy', the other on 3 of 'plain noise25', 100 of 'Rainy'"):
        collect(hair, tasks, SETTINGS, multiple=8, title="", results=RESULTS, baseline=other)
    inputs = {**RESULTS.inputs, "Rainy": Score(24.0, 0.75)}
    other = Baseline("the other", dataclasses.replace(RESULTS, inputs=inputs))
    with pytest.raises(
        DataError, match=r"'Rainy' have 25\.00 dB as they are given to the model, those of the other 24"
    ):
        collect(hair, tasks, SETTINGS, multiple=8, title="", results=RESULTS, baseline=other)
    with pytest.raises(DataError, match=r"nothing to compare with the other.*Evaluate it first"):
        collect(hair, tasks, SETTINGS, multiple=8, title="", baseline=other)


def test_pictures_are_the_examples(page: str, findings: Findings) -> None:
    pictures = [base64.b64decode(text) for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    shown = [image for one in findings.examples for image in (one.restored, one.clean, one.degraded)]
    for picture, image in zip(pictures, shown, strict=True):
        pixels = torch.from_numpy(numpy.asarray(PIL.Image.open(io.BytesIO(picture)).convert("RGB")).copy())
        assert (pixels.permute(2, 0, 1) / 255 - image).abs().mean() < 0.03
    assert (shown[0] - shown[2]).abs().mean() > 0.03


def test_noise_of_the_largest_size_becomes_a_picture() -> None:
    image = torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(0))
    kind, _, text = data_uri(image).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert PIL.Image.open(io.BytesIO(base64.b64decode(text))).size == (512, 512)
    assert len(text) < 1_000_000


def test_every_left_alone_layer_and_level_is_listed(page: str, findings: Findings) -> None:
    assert findings.plan is not None
    for name in (*findings.plan.skipped, *(level.name for level in findings.plan.levels)):
        assert f"<code>{name}</code>" in page


def test_a_static_network_gets_a_shorter_page(tasks: list[Task], page: str) -> None:
    found = collect(UNet().eval(), tasks[:1], SETTINGS, multiple=8, title="plain")
    short = render(found)
    assert found.plan is None
    assert found.conditioning is None
    assert "A static restorer" in short
    assert "A static restorer" not in page
    ids = re.findall(r'<section id="([^"]+)"', short) or re.findall(r'id="([^"-]+)" aria-labelledby', short)
    assert ids == ["examples"]
    assert render(dataclasses.replace(found, examples=()))  # nothing at all to show


def test_equal_findings_give_equal_bytes(findings: Findings, page: str, tmp_path: Path) -> None:
    for name in "ab":
        write_report(findings, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes() == page.encode()
    changed = dataclasses.replace(findings, title="another")
    write_report(changed, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() != page.encode()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.html", "b.html"]


# How it is drawn


@pytest.mark.parametrize("counts", [(2,), (8, 6, 6, 4, 4), (1,) * 27, (36, 3)])
def test_levels_of_any_number_lie_within_the_picture_and_apart(findings: Findings, counts: tuple[int, ...]) -> None:
    levels = tuple(
        Level(f"a.long.name.of.a.level.{i}", tuple(f"{i}.{m}" for m in range(count)), ("c",), count + 1, 10, 10 * count)
        for i, count in enumerate(counts)
    )
    assert findings.plan is not None
    drawing = ElementTree.fromstring(draw_plan(dataclasses.replace(findings.plan, levels=levels)))
    _, _, width, height = map(float, drawing.get("viewBox", "").split())
    rectangles = [
        tuple(float(one.get(k, "0")) for k in ("x", "y", "width", "height"))
        for one in drawing.iter("rect")
        if one.get("class", "").startswith("box")
    ]
    assert len(rectangles) == 6 + len(counts) + 1
    for i, (x, y, w, h) in enumerate(rectangles):
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        for x2, y2, w2, h2 in rectangles[:i]:
            assert x >= x2 + w2 or x2 >= x + w or y >= y2 + h2 or y2 >= y + h
    weights = [one for one in drawing.iter("rect") if one.get("class") == "row"]
    assert len(weights) == sum(min(count + 1, 12) for count in counts)


def test_styles_differ_by_more_than_colour() -> None:
    found = styles([str(i) for i in range(20)], ["19"])
    assert len({(style.colour, style.marker) for style in found.values()}) == 20
    assert found["19"].hollow
    assert not found["18"].hollow
    assert len({style.marker for style in list(found.values())[:8]}) == 8


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.02, 0.31), (17.3, 33.4), (1, 150_000), (0.05, 0.06)])
def test_ticks_are_round_and_within_the_range(low: float, high: float, logarithmic: bool) -> None:
    scale = Scale(low, high, 100, 0, logarithmic)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 20
    assert all(low <= tick <= high and len(f"{tick:.6g}".strip("0.")) <= 4 for tick in ticks)
    assert scale(low) == pytest.approx(100)
    assert scale(high) == pytest.approx(0)


def test_thinned_curves_keep_their_mean() -> None:
    points = [(i, float(i % 7)) for i in range(1200)]
    thin = thinned(points, 60)
    assert len(thin) == 60
    assert sum(v for _, v in thin) / 60 == pytest.approx(sum(v for _, v in points) / 1200)
    assert thinned(points[:9], 60) == points[:9]


# In a browser


@needs_chromium
def test_the_script_runs_without_a_word_in_the_console(page: str, findings: Findings, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    document, console = browse(tmp_path / "report.html", tmp_path / "profile")
    assert console == []
    assert 'data-ready="true"' in document
    assert "<title>noise25:" not in document  # moved to where the script shows them
    assert document.count("data-says=") > 20
    views = dict(re.findall(r'<div[^>]*data-view="([^"]+)"( hidden="")?', document))
    assert views == {"t-SNE": "", "PCA": ' hidden=""', "mean": "", "departure": ' hidden=""'}
    assert document.count('aria-valuetext="') == len(findings.examples)


@needs_chromium
def test_the_console_is_heard(page: str, tmp_path: Path) -> None:
    broken = page.replace('dataset.ready = "true"', "dataset.ready.no = undefinedName")
    (tmp_path / "report.html").write_text(broken, encoding="utf-8")
    document, console = browse(tmp_path / "report.html", tmp_path / "profile")
    assert 'data-ready="true"' not in document
    assert console


def test_numbers_of_different_protocols_are_not_compared() -> None:
    own = Results({"SOTS": Score(30, 0.9)}, {"SOTS": 2}, {"SOTS": Score(20, 0.5)})
    other = Baseline("static", dataclasses.replace(own, protocol="promptir"))
    with pytest.raises(DataError, match="by the protocol hairify, static by promptir"):
        collect(torch.nn.Identity(), [], multiple=1, title="", results=own, baseline=other)
