"""A page on which photographs are dropped and restored: `hairify serve`."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.serving._darkroom import Darkroom
    from hairify.serving._page import page, serve
    from hairify.serving._settings import ServingSettings
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {"_darkroom": ("Darkroom",), "_page": ("page", "serve"), "_settings": ("ServingSettings",)},
    )

__all__ = ["Darkroom", "ServingSettings", "page", "serve"]
