"""A GIV that is given belongs to the code that gave it, whatever else runs meanwhile, and ends with its block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from networks import Chain
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, hairify
from hairify.errors import GIVError

X = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)).double()


class Trial:
    """A model, and what it computes when it is or is not conditioned: by networks that know no GIV."""

    def __init__(self) -> None:
        network = Chain(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))).double().eval()
        self.hair: HairModel = perturb(hairify(network, split_at="split"))
        shape = 1, self.hair.plan.giv_dim
        self.givs = dict(
            zip("abc", torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).double(), strict=True)
        )
        baked = {name: self.hair.bake(giv=giv) for name, giv in self.givs.items()}
        with torch.no_grad():
            self.expected = {name: static(X) for name, static in baked.items()}
            self.expected["-"] = torch.cat([self.hair.bake(image[None])(image[None]) for image in X])
        for one in self.expected:
            for other in set(self.expected) - {one}:
                assert_differs(self.expected[one], self.expected[other], 1e-6)

    def given(self, name: str) -> Any:
        return self.hair.conditioned_on(self.givs[name])

    def sees(self, name: str, run: Callable[[Tensor], Tensor] | None = None) -> None:
        """Make sure that forwards use the GIV of this name; "-": that of the images."""
        with torch.no_grad():
            assert_close((self.hair if run is None else run)(X), self.expected[name], 1e-10)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial()


@pytest.fixture(autouse=True)
def nothing_is_left(trial: Trial) -> Iterator[None]:
    yield
    trial.sees("-")


@pytest.fixture(scope="module")
def compiled(trial: Trial) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    return torch.compile(trial.hair, backend="eager", fullgraph=True, dynamic=False)


async def alternate(*steps: Coroutine[Any, Any, None]) -> None:
    await asyncio.gather(*steps)


@pytest.mark.parametrize("waits", [(1, 2, 3), (3, 2, 1), (2, 1, 2)])
def test_tasks_have_givs_of_their_own(trial: Trial, waits: tuple[int, ...]) -> None:
    async def serve(name: str, waits: int) -> None:
        trial.sees("-")
        with trial.given(name):
            for _ in range(waits):
                await asyncio.sleep(0)
                trial.sees(name)
        await asyncio.sleep(0)
        trial.sees("-")

    async def unconditioned() -> None:
        for _ in range(4):
            await asyncio.sleep(0)
            trial.sees("-")

    asyncio.run(alternate(unconditioned(), *map(serve, "abc", waits)))


def test_a_cancelled_task_leaves_nothing(trial: Trial) -> None:
    async def wait_for_ever() -> None:
        with trial.given("a"):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)
        trial.sees("-")
        task.cancel()
        with trial.given("b"):
            with contextlib.suppress(asyncio.CancelledError):
                await task
            trial.sees("b")
        trial.sees("-")

    asyncio.run(main())


def test_what_a_block_starts_sees_its_giv_until_the_block_ends(trial: Trial) -> None:
    ended = threading.Event()

    def later() -> None:
        trial.sees("a")
        assert ended.wait(timeout=60)
        trial.sees("-")

    async def task() -> None:
        trial.sees("a")
        while not ended.is_set():
            await asyncio.sleep(0)
        trial.sees("-")
        with trial.given("b"):
            trial.sees("b")
        trial.sees("-")

    async def main() -> None:
        with trial.given("a"):
            await asyncio.to_thread(trial.sees, "a")
            running = [asyncio.create_task(task()), asyncio.create_task(asyncio.to_thread(later))]
            await asyncio.sleep(0.05)
        ended.set()
        await asyncio.gather(*running)

    asyncio.run(main())


def test_contexts_and_threads(trial: Trial) -> None:
    before = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool, trial.given("a"):
        within = contextvars.copy_context()
        before.run(trial.sees, "-")
        within.run(trial.sees, "a")
        pool.submit(trial.sees, "-").result()
        pool.submit(within.run, trial.sees, "a").result()
        within.run(trial.given("b").__enter__)
        within.run(trial.sees, "b")
        trial.sees("a")
    within.run(trial.sees, "b")  # its block, in a context of its own, was never left
    before.run(trial.sees, "-")


def test_blocks_that_end_out_of_order(trial: Trial) -> None:
    blocks = {name: trial.given(name) for name in "abc"}
    for block in blocks.values():
        block.__enter__()
    for ended, seen in (("b", "c"), ("c", "a"), ("a", "-")):
        blocks[ended].__exit__(None, None, None)
        trial.sees(seen)


def test_blocks_that_end_in_another_context(trial: Trial) -> None:
    first, second = trial.given("a"), trial.given("b")
    first.__enter__()
    contextvars.copy_context().run(first.__exit__, None, None, None)
    trial.sees("-")
    second.__enter__()
    thread = threading.Thread(target=second.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    trial.sees("-")


def test_nested_blocks_and_stacks(trial: Trial) -> None:
    with trial.given("a"), contextlib.suppress(KeyError):
        with contextlib.ExitStack() as stack:
            stack.enter_context(trial.given("b"))
            trial.sees("b")
            kept = stack.pop_all()
        trial.sees("b")
        with kept, trial.given("c"):
            trial.sees("c")
            raise KeyError
    trial.sees("-")


class Block:
    """Somebody's own context manager around `conditioned_on`."""

    def __init__(self, trial: Trial, name: str) -> None:
        self._block = trial.given(name)

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(*error)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)


