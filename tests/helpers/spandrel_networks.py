"""Every architecture that the package spandrel ships, in small, and where an expert would split it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from laws import MakeInputs, Size, Specimen, images
from torch import Tensor, nn

INSTALLED = importlib.util.find_spec("spandrel") is not None

# Half of the size that hairify tries first: what runs at full resolution is then four times as fast.
HALF = ((32, 48), (40, 24))
WHOLE = ((64, 96), (56, 40))


@dataclass(frozen=True)
class ZooNetwork:
    """A network of spandrel.

    Attributes:
        architecture: spandrel's name of it.
        specimen: the network; no options, for that is the promise.
        expert_split: names of the modules that a person who knows the network would take for its middle, the best
            first. U-nets: what leads into the lowest resolution. Constant resolution: the end of the first half of
            the repeated blocks.
        why: where the automatic split is another one, whether that is as good.
        refused: why it cannot be converted at all; a part of the message.
        held: what an examination needs held still around it: noise, or float32 inside.
        only_float32: a size that it takes in no other precision.
    """

    architecture: str
    specimen: Specimen
    expert_split: tuple[str, ...]
    why: str = ""
    refused: str = ""
    held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    only_float32: Size | None = None


@functools.cache
def declare_operators() -> None:
    """Let torchvision be imported without its compiled operators, as where its build does not match torch's.

    It describes two of them to the compiler unasked, which fails where they do not exist. No network runs them.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


def public(architecture: str, name: str = "") -> Callable[..., nn.Module]:
    """`from spandrel.architectures.ARCHITECTURE import NAME`."""
    declare_operators()
    return getattr(importlib.import_module(f"spandrel.architectures.{architecture}"), name or architecture)


def network(
    architecture: str,
    *expert_split: str,
    name: str = "",
    build: Callable[[], nn.Module] | None = None,
    inputs: MakeInputs | None = None,
    sizes: tuple[Size, Size] = WHOLE,
    why: str = "",
    refused: str = "",
    held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    only_float32: Size | None = None,
    **options: Any,
) -> ZooNetwork:
    """A network with the options given, of the class that has the architecture's name unless `name` says another."""

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, of empty layers and of torch.meshgrid
            return public(architecture, name)(**options)

    specimen = Specimen(build or make, inputs or images(), sizes)
    return ZooNetwork(architecture, specimen, expert_split, why, refused, held, only_float32)


def lama() -> nn.Module:
    """LaMa takes no sizes; its generator does."""
    with torch.device("meta"):
        model = public("LaMa")(in_nc=4)
    model.model = type(model.model)(4, 3, ngf=8, n_blocks=4)
    return model


def image_and_mask(batch: int, size: Size) -> tuple[Tensor, Tensor]:
    return images()(batch, size), images(1)(batch, size).round()


def without_noise(batch: int, size: Size) -> dict[str, Any]:
    """GFPGAN draws noise unless told not to; then a batch differs from its images alone, converted or not."""
    return {"x": images()(batch, size), "randomize_noise": False}


