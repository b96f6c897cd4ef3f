"""Long runs: nothing grows with the iterations, and no cycle of references holds a tensor."""

import gc
import sys

import pytest
import torch
from torch import nn, optim

from ignite_trainer import EMA, Accuracy, EarlyStopping, Learner, NaNGuard


def batches(n):
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(4, 6, generator=generator), torch.randint(3, (4,), generator=generator))] * n


def learner(n, cbs=(), **how):
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 3))
    metrics = {"accuracy": Accuracy(), "error": lambda preds, y: (preds.argmax(1) != y).float().mean()}
    data = (batches(n), batches(n))
    return Learner(model, data, nn.CrossEntropyLoss(), 1e-3, cbs, optim.Adam, metrics=metrics, device="cpu", **how)


def callbacks():
    return [EMA(0.9), NaNGuard(), EarlyStopping("valid_loss", patience=99)]


WAYS = {"plain": {}, "callbacks": {"cbs": callbacks}, "windows": {"accumulate": 3, "clip_norm": 1.0}}


@pytest.mark.parametrize("way", WAYS)
def test_fit_of_thousands_of_iterations_without_garbage_collection_then_no_cycle_holds_a_tensor(way):
    how = dict(WAYS[way])
    learn = learner(500, how.pop("cbs", list)(), **how)
    learn.fit(1)  # what is made once is made now
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        learn.fit(3)
        learn.evaluate()
        gc.garbage.clear()
        gc.collect()
        held = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert held == []


def things_of(n):
    """How many objects the collector knows after fits of n batches, what the learner holds of its own among them."""
    learn = learner(n, callbacks())
    learn.fit(2)
    gc.collect()
    row = learn.history[-1]
    sums = [sys.getsizeof(part) for part in learn.train_loss.state()]
    return len(gc.get_objects()), len(learn.history), sorted(row), len(learn.timeline()), sums


def test_fit_of_ten_times_the_iterations_then_history_metrics_timeline_and_objects_are_as_many():
    things_of(20)  # what is made once
    few, many = things_of(20), things_of(200)
    assert many[1:] == few[1:]
    assert many[0] <= few[0] + 20  # a stray object of the interpreter; the batches are the same two tensors


def test_million_iterations_when_soaked_then_memory_is_flat(soak):
    if not soak:
        pytest.skip("minutes: run with --soak")
    from scripts.benchmarks.soak import soak as run

    n, _, megabytes, n_tensors, n_rows = run(10**6)
    assert (n, n_tensors, n_rows) == (10**6, 0, 10)
    assert megabytes <= 2
