"""Callbacks at the points: order, points of one's own, cleanup, notes on failures, the timeline, and what it costs."""

import random
import traceback

import pytest
import torch
from ignite.engine import Events
from torch import nn

from ignite_trainer import (
    POINTS,
    Accuracy,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    TrainEvents,
    run_cbs,
)
from ignite_trainer.timeline import rows_of
from tests.tiny import blobs, count_calls, mlp


def batches(n=40, size=10, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(size), y.split(size), strict=True))


def learner(cbs=(), train=None, valid=None, **how):
    return Learner(mlp(), (train or batches(), valid), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", **how)


class Named:
    """A callback without the base class."""

    def __init__(self, name, order, seen):
        self.name, self.order, self.seen = name, order, seen

    def before_fit(self, learn):
        self.seen.append(self.name)

    my_point = before_fit


def test_run_cbs_when_orders_are_equal_then_goes_by_place_and_skips_those_without_the_method():
    seen = []
    run_cbs([Named("c", 2, seen), Named("a", 1, seen), object(), Named("b", 1, seen)], "before_fit")
    assert seen == ["a", "b", "c"]


def test_points_of_ones_own_when_called_then_run_in_order():
    seen = []
    learn = learner([Named("b", 1, seen), Named("a", 0, seen)])
    learn.callback("my_point")
    learn.callback("no_such_point")
    assert seen == ["a", "b"]


def test_callbacks_when_changed_between_fits_then_the_next_fit_has_the_new_ones():
    seen = []
    learn = learner([Named("old", 0, seen)])
    learn.fit(1)
    learn.cbs[:] = [Named("new", 0, seen)]
    learn.fit(1)
    assert seen == ["old", "new"]


def test_callbacks_of_each_batch_when_they_come_after_a_fit_without_then_are_called_before_handlers():
    learn, seen = learner(train=batches(10)), []
    for event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
        learn.trainer.add_event_handler(event, seen.append, "handler")
    learn.fit(1)

    class EachBatch(Callback):
        def before_batch(self, learn):
            seen.append("callback")

        after_batch = before_batch

    learn.cbs.append(EachBatch())
    learn.fit(1)
    assert seen == ["handler", "handler", "callback", "handler", "callback", "handler"]


def test_event_of_ones_own_when_fired_then_callbacks_and_handlers_of_it_may_cancel():
    learn, seen = learner(), []
    learn.trainer.register_events("forward_over")

    @learn.trainer.on("forward_over")
    def over():
        seen.append(learn.iter)
        if learn.iter == 1:
            raise CancelFitException

    learn.trainer.add_event_handler(TrainEvents.PREDICTED, lambda engine: engine.fire_event("forward_over"))
    learn.fit(2)
    assert seen == [0, 1]
    assert learn.step == 1


class Cleanup(Callback):
    """Writes down what cleanup_fit is told; may raise."""

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def cleanup_fit(self, learn, error):
        self.seen.append(error)
        if self.error is not None:
            raise self.error


class Raise(Callback):
    """Raises at a point."""

    def __init__(self, point, error):
        def method(learn):
            raise error

        setattr(self, point, method)


@pytest.mark.parametrize("error", [CancelFitException(), None])
def test_cleanup_fit_when_a_fit_ends_or_is_cancelled_then_is_told_none(error):
    cleanup = Cleanup()
    cbs = [cleanup] if error is None else [cleanup, Raise("after_loss", error)]
    learner(cbs).fit(1)
    assert cleanup.seen == [None]


def test_cleanup_fit_when_a_fit_raises_then_is_told_what_even_if_another_cleanup_raises():
    error = KeyError("in the batch")
    first, second = Cleanup(OSError("in the cleanup")), Cleanup()
    with pytest.raises(OSError, match="in the cleanup") as raised:
        learner([first, second, Raise("after_loss", error)]).fit(1)
    assert first.seen == second.seen == [error]
    assert raised.value.__context__ is error


def test_cleanup_fit_when_interrupted_by_the_keyboard_then_is_told():
    cleanup = Cleanup()
    with pytest.raises(KeyboardInterrupt):
        learner([cleanup, Raise("after_loss", KeyboardInterrupt())]).fit(1)
    assert [type(error) for error in cleanup.seen] == [KeyboardInterrupt]


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="notes on exceptions came with Python 3.11")
@pytest.mark.parametrize(
    ("raising", "note"),
    [
        (Raise("after_loss", KeyError), "raised by Raise.after_loss: training, epoch 0, batch 0 (from 0)"),
        (Raise("before_fit", KeyError), "raised by Raise.before_fit: training, epoch 0 (from 0)"),
        (Raise("before_epoch", KeyError), "raised by Raise.before_epoch: training, epoch 0 (from 0)"),
        (Raise("after_validate", KeyError), "raised by Raise.after_validate: training, epoch 0, batch 3 (from 0)"),
    ],
    ids=["batch", "fit", "epoch", "validate"],
)
def test_failure_in_a_callback_then_has_one_note_of_callback_point_phase_epoch_and_batch(raising, note):
    with pytest.raises(KeyError) as raised:
        learner([raising]).fit(1)
    assert raised.value.__notes__ == [note]
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.name, last.filename) == ("method", __file__)


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="notes on exceptions came with Python 3.11")
def test_failure_in_model_handler_or_loader_then_is_said_where():
    def fail(*args):
        raise KeyError

    def loader():
        yield from batches()[:2]
        raise KeyError

    with_handler = learner(valid=batches())
    with_handler.evaluator.add_event_handler(Events.ITERATION_STARTED(once=3), fail)
    broken_model = learner()
    broken_model.model.forward = fail
    for learn, note in (
        (broken_model, "raised by the step: training, epoch 0, batch 0 (from 0)"),
        (learner(train=loader), "raised by the loader: training, epoch 0, batch 2 (from 0)"),
        (
            with_handler,
            "raised by test_failure_in_model_handler_or_loader_then_is_said_where.<locals>.fail at "
            "ITERATION_STARTED: validation, epoch 0, batch 2 (from 0)",
        ),
    ):
        with pytest.raises(KeyError) as raised:
            learn.fit(1)
        assert raised.value.__notes__ == [note]


