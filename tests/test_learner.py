"""The Learner: modes, loaders of every kind, fits in a row, and what it refuses."""

import copy
import functools
import math
import multiprocessing
import pickle
import warnings
from collections import Counter, defaultdict
from contextlib import nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ignite.handlers import TerminateOnNan
from ignite.metrics import RunningAverage
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignite_trainer import (
    EMA,
    Accuracy,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Checkpoint,
    EarlyStopping,
    Learner,
    LRFinder,
    OverfitBatch,
    Schedule,
    TensorLoader,
    TimeLimit,
    accuracy,
    check,
    create_evaluator,
    fit,
    seed_everything,
)
from ignite_trainer.repeatable import repeatable
from ignite_trainer.steps import on_device
from tests.tiny import blobs, dropout_net, hand_fit, mlp, own_step, same_state


def batches(n=40, size=10, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(size), y.split(size), strict=True))


def learner(train=None, valid=None, model=None, loss_func=None, **how):
    train = batches() if train is None else train
    how = {"lr": 0.1, "device": "cpu", **how}
    return Learner(model or mlp(), (train, valid), loss_func or nn.CrossEntropyLoss(), **how)


class Phases(Callback):
    """Writes down mode and gradient mode at each batch."""

    def __init__(self):
        self.seen = []

    def after_batch(self, learn):
        self.seen.append((learn.model.training, torch.is_grad_enabled(), learn.preds.requires_grad))


def test_modes_when_fitting_then_training_has_gradients_and_dropout_and_validation_has_neither():
    phases = Phases()
    learner(valid=batches(20, seed=1), model=dropout_net(), cbs=[phases]).fit(1)
    assert phases.seen == [(True, True, True)] * 4 + [(False, False, False)] * 2


def test_after_validate_when_called_then_the_model_is_in_the_mode_of_the_validation():
    class Look(Callback):
        def after_validate(self, learn):
            self.training = learn.model.training

    look = Look()
    learner(valid=batches(20, seed=1), cbs=[look]).fit(1)
    assert not look.training


@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_evaluate_and_predict_when_done_then_every_submodule_has_its_mode_and_buffers_back(what):
    model = dropout_net()
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    learn = learner(model=model)
    getattr(learn, what)(batches(20))
    assert [module.training for module in model.modules()] == modes
    assert same_state(model.state_dict(), state)


def test_evaluate_when_it_raises_then_modes_are_restored():
    model = dropout_net().train()
    with pytest.raises(TypeError):
        learner(model=model).evaluate([torch.zeros(3)])
    assert all(module.training for module in model.modules())


def test_predict_when_given_batches_then_returns_the_outputs_in_their_order():
    model, (x, y) = dropout_net().eval(), blobs(25)
    with torch.no_grad():
        expected = torch.cat([model(part) for part in x.split(10)])
    learn = learner(model=model)
    assert torch.equal(learn.predict(list(zip(x.split(10), y.split(10), strict=True))), expected)
    assert torch.equal(learn.predict(list(x.split(10))), expected)


def test_evaluate_when_given_a_loader_then_equals_the_validation_of_a_fit():
    valid = batches(30, seed=1)
    learn = learner(valid=valid, metrics={"accuracy": accuracy})
    results = learn.fit(1)
    assert learn.evaluate() == learn.evaluate(valid) == results


def test_fit_when_called_twice_then_each_has_its_own_optimizer_history_and_steps():
    learn = learner(opt_func=optim.Adam)
    learn.fit(1)
    first = learn.opt
    learn.fit(2)
    assert learn.opt is not first
    assert [(row["epoch"], row["step"]) for row in learn.history] == [(0, 4), (1, 8)]


def test_fit_when_groups_are_a_generator_then_each_fit_has_them():
    model = mlp()
    learn = learner(model=model, param_groups=model.parameters())
    for _ in range(2):
        learn.fit(1)
        assert len(learn.opt.param_groups[0]["params"]) == 4


def test_fit_when_an_optimizer_was_given_then_it_is_kept_over_fits():
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    learn = learner(model=model, lr=None, optimizer=optimizer)
    learn.fit(1)
    learn.fit(1)
    assert learn.opt is optimizer
    assert optimizer.state[next(model.parameters())]["step"] == 8


def test_fit_after_an_exception_then_is_as_clean_as_the_first():
    class Once(Callback):
        raised = False

        def after_backward(self, learn):
            if learn.iter == 2 and not self.raised:
                self.raised = True
                raise KeyError("once")

    torch.manual_seed(0)
    learn, valid = learner(valid=batches(20, seed=1), cbs=[Once()]), batches(20, seed=1)
    start = {key: value.clone() for key, value in learn.model.state_dict().items()}
    with pytest.raises(KeyError, match="once"):
        learn.fit(2)
    learn.model.load_state_dict(start)
    learn.fit(2)
    reference = mlp()
    reference.load_state_dict(start)
    losses = hand_fit(2, reference, optim.SGD(reference.parameters(), 0.1), nn.CrossEntropyLoss(), batches(), valid)
    assert same_state(learn.model.state_dict(), reference.state_dict())
    assert [row["valid_loss"] for row in learn.history] == [loss for loss, _, _ in losses]


def test_exception_when_a_cleanup_returns_something_then_leaves_the_fit_all_the_same():
    class Written(Callback):
        def after_step(self, learn):
            raise KeyError("once")

        def cleanup_fit(self, learn, error):
            return 17  # as file.write does

    with pytest.raises(KeyError, match="once"):
        learner(cbs=[Written()]).fit(1)


@pytest.mark.parametrize("point", ["after_predict", "after_loss", "after_batch"])
def test_evaluate_when_called_in_a_batch_then_the_batch_goes_on_as_it_was(point):
    losses = {}

    def fit_with(evaluates):
        class Look(Callback):
            def after_batch(self, learn):
                if learn.model.training:
                    losses.setdefault(evaluates, []).append(learn.loss.item())

        def look(self, learn):
            if learn.model.training:
                learn.evaluate(batches(20, seed=1))

        other = type("Look", (Callback,), {point: look, "order": -1})
        torch.manual_seed(0)
        learn = learner(cbs=[Look(), *([other()] if evaluates else [])])
        learn.fit(1)
        return losses[evaluates], learn.model.state_dict()

    (ours, weights), (theirs, reference) = fit_with(True), fit_with(False)
    assert ours == theirs
    assert same_state(weights, reference)


def test_predict_when_called_within_a_batch_in_autocast_then_autocast_ends_with_the_batch():
    class Look(Callback):
        def after_predict(self, learn):
            learn.predict(batches(20))
            assert torch.is_autocast_enabled("cpu")

    learner(valid=batches(20), cbs=[Look()], precision="bf16").fit(1)
    assert not torch.is_autocast_enabled("cpu")


