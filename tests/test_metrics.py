"""The metrics of an epoch: counts that are exact for every kind of scores."""

import copy
import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.metrics import Accuracy as IgniteAccuracy
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_trainer import Accuracy, Callback, CancelBatchException, Learner, Loss, accuracy
from ignite_trainer.loss_size import Marked, counted, first_dimension, ignored_label, loss_size_of
from tests.tiny import blobs, mlp

SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, math.nan, math.inf, -math.inf])


@given(st.data(), st.integers(1, 6), st.integers(2, 5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_accuracy_when_scores_are_ties_nan_or_infinite_then_counts_as_argmax_does(data, n, n_classes, dtype):
    rows = data.draw(st.lists(st.lists(SCORES, min_size=n_classes, max_size=n_classes), min_size=n, max_size=n))
    y = torch.tensor(data.draw(st.lists(st.integers(-1, n_classes - 1), min_size=n, max_size=n)))
    preds = torch.tensor(rows, dtype=dtype, requires_grad=data.draw(st.booleans()))
    metric = Accuracy()
    metric.update((preds, y))
    times = data.draw(st.sampled_from([1, 10, 30]))  # few are counted otherwise than many
    metric.update((preds.repeat(times, 1), y.repeat(times)))
    assert metric.compute() == int((preds.argmax(dim=1) == y).sum()) / n


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 4, 4)])
def test_accuracy_when_there_are_more_dimensions_then_counts_every_place(shape):
    generator = torch.Generator().manual_seed(0)
    preds, y = torch.rand(shape, generator=generator), torch.randint(3, (shape[0], *shape[2:]), generator=generator)
    metric = Accuracy()
    for part in (slice(1), slice(1, None)):
        metric.update((preds[part], y[part]))
    assert metric.compute() == int((preds.argmax(dim=1) == y).sum()) / y.numel()
    assert accuracy(preds, y).item() == pytest.approx(metric.compute(), rel=1e-6)  # a mean in float32


def test_accuracy_when_a_loader_fills_one_buffer_again_and_again_then_has_counted_each_batch():
    preds, y, metric = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), Accuracy()
    for best in (0, 1, 1):
        preds.zero_()
        preds[:, best] = 1
        metric.update((preds, y))
    assert metric.compute() == 1 / 3


@pytest.mark.parametrize(
    ("shapes", "dtype"),
    [
        (((4, 3), (4,)), torch.float32),
        (((4, 3), (4,)), torch.bfloat16),
        (((4, 3), (4, 1)), torch.int64),
        (((4,), (4,)), torch.int64),
        (((4, 3), (1,)), torch.int64),
        (((1, 3), (4,)), torch.int64),
        (((4, 3), (3,)), torch.int64),
        (((2, 3, 4), (2, 1)), torch.int64),
        (((4, 3, 4), (4,)), torch.int64),
        (((3,), ()), torch.int64),
        (((4, 1), (4,)), torch.int64),
    ],
    ids=[
        "probabilities",
        "half precision",
        "a column",
        "no scores",
        "one label",
        "one row",
        "other rows",
        "a map",
        "one label a map",
        "scores of one",
        "one output",
    ],
)
def test_accuracy_when_labels_are_no_class_numbers_that_fit_the_scores_then_is_refused(shapes, dtype):
    preds, y = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=dtype)
    message = (
        "accuracy compares scores (N, classes), of 2 classes or more, with class numbers (N,); got {} and {} of {}: "
        "for a regression"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(*shapes, dtype))}"):
        Accuracy().update((preds, y))


def test_loss_when_the_numbers_of_samples_are_tensors_then_is_the_mean_in_float64():
    values, counts, loss = torch.tensor([0.1, 0.77], dtype=torch.float64), torch.tensor([3, 1]), Loss()
    for value, n in zip(values, counts, strict=True):
        loss.update((value, n))
    assert loss.compute() == (0.1 * 3 + 0.77) / 4


def test_loss_when_its_sums_come_from_a_run_on_a_device_then_goes_on_with_them():
    loss = Loss()
    loss.load([torch.tensor(0.3, dtype=torch.float64), 3.1], torch.device("cpu"))
    loss.update((torch.tensor(0.7, dtype=torch.float64), 1))
    assert loss.compute() == (0.3 + 0.7) / (3.1 + 1)


