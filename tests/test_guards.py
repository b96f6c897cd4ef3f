"""Averages, guards, metrics of other libraries, and the summary."""

import copy
import math
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn, optim
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ignite_trainer import (
    EMA,
    Accuracy,
    Callback,
    CancelFitException,
    Checkpoint,
    EarlyStopping,
    Learner,
    NaNGuard,
    RunFiles,
    TimeLimit,
    TrainEvents,
    accuracy,
)
from ignite_trainer.handlers.state_files import load_checkpoint
from tests.tiny import Centred, blobs, dropout_net, mlp, same_state


def batches(n=50, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(10), y.split(10), strict=True))


def learner(cbs, model=None, train=None, valid=None, **how):
    return Learner(model or mlp(), (train or batches(), valid), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", **how)


class Counted(nn.Module):
    """With a parameter of whole numbers, which nothing trains."""

    def __init__(self, first):
        super().__init__()
        count = nn.Parameter(torch.tensor([3, 4]), requires_grad=False)
        self.parts = nn.ParameterList([count]) if first else None
        self.net = dropout_net()
        self.more = nn.ParameterList([count]) if not first else None

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("net", [dropout_net, lambda: Counted(True), lambda: Counted(False)])
def test_ema_when_fitting_then_equals_torchs_averaged_model_and_trains_on_as_without(net):
    torch.manual_seed(0)
    model = net()
    hand = copy.deepcopy(model)
    torch.manual_seed(1)
    valid = batches(20, seed=1)
    learn = learner([EMA(0.9)], model, valid=valid)
    results = learn.fit(2)

    torch.manual_seed(1)
    average, first = None, True
    opt = optim.SGD(hand.parameters(), 0.1)
    for _ in range(2):
        hand.train()
        for x, y in batches():
            nn.functional.cross_entropy(hand(x), y).backward()
            opt.step()
            opt.zero_grad()
            if first:
                average, first = AveragedModel(hand, multi_avg_fn=get_ema_multi_avg_fn(0.9)), False
                average.update_parameters(hand)
            else:
                average.update_parameters(hand)
    expected = average.module.state_dict()
    if isinstance(hand, Counted):  # torch 2.13 makes 2 of the average of 3 and 3, whose float is a little less
        expected["more.0" if hand.more is not None else "parts.0"] = torch.tensor([3, 4])
    assert same_state(model.state_dict(), expected)
    assert learn.evaluate(valid)["loss"] == results["loss"]


def test_ema_when_validated_then_the_averages_are_in_the_model_and_best_weights_are_averages():
    seen = {}

    class Look(Callback):
        def after_batch(self, learn):
            seen[learn.epoch, learn.model.training] = learn.model[0].weight.detach().clone()

    stopping = EarlyStopping(patience=9)
    learn = learner([Look(), EMA(0.5), stopping], valid=batches(20, seed=1))
    learn.fit(2)
    assert not torch.equal(seen[0, True], seen[0, False])
    assert torch.equal(learn.model[0].weight, seen[stopping._best_epoch, False])


def test_ema_when_a_callback_evaluates_mid_epoch_then_sees_the_trained_weights():
    class Evaluate(Callback):
        def after_batch(self, learn):
            if learn.model.training and learn.iter == 2:
                weight = learn.model[0].weight.clone()
                learn.evaluate(batches(20, seed=1))
                self.same = torch.equal(weight, learn.model[0].weight) and learn.model.training

    look = Evaluate()
    learner([EMA(0.9), look], valid=batches(20, seed=1)).fit(1)
    assert look.same


def test_ema_when_the_fit_raises_then_the_trained_weights_are_in_the_model():
    trained = []

    class Fail(Callback):
        def after_validate(self, learn):
            raise KeyError

        def after_epoch(self, learn):
            trained.append(learn.model[0].weight.detach().clone())

    learn = learner([EMA(0.9), Fail()], valid=batches(20, seed=1))
    with pytest.raises(KeyError):
        learn.fit(1)
    assert torch.equal(learn.model[0].weight, trained[0])


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5])
def test_ema_when_decay_makes_no_sense_then_is_refused(decay):
    with pytest.raises(ValueError, match="decay is the part of the average that stays, between 0 and 1"):
        EMA(decay)