@contextlib.contextmanager
def float64_throughout() -> Iterator[None]:
    """`x.float()` and what is made without a dtype are float64, too: the laws hold to 1e-10, float32 does not."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def same_noise() -> Iterator[None]:
    """AuraSR draws noise; here every image gets the same at every call, or a batch would differ from its images."""

    def randn(shape: torch.Size | tuple[int, ...], **options: Any) -> Tensor:
        row = torch.Size(shape[1:])
        return torch.linspace(1, 9, row.numel(), **options).sin().reshape(row).expand(shape)

    def randn_like(x: Tensor) -> Tensor:
        return randn(x.shape, dtype=x.dtype)

    cls = public("AuraSR")
    forward = cls.forward

    @functools.wraps(forward)
    def still(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with mock.patch.multiple(torch, randn=randn, randn_like=randn_like):
            return forward(self, *args, **kwargs)

    with float64_throughout(), mock.patch.object(cls, "forward", still):
        yield


def fixed(height: int, width: int) -> tuple[Size, Size]:
    """For networks that take one size only, or one only in float64."""
    return (height, width), (height, width)


FOUR = {"depths": (2, 2, 2, 2), "num_heads": (2, 2, 2, 2)}
SR = {"upscale": 2, "upsampler": "pixelshuffledirect"}
AURA = {
    "dim": 8,
    "image_size": None,
    "input_image_size": None,
    "style_network": {"dim_in": 8, "dim_out": 8, "depth": 2},
    "up_dim_mults": (1, 2, 4),
    "down_dim_mults": (2, 4),
    "full_attn": (False, False, True),
    "attn_depths": (1, 1, 1),
    "resnet_block_groups": 4,
    "self_attn_dim_head": 8,
    "self_attn_heads": 2,
    "mid_attn_depth": 1,
    "num_conv_kernels": 2,
}
RESTORE_FORMER = {
    "n_embed": 32,
    "embed_dim": 16,
    "ch": 32,
    "ch_mult": (1, 1, 2, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (8,),
    "resolution": 64,
    "z_channels": 16,
    "head_size": 2,
}
MM = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 4, "num_grow_ch": 8, "num_feats": [8, 16, 16, 32]}
GRL = {"depths": [2] * 4, "num_heads_window": [2] * 4, "num_heads_stripe": [2] * 4, "stripe_size": [8, 8]}
KB_S = {"middle_blk_num": 2, "enc_blk_nums": [1, 1, 1, 2], "dec_blk_nums": [2, 1, 1, 1]}
NAF = {"middle_blk_num": 2, "enc_blk_nums": [2, 2, 2, 2], "dec_blk_nums": [2, 2, 2, 2]}
UFORMER_HEADS = [1, 1, 2, 2, 4, 4, 2, 2, 1]

ZOO: dict[str, ZooNetwork] = {
    "ATD": network("ATD", "layers.1", sizes=HALF, embed_dim=24, category_size=32, num_tokens=8, **FOUR, **SR),
    "AuraSR": network("AuraSR", "downs.1.1.1", held=same_noise, **AURA),
    "CRAFT": network("CRAFT", "layers.1", sizes=HALF, embed_dim=24, depths=[2] * 4, num_heads=[2] * 4, upscale=2),
    "Compact": network("Compact", "body.7", "body.6", sizes=HALF, num_feat=16, num_conv=6, upscale=2),
    "DAT": network("DAT", "layers.1", sizes=HALF, embed_dim=16, split_size=[4, 8], depth=[2] * 4, upscale=2),
    "DCTLSA": network("DCTLSA", "B3", sizes=HALF, nf=20, upscale=2, num_head=2),
    "DITN": network("DITN", "UFONE.1", sizes=HALF, dim=16, ITL_blocks=2, SAL_blocks=2, UFONE_blocks=4, upscale=2),
    "DRCT": network(
        "DRCT", "layers.1", sizes=HALF, embed_dim=24, window_size=8, gc=8, upscale=2, upsampler="pixelshuffle", **FOUR
    ),
    "DRUNet": network("DRUNet", "m_down3", in_nc=3, out_nc=3, nc=[8, 16, 24, 32], nb=2),
    "DnCNN": network("DnCNN", "model.10", "model.8", sizes=HALF, in_nc=3, out_nc=3, nc=16, nb=8),
    "ESRGAN": network("ESRGAN", "model.1.sub.1", sizes=HALF, num_filters=16, num_blocks=4, scale=2),
    "FBCNN": network("FBCNN", "m_down3", nc=[8, 16, 24, 512], nb=2),
    "FDAT": network(
        "FDAT", "groups.1", sizes=HALF, embed_dim=24, num_groups=4, depth_per_group=2, num_heads=2, mid_dim=16, scale=2
    ),
    "FFTformer": network(
        "FFTformer",
        "down2_3",
        sizes=((64, 96), (64, 32)),
        held=float64_throughout,
        dim=8,
        num_blocks=[2, 2, 2],
        num_refinement_blocks=2,
        why="As good: the shrinking inside that block, before its convolution.",
    ),
    "GFPGAN": network(
        "GFPGAN",
        "conv_body_down.3",
        sizes=fixed(64, 64),
        inputs=without_noise,
        out_size=64,
        num_style_feat=32,
        channel_multiplier=1,
        num_mlp=2,
        narrow=0.0625,
        why="As good: the last convolution of that block, before its skip is added.",
    ),
    "GRL": network(
        "GRL",
        "layers.1",
        sizes=fixed(64, 96),
        only_float32=(56, 40),
        img_size=(64, 96),
        embed_dim=16,
        **GRL,
        **SR,
    ),
    "HAT": network("HAT", "layers.1", sizes=HALF, embed_dim=24, window_size=8, squeeze_factor=8, num_feat=16, **FOUR),
    "HVICIDNet": network(
        "HVICIDNet", "IE_block3", "HVE_block3", channels=[8, 8, 16, 32], why="As good: the same, before its PReLU."
    ),
    "IPT": network(
        "IPT",
        "head.0",
        sizes=fixed(48, 48),
        n_feats=8,
        num_heads=2,
        num_layers=4,
        why="A shortcoming of another kind: the transformer has its tokens sequence first and stays as it is.",
    ),
    "KBNet_l": network("KBNet", "down3_4", name="KBNet_l", dim=24, num_blocks=[1, 1, 1, 2], num_refinement_blocks=1),
    "KBNet_s": network("KBNet", "downs.3", name="KBNet_s", width=16, **KB_S),
    "LaMa": network(
        "LaMa",
        "model.model.4",
        build=lama,
        inputs=image_and_mask,
        why="As good: the first tensor which that block returns, before its norm.",
    ),
    "MMRealSR": network(
        "MMRealSR", "body.1", sizes=HALF, **MM, why="As good: the modulation that directly follows that block."
    ),
    "MixDehazeNet": network("MixDehazeNet", "patch_merge2", embed_dims=[8, 16, 32, 16, 8], depths=[2, 2, 2, 2, 2]),
    "MoESR": network("MoESR", "blocks.1", sizes=HALF, dim=16, n_blocks=4, n_block=2, scale=2),
    "MoSR": network("MoSR", "gblocks.3", sizes=HALF, dim=16, n_block=6, upscale=2),
    "NAFNet": network("NAFNet", "downs.3", width=8, **NAF),
    "OmniSR": network("OmniSR", "residual_layer.1", sizes=HALF, num_feat=16, res_num=4, up_scale=2),
    "PLKSR": network("PLKSR", "feats.3", sizes=HALF, dim=16, n_blocks=6, upscaling_factor=2),
    "RCAN": network("RCAN", "body.1", sizes=HALF, scale=2, n_resgroups=4, n_resblocks=2, n_feats=16, reduction=4),
    "RGT": network("RGT", "layers.1", sizes=HALF, embed_dim=16, depth=[2] * 4, upscale=2),
    "RealPLKSR": network("PLKSR", "feats.3", name="RealPLKSR", sizes=HALF, dim=16, n_blocks=6, upscaling_factor=2),
    "RestoreFormer": network("RestoreFormer", "encoder.down.2.downsample", **RESTORE_FORMER),
    "RetinexFormer": network(
        "RetinexFormer", "body.0.denoiser.encoder_layers.1.1", n_feat=8, stage=1, num_blocks=[1, 2, 2]
    ),
    "SAFMN": network("SAFMN", "feats.2", sizes=HALF, dim=16, n_blocks=6, upscaling_factor=2),
    "SAFMNBCIE": network("SAFMNBCIE", "feats.1", dim=16, n_blocks=4, num_layers=2, upscaling_factor=2),
    "SCUNet": network("SCUNet", "m_down3", config=[1] * 7, dim=64, input_resolution=64),
    "SPAN": network("SPAN", "block_3", sizes=HALF, num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "SeemoRe": network(
        "SeemoRe",
        "body.1",
        refused="batch of two",
        why="it takes one image at a time in evaluation mode, for which it picks its experts; hairify needs two.",
        num_experts=3,
        num_layers=4,
        embedding_dim=12,
        scale=2,
    ),
    "SwiftSRGAN": network("SwiftSRGAN", "residual.2", sizes=HALF, num_channels=16, num_blocks=6, upscale_factor=2),
    "Swin2SR": network("Swin2SR", "layers.1", sizes=HALF, embed_dim=16, window_size=8, **FOUR, **SR),
    "SwinIR": network("SwinIR", "layers.1", sizes=HALF, embed_dim=16, window_size=8, **FOUR, **SR),
    "Uformer": network(
        "Uformer",
        "dowsample_3",
        sizes=((128, 128), (256, 256)),
        img_size=128,
        embed_dim=8,
        depths=[1] * 9,
        num_heads=UFORMER_HEADS,
        why="As good: the same feature as a map, before it is made a sequence.",
    ),
    "UpCunet2x": network("RealCUGAN", "unet2.conv2_down", name="UpCunet2x", sizes=HALF),
    "UpCunet2x_fast": network("RealCUGAN", "unet2.conv2_down", name="UpCunet2x_fast"),
    "UpCunet3x": network(
        "RealCUGAN",
        "unet2.conv2_down",
        name="UpCunet3x",
        sizes=HALF,
        why="A shortcoming: a small first U-net does reach the lowest resolution, but F_g is shallow.",
    ),
    "UpCunet4x": network("RealCUGAN", "unet2.conv2_down", name="UpCunet4x", sizes=HALF),
}

# Architectures of spandrel's registry that are not examined, and why.
EXCLUDED: dict[str, str] = {}
