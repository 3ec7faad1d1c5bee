"""Photographs, crops, batches, the recipe and the scores."""

from itertools import islice

import pytest
import torch
from torch import Generator, Tensor, nn

from hairify.demo.degradations import DEGRADATIONS
from hairify.demo.evaluation import Sample, Score, held_out_samples, mean_scores, restore, score
from hairify.demo.photographs import HELD_OUT, TRAINING, centre_crop, load, random_crops
from hairify.demo.training import build_network, train, training_batches


def ramp(height: int, width: int) -> Tensor:
    """A photograph whose pixels all differ."""
    return torch.linspace(0, 1, 3 * height * width).reshape(3, height, width)


def test_photographs_are_colour_images_in_range() -> None:
    photographs = load(TRAINING + HELD_OUT)
    assert len(photographs) == len(TRAINING + HELD_OUT)
    for photograph in photographs.values():
        assert photograph.shape[0] == 3
        assert min(photograph.shape[1:]) >= 256
        assert 0 <= photograph.min() < 0.3 < 0.7 < photograph.max() <= 1


def test_a_photograph_that_is_not_shipped_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"unicorn\.png.*scikit-image"):
        load(["unicorn.png"])


def test_random_crops_are_pieces_of_the_photographs() -> None:
    photograph = ramp(40, 56)
    crops = random_crops([photograph], 20, 24, Generator().manual_seed(0))
    assert crops.shape == (20, 3, 24, 24)
    assert torch.isin(crops, photograph).all()
    assert len({float(crop.sum()) for crop in crops}) > 10


def test_a_crop_may_be_the_whole_photograph() -> None:
    crop = random_crops([ramp(24, 24)], 1, 24, Generator().manual_seed(0))
    assert torch.equal(crop.flatten().sort().values, ramp(24, 24).flatten())


@pytest.mark.parametrize(("shape", "limit", "expected"), [((300, 451), 256, (256, 256)), ((61, 200), 96, (56, 96))])
def test_centre_crop_is_central_and_in_multiples_of_8(
    shape: tuple[int, int], limit: int, expected: tuple[int, int]
) -> None:
    photograph = ramp(*shape)
    crop = centre_crop(photograph, limit)
    assert crop.shape[1:] == expected
    assert abs(float(crop.mean() - photograph.mean())) < 0.01


def test_the_seed_decides_batches_and_weights() -> None:
    def batch(seed: int) -> list[Tensor]:
        batches = training_batches([ramp(64, 64)], patches=2, size=32, seed=seed)
        return [tensor for pair in islice(batches, 2) for tensor in pair]

    def weight(seed: int) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in build_network(seed).parameters()])

    assert all(torch.equal(one, two) for one, two in zip(batch(0), batch(0), strict=True))
    assert not torch.equal(batch(0)[0], batch(1)[0])
    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_a_batch_has_equal_shares_of_all_degradations() -> None:
    degraded, clean = next(training_batches([ramp(64, 64)], patches=3, size=32, seed=0))
    assert degraded.shape == clean.shape == (3 * len(DEGRADATIONS), 3, 32, 32)
    rain = degraded[3:6] - clean[3:6]
    assert rain.min() >= 0  # only rain never darkens
    assert (degraded - clean)[:3].min() < 0


class Gain(nn.Module):
    """Multiplies the image by one number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(start))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.gain


def test_training_learns_and_tells_every_loss() -> None:
    network, told = Gain(0.2), []
    clean = torch.rand(6, 3, 8, 8)
    batches = iter([(clean / 2, clean)] * 200)
    losses = train(network, batches, steps=200, learning_rate=0.1, on_step=told.append)
    assert losses == told
    assert len(losses) == 200
    assert network.gain.item() == pytest.approx(2, abs=0.05)


def test_no_steps_leave_the_network_as_it_is() -> None:
    network = Gain(0.5)
    assert train(network, iter([]), steps=0, learning_rate=0.1, on_step=lambda _: None) == []
    assert network.gain.item() == 0.5


def test_samples_cover_every_photograph_degradation_and_draw() -> None:
    photographs = {"one": ramp(40, 48), "two": ramp(70, 33)}
    samples = held_out_samples(photographs, crop=32, draws=2, seed=0)
    keys = {(sample.photograph, sample.degradation, sample.draw) for sample in samples}
    assert len(samples) == len(keys) == 2 * len(DEGRADATIONS) * 2
    again = held_out_samples(photographs, crop=32, draws=2, seed=0)
    assert all(torch.equal(one.degraded, two.degraded) for one, two in zip(samples, again, strict=True))
    assert not torch.equal(samples[0].degraded, samples[1].degraded)


def test_restored_images_are_clipped_and_every_sample_is_told() -> None:
    image, told = torch.rand(3, 16, 24), []
    samples = [Sample("one", "noise", 0, image, image)] * 2
    restored = restore(Gain(3.0), samples, lambda: told.append(1))
    assert len(restored) == len(told) == 2
    assert torch.equal(restored[0], (3 * image).clamp(max=1))


def test_scores_follow_their_definitions() -> None:
    image = torch.rand(3, 32, 32) * 0.5
    assert score(image, image).ssim == pytest.approx(1)
    assert score(image + 0.1, image).psnr == pytest.approx(20, abs=1e-3)
    assert score(torch.rand(3, 32, 32), image).ssim < 0.5


def test_means_weigh_every_degradation_alike() -> None:
    image = torch.zeros(3, 8, 8)
    names = ["noise", "noise", "rain", "haze"]
    samples = [Sample("one", name, 0, image, image) for name in names]
    means = mean_scores(samples, [Score(10, 0.1), Score(20, 0.3), Score(30, 0.5), Score(45, 0.8)])
    assert means["noise"] == Score(15, pytest.approx(0.2))
    assert means["average"].psnr == pytest.approx(30)