class Poison(Callback):
    """Makes a loss NaN, or a gradient infinite, at one batch."""

    def __init__(self, what="loss", epoch=0, batch=3):
        self.what, self.place = what, (epoch, batch)

    def after_loss(self, learn):
        if self.what == "loss" and (learn.epoch, learn.iter) == self.place and learn.model.training:
            learn.loss = learn.loss * math.nan

    def after_backward(self, learn):
        if self.what == "gradient" and (learn.epoch, learn.iter) == self.place:
            learn.model[2].bias.grad.fill_(math.inf)


def test_nan_guard_when_it_stops_then_names_epoch_batch_and_parameter():
    learn = learner([Poison(epoch=1), NaNGuard(every_steps=2)])
    learn.fit(3)
    assert learn.stop_reason == (
        "NaN guard: the loss became nan in epoch 1, batch 3 (from 0); "
        "the first parameter that is not finite is 0.weight"
    )
    assert len(learn.history) == 1


def test_nan_guard_when_it_raises_then_names_the_first_bad_batch_of_those_gathered():
    with pytest.raises(
        FloatingPointError, match=r"the loss became nan in epoch 0, batch 1 \(from 0\); the first parameter .* 0.weight"
    ):
        learner([Poison(batch=1), NaNGuard("raise", every_steps=100)]).fit(1)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_nan_guard_when_it_skips_then_trains_as_without_that_batch(what, accumulate):
    models = []
    for train, cbs in (
        (batches(), [Poison(what), NaNGuard("skip")]),
        ([batch for i, batch in enumerate(batches()) if i != 3], []),
    ):
        torch.manual_seed(0)
        learn = learner(cbs, train=train, accumulate=accumulate)
        learn.fit(1)
        models.append(learn.model.state_dict())
    for key in models[0]:
        # the window's sum begins from a copy of the same gradients
        torch.testing.assert_close(models[0][key], models[1][key], rtol=0, atol=1e-7)


def with_batch_norm():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def with_nan_in(place):
    return [(x * math.nan, y) if i == place else (x, y) for i, (x, y) in enumerate(batches())]


@pytest.mark.parametrize("guards", [[], [NaNGuard()]])
def test_checkpoint_when_statistics_have_become_nan_and_weights_not_then_the_last_good_one_stays(
    guards, tmp_path, caplog
):
    cbs = [*guards, Checkpoint(every_steps=1)]
    learn = learner(cbs, model=with_batch_norm(), train=with_nan_in(3), folder=tmp_path, precision="fp16")
    learn.fit(1)
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())
    assert learn.model[1].running_mean.isnan().any()
    newest = max((tmp_path / "checkpoints").glob("step-*.pt"))
    assert not load_checkpoint(newest)["model"]["1.running_mean"].isnan().any()
    assert guards or "1.running_mean is not finite: it is not saved" in caplog.text


class Ruin(Callback):
    """Leaves NaN weights behind a finite loss."""

    def after_step(self, learn):
        if learn.step == 10:
            learn.model[0].weight.data.fill_(math.nan)


