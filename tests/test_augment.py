"""Random changes of images, against changes made one by one."""

import pytest
import torch

from ignite_trainer.data import SampleLoader
from ignite_trainer.data.augment import AUGMENTATIONS, Augmented, flip, shift
from tests.cli_jobs import images


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(64, 1, 28, 28), (40, 3, 9, 30)])
def test_shift_when_done_image_by_image_then_is_the_same(shape):
    x = torch.rand(shape, generator=generator(0))
    moved = shift(x, generator(1))
    draws, steps = generator(1), [max(1, length // 12) for length in shape[2:]]
    down, right = (torch.randint(2 * step + 1, (shape[0], 1), generator=draws).flatten() - step for step in steps)
    for i in range(shape[0]):
        expected = torch.zeros(shape[1:])
        for row in range(shape[2]):
            for column in range(shape[3]):
                r, c = row + int(down[i]), column + int(right[i])
                if 0 <= r < shape[2] and 0 <= c < shape[3]:
                    expected[:, row, column] = x[i, :, r, c]
        assert torch.equal(moved[i], expected)
    assert {int(step) for step in down} == set(range(-steps[0], steps[0] + 1))


def test_flip_then_each_image_is_itself_or_its_mirror_image_half_of_them():
    x = torch.rand(400, 1, 4, 5, generator=generator(0))
    flipped = flip(x, generator(1))
    mirrored = [torch.equal(flipped[i], x[i].flip(-1)) for i in range(len(x))]
    assert all(torch.equal(flipped[i], x[i]) for i in range(len(x)) if not mirrored[i])
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_when_read_by_workers_then_gives_the_same_images(name):
    data = Augmented(images(20, 0), AUGMENTATIONS[name])
    epochs = [
        [x for _ in range(2) for x, _ in loader]
        for loader in (SampleLoader(data, 8), SampleLoader(data, 8, num_workers=2))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
    assert not torch.equal(epochs[0][0], epochs[0][3])  # another epoch, other changes