@contextlib.contextmanager
def made_by_contextlib(trial: Trial, name: str) -> Iterator[None]:
    with trial.given(name):
        yield


@contextlib.asynccontextmanager
async def made_by_contextlib_for_async(trial: Trial, name: str) -> AsyncIterator[None]:
    with made_by_contextlib(trial, name):
        yield


@contextlib.contextmanager
def on_a_stack(trial: Trial, name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(trial.given(name))
        yield


MANAGERS: list[Callable[[Trial, str], Any]] = [Trial.given, Block, made_by_contextlib, on_a_stack]


@pytest.mark.parametrize("manager", MANAGERS)
def test_context_managers_made_of_it_condition_their_block(trial: Trial, manager: Callable[[Trial, str], Any]) -> None:
    with manager(trial, "a"):
        trial.sees("a")
        with manager(trial, "b"):
            trial.sees("b")
        trial.sees("a")


def test_asynchronous_context_managers_made_of_it(trial: Trial) -> None:
    async def serve(name: str, manager: Callable[[Trial, str], Any]) -> None:
        async with manager(trial, name):
            await asyncio.sleep(0)
            trial.sees(name)
        trial.sees("-")

    asyncio.run(alternate(serve("a", made_by_contextlib_for_async), serve("b", Block)))


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_generator_keeps_its_giv_to_itself(trial: Trial, manager: Callable[[Trial, str], Any]) -> None:
    def restored(name: str, inner: Iterator[None]) -> Iterator[None]:
        with manager(trial, name):
            while True:
                yield trial.sees(name)
                next(inner)
                trial.sees(name)
                with trial.given("c"):
                    trial.sees("c")
                    next(inner)
                    trial.sees("c")

    def within() -> Iterator[None]:
        with trial.given("b"):
            while True:
                yield trial.sees("b")

    inner = within()
    next(inner)
    one = restored("a", inner)
    next(one)
    trial.sees("-")
    with trial.given("b"):
        next(one)
        trial.sees("b")
        two = restored("c", inner)
        next(two)
        trial.sees("b")
        next(two)
    next(two)
    one.close()
    trial.sees("-")
    two.close()


def test_a_generator_that_yields_outside_its_block(trial: Trial) -> None:
    def restored(names: str) -> Iterator[None]:
        for name in names:
            with trial.given(name):
                trial.sees(name)
            yield

    for _ in zip(restored("ab"), restored("bc"), strict=True):
        trial.sees("-")


def test_a_generator_closed_by_garbage_collection(trial: Trial) -> None:
    def restored(name: str) -> Iterator[None]:
        me = [generator_of[name]]  # a cycle
        with trial.given(name):
            yield
        del me

    generator_of: dict[str, Any] = {}
    for name in "ab":
        generator_of[name] = restored(name)
        next(generator_of[name])
    trial.sees("-")
    gone = [weakref.ref(generator) for generator in generator_of.values()]
    with trial.given("c"):
        generator_of.clear()
        gc.collect()
        trial.sees("c")
    assert [reference() for reference in gone] == [None, None]


def test_asynchronous_generators_are_refused(trial: Trial) -> None:
    """Whether one waits, for tasks that it started, or has yielded to its consumer cannot be told."""

    async def restored(manager: Callable[[Trial, str], Any]) -> AsyncIterator[None]:
        with manager(trial, "a"):
            yield

    def restore() -> None:
        with trial.given("a"):
            trial.sees("a")

    async def by_a_function() -> AsyncIterator[None]:
        for _ in range(2):
            yield restore()

    async def consume() -> None:
        for manager in MANAGERS:
            with pytest.raises(GIVError, match=r"asynchronous generator 'restored' \(.*test_given.py:\d+\)"):
                await anext(restored(manager))
            trial.sees("-")
        async for _ in by_a_function():
            trial.sees("-")

    asyncio.run(consume())


def test_a_decorated_function(trial: Trial) -> None:
    @trial.given("a")
    def restore(times: int) -> None:
        trial.sees("a")
        if times:
            restore(times - 1)
        trial.sees("a")

    restore(2)
    trial.sees("-")


def test_a_block_is_entered_once(trial: Trial) -> None:
    block = trial.given("a")
    with block, pytest.raises(GIVError, match="entered before"), block:
        pass
    with pytest.raises(GIVError, match="entered before"), block:
        pass


def test_models_have_givs_of_their_own(trial: Trial) -> None:
    other = Trial()
    with trial.given("a"), other.given("b"):
        trial.sees("a")
        other.sees("b")
        with trial.given("c"):
            trial.sees("c")
            other.sees("b")
    other.sees("-")


def test_what_was_made_for_a_giv_goes_with_its_block(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Tensor]] = []
    box = trial.hair.boxes[0]
    original = type(box).weights_of_blocks

    def noted(*args: Any, **kwargs: Any) -> Any:
        blocks = original(*args, **kwargs)
        made.extend(weakref.ref(weight) for block in blocks for weight, _ in block.shared.values())
        return blocks

    monkeypatch.setattr(type(box), "weights_of_blocks", noted)
    with trial.given("a"):
        trial.sees("a")
        kept = contextvars.copy_context()
        assert any(reference() is not None for reference in made)
    assert all(reference() is None for reference in made)
    kept.run(trial.sees, "-")


