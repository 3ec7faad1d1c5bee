"""On CUDA streams of one's own, from several threads, and in CUDA graphs, a model computes what it computes else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gpu
import pytest
import torch
from torch import Tensor
from util import START, assert_close, assert_differs

from hairify import HairModel

pytestmark = gpu.only

TOLERANCE = START[torch.float64]
_CYCLES = 200_000_000  # a tenth of a second or so


@pytest.fixture(params=["nafnet", "all kinds"])
def hair(request: pytest.FixtureRequest) -> HairModel:
    return copy.deepcopy(gpu.converted(request.param)).cuda()


@pytest.fixture
def x() -> Tensor:
    return gpu.images().cuda()


def on(stream: torch.cuda.Stream, call: Callable[[], Tensor]) -> Tensor:
    """What a call gives on a stream that begins when all else is done."""
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        result = call()
    stream.synchronize()
    return result


def test_threads_with_streams_of_their_own(hair: HairModel, x: Tensor) -> None:
    """Two at a time, each under another GIV."""
    with torch.no_grad():
        givs = hair.giv(x).split(1)

        def work(giv: Tensor) -> list[Tensor]:
            def restored() -> Tensor:
                with torch.no_grad(), hair.conditioned_on(giv):
                    return hair(x)

            return [on(stream, restored) for stream in [torch.cuda.Stream()] * 10]

        expected = [hair.bake(giv=giv)(x) for giv in givs]
        assert_differs(expected[0], expected[-1], 1e-4)
        with ThreadPoolExecutor(2) as pool:
            for outputs, wanted in zip(pool.map(work, givs), expected, strict=True):
                for output in outputs:
                    assert_close(output, wanted, TOLERANCE)


def test_a_giv_made_on_another_stream(hair: HairModel, x: Tensor) -> None:
    side, free = torch.cuda.Stream(), hair(x).detach()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        giv = hair.giv(x)
    torch.cuda.current_stream().wait_stream(side)
    with hair.conditioned_on(giv):
        assert_close(hair(x), free, TOLERANCE)


def test_weights_kept_on_one_stream_are_not_taken_on_another(hair: HairModel, x: Tensor) -> None:
    """The first stream is held up, so that what it makes is not there yet when the second one begins."""
    with torch.no_grad():
        giv = hair.giv(x[:1])
        expected = hair.bake(giv=giv)(x)
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        with hair.conditioned_on(giv):
            torch.cuda.synchronize()
            with torch.cuda.stream(first):
                torch.cuda._sleep(_CYCLES)
                hair(x)
            with torch.cuda.stream(second):
                got = hair(x)
            torch.cuda.synchronize()
            assert_close(got, expected, TOLERANCE)


@pytest.mark.parametrize("how", ["kept", "recomputed", "checkpointed"])
def test_training_on_a_stream(hair: HairModel, x: Tensor, how: str) -> None:
    def gradients() -> Tensor:
        hair.zero_grad()
        hair(x).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in hair.parameters() if p.grad is not None])

    hair.recompute_weights(False)
    expected = gradients()
    hair.recompute_weights(how == "recomputed").checkpoint_blocks(how == "checkpointed")
    assert_close(on(torch.cuda.Stream(), gradients), expected, TOLERANCE)


def captured(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A call as a CUDA graph, and where its replays write to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph, output


def test_a_cuda_graph_makes_weights_for_each_image(hair: HairModel, x: Tensor) -> None:
    other, still = x.flip(0).sqrt(), x.clone()
    with torch.no_grad():
        expected = hair(other)
        graph, output = captured(lambda: hair(still))
        still.copy_(other)
        graph.replay()
        assert_close(output, expected, TOLERANCE)


def test_a_cuda_graph_needs_no_weights_that_are_kept(hair: HairModel, x: Tensor) -> None:
    other, still = x.flip(0).sqrt(), x.clone()
    with torch.no_grad():
        giv = hair.giv(x[:1])
        with hair.conditioned_on(giv):
            expected = hair(other)  # keeps weights
            graph, output = captured(lambda: hair(still))
            for parameter in hair.parameters():  # drops them
                parameter.mul_(1)
            hair(other)
            # What was theirs is others' now.
            filled = [torch.full((2**n,), torch.nan, device="cuda") for n in range(4, 16) for _ in range(50)]
            still.copy_(other)
            graph.replay()
            assert_close(output, expected, TOLERANCE)
        del filled
