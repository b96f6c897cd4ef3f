"""The metrics of an epoch: counts that are exact for every kind of scores."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ignite_trainer import Accuracy
from ignite_trainer.steps import loss_size_of

SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, math.nan, math.inf, -math.inf])


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_accuracy_when_scores_are_ties_nan_or_infinite_then_counts_as_argmax_does(data, n, n_classes, dtype):
    rows = data.draw(st.lists(st.lists(SCORES, min_size=n_classes, max_size=n_classes), min_size=n, max_size=n))
    y = torch.tensor(data.draw(st.lists(st.integers(-1, n_classes - 1), min_size=n, max_size=n)))
    preds = torch.tensor(rows, dtype=dtype, requires_grad=data.draw(st.booleans()))
    metric = Accuracy()
    metric.update((preds, y))
    assert metric.compute() == int((preds.argmax(dim=1) == y).sum()) / n


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 4, 4)])
def test_accuracy_when_there_are_more_dimensions_then_counts_every_place(shape):
    generator = torch.Generator().manual_seed(0)
    preds, y = torch.rand(shape, generator=generator), torch.randint(3, (shape[0], *shape[2:]), generator=generator)
    metric = Accuracy()
    for part in (slice(1), slice(1, None)):
        metric.update((preds[part], y[part]))
    assert metric.compute() == int((preds.argmax(dim=1) == y).sum()) / y.numel()


def test_accuracy_when_a_loader_fills_one_buffer_again_and_again_then_has_counted_each_batch():
    preds, y, metric = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), Accuracy()
    for best in (0, 1, 1):
        preds.zero_()
        preds[:, best] = 1
        metric.update((preds, y))
    assert metric.compute() == 1 / 3


@given(st.data(), st.sampled_from([(0,), (1,), (32,), (64,), (65,), (4, 3), ()]), st.sampled_from([-100, 0, 2]))
def test_weight_of_a_cross_entropy_when_labels_are_ignored_then_is_the_number_of_the_others(data, shape, ignored):
    n = math.prod(shape)
    labels = data.draw(st.lists(st.sampled_from([0, 1, 2, ignored]), min_size=n, max_size=n))
    y = torch.tensor(labels, dtype=torch.int64).reshape(shape)
    size = loss_size_of(nn.CrossEntropyLoss(ignore_index=ignored))
    assert int(size(None, y)) == sum(label != ignored for label in labels)