def test_evaluate_when_in_autocast_then_equals_the_loop_by_hand_and_leaves_autocast_at_a_cancel_too():
    class Cancel(Callback):
        def after_loss(self, learn):
            raise CancelBatchException

    learn, data = learner(precision="bf16"), batches(20)
    learn.model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = [learn.loss_func(learn.model(x), y).item() * len(y) for x, y in data]
    assert learn.evaluate(data)["loss"] == sum(losses) / sum(len(y) for _, y in data)
    learn.cbs = [Cancel()]
    assert math.isnan(learn.evaluate(data)["loss"])
    assert not torch.is_autocast_enabled("cpu")


def test_resume_when_it_is_refused_then_the_learner_keeps_what_it_had(tmp_path):
    learn = learner(cbs=[Checkpoint()], folder=tmp_path)
    learn.fit(2)
    with pytest.raises(FileNotFoundError):
        learn.fit(3, resume="nowhere")
    assert (len(learn.history), learn.step) == (2, 8)


def test_workers_when_a_fit_was_cancelled_then_they_have_ended():
    class AtOnce(Callback):
        def after_batch(self, learn):
            raise CancelFitException

    loader = DataLoader(TensorDataset(*blobs(40)), 4, num_workers=1)
    learn = learner(train=loader, cbs=[AtOnce()])
    before = set(multiprocessing.active_children())
    learn.fit(1)
    assert set(multiprocessing.active_children()) <= before


def test_fit_when_cancelled_before_a_validation_then_its_results_are_nan():
    class AtOnce:
        def before_fit(self, learn):
            raise CancelFitException

    model = mlp()
    results = fit(
        np.int64(1),
        model,
        optim.SGD(model.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        batches(),
        batches(),
        cbs=[AtOnce()],
    )
    assert all(map(math.isnan, results))


def test_model_and_loaders_when_assigned_between_fits_then_the_next_fit_trains_with_them():
    torch.manual_seed(0)
    learn = learner(valid=batches(20, seed=1))
    learn.fit(1)
    torch.manual_seed(1)
    learn.model = other = mlp()
    learn.dls = batches(20, seed=2), None
    learn.fit(1)
    torch.manual_seed(1)
    reference = learner(train=batches(20, seed=2))
    reference.fit(1)
    assert learn.step == 2
    assert same_state(other.state_dict(), reference.model.state_dict())


def test_loss_when_assigned_between_fits_then_weighs_batches_by_its_own_rule():
    x, y = blobs(40)
    valid = list(zip(x.split(10), y.split(10), strict=True))
    learn = learner(valid=valid)
    learn.evaluate()
    learn.loss_func = nn.CrossEntropyLoss(ignore_index=0)
    truth = nn.functional.cross_entropy(learn.model(x), y, ignore_index=0).item()
    assert learn.evaluate()["loss"] == pytest.approx(truth, abs=1e-6)  # means of parts, in float32


@pytest.mark.parametrize("name", ["metrics", "accumulate", "clip_norm", "precision", "compile", "prepare_batch"])
def test_argument_when_assigned_later_without_an_effect_then_is_refused(name):
    with pytest.raises(AttributeError, match=f"^{name} is given when a Learner is made, .* with {name}="):
        setattr(learner(), name, None)


def test_engine_of_a_learner_when_run_by_itself_before_any_fit_then_trains_and_evaluates():
    learn = learner(valid=batches(20, seed=1), cbs=[phases := Phases()])
    learn.trainer.run(batches(), max_epochs=2)
    assert len(phases.seen) == learn.step == 8
    state = learn.evaluator.run(batches(20, seed=1))
    assert state.metrics == learn.evaluate()


@pytest.mark.parametrize(
    "loader",
    [
        lambda x, y: DataLoader(TensorDataset(x), 8),
        lambda x, y: TensorLoader(x, batch_size=8),
        lambda x, y: [(part,) for part in x.split(8)],
        lambda x, y: x.split(8),
        lambda x, y: lambda: iter(x.split(8)),
        lambda x, y: lambda: [*zip(x.split(8), y.split(8), strict=True)],
    ],
)
def test_predict_when_given_inputs_alone_or_a_function_then_gives_their_outputs(loader):
    x, y = blobs(20)
    learn = learner()
    expected = torch.cat([learn.model(part) for part in x.split(8)])
    assert torch.equal(learn.predict(loader(x, y)), expected)


def test_cancel_when_raised_where_nothing_of_its_kind_runs_then_says_so():
    class TooEarly(Callback):
        def before_epoch(self, learn):
            raise CancelBatchException

    with pytest.raises(CancelBatchException) as raised:
        learner(cbs=[TooEarly()]).fit(1)
    notes = ["CancelBatchException leaves a batch; it was raised where none is running"]
    assert getattr(raised.value, "__notes__", notes) == notes  # Python 3.11


@pytest.mark.parametrize(
    ("cb", "text"),
    [
        (
            optim.lr_scheduler.StepLR(optim.SGD(mlp().parameters(), 0.1), 1),
            r"got the scheduler StepLR: give Schedule\(lambda opt: StepLR\(opt, ...\)\)$",
        ),
        (TerminateOnNan(), "got Ignite's TerminateOnNan: attach it to learn.trainer or learn.evaluator$"),
        ("progress", "got 'progress': leave it out$"),
        (3, "got 3: leave it out$"),
    ],
)
def test_fit_when_something_among_the_callbacks_would_never_be_called_then_is_refused(cb, text):
    with pytest.raises(TypeError, match=f"^a callback is an object with methods named after points; {text}"):
        learner(cbs=[cb]).fit(1)


def test_callback_when_it_has_points_of_ones_own_alone_then_is_called_there():
    class Own:
        def my_point(self, learn):
            called.append(learn)

    called = []
    learn = learner(cbs=[Own()])
    learn.fit(1)
    learn.callback("my_point")
    assert called == [learn]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("lr", 0.01, r"learn.lr is assigned between fits, and one is running: set the rates in learn.opt.param_groups"),
        ("model", mlp(), "learn.model is assigned between fits, and one is running: give the fit a callback that"),
        ("dls", ([], None), "learn.dls is assigned between fits, and one is running: have the loader itself change"),
    ],
)
def test_fit_when_a_callback_assigns_what_the_next_fit_goes_by_then_is_refused(name, value, text):
    class Assign(Callback):
        def after_batch(self, learn):
            setattr(learn, name, value)

    learn = learner(cbs=[Assign()])
    before = getattr(learn, name)
    with pytest.raises(RuntimeError, match=text):
        learn.fit(1)
    assert getattr(learn, name) is before


def test_fit_with_a_step_of_ones_own_and_no_loss_when_it_is_to_validate_then_is_refused_before_it_trains():
    def step(learn):
        raise AssertionError("it trains")

    learn = Learner(mlp(), (batches(), batches()), None, 0.1, device="cpu", step=step)
    with pytest.raises(
        ValueError, match=r"validation needs loss_func, called with \(preds, y\); got None: give one, or"
    ):
        learn.fit(1)


def test_fit_after_one_whose_callbacks_were_refused_then_runs():
    learn = learner(cbs=[lambda learn: None])
    for run in (lambda: learn.fit(1), lambda: learn.one_epoch(True)):
        with pytest.raises(TypeError, match="got the function"):
            run()
    learn.cbs = []
    learn.fit(1)
    assert learn.step == 4


