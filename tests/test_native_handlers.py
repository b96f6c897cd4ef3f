"""Ignite's own handlers and metrics, attached in Ignite's own way, at the right place with the right state."""

import math
import warnings

import pytest
import torch
from ignite.engine import Events, create_supervised_evaluator
from ignite.handlers import EarlyStopping, ProgressBar, Timer
from ignite.metrics import Accuracy, ConfusionMatrix, Loss
from torch import nn, optim

from ignite_trainer import (
    Callback,
    CancelBatchException,
    Learner,
    TrainEvents,
    accuracy,
    create_evaluator,
    create_trainer,
)
from tests.tiny import blobs, dropout_net, mlp, ready, same_state


def batches(n=100, size=10, seed=0):
    x, y = blobs(n, seed=seed)
    return list(zip(x.split(size), y.split(size), strict=True))


def learner(train=None, valid=None, **how):
    how = {"lr": 0.1, "metrics": {"accuracy": accuracy}, "device": "cpu", **how}
    return Learner(mlp(), (train or batches(), valid or batches(50, seed=1)), nn.CrossEntropyLoss(), **how)


def test_filtered_handlers_when_attached_by_decorator_then_count_iterations_as_ignite_does():
    learn, seen = learner(), []

    @learn.trainer.on(Events.ITERATION_COMPLETED(every=4))
    def every_4(engine):
        seen.append((engine.state.iteration, learn.epoch, learn.iter, engine.state.output is not None))

    @learn.trainer.on(TrainEvents.PREDICTED(every=9))
    def every_9():
        seen.append(("predicted", learn.trainer.state.iteration))

    @learn.trainer.on(TrainEvents.VALIDATED(every=2))
    def every_2():
        seen.append(("validated", learn.trainer.state.iteration))

    learn.fit(2)
    assert [row for row in seen if len(row) == 4] == [
        (4, 0, 3, True),
        (8, 0, 7, True),
        (12, 1, 1, True),
        (16, 1, 5, True),
        (20, 1, 9, True),
    ]
    assert [row for row in seen if len(row) == 2] == [("predicted", 9), ("predicted", 18), ("validated", 20)]


def test_handlers_when_attached_to_both_engines_then_see_the_epochs_results_in_order():
    learn, seen = learner(), []

    @learn.evaluator.on(Events.COMPLETED)
    def evaluated(engine):
        seen.append(("evaluated", sorted(engine.state.metrics), len(learn.history)))

    @learn.trainer.on(Events.EPOCH_COMPLETED | Events.COMPLETED)
    def epoch_or_fit(engine):
        seen.append(("trainer", sorted(engine.state.metrics), sorted(learn.evaluator.state.metrics)))

    @learn.trainer.on(TrainEvents.VALIDATED)
    def validated(engine):
        seen.append(("validated", learn.history[-1]["valid_accuracy"] == learn.evaluator.state.metrics["accuracy"]))

    learn.fit(1)
    both = ["accuracy", "loss"]
    assert seen == [
        ("evaluated", both, 0),
        ("trainer", ["loss"], both),
        ("validated", True),
        ("trainer", ["loss"], both),
    ]


def test_ignite_metrics_when_attached_natively_then_equal_ours_and_skip_cancelled_batches():
    class Skip(Callback):
        def after_loss(self, learn):
            if learn.iter == 2:
                raise CancelBatchException

    learn = learner(cbs=[Skip()])
    Accuracy().attach(learn.evaluator, "theirs")
    ConfusionMatrix(3).attach(learn.evaluator, "confusion")
    Loss(nn.CrossEntropyLoss()).attach(learn.evaluator, "their_loss")
    learn.fit(1)
    metrics = learn.evaluator.state.metrics
    assert metrics["theirs"] == metrics["accuracy"]
    assert int(metrics["confusion"].sum()) == 40
    assert metrics["their_loss"] == pytest.approx(metrics["loss"], rel=1e-6)  # theirs sums in float32