@pytest.mark.parametrize("guards", [[], [NaNGuard()]])
@pytest.mark.parametrize("monitor", ["valid_accuracy", "train_loss"])
def test_best_weights_when_an_epoch_ends_in_nan_behind_a_finite_loss_then_are_those_of_before(
    monitor, guards, tmp_path
):
    torch.manual_seed(0)
    zeros = [(x, torch.zeros_like(y)) for x, y in batches(20, seed=1)]  # what NaN scores give, all of them
    cbs = [Ruin(), *guards, RunFiles(monitor="valid_accuracy"), EarlyStopping(monitor), Checkpoint(monitor=monitor)]
    valid = zeros if monitor == "valid_accuracy" else None
    learn = learner(cbs, valid=valid, metrics={"accuracy": accuracy}, folder=tmp_path)
    learn.fit(3)
    kept = [
        learn.model[0].weight,
        load_file(tmp_path / "model.safetensors")["0.weight"],
        load_checkpoint(tmp_path / "checkpoints" / "best.pt")["model"]["0.weight"],
    ]
    assert all(weight.isfinite().all() for weight in kept)
    assert torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("end", [CancelFitException, None])
def test_nan_guard_when_a_fit_is_cut_before_its_next_look_then_looks_at_the_end(end, tmp_path):
    class Enough(Callback):
        order = 80

        def after_batch(self, learn):
            if learn.iter == 4:
                if end is not None:
                    raise end
                learn.stop("enough", outcome="resumable")

    learn = learner([Poison(), NaNGuard(), Enough(), Checkpoint()], train=batches(100), folder=tmp_path)
    learn.fit(2)
    assert "the loss became nan in epoch 0, batch 3 (from 0)" in learn.stop_reason
    assert learn.outcome == "broken"
    assert (tmp_path / "crash.pt").exists() == (end is None)
    assert not list((tmp_path / "checkpoints").iterdir())
    learn.stop("another reason")
    assert learn.outcome == "broken"
    with pytest.raises(FloatingPointError, match="batch 3"):
        learner([Poison(), NaNGuard("raise"), Enough()], train=batches(100)).fit(2)


@pytest.mark.parametrize("n", [10, 100])
def test_nan_guard_when_a_batch_has_ignored_labels_alone_then_lets_it_pass(n):
    x, y = blobs(4 * n)
    y[n : 2 * n] = -100
    learn = learner([NaNGuard("raise", every_steps=1)], train=list(zip(x.split(n), y.split(n), strict=True)))
    learn.fit(2)
    assert learn.step == 8


def test_nan_guard_when_it_skips_then_buffers_of_the_loss_are_put_back_too():
    learn = learner([NaNGuard("skip")], train=with_nan_in(3))
    learn.loss_func = Centred()
    learn.fit(2)
    assert learn.step == 8
    assert learn.loss_func.centre.isfinite().all()


@pytest.mark.parametrize("accumulate", [1, 100])
def test_time_limit_when_an_epoch_has_no_step_before_its_end_then_ends_the_fit_there(accumulate):
    learn = learner([TimeLimit(1e-9)], accumulate=accumulate)
    learn.fit(3)
    assert len(learn.history) == (0 if accumulate == 1 else 1)
    assert learn.stop_reason.startswith("time limit: 1e-09 seconds are over ")


def test_ema_when_there_is_no_validation_then_what_is_saved_is_the_average_too(tmp_path):
    cbs = [EMA(0.9), RunFiles(), Checkpoint(monitor="train_loss")]
    learn = learner(cbs, folder=tmp_path)
    learn.fit(2)
    average = learn.model[0].weight
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.weight"], average)
    assert torch.equal(load_checkpoint(tmp_path / "checkpoints" / "best.pt")["model"]["0.weight"], average)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nan_guard_when_it_skips_then_running_statistics_are_without_that_batch_too(accumulate):
    states = []
    for train, cbs in (
        (with_nan_in(3), [NaNGuard("skip")]),
        ([batch for i, batch in enumerate(batches()) if i != 3], []),
    ):
        torch.manual_seed(0)
        learn = learner(cbs, model=with_batch_norm(), train=train, accumulate=accumulate)
        learn.fit(2)
        states.append(learn.model.state_dict())
    assert same_state(*states)