def validated(metrics, *, cbs=(), n_epochs=1, **how):
    """A learner that stands still, after a fit, and its validation batches, of 10, 10 and 5 points."""
    x, y = blobs(25)
    data = list(zip(x.split(10), y.split(10), strict=True))
    learn = Learner(mlp(), (data, data), nn.CrossEntropyLoss(), 0.0, cbs, metrics=metrics, device="cpu", **how)
    learn.fit(n_epochs)
    return learn, data


def test_function_of_a_batch_when_a_metric_then_each_epoch_has_its_mean_with_the_batch_sizes_as_weights():
    def margin(preds, y):
        return (preds.amax(1) - preds.gather(1, y[:, None])[:, 0]).mean().item()

    learn, data = validated({"margin": margin}, n_epochs=2)
    with torch.no_grad():
        expected = sum(margin(learn.model(x), y) * len(y) for x, y in data) / 25
    assert [row["valid_margin"] for row in learn.history] == [expected, expected]


def test_loss_size_when_it_counts_the_predictions_then_they_weigh_the_losses():
    learn, data = validated(None, loss_size=lambda preds, y: preds.numel() ** 2)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(learn.model(x), y).item() for x, y in data]
    assert learn.results["loss"] == (losses[0] * 900 + losses[1] * 900 + losses[2] * 225) / 2025


def test_loss_when_a_batch_stands_for_a_fraction_of_samples_then_weighs_it_by_that():
    loss = Loss()
    loss.update((torch.tensor(1.0), 0.5))
    loss.update((torch.tensor(2.0), 1.5))
    assert loss.compute() == 1.75


def test_metric_of_ignite_when_every_batch_of_an_epoch_was_cancelled_then_is_nan_as_ours_are():
    class Skip(Callback):
        def after_predict(self, learn):
            if not learn.model.training:
                raise CancelBatchException

    learn, _ = validated({"theirs": IgniteAccuracy(), "ours": Accuracy()}, cbs=[Skip()])
    assert learn.results.keys() == {"loss", "theirs", "ours"}
    assert all(math.isnan(value) for value in learn.results.values())


@given(st.data(), st.sampled_from([(0,), (1,), (32,), (64,), (65,), (4, 3), ()]), st.sampled_from([-100, 0, 2]))
def test_weight_of_a_cross_entropy_when_labels_are_ignored_then_is_the_number_of_the_others(data, shape, ignored):
    n = math.prod(shape)
    labels = data.draw(st.lists(st.sampled_from([0, 1, 2, ignored]), min_size=n, max_size=n))
    y = torch.tensor(labels, dtype=torch.int64).reshape(shape)
    size = loss_size_of(nn.CrossEntropyLoss(ignore_index=ignored))
    assert int(counted(size(None, y))) == sum(label != ignored for label in labels)


@pytest.mark.parametrize(
    ("nest", "mean"),
    [
        (lambda y: y, 2.0),
        (lambda y: [(y, y[:1]), y[:1]], 2.0),
        (lambda y: {"boxes": {"first": y}, "one": y[:1]}, 2.0),
        (lambda y: y[0], 3.0),
    ],
    ids=["tensor", "list of tuples", "dict of dicts", "0-d tensor"],
)
def test_epochs_loss_when_y_is_any_nest_then_weighs_each_batch_by_its_first_tensor(nest, mean):
    batches = [(torch.full((n, 1), loss), nest(torch.zeros(n))) for n, loss in ((3, 1.0), (1, 5.0))]
    learn = Learner(nn.Identity(), (batches, batches), lambda preds, y: preds.mean(), 0.1, device="cpu")
    assert learn.evaluate() == {"loss": mean}


@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 3, 5)])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_weight_of_a_cross_entropy_when_its_sum_is_divided_by_it_then_is_its_mean(kind, shape):
    torch.manual_seed(0)
    preds = torch.randn(shape, dtype=torch.float64)
    y = torch.randint(3, (*shape[:1], *shape[2:])) if len(shape) > 1 else torch.tensor(1)
    y = torch.where(y == 0, -100, y) if kind == "labels" else torch.rand(shape, dtype=torch.float64)
    mean, total = cross_entropy(preds, y), cross_entropy(preds, y, reduction="sum")
    torch.testing.assert_close(total / counted(loss_size_of(cross_entropy)(preds, y)), mean)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_accuracy_when_a_label_is_ignored_then_is_the_share_of_the_others(shape):
    generator = torch.Generator().manual_seed(0)
    preds, y = torch.randn(50, 3, *shape, generator=generator), torch.randint(3, (50, *shape), generator=generator)
    y[::3] = 255
    metric = Accuracy(ignore_index=255)
    for part, labels in zip(preds.split(20), y.split(20), strict=True):
        metric.update((part, labels))
    known = y != 255
    assert metric.compute() == ((preds.argmax(dim=1) == y) & known).sum().item() / known.sum().item()