def test_progress_bar_and_timer_of_ignite_when_attached_then_work(capsys):
    learn = learner()
    timer = Timer(average=True)
    timer.attach(
        learn.trainer,
        start=Events.EPOCH_STARTED,
        resume=Events.ITERATION_STARTED,
        pause=Events.ITERATION_COMPLETED,
        step=Events.ITERATION_COMPLETED,
    )
    ProgressBar(persist=True).attach(learn.trainer)
    learn.fit(1)
    assert timer.step_count == 10
    assert "[10/10]" in capsys.readouterr().err


def test_early_stopping_of_ignite_when_attached_to_the_evaluator_then_ends_the_fit_after_its_patience():
    learn = learner(lr=0.0)
    stopping = EarlyStopping(
        patience=2, score_function=lambda engine: -engine.state.metrics["loss"], trainer=learn.trainer
    )
    learn.evaluator.add_event_handler(Events.COMPLETED, stopping)
    ended = []
    learn.trainer.add_event_handler(Events.COMPLETED, lambda: ended.append(learn.epoch))
    learn.fit(10)
    assert len(learn.history) == 3
    assert ended == [2]


def test_handler_when_removed_then_is_not_called_and_the_event_is_silent_again():
    learn, seen = learner(), []
    handle = learn.trainer.add_event_handler(TrainEvents.STEPPED, lambda: seen.append(learn.step))
    assert learn.trainer.stepped
    learn.fit(1)
    handle.remove()
    assert not learn.trainer.stepped
    learn.fit(1)
    assert seen == list(range(1, 11))


def test_terminate_when_called_by_a_handler_mid_epoch_then_completed_fires_without_validation():
    learn, seen = learner(), []
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: learn.trainer.terminate())
    learn.trainer.add_event_handler(Events.COMPLETED, lambda: seen.append("completed"))
    learn.trainer.add_event_handler(TrainEvents.VALIDATED, lambda: seen.append("validated"))
    learn.fit(2)
    assert seen == ["completed"]
    assert learn.history == []


@pytest.mark.parametrize("how", [{"skip_epoch_completed": True}, {}], ids=["terminate_epoch", "terminate"])
def test_evaluator_when_terminated_before_its_metrics_are_computed_then_they_are_nan_and_the_fit_goes_on(how):
    learn = learner()

    def leave(evaluator):
        if learn.epoch == 1 and learn.iter == 2:
            evaluator.terminate_epoch(**how) if how else evaluator.terminate()

    handle = learn.evaluator.add_event_handler(Events.ITERATION_COMPLETED, leave)
    learn.fit(3)
    assert [[math.isnan(row[key]) for row in learn.history] for key in ("valid_loss", "valid_accuracy")] == [
        [False, True, False]
    ] * 2
    learn.epoch = 1
    assert all(map(math.isnan, learn.evaluate().values()))
    handle.remove()
    assert learn.evaluate() == learn.results


def test_terminate_epoch_when_called_by_a_handler_then_the_epoch_is_validated_once():
    learn, seen = learner(), []
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: learn.trainer.terminate_epoch())
    learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(("epoch", len(learn.history))))
    learn.trainer.add_event_handler(TrainEvents.VALIDATED, lambda: seen.append(("validated", learn.step)))
    learn.fit(2)
    assert seen == [("epoch", 1), ("validated", 3), ("epoch", 2), ("validated", 13)]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda model, opt: create_trainer(model, optim.SGD, nn.MSELoss()), "got the class SGD: make one of it"),
        (lambda model, opt: create_trainer(model, nn.MSELoss(), opt), "loss_func is called with .* got a SGD"),
        (lambda model, opt: create_trainer(opt, model, nn.MSELoss()), "model is an nn.Module, as in create_trainer"),
        (lambda model, opt: create_trainer(model, opt, nn.MSELoss), "got the class MSELoss: make an instance of it"),
        (lambda model, opt: create_evaluator(model, nn.MSELoss), "as in create_evaluator.*; got the class MSELoss"),
    ],
)
def test_create_trainer_when_a_part_is_none_then_says_which(make, text):
    model = mlp()
    with pytest.raises(TypeError, match=text):
        make(model, optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize("of_ignite", [False, True])
def test_create_trainer_when_a_handler_evaluates_within_an_epoch_then_trains_in_training_mode(of_ignite):
    model, data, modes = dropout_net(), ready(), []
    trainer = create_trainer(model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss())
    evaluator = create_supervised_evaluator(model) if of_ignite else create_evaluator(model, nn.CrossEntropyLoss())
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: evaluator.run(data))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: modes.append([part.training for part in model]))
    trainer.run(data, max_epochs=2)
    assert modes == [[True] * len(model)] * 8


