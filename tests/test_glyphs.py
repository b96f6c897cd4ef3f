"""The package's own pictures: ten classes, the same for a seed, and learnable."""

import pytest
import torch
from torch import nn

from ignite_trainer.data.glyphs import glyphs
from ignite_trainer.data.tensors import TensorLoader


def test_glyphs_have_ten_classes_equally_often_as_uint8_pictures():
    dataset = glyphs(105)
    assert (dataset.data.shape, dataset.data.dtype, len(set(dataset.classes))) == ((105, 28, 28), torch.uint8, 10)
    assert torch.bincount(dataset.targets).tolist() == [11] * 5 + [10] * 5


def test_glyphs_of_one_seed_are_equal_and_of_another_are_not():
    before = torch.get_rng_state()
    assert torch.equal(glyphs(50, 3).data, glyphs(50, 3).data)
    assert torch.equal(torch.get_rng_state(), before)
    pictures = torch.cat([glyphs(50, 3).data, glyphs(50, 4).data]).flatten(1)
    assert len(pictures.unique(dim=0)) == 100


def test_glyphs_fill_the_range_and_stay_in_the_picture():
    pictures = glyphs(500).data.float()
    assert pictures.amax(dim=(1, 2)).min() > 130
    assert pictures.amin(dim=(1, 2)).max() < 60
    border = torch.cat([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]])
    assert (border > 130).float().mean() < 0.01  # the tip of a triangle may touch


def test_glyphs_of_one_seed_teach_to_read_those_of_another():
    train, test = glyphs(3000, 0), glyphs(500, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = TensorLoader(train.data, train.targets, batch_size=50, shuffle=True, images=True)
    for _ in range(5):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    correct = (model(test.data[:, None] / 255).argmax(dim=1) == test.targets).float().mean()
    assert correct > 0.85


@pytest.mark.parametrize("n", [0, -1])
def test_glyphs_when_none_are_asked_for_says_so(n):
    with pytest.raises(ValueError, match=f"n is the number of pictures, so at least 1; got {n}"):
        glyphs(n)