def test_accuracy_when_labels_are_uint8_then_a_negative_ignored_label_is_none_of_them():
    y = torch.tensor([156, 1], dtype=torch.uint8)
    metric = Accuracy(ignore_index=-100)
    metric.update((nn.functional.one_hot(y.long(), 200).float(), y))
    assert metric.sums() == (2.0, 2.0)


def test_loss_when_attached_to_an_engine_of_ignite_then_takes_its_outputs():
    engine = Engine(lambda engine, batch: (torch.tensor(float(batch)), batch))
    Loss().attach(engine, "loss")
    assert engine.run([1, 3]).metrics["loss"] == (1 + 9) / 4


def test_accuracy_when_the_loss_ignores_some_labels_then_a_warning_says_how_to_leave_them_out():
    x, y = blobs(10)
    y[0] = -100
    with pytest.warns(UserWarning, match=r"the loss ignores: .* metrics=\{'right': Accuracy\(ignore_index=-100\)\}"):
        Learner(mlp(), ([(x, y)], [(x, y)]), nn.CrossEntropyLoss(), 0.1, metrics={"right": accuracy}).evaluate()


def test_function_of_a_batch_when_it_broadcasts_all_against_all_then_is_refused():
    x, y = torch.randn(20, 6), torch.randn(20)
    metrics = {"mae": lambda preds, y: (preds - y).abs().mean()}
    learn = Learner(nn.Linear(6, 1), ([(x, y)], [(x, y)]), lambda preds, y: preds.mean(), 0.1, metrics=metrics)
    with pytest.raises(ValueError, match=r"or the metric 'mae' broadcasts them .* \(20, 1\) against \(20,\): squeeze"):
        learn.evaluate()


SIZES = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=3).map(lambda marks: Marked(torch.tensor(marks))),
    st.integers(0, 40),
    st.integers(0, 40).map(torch.tensor),
    st.floats(0, 40, width=32).map(torch.tensor),
)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), SIZES), min_size=1, max_size=200))
def test_mean_where_there_is_no_float64_then_is_nearly_that_of_float64(batches):
    mean, products, numbers = Loss(), [], []
    for value, size in batches:
        n = counted(size)
        mean.add_compensated(torch.tensor(value if n else math.nan), n)
        products.append((torch.tensor(value) * float(n)).item() if n else 0.0)  # rounded to float32 once, as there
        numbers.append(float(n))
    total, n_samples = mean.sums()
    # each addition rounds off at most once more what the one before has rounded off: far below one float32 rounding
    assert total == pytest.approx(math.fsum(products), rel=1e-10, abs=1e-6)
    assert n_samples == pytest.approx(math.fsum(numbers), rel=1e-6)  # float32 where n is


@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), SIZES), max_size=200), st.data())
def test_mean_on_a_device_when_it_is_saved_anywhere_and_gone_on_with_then_has_the_same_bits(batches, data):
    # what a device does is done here on the CPU, by the method that is called for tensors on a device
    numbers = [float(counted(n)) for _, n in batches]
    values = [torch.tensor(value if n else math.nan) for (value, _), n in zip(batches, numbers, strict=True)]
    batches = list(zip(values, (n for _, n in batches), strict=True))
    cut = data.draw(st.integers(0, len(batches)))
    whole, first, second = Loss(), Loss(), Loss()
    for value, n in batches:
        whole.add_later(value, n)
    for value, n in batches[:cut]:
        first.add_later(value, n)
    second.load(copy.deepcopy(first.state()), torch.device("cpu"))
    for value, n in batches[cut:]:
        second.add_later(value, n)
        if data.draw(st.booleans()):
            second.compute()  # to look at it changes nothing
    total, n_samples = whole.sums()
    assert second.sums() == (total, n_samples)
    products = [value.item() * n for (value, _), n in zip(batches, numbers, strict=True) if n]
    # float64, added up in another order
    assert total == pytest.approx(math.fsum(products), rel=1e-9, abs=1e-6)
    assert n_samples == pytest.approx(math.fsum(numbers), rel=1e-12)


