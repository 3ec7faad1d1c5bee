"""`hairify`: from a network to a `HairModel`."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from typing_extensions import Unpack

from hairify._support.copying import copy_model
from hairify._support.module_names import full_name
from hairify._support.randomness import cpu_generator, seeded
from hairify.errors import AlreadyConvertedError, DACError, HairWarning, OptionError
from hairify.model import HairModel
from hairify.nn._boxes import LowRankBox, WeightBox
from hairify.nn._context import ForwardContext, WeightAddress
from hairify.nn._dac import measure_dac
from hairify.nn._hsn import GIVStandardization, HyperSelectingNet
from hairify.nn._layers import make_hyper
from hairify.nn._warm_start import make_low_rank, make_rows, peaked_vectors, start_apart, start_at
from hairify.planning._options import Options, check_generator, check_names, given, network_of, showing_options
from hairify.planning._planner import plan as make_plan
from hairify.planning._plans import Level, Plan, carried_out


@showing_options
def hairify(
    model: nn.Module, *, plan: Plan | None = None, inplace: bool = False, **options: Unpack[Options]
) -> HairModel:
    """Turn an image-to-image network into an all-in-one restorer by HAIR.

    Half-way through the network, at the split, a Degradation-Aware Classifier summarises the image's
    degradation in a vector; the later layers get their weights from it, for each image anew (paper, section 3).
    With `init="preserve"` the result first computes what `model` computes, to rounding. Before it is trained, show it
    degraded photographs: `hair.calibrate(images)`; it learns to use its GIV much faster then.

    The model is observed on a copy in evaluation mode; its own forward hooks run there as in any forward.

    Args:
        model: any network from images (B, C, H, W) to images, or a loader's description that holds it as `model`
            (spandrel's `ModelDescriptor`). It is left as it is, unless `inplace`. One that is compiled, or in
            DistributedDataParallel and the like, stands for the network inside; so do parts of it.
        plan: carry out this plan, made by `plan`; then no other planning option may be given.
        inplace: convert `model` itself instead of a copy.
        preset: what the options are that are not given. "default" learns to use what it sees: a DAC of moments,
            low-rank boxes of N = 4 rows for each layer's differences, HSNs whose logits have a limit. "published" is
            the paper's form: its classifier as DAC, full boxes of M + 1 rows, HSNs of four layers, D = 64.
        split_at: name of the module whose output feeds the DAC, or a fraction in (0, 1) of the layer calls, or
            None: the first feature at the lowest resolution, or half-way in networks of constant resolution.
        example_inputs: a tensor, a tuple of arguments or a dict of keywords on which the model runs; small
            and non-square is best. None tries usual image shapes.
        box_size: N, for all levels or as {glob over level names: N}; None for the preset's.
        box: "full" rows are complete parameter sets, as published; those of "low_rank" boxes differ by matrices of
            low rank, W_m + A_i B_i, which adds few parameters, and leaves each block weights of its own.
        rank: of these matrices; None for 8. See `HairModel.parameter_groups` for their weight decay.
        targets: "all" converts repeated blocks, which share an HSN, and every other layer by itself: the last ones have
            the most direct say in what is restored. "families" converts repeated blocks only, "layers" every layer by
            itself, "auto" families, and the rest too where these hold less than half of what can be converted. None
            for the preset's.
        include: globs over module names; only layers that match, or lie in a module that does, are converted.
        exclude: globs over module names; layers that match, or lie in a module that does, stay as they are.
        dac: "moments", "published", a module F_g → (B, D), which is copied, or a factory (in_channels, giv_dim) →
            module.
        giv_dim: D, the length of the GIV; None for 64, or with "moments" less for small networks.
        init: "preserve" keeps the trained function exactly, "random" draws fresh weights for the converted layers.
        generator: makes the conversion's random draws reproducible. The global random state is left alone;
            without a generator the draws follow the seed last given to `torch.manual_seed`, or, in a process that
            trains with others, a fixed one: seeds may differ between them, rows must not.

    Returns:
        The `HairModel`, in the model's mode, dtype and device.

    Raises:
        OptionError: an argument has a value that is not accepted.
        AlreadyConvertedError: `model` is a HairModel.
        ExampleInputError: the model cannot be run on the inputs.
        SplitError: the split does not exist, never runs, or returns no feature.
        NothingToConvertError: no layer after the split can be converted.
        BoxSizeError: a box is too small for the weights to preserve.
        DACError: the DAC does not return one vector per image.
        PlanMismatchError: `plan` does not fit the model.
        CopyError: the model cannot be copied.

    Warns:
        HairWarning: less than half of the parameters after the split are converted.
    """
    check_names(options, further=("plan", "inplace"))
    if plan is not None and not isinstance(plan, Plan):
        raise OptionError(f"`plan` is {plan!r}; accepted is a Plan.")
    model = network_of(model)
    if plan is None:
        plan = make_plan(model, **options)
    else:
        _check_plan_alone(options)
        check_generator(options.get("generator"))
        if (dac := options.get("dac")) is not None:
            plan = plan.with_dac(dac)
    generator = options.get("generator")
    with torch.inference_mode(False):  # the result can be trained wherever it was made
        hair = assemble(model, plan, cpu_generator(generator), inplace=inplace)
    if plan.warning:
        warnings.warn(plan.warning, HairWarning, stacklevel=2)
    return hair


def assemble(
    model: nn.Module, plan: Plan, generator: torch.Generator, *, inplace: bool, blank: bool = False
) -> HairModel:
    """Carry out a plan. Nothing of `model` is touched before all parts are made.

    Args:
        model: see `hairify`.
        plan: see `hairify`.
        generator: a CPU generator.
        inplace: see `hairify`.
        blank: leave the rows of the boxes uninitialised, to be loaded.
    """
    if isinstance(model, HairModel):
        raise AlreadyConvertedError("The model is a HairModel already. Give the original model.")
    plan.check(model)
    first = plan.levels[0]
    like = next(model.get_submodule(full_name(first.blocks[0], first.layers[0])).parameters())
    with seeded(generator):
        dac = plan.make_dac()
        if (measured := measure_dac(dac, plan.feature.shape)) != plan.giv_dim:
            raise DACError(
                f"The plan expects a DAC that returns {plan.giv_dim} numbers per image; this one returns {measured}."
            )
        nets = [
            HyperSelectingNet(plan.giv_dim, len(v.blocks), v.box_size, plan.hsn_widths, plan.hsn_limit)
            for v in plan.levels
        ]
        standardization = GIVStandardization(plan.giv_dim)
    hsn = nn.ModuleList(nets)
    device = None if like.is_meta else like.device  # these have values of their own, whatever the network lacks
    nn.ModuleList([dac, standardization, hsn]).to(device=device, dtype=like.dtype)
    boxes = nn.ModuleList(
        _make_box(model, level, net, plan.init, generator, blank) for level, net in zip(plan.levels, nets, strict=True)
    )
    for part in (dac, standardization, hsn, boxes):
        part.train(model.training)
    base = model if inplace else copy_model(model)
    context = ForwardContext(plan.split, plan.feature)
    for index, level in enumerate(plan.levels):
        for layer in level.layers:
            for block, name in enumerate(level.layer_names(layer)):
                target = base.get_submodule(name)
                bias = target.bias is not None
                make_hyper(target, WeightAddress(context, index, block, layer, bias, level.name, level.box_size))
    context.attach(base)
    size = sum(p.numel() for p in nn.ModuleList([base, dac, hsn, boxes]).parameters())
    return HairModel(base, dac, standardization, hsn, boxes, carried_out(plan, dac, size), context)


def _make_box(
    model: nn.Module, level: Level, hsn: HyperSelectingNet, init: str, generator: torch.Generator, blank: bool
) -> WeightBox:
    """The Weight Box of one level, and the HSN's start that goes with it."""
    preserve = init == "preserve"
    draw = None if blank else generator
    selecting = None
    if draw is not None and level.rank is None and len(level.blocks) > 1:
        selecting = start_at(hsn, peaked_vectors(len(level.blocks), level.box_size))
    elif draw is not None:
        start_apart(hsn, draw)
    rows = {}
    for layer in level.layers:
        layers = [model.get_submodule(name) for name in level.layer_names(layer)]
        if level.rank is None:
            rows[layer] = make_rows(layers, level.box_size, preserve, selecting, draw)
        else:
            rows[layer] = make_low_rank(layers, level.box_size, level.rank, preserve, draw, shared=level.shared)
    return WeightBox(rows) if level.rank is None else LowRankBox(rows)


def _check_plan_alone(options: Options) -> None:
    decided = [name for name in given(options) if name not in ("dac", "generator")]
    if decided:
        raise OptionError(
            f"`plan` is given together with {', '.join(f'`{name}`' for name in decided)}, which the plan decides "
            "already. Make a new plan with these options, or leave them out."
        )
