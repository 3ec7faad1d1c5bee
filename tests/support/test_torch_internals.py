"""What hairify uses of PyTorch and is not documented there: each does what its name says, or says that it is gone."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from hairify import HairModel
from hairify._support import torch_internals as internals
from hairify.errors import TorchVersionError
from hairify.nn import WeightBox
from hairify.nn._layers import _SETTINGS, settings, why_not

PACKAGE = Path(internals.__file__).parents[1]


def test_nothing_undocumented_is_used_elsewhere() -> None:
    """`self._x` is a class's own; names behind `torch.`, `nn.` or `pytree` with an underscore are PyTorch's."""
    private = re.compile(
        r"(?<![\w.])(?:torch|nn|F)(?:\.\w+)*\._[a-zA-Z]|fx\.experimental|import _pytree|__constants__"
        r"|(?<!self)\._(?:version|parameters|buffers|modules|forward_hooks|forward_pre_hooks|orig_mod|conv_forward"
        r"|output_padding|reversed_padding\w*|tracer_cls|current_level)\b"
    )
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "torch_internals.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if private.search(line)
    ]
    assert not found


def test_every_entry_is_tested_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    names = [
        name
        for name, value in vars(internals).items()
        if not name.startswith("_")
        and (getattr(value, "__module__", None) == internals.__name__ or name.isupper() or name.startswith("tree_"))
    ]
    assert len(names) > 20
    assert not [name for name in names if not re.search(rf"internals\.{name}\b", here)]


@pytest.mark.parametrize("number", range(len(internals._NEEDED)))
def test_what_is_gone_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = internals._NEEDED[number]
    monkeypatch.setattr(internals, "_NEEDED", (*internals._NEEDED[:number], (owner, f"{name}_of_old")))
    with pytest.raises(TorchVersionError, match=rf"has no `{name}_of_old`.*Install"):
        internals.check_torch()


@pytest.mark.parametrize(("overriding", "name"), [(HairModel, "_replicate_for_data_parallel"), (WeightBox, "_apply")])
def test_methods_that_are_overridden_are_still_pytorchs(overriding: type[nn.Module], name: str) -> None:
    assert getattr(overriding, name) is not getattr(nn.Module, name)


def test_nested_values_are_taken_apart_and_put_together() -> None:
    value = {"a": [1, (2, 3)], "b": OrderedDict(c=None, d="x")}
    leaves, structure = internals.tree_flatten(value)
    assert leaves == internals.tree_leaves(value) == [1, 2, 3, None, "x"]
    assert internals.tree_unflatten(leaves, structure) == value
    assert internals.tree_map(str, [1, (2,)]) == ["1", ("2",)]
    assert internals.tree_map_only(int, lambda n: n + 1, ["a", 1]) == ["a", 2]


def test_operations_that_draw_are_told_and_given_a_generator() -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    class Watching(internals.DispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if internals.draws(func):
                taking = internals.with_generator(func)
                assert "generator" in [a.name for a in taking._schema.arguments]
                seen.append((str(taking), internals.named_arguments(func, args, kwargs or {})))
            return func(*args, **kwargs or {})

    with Watching():
        F.dropout(torch.ones(3) + 1, 0.25)
        torch.randint(2, 9, (3,))
    (dropped, given), (integers, between) = seen
    assert (dropped, given["p"]) == ("aten.bernoulli_.float", 0.75)
    assert (integers, between["low"], between["high"]) == ("aten.randint.low_generator", 2, 9)
    assert internals.with_generator(torch.ops.aten.native_dropout.default) is None


def test_what_is_traced_knows_it() -> None:
    known: list[bool] = []

    def run(x: Tensor) -> Tensor:
        known.append(internals.is_traced())
        return x + 1

    x = torch.ones(3)
    run(x)
    torch.jit.trace(run, x, check_trace=False)
    torch.export.export(Applied(run), (x,), strict=False)
    assert known == [False, True, False]
    torch.compile(run, backend="eager", fullgraph=True)(x)


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_versions_count_writes() -> None:
    x = torch.zeros(3)
    before = internals.version(x)
    x.add_(1)
    assert internals.version(x) == before + 1
    with torch.inference_mode():
        assert internals.version(torch.zeros(3)) == 0


def test_the_backward_pass_has_a_number_of_its_own() -> None:
    seen: list[int] = []

    class Seeing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            seen.append(internals.backward_pass())
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            seen.append(internals.backward_pass())
            return grad

    for _ in range(2):
        Seeing.apply(torch.ones(1, requires_grad=True)).backward()
    outside, first, again, second = seen
    assert outside == again == -1
    assert len({-1, first, second}) == 3


def test_function_transforms_and_forward_mode_are_seen() -> None:
    seen: list[bool] = []

    def function(x: Tensor) -> Tensor:
        seen.append(internals.in_function_transform())
        return x.sin()

    function(torch.zeros(2))
    torch.func.vmap(function)(torch.zeros(2))
    torch.func.grad(lambda x: function(x).sum())(torch.zeros(2))
    assert seen == [False, True, True]
    assert not internals.in_forward_mode()
    with torch.autograd.forward_ad.dual_level():
        assert internals.in_forward_mode()


def test_torch_function_modes_see_nothing_within() -> None:
    calls: list[object] = []

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(func)
            return func(*args, **(kwargs or {}))

    with Counting():
        torch.zeros(2).sin()
        before = len(calls)
        with internals.without_torch_function():
            torch.zeros(2).sin()
    assert before > 0
    assert len(calls) == before


def test_sizes_that_a_compiler_leaves_open_are_told_from_fixed_ones() -> None:
    seen: list[bool] = []

    class Sees(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if internals.has_one_value(x.shape[0]) else x * 3

    x = torch.ones(4, 3)
    fixed = 2 if torch.__version__ >= "2.8" else 3  # before, every size counts as open
    for dynamic, factor in ((None, fixed), ({0: torch.export.Dim("b", min=2)}, 3)):
        program = torch.export.export(Sees(), (x,), dynamic_shapes=None if dynamic is None else (dynamic,), strict=True)
        seen.append(torch.equal(program.module()(x), factor * x))
    assert seen == [True, True]


def test_what_a_module_holds() -> None:
    module = nn.BatchNorm2d(3, affine=False)
    module.child = nn.ReLU()
    module.none = None
    module.register_module("absent", None)
    assert list(internals.own_parameters(module)) == ["weight", "bias"]
    assert list(internals.own_buffers(module)) == ["running_mean", "running_var", "num_batches_tracked"]
    assert internals.own_modules(module) == {"child": module.child, "absent": None}
    internals.own_modules(module)["other"] = nn.Identity()
    assert isinstance(module.other, nn.Identity)
    internals.own_parameters(module)["weight"] = nn.Parameter(torch.ones(3))
    assert module.state_dict()["weight"].sum() == 3


def test_a_blank_twin_shares_all_that_a_module_holds() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    made = internals.blank_twin(module)
    assert type(made) is nn.Sequential
    assert made is not module
    assert all(made.__dict__[name] is value for name, value in vars(module).items())
    made.training = False
    assert module.training
    module.compile(backend="eager")
    assert "_compiled_call_impl" in vars(module)
    assert torch.equal(internals.blank_twin(module.eval())(torch.ones(1, 2)), module(torch.ones(1, 2)))
    assert "_compiled_call_impl" not in vars(internals.blank_twin(module))


def test_without_a_compiler() -> None:
    graphs = []
    compiled = torch.compile(torch.exp, backend=lambda module, _: graphs.append(module) or module.forward)
    with internals.without_compiler():
        compiled(torch.ones(2))
    assert not graphs
    compiled(torch.ones(2))
    assert graphs


def test_what_pytorch_keeps_in_every_module() -> None:
    assert all(internals.is_of_every_module(name) for name in ("_parameters", "_buffers", "_modules", "_forward_hooks"))
    assert not internals.is_of_every_module("weight")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_calls_are_told_apart(reentrant: bool) -> None:
    seen: list[int | None] = []

    def function(x: Tensor) -> Tensor:
        seen.append(internals.checkpointed_call())
        assert internals.checkpointed_call() == seen[-1]
        return x.exp()

    x = torch.ones(2, requires_grad=True)
    assert internals.checkpointed_call() is None
    nested = checkpoint(
        lambda x: checkpoint(function, function(x), use_reentrant=reentrant), x, use_reentrant=reentrant
    )
    assert None not in seen
    assert len(set(seen)) == 2
    nested.sum().backward()
    assert None not in seen
    assert len(seen) > 2
    assert internals.checkpointed_call() is None


def test_hooks_in_the_order_in_which_they_run() -> None:
    module, order = nn.ReLU(), []
    handles = [module.register_forward_hook(lambda *_, n=n: order.append(n)) for n in (1, 2)]
    module.register_forward_pre_hook(lambda *_: order.append(0))
    module(torch.zeros(1))
    assert order == [0, 1, 2]
    assert list(internals.forward_hooks(module)) == [handle.id for handle in handles]
    assert len(internals.forward_pre_hooks(module)) == 1
    del internals.forward_hooks(module)[handles[0].id]
    module(torch.zeros(1))
    assert order == [0, 1, 2, 0, 2]


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_of_a_module_are_seen(register: str) -> None:
    module = nn.Identity()
    assert not internals.is_hooked(module)
    handle = getattr(module, register)(lambda *_: None)
    assert internals.is_hooked(module)
    handle.remove()
    assert not internals.is_hooked(module)


def test_base_classes_hold_all_kinds() -> None:
    convolutions = [getattr(nn, f"{kind}{n}d") for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)]
    assert all(issubclass(cls, internals.CONVOLUTION) for cls in convolutions)
    norms = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
    assert all(issubclass(cls, internals.BATCH_NORM) for cls in norms)
    assert not issubclass(nn.Linear, internals.CONVOLUTION)
    assert not issubclass(nn.InstanceNorm2d, internals.BATCH_NORM)


def test_what_was_compiled_is_found() -> None:
    module = nn.Linear(2, 2)
    assert internals.compiled_from(torch.compile(module, backend="eager")) is module
    assert internals.compiled_from(module) is None
    assert internals.compiled_from(nn.Sequential(module)) is None


def test_the_settings_of_layers_are_those_that_pytorch_lists() -> None:
    for plain, names in _SETTINGS.items():
        assert set(names) <= set(vars(plain(2, 2, 1) if plain is not nn.Linear else plain(2, 2))), plain
        listed = set(plain.__constants__)
        assert set(names) == listed, plain


@pytest.mark.parametrize("plain", internals.INNER_METHODS)
def test_a_subclass_that_overrides_what_forward_calls_is_not_converted(plain: type[nn.Module]) -> None:
    name = internals.inner_method(plain)
    assert name is not None
    assert f"self.{name}(" in inspect.getsource(plain.forward)
    other = type("Other", (plain,), {name: lambda self, *args: None})
    assert why_not(plain(2, 2, 1)) is None
    assert f"overrides {name}" in str(why_not(other(2, 2, 1)))


def test_a_method_that_is_gone_is_an_error_not_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (nn.Conv2d, internals.CONVOLUTION):
        monkeypatch.delattr(cls, "_conv_forward")
    with pytest.raises(TorchVersionError, match=r"`Conv2d` has no `_conv_forward`.*Install"):
        why_not(nn.Conv2d(2, 2, 1))
    assert internals.inner_method(nn.Linear) is None


def test_output_padding_is_that_of_the_layer() -> None:
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, bias=False), torch.randn(1, 2, 5, 6)
    size = [10, 11]
    found = internals.output_padding_for(x, size, layer.stride, layer.padding, layer.kernel_size, layer.dilation)
    expected = layer(x, output_size=size)
    assert list(expected.shape[2:]) == size
    assert torch.equal(F.conv_transpose2d(x, layer.weight, None, 2, 1, found), expected)


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": (2, 1)}, {"padding": "same", "kernel_size": 4}])
def test_amounts_of_padding_are_those_of_the_layer(options: dict[str, object]) -> None:
    layer = nn.Conv2d(2, 3, **{"kernel_size": 3, "padding_mode": "reflect", "bias": False} | options)  # type: ignore[arg-type]
    x = torch.randn(1, 2, 8, 9)
    padded = F.pad(x, internals.amounts_of_padding(layer), mode="reflect")
    assert torch.equal(F.conv2d(padded, layer.weight), layer(x))
    del layer._reversed_padding_repeated_twice
    with pytest.raises(TorchVersionError, match="_reversed_padding_repeated_twice"):
        internals.amounts_of_padding(layer)


def test_settings_tell_layers_apart() -> None:
    assert settings(nn.Conv2d(2, 2, 3)) == settings(nn.Conv2d(2, 2, 3))
    assert settings(nn.Conv2d(2, 2, 3)) != settings(nn.Conv2d(2, 2, 3, padding=1))
    assert settings(nn.Conv2d(2, 2, 3)) != settings(nn.Conv2d(2, 2, 3, padding_mode="reflect"))


class Constant(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]  # annotations that are strings cannot be pickled
        return x + torch.tensor([1.0, 2.0])


def test_graphs_are_pickled_with_their_tracer_and_constants() -> None:
    module = Constant()
    graph = torch.fx.Tracer().trace(module)
    constants = internals.traced_constants(module)
    assert [value.tolist() for value in constants.values()] == [[1.0, 2.0]]
    assert not internals.traced_constants(Constant())
    root = nn.Module()
    vars(root).update(copy.deepcopy(constants))
    internals.set_tracer(graph, Tracer)
    made = torch.fx.GraphModule(root, graph)
    assert made._tracer_cls is Tracer
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again(torch.zeros(2)), module(torch.zeros(2)))


class Tracer(torch.fx.Tracer):
    pass


def test_an_error_of_the_compiler_is_told_from_one_of_what_it_compiles() -> None:
    def branching(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    def failing(x: Tensor) -> Tensor:
        return x @ x.new_zeros(7, 7)

    with pytest.raises(Exception, match=r"(?i)data.dependent|control flow") as unsupported:
        torch.compile(branching, backend="eager", fullgraph=True)(torch.ones(2))
    assert internals.is_of_the_compiler(unsupported.value)
    with pytest.raises(RuntimeError) as ordinary:
        failing(torch.ones(2, 2))
    assert not internals.is_of_the_compiler(ordinary.value)