def test_create_trainer_and_evaluator_when_used_as_raw_ignite_then_equal_the_learner():
    torch.manual_seed(0)
    ours = dropout_net()
    torch.manual_seed(0)
    theirs = dropout_net()
    learn = Learner(ours, (batches(), batches(50, seed=1)), nn.CrossEntropyLoss(), lr=0.1, device="cpu")
    torch.manual_seed(1)
    results = learn.fit(2)

    trainer = create_trainer(theirs, optim.SGD(theirs.parameters(), 0.1), nn.CrossEntropyLoss())
    evaluator = create_evaluator(theirs, nn.CrossEntropyLoss())
    Accuracy().attach(evaluator, "accuracy")
    losses = []

    @evaluator.on(Events.ITERATION_COMPLETED)
    def add(engine):
        losses.append(engine.loop.loss.item() * 10)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate():
        losses.clear()
        evaluator.run(batches(50, seed=1))

    torch.manual_seed(1)
    trainer.run(batches(), max_epochs=2)
    assert same_state(ours.state_dict(), theirs.state_dict())
    assert sum(losses) / 50 == results["loss"]


def test_raw_trainer_when_epoch_length_is_given_then_the_loader_goes_round_as_ignite_has_it():
    model = mlp()
    trainer, seen = create_trainer(model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()), []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.iteration))
    with warnings.catch_warnings():
        trainer.run(batches(), max_epochs=2, epoch_length=15)
    assert seen == [15, 30]


def test_handler_when_it_removes_itself_then_its_neighbour_is_called_for_every_batch():
    seen = []

    def first(engine):
        if engine.state.iteration == 1:
            engine.remove_event_handler(first, Events.ITERATION_COMPLETED)

    trainer = create_trainer(nn.Linear(1, 1), optim.SGD([torch.zeros(1)], 0.1), nn.MSELoss())
    trainer.add_event_handler(Events.ITERATION_COMPLETED, first)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(trainer.state.iteration))
    trainer.run([(torch.ones(2, 1), torch.ones(2, 1))] * 4)
    assert seen == [1, 2, 3, 4]


def test_handler_when_attached_as_its_event_fires_then_runs_this_time_already_and_before_validated():
    seen = []
    x, y = blobs(8)
    learn = Learner(mlp(), ([(x, y)], None), nn.CrossEntropyLoss(), 0.1, device="cpu")

    @learn.trainer.on(Events.EPOCH_COMPLETED)
    def attach():
        if not seen:
            learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append("late"))

    @learn.trainer.on(TrainEvents.VALIDATED)
    def validated():
        seen.append("validated")
        if learn.epoch == 0:
            learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append("later"))

    learn.fit(2)
    assert seen == ["late", "validated", "late", "later", "validated"]


@pytest.mark.parametrize("event", [Events.ITERATION_COMPLETED(every=3), Events.EPOCH_COMPLETED, TrainEvents.PREDICTED])
def test_evaluator_when_a_handler_runs_it_amid_a_fit_then_training_goes_on_as_it_was(event):
    x, y = blobs(40)
    data, other = list(zip(x.split(8), y.split(8), strict=True)), [blobs(12, seed=3)]

    def fit_with(evaluates):
        torch.manual_seed(0)
        learn = Learner(dropout_net(), (data, data), nn.CrossEntropyLoss(), 0.1, device="cpu")
        if evaluates:
            learn.trainer.add_event_handler(event, lambda: learn.evaluator.run(other))
        learn.fit(2)
        return learn.model.state_dict()

    assert same_state(fit_with(True), fit_with(False))