def test_compiled_programs_see_what_is_given_here(trial: Trial, compiled: Callable[[Tensor], Tensor]) -> None:
    """Programs made before are used again: what they looked up is checked before each run."""
    other = Trial()
    for _ in range(2):
        trial.sees("-", compiled)
        for name in "ab":
            with trial.given(name):
                trial.sees(name, compiled)
        with other.given("b"):
            trial.sees("-", compiled)
            with trial.given("a"):
                trial.sees("a", compiled)
        with trial.given("c"), other.given("b"):
            trial.sees("c", compiled)
    blocks = [trial.given(name) for name in "ab"]
    for block in blocks:
        block.__enter__()
    for block, seen in zip(blocks, "b-", strict=True):
        block.__exit__(None, None, None)
        trial.sees(seen, compiled)


def test_compiled_programs_in_tasks_and_threads(trial: Trial, compiled: Callable[[Tensor], Tensor]) -> None:
    async def serve(name: str) -> None:
        with trial.given(name):
            await asyncio.sleep(0)
            trial.sees(name, compiled)
            await asyncio.sleep(0)
            await asyncio.to_thread(trial.sees, name, compiled)
        trial.sees("-", compiled)

    asyncio.run(alternate(*map(serve, "abc")))
    with trial.given("a"), ThreadPoolExecutor(1) as pool:
        pool.submit(trial.sees, "-", compiled).result()


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.9", reason="its compiler looks at no frame, and runs this eagerly")
@torch._dynamo.config.patch(cache_size_limit=32)  # a program for each nesting of blocks that is met
def test_compiled_programs_in_generators(trial: Trial, compiled: Callable[[Tensor], Tensor]) -> None:
    def restored(name: str) -> Iterator[None]:
        with trial.given(name):
            while True:
                yield trial.sees(name, compiled)

    for _ in range(2):
        generators = [restored(name) for name in "ab"]
        for generator in generators * 2:
            next(generator)
            trial.sees("-", compiled)
            with trial.given("c"):
                trial.sees("c", compiled)
                next(generator)
    consumed = restored("a")
    next(consumed)

    def consumer() -> Iterator[None]:
        with trial.given("b"):
            yield next(consumed)

    with pytest.raises(torch._dynamo.exc.Unsupported, match="consumed by another"):  # not `fullgraph`, it runs eagerly
        next(consumer())


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_programs_that_give_a_giv_themselves(trial: Trial, strict: bool) -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hair = trial.hair

        def forward(self, x: Tensor, giv: Tensor) -> tuple[Tensor, Tensor]:
            with self.hair.conditioned_on(giv):
                return self.hair(x), self.hair(x * 2)

    with trial.given("b"), torch.no_grad():
        program = torch.export.export(Swapped(), (X, trial.givs["a"]), strict=strict).module()
        trial.sees("b")
        for name in "ac":
            trial.sees(name, lambda x, name=name: program(x, trial.givs[name])[0])
    with torch.no_grad():
        run = torch.compile(Swapped(), backend="eager", fullgraph=True)
        for name in "ac":
            trial.sees(name, lambda x, name=name: run(x, trial.givs[name])[0])