def test_mean_on_a_device_when_saved_amid_batches_of_several_sizes_then_their_labels_are_counted():
    loss = Loss()
    for marks in ([True, False, True], [False, False, False], [True, True]):
        loss.add_later(torch.tensor(0.5), Marked(torch.tensor(marks)))
    *_, values, numbers = loss.state()
    assert values.tolist() == [0.5] * 3
    assert torch.equal(numbers, torch.tensor([2, 0, 2]))


def test_mean_when_loaded_on_another_device_then_all_of_it_lies_there():
    state = [0.0, 0, 0.0, torch.ones(3), [3, torch.tensor(2), torch.tensor(1.5)]]  # as a file gives it, on the CPU
    loss = Loss()
    loss.load(state, torch.device("meta"))
    devices = [[getattr(part, "device", None) for part in batch] for batch in loss._later]
    meta = torch.device("meta")
    assert devices == [[meta, None], [meta, meta], [meta, meta]]


def test_mean_on_a_device_when_sizes_are_of_one_element_or_parts_of_the_batch_then_are_numbers_of_their_own():
    batch, loss = torch.empty(2, 3, device="meta"), Loss()
    for n in (batch[0, 0], batch[0, :1], batch.sum().reshape(1), batch.sum()):
        loss.add(torch.empty((), device="meta"), n)
    assert all(n.shape == () and not n._is_view() for _, n in loss._later)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_on_a_device_when_the_memory_of_a_loss_is_used_again_then_holds_what_it_was(dtype):
    loss, place = Loss(), torch.zeros((), dtype=dtype)  # as the outputs of a CUDA graph lie at one place
    for value in (1.0, 2.0, 6.0):
        loss.add_later(place.fill_(value), 1)
    assert loss.compute() == 3


BOXES = [torch.zeros(n, 4) for n in (3, 1, 2)]


@pytest.mark.parametrize(
    ("preds", "y", "n"),
    [
        (torch.zeros(3, 2), BOXES, 3),
        (None, BOXES, 3),
        ({"scores": torch.zeros(3, 2)}, {"boxes": BOXES}, 3),
        (torch.zeros(2, 2), [torch.zeros(5, 4)] * 2, 2),  # by chance as many in each
        (torch.zeros(5, 2), [torch.zeros(5), torch.zeros(5, 4)], 5),  # two targets, as DataLoader collates them
        (torch.zeros(5, 2), [torch.zeros(5), torch.zeros(9, 4)], 5),
        (None, [torch.zeros(5), torch.zeros(5)], 5),
        (None, (torch.zeros(5), torch.zeros(9)), 5),
    ],
)
def test_samples_when_y_is_a_list_of_tensors_then_are_those_that_there_are_predictions_of(preds, y, n):
    assert first_dimension(preds, y) == n


class Focal(nn.CrossEntropyLoss):
    """The mean over the samples, whatever they weigh."""

    def forward(self, preds, y):
        losses = cross_entropy(preds, y, weight=self.weight, reduction="none")
        return ((1 - (-losses).exp()) ** 2 * losses).mean()


class OfTokens(nn.CrossEntropyLoss):
    """Torch's own, on sequences as they come."""

    def forward(self, preds, y):
        return super().forward(preds.flatten(0, 1), y.flatten())


def test_size_of_a_subclass_then_is_torchs_where_it_calls_that():
    weight = torch.tensor([1.0, 2.0, 4.0])
    preds, y = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    assert loss_size_of(Focal(weight))(preds, y) == 4
    assert loss_size_of(OfTokens(weight))(preds.view(2, 2, 3), y.view(2, 2)) == 7


@pytest.mark.parametrize("n", [8, 100])
def test_size_when_weights_or_the_ignored_label_are_set_later_then_is_by_those(n):
    loss_func, preds, y = nn.CrossEntropyLoss(), torch.randn(n, 3), torch.arange(n) % 3
    size = loss_size_of(loss_func)
    assert size(preds, y) == n
    loss_func.ignore_index = 1
    assert size(preds, y) == (y != 1).sum()
    for weight in (torch.tensor([1.0, 5.0, 20.0]), nn.Parameter(torch.tensor([3.0, 5.0, 7.0]), False)):
        loss_func.weight = weight
        loss = nn.CrossEntropyLoss(weight.detach(), ignore_index=1, reduction="sum")(preds, y)
        # a sum divided by the size is the mean, up to float rounding
        torch.testing.assert_close(loss / size(preds, y), loss_func(preds, y))


