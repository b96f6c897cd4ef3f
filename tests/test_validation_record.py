"""The record of a validation, against plain counting and torch's own precision-recall curve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard.summary import compute_curve

from ignite_trainer.handlers import validation_record
from ignite_trainer.handlers.validation_record import ValidationRecord


def recorded(batches, loss_func=None, **how):
    record = ValidationRecord(loss_func or nn.CrossEntropyLoss(), **how)
    for batch in batches:
        record.update(*batch)
    record.finish()
    return record


def split(tensors, size):
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


@given(n=st.integers(1, 60), size=st.integers(1, 60), n_classes=st.integers(2, 20), seed=st.integers(0, 99))
def test_record_of_classes_when_cut_into_any_batches_then_counts_as_plain_counting(n, size, n_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    preds = 3 * torch.randn(n, n_classes, generator=generator)
    y = torch.randint(n_classes, (n,), generator=generator)
    record = recorded(split((torch.zeros(n, 2), preds, y), size), n_worst=7)
    expected = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    for target, guess in zip(y, preds.argmax(1), strict=True):
        expected[target, guess] += 1
    assert torch.equal(record.confusion, expected)
    probs = preds.log_softmax(1).exp()
    for label in range(n_classes):
        curve = compute_curve((y == label).numpy(), probs[:, label].numpy(), num_thresholds=127)
        # one division in float32 against float64
        assert torch.allclose(
            torch.stack([part.double() for part in record.curve(label)]), torch.tensor(curve), atol=1e-6
        )
    losses = F.cross_entropy(preds, y, reduction="none")
    worst = record.worst()
    assert [row.sample for row in worst] == losses.argsort(descending=True)[:7].tolist()
    assert [(row.target, row.predicted) for row in worst] == [
        (y[i], preds[i].argmax()) for i in (r.sample for r in worst)
    ]


def test_record_when_much_is_held_then_counts_in_between_and_keeps_the_right_images(monkeypatch):
    monkeypatch.setattr(validation_record, "HELD_BYTES", 2000)
    x, preds = torch.arange(50.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4), torch.randn(50, 3)
    y = torch.randint(3, (50,))
    record = ValidationRecord(nn.CrossEntropyLoss(), n_worst=5)
    for batch in split((x, preds, y), 8):
        record.update(*batch)
        assert record._held_bytes < 2000
    record.finish()
    worst = record.worst()
    assert [row.sample for row in worst] == F.cross_entropy(preds, y, reduction="none").argsort(descending=True)[
        :5
    ].tolist()
    assert [row.image[0, 0, 0].item() for row in worst] == [row.sample for row in worst]


def test_record_when_a_loader_fills_the_same_memory_again_then_keeps_what_was_there():
    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    record = ValidationRecord(nn.CrossEntropyLoss())
    for number in range(3):
        x.fill_(number)
        y.fill_(number)
        record.update(x, torch.zeros(2, 3), y)
    record.finish()
    assert record.confusion.sum(1).tolist() == [2, 2, 2]
    assert all(row.image[0, 0, 0] == row.target for row in record.worst())


def test_record_when_labels_are_ignored_then_they_count_nowhere():
    preds = torch.tensor([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    record = recorded([(torch.zeros(3, 1, 4, 4), preds, torch.tensor([-100, 1, 1]))])
    assert record.confusion.tolist() == [[0, 0], [1, 1]]
    assert [row.sample for row in record.worst()] == [1, 2]


def test_record_when_predictions_are_nan_then_they_are_the_worst():
    preds = torch.tensor([[0.0, 9.0], [float("nan"), 0.0]])
    record = recorded([(None, preds, torch.tensor([0, 1]))])
    assert record.worst()[0].sample == 1
    assert record.confusion.sum() == 2


def test_record_when_one_logit_tells_two_classes_then_is_of_classes():
    logits, y = torch.tensor([[4.0], [-4.0], [1.0]]), torch.tensor([[1.0], [1.0], [0.0]])
    record = recorded([(None, logits, y)], nn.BCEWithLogitsLoss())
    assert record.confusion.tolist() == [[0, 1], [1, 1]]
    assert record.worst()[0].score == pytest.approx(torch.sigmoid(torch.tensor(-4.0)).item())


def test_record_of_values_then_has_the_greatest_errors_and_no_counts():
    preds, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 5.0, 3.5])
    record = recorded([(None, preds, y)], nn.MSELoss(), n_worst=2)
    assert [row[:4] for row in record.worst()] == [(1, 5.0, 2.0, 3.0), (2, 3.5, 3.0, 0.5)]
    assert record.confusion is None
    with pytest.raises(
        ValueError, match="precision and recall are counted for 2 to 20 classes; this validation has no such"
    ):
        record.curve(0)


def test_record_when_there_are_more_than_20_classes_then_has_the_worst_alone():
    record = recorded([(None, torch.randn(30, 21), torch.arange(30) % 21)])
    assert record.confusion is record.scored is None
    assert len(record.worst()) == 16


def test_record_when_images_have_several_sizes_then_shows_none():
    batches = [(torch.rand(3, 1, size, size), torch.randn(3, 2), torch.tensor([0, 1, 1])) for size in (8, 8, 9)]
    record = recorded(batches)
    assert [row.image for row in record.worst()] == [None] * 9
    assert record.confusion.sum() == 9


@pytest.mark.parametrize(
    ("preds", "y"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)),
        ((torch.zeros(2, 3),), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3), {"label": torch.zeros(2)}),
        (torch.zeros(()), torch.zeros(())),
    ],
)
def test_record_when_a_batch_is_neither_scores_nor_values_then_passes_it_by(preds, y):
    record = recorded([(None, preds, y)])
    assert (record.confusion, record.worst()) == (None, [])