class Changing:
    """A loader whose epochs have 3, 5 and 2 batches."""

    def __init__(self, sized):
        self.epoch = -1
        if sized:
            self.__class__ = type("Sized", (Changing,), {"__len__": lambda self: (3, 5, 2)[self.epoch + 1]})

    def __iter__(self):
        self.epoch += 1
        return iter(batches()[:1] * (3, 5, 2)[self.epoch])


class Stream(IterableDataset):
    """Ten samples, one after another; its length is not known."""

    def __iter__(self):
        return iter([(torch.ones(6), 1)] * 10)


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
def test_epochs_when_the_loader_changes_length_then_each_ends_with_it(sized):
    learn = learner(train=Changing(sized))
    learn.fit(3)
    assert [row["step"] for row in learn.history] == [3, 8, 10]


def generate():
    yield from batches()


@pytest.mark.parametrize(
    ("loader", "n_batches"),
    [
        (generate, 4),
        (tuple(batches()), 4),
        (DataLoader(Stream(), 4), 3),
        (DataLoader(TensorDataset(*blobs(10)), 4), 3),
    ],
    ids=["generator function", "tuple", "iterable dataset", "DataLoader"],
)
def test_loaders_when_of_any_kind_then_each_epoch_has_all_their_batches(loader, n_batches):
    learn = learner(train=loader, valid=loader)
    learn.fit(2)
    assert [row["step"] for row in learn.history] == [n_batches, 2 * n_batches]


def test_one_shot_iterator_when_there_is_one_epoch_then_serves():
    learn = learner(train=iter(batches()))
    learn.fit(1)
    assert learn.step == 4


class Pair:
    """An object with train and valid."""

    train, valid = batches(), None


def test_dls_when_an_object_or_a_pair_then_both_serve():
    for dls in (Pair(), (batches(), None), [batches(), None]):
        learn = Learner(mlp(), dls, nn.CrossEntropyLoss(), 0.1, device="cpu")
        learn.fit(1)
        assert (learn.dls, learn.step) == (dls, 4)


def test_step_when_one_of_ones_own_is_given_then_it_trains_and_counts():
    class Alternating:
        """Two losses, two moves a batch."""

        def __call__(self, learn):
            x, y = learn.batch
            for _ in range(2):
                learn.preds = learn.model(x)
                learn.loss = learn.loss_func(learn.preds, y)
                learn.loss.backward()
                learn.opt.step()
                learn.opt.zero_grad()
            return learn.loss.detach()

    learn = learner(step=Alternating())
    learn.fit(1)
    assert learn.step == 4
    assert learn.history[0]["train_loss"] > 0


def test_step_of_ones_own_when_batches_are_prepared_then_works_on_the_pair():
    def step(learn):
        x, y = learn.batch
        learn.preds = learn.model(x)
        learn.loss = learn.loss_func(learn.preds, y)

    dicts = [{"image": x, "label": y} for x, y in batches()]
    learn = learner(train=dicts, prepare_batch=lambda batch: (batch["image"], batch["label"]), step=step)
    learn.fit(1)
    assert learn.history[0]["train_loss"] == learner(valid=batches(), model=learn.model).evaluate()["loss"]


def test_step_of_ones_own_when_the_optimizer_wants_a_closure_then_gives_it_one():
    def step(learn):
        x, y = learn.batch

        def closure():
            learn.opt.zero_grad()
            learn.preds = learn.model(x)
            learn.loss = learn.loss_func(learn.preds, y)
            learn.loss.backward()
            return learn.loss

        learn.opt.step(closure)

    torch.manual_seed(0)
    learn = learner(opt_func=optim.LBFGS, step=step)
    learn.fit(3)
    assert learn.step == 12
    assert learn.history[-1]["train_loss"] < 0.5 * learn.history[0]["train_loss"]


def test_loss_when_it_has_parameters_then_is_warned_that_nothing_trains_them_unless_they_are_the_models():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, preds, y):
            return nn.functional.cross_entropy(self.scale * preds, y)

    with pytest.warns(UserWarning, match="Scaled has 1 that is not: make the loss a part of it"):
        learner(loss_func=Scaled())
    model, loss_func = mlp(), Scaled()
    model.loss = loss_func
    model.forward = nn.Sequential(*model[:3]).forward
    learn = learner(model=model, loss_func=loss_func)
    learn.fit(1)
    assert loss_func.scale != 1


def test_prepare_batch_when_given_then_makes_the_pair_of_any_batch():
    dicts = [{"image": x, "label": y} for x, y in batches()]
    learn = learner(train=dicts, prepare_batch=lambda batch: (batch["image"], batch["label"]))
    learn.fit(1)
    assert learn.step == 4


class Boxes(NamedTuple):
    corners: torch.Tensor
    labels: list


def test_batch_when_it_is_a_nest_then_keeps_its_form_and_every_tensor_is_on_the_device():
    def nest(n):
        return {"boxes": Boxes(n, [n, "cat"]), "sizes": (n, [n], 3)}

    evaluator = create_evaluator(nn.Identity(), lambda preds, y: None, device="meta")
    x, y = evaluator.run([(torch.zeros(2), nest(torch.zeros(2)))]).output
    assert x.is_meta
    assert y["boxes"].corners.is_meta
    assert repr(y) == repr(nest(torch.zeros(2, device="meta")))