class Operations(TorchDispatchMode):
    """Counts what torch is asked to compute."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is not torch.ops.aten.detach.default  # which computes nothing
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("labels", "n", "n_operations"), [(torch.int64, 32, 2), (torch.int64, 5000, 3), (torch.float32, 32, 1)]
)
def test_loss_on_a_device_then_a_batch_starts_few_kernels(labels, n, n_operations):
    """Its float64 is one; with class numbers one marks those that are not ignored, and many are counted at once."""
    size = loss_size_of(nn.CrossEntropyLoss() if labels is torch.int64 else nn.MSELoss())
    loss, value, y = Loss(size), torch.empty((), device="meta"), torch.empty(n, device="meta", dtype=labels)
    with Operations() as operations:
        for _ in range(640):
            loss.add(value, size(None, y))
    assert operations.count <= 640 * n_operations + 10 * 14


def test_loss_on_a_device_when_each_batch_has_another_shape_then_its_labels_are_counted_at_once():
    size, loss, value = loss_size_of(nn.CrossEntropyLoss()), Loss(), torch.empty((), device="meta")
    batches = [torch.empty(8, 5 + i % 7, device="meta", dtype=torch.int64) for i in range(640)]
    with Operations() as operations:
        for y in batches:
            loss.add(value, size(None, y))
    assert operations.count <= 640 * 3 + 10 * 20


@pytest.mark.parametrize(("shape", "n_operations"), [((32,), 2), ((5000,), 4), ((2, 4, 4), 4)])
def test_accuracy_on_a_device_then_a_batch_starts_few_kernels(shape, n_operations):
    """To find the largest, to compare, and where there are many or a map: to count, with a view of the number."""
    preds, y = torch.empty(shape[0], 10, *shape[1:]), torch.empty(shape, dtype=torch.int64)
    metric, preds, y = Accuracy(), preds.to("meta"), y.to("meta")
    with Operations() as operations:
        for _ in range(640):
            metric.update((preds, y))
    assert operations.count <= 640 * n_operations + 10 * 4


def test_size_of_a_weighted_loss_when_labels_are_ignored_then_is_what_the_loss_divides_by():
    weight, y = torch.tensor([0.5, 2.0, 3.0]), torch.tensor([0, 1, 255, 2, 2])
    size = loss_size_of(nn.CrossEntropyLoss(weight, ignore_index=255))
    assert size(torch.zeros(5, 3), y).item() == 8.5


@pytest.mark.parametrize(
    ("preds", "y", "n"),
    [
        (None, torch.zeros(4, 3), 4),
        (None, torch.tensor(2.0), 1),
        (None, {"name": "a box", "corner": torch.zeros(5, 2)}, 5),
        (None, [torch.tensor(0.5), torch.zeros(3)], 3),
        (None, ({"scale": 2.0}, {"mask": torch.zeros(6, 2)}), 2),
        (None, ([], (torch.zeros(7),)), 7),
        (torch.zeros(2, 7), ["a cat", "a dog"], 2),
        ({"scores": torch.zeros(3, 7)}, "a cat", 3),
    ],
)
def test_number_of_samples_when_y_is_a_nest_then_is_the_first_dimension_that_a_tensor_in_it_has(preds, y, n):
    assert first_dimension(preds, y) == n


def test_number_of_samples_when_no_tensor_tells_then_is_an_error():
    message = r"are counted by a tensor in y or preds; got a str and a dict without one: give Learner\(loss_size="
    with pytest.raises(TypeError, match=message):
        first_dimension({"scores": 1.0}, "a cat")


@pytest.mark.parametrize("loss_func", [nn.CrossEntropyLoss(ignore_index=3), partial(cross_entropy, ignore_index=3)])
def test_ignored_label_is_that_of_a_loss_over_classes(loss_func):
    assert ignored_label(loss_func) == 3
    assert ignored_label(nn.NLLLoss()) == ignored_label(cross_entropy) == -100
    assert ignored_label(nn.MSELoss()) is None