def test_nan_guard_when_weights_became_nan_then_no_best_is_what_they_give(tmp_path):
    class Ruin(Callback):
        def after_batch(self, learn):
            if learn.model.training and learn.epoch == 1 and learn.iter == 4:
                learn.loss = learn.loss * math.nan
                learn.model[0].weight.data.fill_(math.nan)

    torch.manual_seed(0)
    valid = [(x, torch.zeros_like(y)) for x, y in batches(20, seed=1)]  # what NaN scores give, all of them
    cbs = [Ruin(), NaNGuard(), EarlyStopping("valid_accuracy"), RunFiles(monitor="valid_accuracy")]
    cbs.append(Checkpoint(monitor="valid_accuracy"))
    learn = learner(cbs, valid=valid, metrics={"accuracy": accuracy}, folder=tmp_path)
    learn.fit(3)
    assert learn.history[1]["valid_accuracy"] > learn.history[0]["valid_accuracy"]
    best = load_checkpoint(tmp_path / "checkpoints" / "best.pt")["model"]["0.weight"]
    kept = load_file(tmp_path / "model.safetensors")["0.weight"]
    assert all(weight.isfinite().all() for weight in (best, kept, learn.model[0].weight))


def test_nan_guard_when_it_skips_in_fp16_then_the_scaler_finds_its_scale():
    ends = []
    for cbs in ([], [NaNGuard("skip")]):
        torch.manual_seed(0)
        learn = learner(cbs, train=[(8 * x, y) for x, y in batches(200)], precision="fp16")
        learn.fit(1)
        ends.append((learn.step, learn.scaler.get_scale()))
    assert ends[0] == ends[1]
    assert 0 < ends[0][0] < 20  # some overflowed


def test_nan_guard_when_all_is_finite_then_changes_nothing():
    models = []
    for cbs in ([], [NaNGuard("skip")], [NaNGuard("raise")]):
        torch.manual_seed(0)
        learn = learner(cbs)
        learn.fit(1)
        models.append(learn.model.state_dict())
    assert same_state(models[0], models[1])
    assert same_state(models[0], models[2])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NaNGuard("ignore"), "action is 'stop', 'skip' or 'raise'; got 'ignore'"),
        (lambda: NaNGuard(every_steps=0), "the number of steps between two looks, at least 1; got 0"),
        (lambda: TimeLimit(0), "seconds is how long a fit may take, above 0; got 0"),
    ],
)
def test_guard_when_it_makes_no_sense_then_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_time_limit_when_over_then_ends_the_fit_after_the_batch_and_after_fit_is_called():
    ended = []

    class Slow(Callback):
        def after_batch(self, learn):
            time.sleep(0.02)

        def after_fit(self, learn):
            ended.append(learn.iter)

    learn = learner([Slow(), TimeLimit(0.05)])
    learn.fit(1000)
    assert learn.stop_reason == f"time limit: 0.05 seconds are over in epoch 1, batch {ended[0] + 1}"
    assert len(ended) == 1


class MeanConfidence:
    """A metric as other libraries write them; it keeps its list, and computes a tensor of one number."""

    def __init__(self):
        self.values = []

    def reset(self):
        self.values.clear()

    def update(self, preds, y):
        self.values.append(preds.softmax(1).amax(1))

    def compute(self):
        return torch.cat(self.values).mean(dim=0, keepdim=True)


def test_metric_of_another_library_when_given_then_is_updated_and_computed_on_a_copy():
    theirs = MeanConfidence()
    learn = learner([], valid=batches(20, seed=1), metrics={"confidence": theirs, "accuracy": Accuracy()})
    results = learn.fit(1)
    expected = learn.predict(batches(20, seed=1)).softmax(1).amax(1).mean().item()
    assert results["confidence"] == pytest.approx(expected, rel=1e-6)  # batches of another size
    assert theirs.values == []