class Optimizer:
    """An optimizer with nothing but step and zero_grad."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr

    def step(self):
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= parameter.grad * self.lr

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad.zero_()


def test_optimizer_when_it_has_only_step_and_zero_grad_then_serves():
    torch.manual_seed(0)
    learn = learner(opt_func=Optimizer)
    torch.manual_seed(0)
    reference = learner()
    learn.fit(2)
    reference.fit(2)
    assert learn.history[-1]["lr"] == 0.1
    for ours, theirs in zip(learn.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # SGD fuses multiply and subtract


def lying(n):
    """A loader that says it has n batches and gives 4."""
    return type("Lying", (list,), {"__len__": lambda self: n})(batches())


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


def same_iterator(batches):
    """A function that gives the same iterator each time."""
    iterator = iter(batches)
    return lambda: iterator


def replaced_layer():
    model = mlp()
    learn = learner(model=model, lr=None, optimizer=optim.SGD(model.parameters(), 0.1))
    model[2] = nn.Linear(16, 3)
    return learn


REFUSED = {
    "empty loader": (
        lambda: learner(train=[]).fit(1),
        ValueError,
        "at least one batch an epoch; the training loader is empty",
    ),
    "empty generator": (lambda: learner(train=lambda: iter(())).fit(1), ValueError, "the training loader gave none"),
    "used-up generator": (
        lambda: learner(train=same_iterator(batches())).fit(2),
        ValueError,
        "the training loader gave none: have the function make a new one each time",
    ),
    "empty validation": (lambda: learner(valid=[]).fit(1), ValueError, "the validation loader is empty"),
    "short len": (lambda: learner(train=lying(3)).fit(1), ValueError, "says 3 and goes on: correct its __len__"),
    "dataset": (
        lambda: learner(train=TensorDataset(*blobs(8))).fit(1),
        TypeError,
        r"a loader gives batches; the training loader is a TensorDataset, which gives samples: take DataLoader\(",
    ),
    "tensor": (lambda: learner().predict(blobs(8)[0]), TypeError, "is a Tensor, which gives samples: .*TensorLoader"),
    "callback class": (
        lambda: learner(cbs=[Phases]).fit(1),
        TypeError,
        "a callback is an object; got the class Phases: make an instance of it",
    ),
    "one callback": (
        lambda: learner(cbs=Phases()),
        TypeError,
        "cbs is a list of callbacks; got a Phases: put",
    ),
    "resume": (lambda: learner().fit(1, resume=None), TypeError, "^resume is True, False, or a path; got None$"),
    "groups of another model": (
        lambda: learner(param_groups=[{"params": list(mlp().parameters())}]).fit(1),
        ValueError,
        r"^optimizer moves the model's parameters; 4 of its tensors are not among those of Sequential: make it from",
    ),
    "optimizer of a layer that was replaced": (
        lambda: replaced_layer().fit(1),
        ValueError,
        r"^optimizer moves the model's parameters; 2 of its tensors are not among those of Sequential: make it from",
    ),
    "step without a loss": (
        lambda: learner(step=lambda learn: learn.loss_func(learn.model(learn.batch[0]), learn.batch[1])).fit(1),
        TypeError,
        "^a step of one's own leaves learn.preds and learn.loss, a 0-d tensor; got None as the loss: assign learn.loss",
    ),
    "prepared triple": (
        lambda: learner(train=[(1, 2, 3)], prepare_batch=lambda batch: batch).fit(1),
        TypeError,
        "a batch is a pair .*; prepare_batch gave a tuple of 3",
    ),
    "one_epoch without validation": (
        lambda: learner().one_epoch(False),
        ValueError,
        "this Learner has no validation loader: give one",
    ),
    "no loss": (
        lambda: Learner(mlp(), (batches(), None), None, 0.1),
        TypeError,
        r"^loss_func is called with \(preds, y\), as in Learner\(.*\); got None$",
    ),
    "folder": (lambda: learner(folder=3), TypeError, "^folder is a path; got 3: give it as a string or a Path$"),
    "list of precisions": (lambda: learner(precision=["bf16"]), ValueError, r"'fp16'; got \['bf16'\]$"),
    "decay": (lambda: EMA("0.9"), ValueError, "that stays, between 0 and 1; got '0.9'$"),
    "seconds": (lambda: TimeLimit("5"), ValueError, "how long a fit may take, above 0; got '5'$"),
    "min_delta": (lambda: EarlyStopping(min_delta="0.1"), ValueError, "at least 0 and finite; got '0.1'$"),
    "seed": (lambda: seed_everything("0"), ValueError, "^seed is a whole number from 0 .*; got '0'$"),
    "check of a model": (
        lambda: check(mlp()),
        TypeError,
        "^check looks at a Learner; got a Sequential",
    ),
    "rates of a model": (lambda: LRFinder(mlp()), TypeError, "^LRFinder looks at a Learner; got a Sequential"),
    "one batch of a model": (lambda: OverfitBatch(mlp()), TypeError, "^OverfitBatch looks at a Learner; got a"),
    "metric without a return": (
        lambda: learner(metrics={"none": lambda preds, y: None}).evaluate(batches()),
        TypeError,
        "^a metric function gives its mean over the batch, one number; got None: return it",
    ),
    "order of a callback": (
        lambda: learner(cbs=[type("Late", (), {"order": "last"})()]).fit(1),
        TypeError,
        "^a callback's order is a number, by which they are sorted; Late has 'last'$",
    ),
    "point without learner": (
        lambda: learner(cbs=[type("Late", (), {"after_step": lambda self: None})()]).fit(1),
        TypeError,
        r"^a callback's after_step is called with learn; .* Late does not take so many: def after_step\(self, learn\)$",
    ),
    "cleanup without error": (
        lambda: learner(cbs=[type("Late", (), {"cleanup_fit": lambda self, learn: None})()]).fit(1),
        TypeError,
        r"^a callback's cleanup_fit is called with learn and error; .*: def cleanup_fit\(self, learn, error\)$",
    ),
    "closure": (
        lambda: learner(opt_func=optim.LBFGS).fit(1),
        TypeError,
        r"^step\(\) of the optimizer is called without arguments; LBFGS's needs some: give Learner\(step=...\)",
    ),
    "function as callback": (
        lambda: learner(cbs=[lambda learn: None]).fit(1),
        TypeError,
        r"got the function <lambda>: attach it with learn.trainer.add_event_handler\(event, function\)$",
    ),
    "model class": (
        lambda: learner(model=nn.Linear),
        TypeError,
        r"^model is an nn.Module, as in Learner\(.*\); got the class Linear: make an instance of it$",
    ),
    "model and loaders swapped": (
        lambda: Learner((batches(), None), mlp(), nn.CrossEntropyLoss(), 0.1),
        TypeError,
        r"^model is an nn.Module, as in Learner\(model, dls, loss_func, lr\); got a tuple$",
    ),
    "loss class": (
        lambda: learner(loss_func=nn.CrossEntropyLoss),
        TypeError,
        r"^loss_func is called with \(preds, y\), as in .*; got the class CrossEntropyLoss: make an instance of it$",
    ),
    "loss and optimizer swapped": (
        lambda: fit(1, mlp(), nn.CrossEntropyLoss(), optim.SGD(mlp().parameters(), 0.1), batches(), batches()),
        TypeError,
        r"^loss_func is called with .*, as in fit\(epochs, model, optimizer, loss_fn, train_dl, valid_dl\); got a SGD$",
    ),
    "loss as optimizer": (
        lambda: learner(lr=None, optimizer=nn.CrossEntropyLoss()),
        TypeError,
        "^optimizer has step and zero_grad, as torch.optim.SGD; got a CrossEntropyLoss$",
    ),
    "optimizer as opt_func": (
        lambda: learner(opt_func=optim.SGD(mlp().parameters(), 0.1)),
        TypeError,
        r"from \(parameters, lr\), as torch.optim.Adam; got a SGD: give it as optimizer=\.\.\., without lr$",
    ),
    "lr": (lambda: learner(lr="0.1"), TypeError, "^lr is a number, such as 1e-3; got '0.1'$"),
    "clip_norm": (
        lambda: learner(clip_norm="1"),
        ValueError,
        "norm of the gradients, above 0, or None for any; got '1'",
    ),
    "samples": (
        lambda: learner(train=list(zip(*blobs(8), strict=True))).fit(1),
        ValueError,
        r"gave predictions of shape \(3,\), one sample's: take DataLoader\(samples, batch_size\) as the loader",
    ),
    "column of labels": (
        lambda: learner(train=[(torch.zeros(4, 6), torch.zeros(4, 1).long())]).fit(1),
        ValueError,
        r"^class numbers are int64 of shape \(4,\) for predictions of shape \(4, 3\); the first training batch has "
        r"torch.int64 of shape \(4, 1\): give y.squeeze\(1\)",
    ),
    "labels as floats": (
        lambda: learner(train=[(torch.zeros(4, 6), torch.zeros(4))]).fit(1),
        ValueError,
        r"the first training batch has torch.float32 of shape \(4,\): give y.long\(\)",
    ),
    "int32 labels": (
        lambda: learner(train=[(torch.zeros(4, 6), torch.zeros(4).int())]).fit(1),
        ValueError,
        r"the first training batch has torch.int32 of shape \(4,\): give y.long\(\)",
    ),
    "labels of other rows": (
        lambda: learner(train=[(torch.zeros(4, 6), torch.zeros(5).long())]).fit(1),
        ValueError,
        r"the first training batch has torch.int64 of shape \(5,\): look at both",
    ),
    "binary labels": (
        lambda: learner(
            [(torch.zeros(4, 6), torch.ones(4, 1).long())], None, nn.Linear(6, 1), nn.BCEWithLogitsLoss()
        ).fit(1),
        ValueError,
        r"^binary cross-entropy takes targets as floats; the first training batch has torch.int64: give y.float\(\)",
    ),
    "fit without validation": (
        lambda: fit(1, mlp(), optim.SGD(mlp().parameters(), 0.1), nn.CrossEntropyLoss(), batches(), None),
        ValueError,
        "^fit prints each epoch's validation, so valid_dl is a loader; got None: Learner trains without$",
    ),
    "one-shot": (
        lambda: learner(train=iter(batches())).fit(2),
        TypeError,
        "gone through once an epoch, 2 times here; the training loader is a one-shot list_iterator",
    ),
    "no loader": (lambda: learner(train=3).fit(1), TypeError, "the training loader is a int"),
    "dls": (lambda: Learner(mlp(), 3, nn.MSELoss(), 0.1), TypeError, "dls is a pair of loaders .* got a int"),
    "labels": (
        lambda: learner(valid=[(torch.zeros(2, 6), torch.tensor([0, 12]))]).fit(1),
        ValueError,
        "class numbers from 0 to 2 for a model of 3 outputs; the first validation batch has 12",
    ),
    "negative labels": (
        lambda: learner(train=[(torch.zeros(2, 6), torch.tensor([0, -1]))]).fit(1),
        ValueError,
        "the first training batch has -1: number the classes from 0",
    ),
    "loss with dimensions": (
        lambda: learner(loss_func=nn.CrossEntropyLoss(reduction="none")).fit(1),
        ValueError,
        r"a loss is a 0-d tensor; loss_func gave one of shape \(10,\): take its mean",
    ),
    "loss no tensor": (
        lambda: learner(loss_func=lambda preds, y: 0.5).fit(1),
        TypeError,
        "a loss is a 0-d tensor; loss_func gave a float",
    ),
    "broadcast": (
        lambda: learner([(torch.zeros(20, 6), torch.zeros(20))], None, nn.Linear(6, 1), nn.MSELoss()).fit(1),
        ValueError,
        r"the first training batch has \(20, 1\) against \(20,\): squeeze the one or unsqueeze the other",
    ),
    "broadcast in a function": (
        lambda: learner(
            [(torch.randn(20, 6), torch.randn(20))], None, nn.Linear(6, 1), lambda p, y: ((p - y) ** 2).mean()
        ).fit(1),
        ValueError,
        "the loss broadcasts them silently",
    ),
    "no pair": (
        lambda: learner(train=[torch.zeros(2, 6)]).fit(1),
        TypeError,
        "the loader gave a Tensor: pass prepare_batch",
    ),
    "triple": (
        lambda: learner(train=[(1, 2, 3)]).fit(1),
        TypeError,
        "the loader gave a tuple of 3: pass prepare_batch",
    ),
    "neither lr nor optimizer": (
        lambda: learner(lr=None),
        ValueError,
        "lr, for opt_func, or optimizer, .* got neither",
    ),
    "lr and optimizer": (
        lambda: learner(optimizer=Optimizer([], 1)),
        ValueError,
        "or optimizer, an instance; got both",
    ),
    "foreign optimizer": (
        lambda: learner(lr=None, optimizer=optim.SGD(mlp().parameters(), 0.1)),
        ValueError,
        r"4 of its tensors are not among those of Sequential: make it from model.parameters\(\)",
    ),
    "device": (
        lambda: learner(device="cpuu"),
        ValueError,
        "device is one that .* such as 'cpu'.*; got 'cpuu'",
    ),
    "n_epochs": (
        lambda: learner().fit(-1),
        ValueError,
        "n_epochs is the number of epochs, a whole number from 0; got -1",
    ),
    "metric": (lambda: learner(metrics={"f1": 3}), TypeError, "'f1' is 3$"),
    "optimizer class": (
        lambda: learner(lr=None, optimizer=optim.Adam),
        TypeError,
        "^optimizer is an instance; got the class Adam: give it as opt_func, with lr$",
    ),
    "optimizer as lr": (
        lambda: learner(lr=optim.SGD(mlp().parameters(), 0.1)),
        TypeError,
        r"^lr is a number; got an optimizer, SGD: give it as optimizer=\.\.\.$",
    ),
    "metrics": (
        lambda: learner(metrics=[accuracy]),
        TypeError,
        r"^metrics is a dict, name → metric; got \[<function accuracy at .*>\]$",
    ),
    "monitor": (
        lambda: EarlyStopping(3),
        TypeError,
        "^monitor is the name of what is compared, such as 'valid_loss'; got 3$",
    ),
    "patience": (lambda: EarlyStopping(patience=2.5), ValueError, "a number of epochs, at least 1, .* got 2.5$"),
    "nothing to monitor": (
        lambda: learner(cbs=[EarlyStopping()]).fit(1),
        ValueError,
        "got 'valid_loss': there is no validation loader, give one",
    ),
    "checkpoint every": (
        lambda: Checkpoint(100),
        TypeError,
        "^folder is a path; got 100: give the others by name, as in every_steps=500$",
    ),
    "metric of many numbers": (
        lambda: learner(metrics={"errors": lambda preds, y: preds.argmax(1) != y}).evaluate(batches()),
        ValueError,
        r"^a metric function gives its mean over the batch, one number; got a tensor of shape \(10,\): take its mean",
    ),
    "metric class": (lambda: learner(metrics={"a": Accuracy}), TypeError, "make an instance of it"),
    "running average": (
        lambda: learner(metrics={"smooth": RunningAverage(Accuracy())}),
        TypeError,
        r"'smooth', Ignite's RunningAverage of a metric.*: attach it with attach\(learn.evaluator, name\), or give",
    ),
    "metric loss": (lambda: learner(metrics={"loss": accuracy}), ValueError, "give the metric another"),
    "evaluate": (lambda: learner().evaluate(), ValueError, "this Learner has no validation loader: give one"),
    "predict nothing": (lambda: learner().predict([]), ValueError, "the prediction loader is empty"),
    "predict tuples": (
        lambda: learner(model=nn.LSTM(6, 3)).predict(batches()),
        TypeError,
        r"^predict joins tensors \(N, \.\.\.\) of the batches; the model gave a tuple for one$",
    ),
    "predict no rows": (
        lambda: learner(model=nn.Sequential(nn.Flatten(0), nn.Linear(60, 1), nn.Flatten(0), Mean())).predict(batches()),
        TypeError,
        "the model gave a 0-d tensor for one$",
    ),
    "three loaders": (lambda: Learner(mlp(), [[], [], []], nn.MSELoss(), 0.1), TypeError, "got a list of 3$"),
    "predict an end": (lambda: learner().predict(iter([])), ValueError, "the one given to predict gave none"),
    "fit of no epochs": (
        lambda: fit(0, mlp(), None, None, [], []),
        ValueError,
        "epochs is the number of epochs, so at least 1; got 0",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_when_given_then_is_refused_in_one_sentence(what):
    job, error, text = REFUSED[what]
    with pytest.raises(error, match=text):
        job()


def test_metric_when_it_raises_then_a_note_names_it():
    learn = learner(metrics={"f1": lambda preds: 0.0})
    with pytest.raises(TypeError, match="takes 1 positional argument") as caught:
        learn.evaluate(batches())
    assert caught.value.raised_by == "the metric 'f1' at ITERATION_COMPLETED"


def test_metric_when_its_computation_raises_then_a_note_names_it():
    class Broken(Accuracy):
        def compute(self):
            raise ZeroDivisionError("nothing seen")

    learn = learner(metrics={"recall": Broken()})
    with pytest.raises(ZeroDivisionError, match="nothing seen") as caught:
        learn.evaluate(batches())
    assert caught.value.raised_by == "the metric 'recall' at EPOCH_COMPLETED"


def test_callback_when_it_has_hooks_of_another_framework_alone_then_the_fit_warns_that_it_calls_none():
    class OfLightning(Callback):
        def on_train_batch_end(self, trainer): ...

    class Both(OfLightning):
        def after_epoch(self, learn): ...

    class OwnPoint:
        def on_plateau(self, learn): ...

    with pytest.warns(UserWarning, match="OfLightning has none of them, and a fit calls no on_train_batch_end$"):
        learner(cbs=[OfLightning()]).fit(1)
    learner(cbs=[Both(), OwnPoint()]).fit(1)


def test_loss_when_it_sums_over_the_batch_then_is_warned_of():
    loss_func = nn.CrossEntropyLoss(reduction="sum")
    with pytest.warns(UserWarning, match="^a loss is the mean over its batch; CrossEntropyLoss adds up, "):
        learner(loss_func=loss_func)
    learner(loss_func=loss_func, loss_size=lambda preds, y: 1).fit(1)


def test_loss_when_a_subclass_takes_other_shapes_then_its_targets_are_not_looked_at():
    class OfSequences(nn.CrossEntropyLoss):
        def forward(self, preds, y):
            return super().forward(preds.flatten(0, 1), y.flatten())

    tokens = torch.randint(3, (4, 2), generator=torch.Generator().manual_seed(0))
    learn = learner([(torch.zeros(4, 2, 6), tokens)], loss_func=OfSequences())
    learn.fit(1)
    assert learn.step == 1


def one_batch(y, preds=3):
    return [(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), y)], nn.Linear(6, preds)


Y = torch.tensor([0, 1, 2, 0])
LEGITIMATE = {
    "probabilities": (torch.eye(3)[Y], 3, nn.CrossEntropyLoss()),
    "uint8 labels": (Y.to(torch.uint8), 3, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))),
    "uint8 labels like an ignored one": (
        torch.tensor([156, 1, 2, 156], dtype=torch.uint8),
        200,
        nn.CrossEntropyLoss(weight=torch.linspace(1, 3, 200)),
    ),
    "binary": (torch.ones(4, 1), 1, nn.BCEWithLogitsLoss()),
    "function": (Y, 3, functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)),
    "means alone": (torch.rand(4), 1, lambda preds, y: (preds.mean() - y.mean()) ** 2),
    "lined up": (torch.rand(4), 1, lambda preds, y: nn.functional.mse_loss(preds[:, 0], y)),
    "captions": (
        {"caption": ["a"] * 4, "label": Y},
        3,
        lambda preds, y: nn.functional.cross_entropy(preds, y["label"]),
    ),
    "no targets": (None, 3, lambda preds, y: preds.square().mean()),
    "mixed": ((0.3, Y, Y.flip(0)), 3, lambda preds, y: nn.functional.cross_entropy(preds, y[1])),
}


@pytest.mark.parametrize("what", LEGITIMATE)
def test_targets_of_any_form_when_the_loss_takes_them_then_train_as_by_hand(what):
    y, n_outputs, loss_func = LEGITIMATE[what]
    torch.manual_seed(0)
    train, model = one_batch(y, n_outputs)
    reference = copy.deepcopy(model)
    learn = learner(train, train, model, loss_func)
    learn.fit(2)
    losses = []
    for x, y in train * 2:
        loss_func(reference(x), y).backward()
        optimizer = optim.SGD(reference.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            losses.append(loss_func(reference(x), y).item())
    assert same_state(model.state_dict(), reference.state_dict())
    # the mean over n equal samples, times n and divided by n again
    assert [row["valid_loss"] for row in learn.history] == pytest.approx(losses, rel=1e-7)


def test_loss_with_a_state_when_shapes_are_looked_at_then_is_called_once_a_batch():
    class Counting:
        n = 0

        def __call__(self, preds, y):
            self.n += 1
            return nn.functional.mse_loss(preds.view(-1), y)

    train, model = one_batch(torch.rand(4), 1)
    loss_func = Counting()
    learner(train, model=model, loss_func=loss_func).fit(3)
    assert loss_func.n == 3


def test_shapes_when_a_callback_mends_them_after_the_prediction_then_are_accepted():
    class Squeeze(Callback):
        def after_predict(self, learn):
            learn.preds = learn.preds.squeeze(1)

    train, model = one_batch(torch.rand(4), 1)
    learn = learner(train, model=model, loss_func=nn.MSELoss(), cbs=[Squeeze()])
    learn.fit(1)
    assert learn.step == 1


def test_accuracy_when_training_alone_mixes_its_targets_then_is_computed_in_validation():
    train = [(x, torch.eye(3)[y]) for x, y in batches()]
    results = learner(train, batches(20, seed=1), metrics={"accuracy": accuracy}).fit(1)
    assert 0 <= results["accuracy"] <= 1


def test_loss_when_it_is_a_partial_function_then_weighs_batches_as_the_module_does():
    data = [(x, y.masked_fill(y == place % 3, -1)) for place, (x, y) in enumerate(batches())]
    module = nn.CrossEntropyLoss(ignore_index=-1, weight=torch.tensor([1.0, 2.0, 3.0]))
    function = functools.partial(nn.functional.cross_entropy, ignore_index=-1, weight=module.weight)
    torch.manual_seed(0)
    model = mlp()
    assert learner(model=model, loss_func=function).evaluate(data) == learner(model=model, loss_func=module).evaluate(
        data
    )


def test_targets_when_a_list_of_dicts_then_there_is_one_a_sample():
    def boxes(n):
        return {"boxes": torch.ones(n, 4)}

    data = [(torch.zeros(2, 6), [boxes(0), boxes(3)]), (torch.ones(2, 6), [boxes(5), boxes(1)])]
    learn = learner(model=nn.Identity(), loss_func=lambda preds, y: preds.mean())
    assert learn.evaluate(data) == {"loss": 0.5}


def test_samples_when_nothing_tells_how_many_then_the_error_says_how_to():
    learn = learner(loss_func=lambda preds, y: torch.zeros(()))
    learn.model.register_forward_hook(lambda model, args, output: {"scores": None})
    with pytest.raises(
        TypeError, match=r"a NoneType and a dict without one: give Learner\(loss_size=lambda preds, y: "
    ):
        learn.evaluate([(torch.zeros(4, 6), None)])


def test_all_labels_ignored_in_a_batch_then_the_mean_is_that_of_the_others():
    valid = [(torch.zeros(4, 6), torch.full((4,), -100)), *batches(20, seed=1)]
    learn = learner(valid=valid)
    assert learn.evaluate() == learn.evaluate(valid[1:])


def test_numbers_of_numpy_when_given_then_checkpoints_can_be_gone_on_with(tmp_path):
    class Share(Accuracy):
        def compute(self):
            return np.float64(super().compute())

    def job(n_epochs):
        torch.manual_seed(0)
        learn = learner(
            valid=batches(20, seed=1), lr=np.float64(0.1), metrics={"a": Share()}, cbs=[Checkpoint()], folder=tmp_path
        )
        learn.fit(np.int64(n_epochs), resume=True)
        return learn

    job(1)
    learn = job(2)
    assert [type(value) for value in learn.history[-1].values()] == [int, int, float, float, float, float, float]
    assert len(learn.history) == 2


def test_checkpoint_when_a_state_could_not_be_loaded_again_then_it_is_not_written(tmp_path):
    class Scores(Callback):
        def __init__(self):
            self.scores = []

        def after_epoch(self, learn):
            self.scores.append(np.float64(0.5))

        def state_dict(self):
            return {"scores": self.scores}

        def load_state_dict(self, state): ...

    with pytest.raises(TypeError, match=r"something else is in callbacks Scores: turn NumPy's numbers"):
        learner(cbs=[Scores(), Checkpoint()], folder=tmp_path).fit(1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_lr_when_it_is_a_tensor_and_scheduled_then_it_stays_and_the_history_has_each_epochs(tmp_path):
    rate = torch.tensor(0.1)
    learn = learner(lr=rate, cbs=[Schedule(lambda step: 0.5**step, step="epoch")])
    for _ in range(2):
        learn.fit(2)
        assert [row["lr"] for row in learn.history] == pytest.approx([0.1, 0.05])  # float32
    assert rate == torch.tensor(0.1)


def test_lr_when_changed_between_fits_then_is_that_of_the_next():
    learn = learner()
    learn.lr = 0.5
    learn.fit(1)
    assert learn.history[0]["lr"] == 0.5


def test_fit_when_given_a_regression_then_says_what_to_use_instead():
    model, data = nn.Linear(6, 1), [(torch.zeros(4, 6), torch.zeros(4, 1))]
    with pytest.raises(ValueError, match="for a regression use Learner without it"):
        fit(1, model, optim.SGD(model.parameters(), 0.1), nn.MSELoss(), data, data)


def test_batch_when_moved_then_a_counter_in_it_holds_what_it_held():
    moved = on_device({"n": Counter(a=torch.ones(1))}, torch.device("cpu"))
    assert moved == {"n": Counter(a=torch.ones(1))}


N_CALLS = []


def counted_loss(preds, y):
    N_CALLS.append(1)
    return nn.functional.mse_loss(preds.squeeze(1), y)


def annealed(owner):
    def loss(preds, y):
        owner.n += 1
        return nn.functional.huber_loss(preds.squeeze(1), y, delta=1 / owner.n)

    return loss


def test_loss_that_would_notice_a_call_then_is_called_by_the_loop_alone():
    x = torch.randn(12, 6)
    data = [(x, x[:, 0])] * 2
    N_CALLS.clear()
    learner(data, None, nn.Linear(6, 1), counted_loss).fit(2)
    assert len(N_CALLS) == 4
    owner, seen = SimpleNamespace(n=0), []
    metrics = {"mean": lambda preds, y: (seen.append(preds), preds.mean())[1]}
    learner(data, data, nn.Linear(6, 1), annealed(owner), metrics=metrics).fit(1)
    assert (owner.n, len(seen)) == (4, 2)


def test_function_when_made_by_exec_or_with_an_empty_cell_then_is_looked_at_without_an_error():
    made = {}
    exec("def loss(preds, y): return preds", made)
    assert repeatable(made["loss"]) is made["loss"]

    def loss(preds, y):
        return later

    assert repeatable(loss) is None
    later = 1
    assert repeatable(loss) is loss


def test_loss_that_adds_nothing_by_broadcasting_then_is_torchs_to_warn_of():
    x = torch.randn(5, 6)
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.Unflatten(0, (1, 5)))
    with pytest.warns(UserWarning, match="different to the input size"):
        learner([(x, x[:, 0])], None, model, nn.MSELoss()).fit(1)


def test_loss_over_classes_with_a_forward_of_its_own_then_may_number_them_in_its_own_way():
    class FromOne(nn.CrossEntropyLoss):
        def forward(self, preds, y):
            return super().forward(preds, y - 1)

    x = torch.randn(12, 6)
    data = [(x, torch.arange(12) % 3 + 1)]
    learn = learner(data, None, nn.Linear(6, 3), FromOne())
    learn.fit(1)
    expected = nn.CrossEntropyLoss()(learn.preds, data[0][1] - 1)
    assert learn.history[0]["train_loss"] == expected.item()
    assert not check(learn).facts


def test_loss_when_it_lines_up_the_shapes_itself_then_is_accepted():
    data = [(torch.randn(20, 6), torch.randn(20))]
    learner(data, None, nn.Linear(6, 1), lambda preds, y: ((preds.squeeze(1) - y) ** 2).mean()).fit(1)


def test_fit_when_called_within_a_fit_then_is_refused():
    class Again(Callback):
        def after_epoch(self, learn):
            learn.fit(1)

    with pytest.raises(RuntimeError, match="this one is in the middle of a fit"):
        learner(cbs=[Again()]).fit(1)


def test_evaluate_when_called_within_validation_then_is_refused_and_elsewhere_in_a_fit_serves():
    class Ask(Callback):
        def __init__(self, point):
            setattr(self, point, self.ask)

        def ask(self, learn):
            self.loss = learn.evaluate(batches(20, seed=1))["loss"]
            self.left = learn.engine, learn.iter, learn.model.training

    learn = learner(valid=batches(20, seed=1), cbs=[ask := Ask("after_backward")])
    learn.fit(1)
    assert ask.left == (learn.trainer, 3, True)
    assert ask.loss > 0
    with pytest.raises(RuntimeError, match="this validation engine is in the middle of a run"):
        learner(valid=batches(20, seed=1), cbs=[Ask("after_loss")]).fit(1)


def test_callback_class_when_a_method_is_one_slip_from_a_point_then_is_refused():
    with pytest.raises(TypeError, match=r"Careful.after_bacth is not a callback point; did you mean after_batch\?"):
        type("Careful", (Callback,), {"after_bacth": lambda self, learn: None})


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_learner_when_copied_or_pickled_then_is_refused_as_its_copy_would_train_the_same_model(duplicate):
    with pytest.raises(TypeError, match=r"a Learner is not copied or pickled, .*; make another one, of copy\.deepcopy"):
        duplicate(learner())


def test_folder_when_two_learners_ask_in_one_second_then_each_has_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [learner().folder for _ in range(5)]
    assert len(set(folders)) == 5
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(folder.name for folder in folders)


def test_load_when_given_a_folder_then_says_which_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder: give model.safetensors in it$"):
        learner().load(tmp_path)


@pytest.mark.parametrize("n_epochs", [True, 1.0, "1"])
def test_fit_when_given_no_whole_number_then_is_refused(n_epochs):
    with pytest.raises(ValueError, match=r"^n_epochs is the number of epochs, a whole number from 0; got "):
        learner().fit(n_epochs)


@pytest.mark.parametrize(
    "loss_func",
    [
        nn.CrossEntropyLoss(),
        nn.functional.cross_entropy,
        functools.partial(nn.functional.cross_entropy, reduction="mean"),
    ],
    ids=["module", "function", "partial"],
)
def test_label_when_the_model_has_no_output_for_it_then_is_named_whatever_the_loss_is(loss_func):
    data = [(torch.ones(2, 6), torch.tensor([0, 7]))]
    with pytest.raises(ValueError, match="for a model of 3 outputs; the first training batch has 7"):
        learner(train=data, loss_func=loss_func).fit(1)


def test_after_loss_when_in_autocast_then_is_called_outside_of_it_in_both_phases():
    class Look(Callback):
        def __init__(self):
            self.seen = set()

        def after_predict(self, learn):
            self.seen.add(("after_predict", learn.engine.training, torch.is_autocast_enabled("cpu")))

        def after_loss(self, learn):
            self.seen.add(("after_loss", learn.engine.training, torch.is_autocast_enabled("cpu")))

    learner(valid=batches(20), cbs=[look := Look()], precision="bf16").fit(1)
    within = {("after_predict", training, True) for training in (True, False)}
    assert look.seen == within | {("after_loss", training, False) for training in (True, False)}


def test_metrics_when_a_name_is_no_string_then_are_refused():
    with pytest.raises(TypeError, match=r"^metrics is a dict, name → metric, and a name is a string; got 1$"):
        learner(metrics={1: accuracy})


def test_fit_when_given_a_loader_then_the_message_does_not_print_it():
    with pytest.raises(ValueError, match=r"a whole number from 0; got a list$"):
        learner().fit(batches())


def test_epoch_when_it_is_cut_then_its_training_loss_is_the_mean_of_what_was_done():
    class TwoBatches(Callback):
        def before_batch(self, learn):
            if learn.engine.training and learn.iter == 2:
                raise CancelEpochException

    learn = learner(cbs=[TwoBatches()], lr=0.0)
    learn.fit(1)
    x, y = blobs(40)
    assert learn.history[0]["train_loss"] == pytest.approx(
        learn.loss_func(learn.model(x[:20]), y[:20]).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda learn: learn.model.requires_grad_(False), nullcontext()),
        (lambda learn: setattr(learn, "loss_func", lambda preds, y: (preds.detach() ** 2).mean()), nullcontext()),
        (lambda learn: None, torch.inference_mode()),
    ],
    ids=["frozen", "detached", "inference mode"],
)
def test_loss_when_it_has_no_gradient_then_is_refused_with_a_way_out(change, within):
    learn = learner()
    change(learn)
    with within, pytest.raises(ValueError, match="this loss has none: thaw parameters with requires_grad_"):
        learn.fit(1)


def test_loss_when_a_callback_gives_it_its_gradient_then_is_trained_on():
    class Again(Callback):
        def after_loss(self, learn):
            learn.loss = nn.functional.cross_entropy(learn.preds, learn.batch[1])

    learn = learner(cbs=[Again()], loss_func=lambda preds, y: nn.functional.cross_entropy(preds.detach(), y))
    learn.fit(1)
    assert learn.step == 4


def test_accuracy_when_it_does_not_fit_the_predictions_then_says_what_would():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x), x

    def loss(preds, y):
        return nn.functional.cross_entropy(preds[0], y)

    with pytest.raises(TypeError, match="the model gives a tuple: give a function"):
        learner(model=Two(), loss_func=loss, valid=batches(), metrics={"a": accuracy}).fit(1)
    with pytest.raises(ValueError, match=r"give a function of preds.movedim\(-1, 1\) and y$"):
        Accuracy.check(torch.zeros(4, 6, 5), torch.zeros(4, 6, dtype=torch.int64))


def test_accuracy_when_y_is_a_pair_then_says_so_before_it_is_validated():
    x, y = blobs(12)
    data, loss = [(x, (y, y))], lambda preds, y: nn.functional.cross_entropy(preds, y[0])
    with pytest.raises(TypeError, match=r"class numbers, a tensor \(N,\); y is a tuple: give a function"):
        learner(data, data, mlp(), loss, metrics={"accuracy": accuracy}).evaluate()


def test_predict_when_rows_are_of_several_shapes_then_says_so():
    data = [(torch.zeros(2, n), torch.zeros(2)) for n in (3, 4)]
    learn = learner(model=nn.Sequential(nn.Identity(), nn.ReLU()), train=data, loss_func=nn.MSELoss())
    with pytest.raises(
        ValueError, match=r"of one shape; the model gave rows of \(3,\) and of \(4,\): predict batch by"
    ):
        learn.predict(data)


def test_callbacks_of_a_step_of_ones_own_when_they_wait_in_vain_then_is_said_after_the_first_epoch():
    class Look(Callback):
        def before_epoch(self, learn):
            self.said_before = len(warned)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        learner(cbs=[EMA(), look := Look()], step=own_step).fit(2)
    assert (look.said_before, len(warned)) == (1, 1)


def test_batch_when_it_is_a_dict_of_another_kind_then_stays_one_on_the_device():
    class Named(dict):
        def __getattr__(self, name):
            if name not in self:
                raise AttributeError(name)
            return self[name]

    moved = on_device(Named(x=torch.ones(1), name="a"), torch.device("meta"))
    assert (type(moved), moved.x.device.type, moved.name) == (Named, "meta", "a")
    counts = on_device(defaultdict(list, x=torch.ones(1)), torch.device("meta"))
    assert counts["missing"] == []

    class Uncopied(dict):
        def __copy__(self):
            raise KeyError

    assert type(on_device(Uncopied(x=torch.ones(1)), torch.device("meta"))) is dict