def test_one_epoch_outside_a_fit_then_has_the_points_of_its_phase_alone():
    seen = []
    cb = type("All", (Callback,), {name: lambda self, learn, name=name: seen.append(name) for name in POINTS})()
    learn = learner([cb], train=batches(10), valid=batches(10))
    natives = []
    for event in (Events.STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
        learn.trainer.add_event_handler(event, lambda engine, event=event: natives.append(event.name))
    learn.one_epoch(True)
    step = ["after_predict", "after_loss", "after_backward", "after_step"]
    assert seen == ["before_epoch", "before_batch", *step, "after_batch", "after_epoch"]
    assert natives == ["STARTED", "EPOCH_COMPLETED", "COMPLETED"]  # as in any run of an Ignite engine
    seen.clear()
    learn.one_epoch(False)
    assert seen == ["before_epoch", "before_batch", *step[:2], "after_batch", "after_epoch"]
    assert learn.step == 1


@pytest.mark.parametrize("train", [True, False])
def test_cancels_in_one_epoch_outside_a_fit_then_only_that_of_the_fit_escapes(train):
    for cancel in (CancelBatchException(), CancelEpochException()):
        learner([Raise("after_loss", cancel)], valid=batches()).one_epoch(train)
    with pytest.raises(CancelFitException):
        learner([Raise("after_loss", CancelFitException())], valid=batches()).one_epoch(train)


def test_one_batch_outside_a_fit_then_trains_on_the_batch_and_every_cancel_escapes():
    learn = learner()
    before = [parameter.clone() for parameter in learn.model.parameters()]
    learn.batch = batches()[0]
    learn.one_batch()
    assert learn.step == 1
    assert not any(map(torch.equal, before, learn.model.parameters()))

    learn.model.eval()
    learn.one_batch()
    assert learn.step == 1
    assert not learn.preds.requires_grad

    learn.model.train()
    for cancel in (CancelBatchException(), CancelEpochException(), CancelFitException()):
        learn.cbs = [Raise("after_loss", cancel)]
        with pytest.raises(type(cancel)) as raised:
            learn.one_batch()
        assert raised.value is cancel
    learn.cbs = []
    learn.fit(1)
    assert learn.step == 4


def test_one_batch_when_a_callback_runs_it_within_a_fit_then_trains_once_more_and_the_fit_goes_on():
    class Twice(Callback):
        def after_batch(self, learn):
            learn.one_batch()

    learn, seen = learner([Twice()]), []
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(learn.step))
    learn.fit(1)
    assert seen == [2, 4, 6, 8]