def test_summary_when_asked_for_then_lists_the_layers_and_changes_nothing():
    model = dropout_net().train()
    learn = learner([], model)
    state, rng = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    text = learn.summary(torch.zeros(5, 6))
    assert text.splitlines() == [
        "layer  type         output   parameters",
        "0      Linear       (5, 16)         112",
        "1      BatchNorm1d  (5, 16)          32",
        "2      ReLU         (5, 16)           0",
        "3      Dropout      (5, 16)           0",
        "4      Linear       (5, 3)           51",
        "total 195 parameters, 195 trainable",
    ]
    assert model.training
    assert same_state(model.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(not module._forward_hooks for module in model.modules())


def test_summary_when_a_part_is_scripted_then_counts_it_in_the_total_alone():
    model = nn.Sequential(torch.jit.script(nn.Linear(6, 16)), nn.Linear(16, 3))
    lines = learner([], model).summary(torch.zeros(5, 6)).splitlines()
    assert lines[1:] == ["1      Linear  (5, 3)          51", "total 163 parameters, 163 trainable"]


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_summary_when_a_layer_has_no_shape_yet_then_shows_it_and_leaves_it_so():
    model = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.Linear(16, 3))
    lines = learner([], model).summary(torch.zeros(5, 6)).splitlines()
    assert lines[1:3] == ["0      Linear       (5, 16)         112", "1      BatchNorm1d  (5, 16)          32"]
    assert lines[-1] == "total 195 parameters, 195 trainable"
    assert type(model[0]) is nn.LazyLinear
    assert is_lazy(model[0].weight)
    assert is_lazy(model[1].running_mean)


def test_compile_when_no_compiler_works_then_says_so(tmp_path):
    program = """
import torch
from torch import nn
from ignite_trainer import Learner
data = [(torch.zeros(4, 2), torch.zeros(4, 1))]
try:
    model = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1))
    Learner(model, (data, None), nn.MSELoss(), 0.1, device="cpu", compile=True).fit(1)
except RuntimeError as error:
    print(error)
"""
    environment = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("compile=True needs a compiler that works, such as g++ for the CPU; torch said "), (
        done
    )


class Flat(nn.Module):
    """A model without a length, which a Sequential has."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize("make_model", [mlp, Flat])
def test_compile_when_a_compiler_works_then_trains_to_nearly_the_same_weights(make_model):
    models = []
    for compile in (False, True):
        torch.manual_seed(0)
        learn = Learner(make_model(), (batches(), None), nn.CrossEntropyLoss(), 0.1, device="cpu", compile=compile)
        learn.fit(1)
        models.append(learn.model.state_dict())
    for key in models[0]:
        torch.testing.assert_close(models[0][key], models[1][key], rtol=0, atol=1e-6)  # fused kernels round otherwise


def test_after_step_points_when_the_batch_is_skipped_then_do_not_come():
    steps = []
    learn = learner([Poison(), NaNGuard("skip")])
    learn.trainer.add_event_handler(TrainEvents.STEPPED, lambda: steps.append(learn.iter))
    learn.fit(1)
    assert steps == [0, 1, 2, 4]


@pytest.mark.parametrize("asks", [False, True])
def test_model_that_was_compiled_before_then_is_called_and_saved_under_plain_names(asks, tmp_path):
    n_graphs = []

    def backend(graph, inputs):
        n_graphs.append(graph)
        return graph.forward

    model = mlp()
    data, compiled = (batches(), batches()), torch.compile(model, backend=backend)
    learn = Learner(compiled, data, nn.CrossEntropyLoss(), 0.1, device="cpu", compile=asks)
    assert learn.model is model
    assert learn.fit(1)["loss"] > 0
    assert n_graphs
    learn.save(tmp_path / "model.safetensors")
    Learner(mlp(), data, nn.CrossEntropyLoss(), 0.1, device="cpu").load(tmp_path / "model.safetensors")


def test_nan_guard_when_steps_are_of_several_batches_then_looks_after_so_many_steps():
    learn = learner([Poison(batch=0), NaNGuard("raise", every_steps=2)], train=batches(100), accumulate=3)
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    assert (learn.step, learn.iter) == (2, 5)