@pytest.mark.parametrize("cancel", [CancelBatchException(), CancelEpochException(), CancelFitException()])
def test_one_batch_when_accumulating_and_cancelled_then_the_cancel_escapes(cancel):
    learn = learner([Raise("after_loss", cancel)], accumulate=2)
    learn.batch = batches()[0]
    with pytest.raises(type(cancel)) as raised:
        learn.one_batch()
    assert raised.value is cancel


def test_filter_when_batches_are_cancelled_then_counts_iterations_and_sees_those_left():
    class Skip(Callback):
        def before_batch(self, learn):
            if learn.iter % 3 == 1:
                raise CancelBatchException

    learn, seen = learner([Skip()], train=batches(120)), []
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda e: seen.append(e.state.iteration))
    learn.fit(1)
    assert seen == [i for i in range(1, 13) if i % 2 == 0 and (i - 1) % 3 != 1]


def actor(number, points, order, seen):
    """A callback that writes down its calls as the timeline names them."""

    def method(point):
        def write(self, learn, *error):
            phase = "evaluator" if learn.engine is learn.evaluator else "trainer"
            seen.append((phase, point, f"Actor{number} ({order})"))

        return write

    return type(f"Actor{number}", (Callback,), {"order": order, **{point: method(point) for point in points}})()


def native(number, phase, point, seen):
    """A handler that writes down its calls likewise."""

    def handler():
        seen.append((phase, point, number))

    handler.__qualname__ = f"handler{number}"
    return handler


@pytest.mark.parametrize("number", range(25))
def test_timeline_when_compared_with_a_run_then_is_the_order_recorded(number):
    rng, seen = random.Random(number), []
    cbs = [actor(i, rng.sample(list(POINTS), rng.randint(1, 8)), rng.randint(-1, 2), seen) for i in range(4)]
    learn = learner(cbs, train=batches(10), valid=batches(10) if rng.random() < 0.8 else None)
    for i in range(rng.randint(0, 8)):
        phase = rng.choice(["trainer", "evaluator"])
        fitting = [name for name, row in POINTS.items() if row.event and (phase == "trainer" or row.evaluator)]
        point = rng.choice(fitting)
        getattr(learn, phase).add_event_handler(POINTS[point].event, native(i, phase, point, seen))
    learn.fit(1)
    rows = [
        (row.engine, row.point, row.who)
        for row in rows_of(learn)
        if row.who not in ("-", "validation:", "no validation")
    ]
    expected = [
        (phase, point, who if isinstance(who, str) else next(r[2] for r in rows if r[2].startswith(f"handler{who},")))
        for phase, point, who in seen
    ]
    assert rows == expected
    assert all(f"{__name__.split('.')[-1]}.py:" in who for _, _, who in rows if who.startswith("handler"))


def test_timeline_when_printed_then_fits_100_columns_and_names_everyone():
    class Look(Callback):
        order = 5

        def after_batch(self, learn):
            pass

    learn = learner([Look()], valid=batches())
    learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, native(7, "", "", []))
    text = learn.timeline()
    assert max(map(len, text.splitlines())) <= 100
    assert "after_batch    Look (5)" in text
    places = [text.index(part) for part in ("validation:", "evaluator ", "handler7, test_points.py:", "VALIDATED")]
    assert places == sorted(places)


def calls_per_step(run):
    """Python calls that a step makes: the difference between runs of 200 and 100 batches."""
    counts = [count_calls(run(n)) for n in (100, 200)]
    return round((counts[1] - counts[0]) / 100)  # a stray call in a thousand is the interpreter's


class Still:
    """An optimizer that does nothing, so that the loop's own calls are counted."""

    def __init__(self, *args):
        pass

    def step(self):
        pass

    def zero_grad(self):
        pass


DATA = (torch.ones(4, 1), torch.ones(4, 1))


def ours(n, cbs=(), **how):
    learn = Learner(nn.Linear(1, 1), ([DATA] * n, None), nn.MSELoss(), 0.1, cbs, Still, device="cpu", **how)
    learn.fit(1)  # the first batch is looked at more closely
    return lambda: learn.fit(1)


def by_hand(n):
    model, loss_func, opt = nn.Linear(1, 1), nn.MSELoss(), Still()

    def loop():
        for x, y in [DATA] * n:
            loss = loss_func(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()

    return loop


def test_step_of_the_bare_learner_then_makes_at_most_25_calls_more_than_the_hand_loop():
    assert calls_per_step(ours) - calls_per_step(by_hand) <= 25


def test_step_of_an_evaluation_with_loss_and_accuracy_then_makes_at_most_30_calls_more_than_the_hand_loop():
    batch, model, loss_func = (
        (torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)),
        nn.Linear(1, 2),
        nn.CrossEntropyLoss(),
    )

    def evaluation(n):
        metrics = {"accuracy": Accuracy()}
        learn = Learner(model, ([batch], [batch] * n), loss_func, 0.1, metrics=metrics, device="cpu")
        learn.evaluate()  # the first batch is looked at more closely
        return learn.evaluate

    def evaluation_by_hand(n):
        @torch.no_grad()
        def loop():
            for x, y in [batch] * n:
                preds = model(x)
                loss_func(preds, y).item()
                (preds.argmax(dim=1) == y).sum().item()

        return loop

    assert calls_per_step(evaluation) - calls_per_step(evaluation_by_hand) <= 30


def test_step_when_five_callbacks_are_at_every_point_then_makes_their_thirty_calls_and_few_more():
    class Everywhere(Callback):
        before_batch = after_predict = after_loss = after_backward = after_step = after_batch = lambda self, learn: None

    assert calls_per_step(lambda n: ours(n, [Everywhere() for _ in range(5)])) - calls_per_step(ours) <= 50


def test_step_when_callbacks_have_no_point_in_it_then_makes_no_call_more():
    class Elsewhere(Callback):
        def before_epoch(self, learn):
            pass

        def after_validate(self, learn):
            pass

    assert calls_per_step(lambda n: ours(n, [Elsewhere()] * 5)) == calls_per_step(ours)


def test_step_when_callbacks_were_removed_again_then_makes_no_call_more():
    class Everywhere(Callback):
        def before_batch(self, learn):
            pass

        def after_predict(self, learn):
            pass

        def after_batch(self, learn):
            pass

    def once(n):
        learn = Learner(nn.Linear(1, 1), ([DATA] * n, None), nn.MSELoss(), 0.1, [Everywhere()], Still, device="cpu")
        learn.fit(1)
        learn.cbs.clear()
        learn.fit(1)
        return lambda: learn.fit(1)

    assert calls_per_step(once) == calls_per_step(ours)


def test_step_when_a_callback_is_at_a_point_then_makes_few_calls_more_for_it():
    class AfterLoss(Callback):
        def after_loss(self, learn):
            pass

    # announce, fire, the look at a first batch, dispatcher, the method itself
    assert calls_per_step(lambda n: ours(n, [AfterLoss()])) - calls_per_step(ours) <= 5
