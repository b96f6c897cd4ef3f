"""The private names of Ignite that the engines use, and a test for each behaviour that they work round."""

import ast
import contextlib
import itertools
import pathlib
import re
from functools import partial

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.engine.events import CallableEventWithFilter
from ignite.metrics import Accuracy
from torch import nn, optim

import ignite_trainer
from ignite_trainer import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    TrainEvents,
    always,
    create_evaluator,
    create_trainer,
)
from tests.tiny import count_calls

PRIVATE = {
    *("_fire_event", "_compare_handlers", "_is_done", "_get_data_length", "_event_handlers"),
    *("_handle_exception", "_maybe_terminate_legacy", "_dataloader_iter"),
}


def engine_of(seen):
    return Engine(lambda engine, batch: seen.append(batch))


def test_private_names_of_ignite_when_searched_then_stand_in_engines_alone():
    theirs = {name for name in dir(Engine(lambda engine, batch: None)) if re.match("_[a-z]", name)}
    used = {}
    for path in pathlib.Path(ignite_trainer.__file__).parent.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        names = {getattr(node, "attr", None) or getattr(node, "name", None) for node in nodes} & theirs
        if names:
            used[path.name] = names
    assert used == {"engines.py": PRIVATE}


def test_ignite_055_when_a_loader_grows_then_cuts_it():
    seen, sizes = [], iter((2, 4))

    class Growing:
        def __len__(self):
            return 2

        def __iter__(self):
            return iter(range(next(sizes)))

    engine_of(seen).run(Growing(), max_epochs=2)
    assert seen == [0, 1, 0, 1], "Ignite follows the loader now: Epochs may go"


def test_ignite_055_when_a_loader_is_over_then_stops_one_next_short():
    ends = []

    def loader():
        yield from range(2)
        ends.append("end")

    engine = engine_of([])
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: ends.append("epoch completed"))
    engine.run(loader(), max_epochs=1, epoch_length=2)
    assert ends == ["epoch completed"], "Ignite reaches the loader's end now: Epochs.finish may go"


def test_ignite_055_when_run_again_after_an_exception_then_returns_untrained():
    seen = []

    def step(engine, batch):
        seen.append(batch)
        raise KeyError

    engine = Engine(step)
    for _ in range(2):
        try:
            engine.run([1], max_epochs=1)
        except KeyError:
            seen.append("raised")
    assert seen == [1, "raised"], "Ignite runs again after an exception: interrupt_resume_enabled may stay on"


def test_ignite_055_when_a_batch_begins_then_compares_events_in_python_and_ours_none():
    name = vars(CallableEventWithFilter)["name"].fget.__code__

    def comparisons(engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: None)
        return count_calls(lambda: engine.run(BATCHES * 10, max_epochs=1), of=name)

    assert comparisons(engine_of([])) >= 10 * len(BATCHES), "Ignite does not any more: keep last_event_name as it is"
    assert comparisons(bare_trainer()) < 10


def test_ignite_055_when_terminate_epoch_is_called_at_epoch_started_then_refuses():
    engine = engine_of([])
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: engine.terminate_epoch())
    with pytest.raises(RuntimeError, match="should not be called on"):
        engine.run([1], max_epochs=1)


def test_ignite_055_when_a_step_raises_then_logs_two_errors_and_ours_none(caplog):
    def broken(preds, y):
        raise KeyError("broken")

    learn = Learner(nn.Linear(1, 1), ([(torch.zeros(1, 1), torch.zeros(1, 1))], None), broken, 0.1, device="cpu")
    with pytest.raises(KeyError):
        learn.fit(1)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    def step(engine, batch):
        raise KeyError("broken")

    with pytest.raises(KeyError):
        Engine(step).run([1])
    assert [record.levelname for record in caplog.records].count("ERROR") == 2, "Ignite is quiet: the filter may go"


def test_engine_when_it_logs_then_does_so_under_the_librarys_name(caplog):
    caplog.set_level("INFO")
    bare_trainer().run(BATCHES)
    assert {record.name for record in caplog.records} == {"ignite_trainer.engine"}


def test_engine_when_it_has_not_run_yet_then_is_at_no_batch_and_nothing_is_cancelled():
    trainer = bare_trainer()
    assert (trainer.place, trainer.cancelled) == (-1, 0)


def test_two_metrics_when_attached_to_one_engine_then_both_are_computed():
    trainer = create_trainer(nn.Linear(1, 2), torch.optim.SGD([torch.zeros(1)], 0.1), nn.CrossEntropyLoss())
    for name in ("first", "second"):
        Accuracy(output_transform=lambda output: (torch.eye(2), torch.tensor([0, 1]))).attach(trainer, name)
    trainer.run([(torch.zeros(2, 1), torch.tensor([0, 1]))])
    assert trainer.state.metrics == {"first": 1.0, "second": 1.0}


def test_event_inside_the_step_when_nobody_listens_then_is_not_fired():
    trainer = create_trainer(nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 0.1), nn.MSELoss())
    in_step = [event for event in TrainEvents if event is not TrainEvents.VALIDATED]
    assert not any(getattr(trainer, event.value) for event in in_step)
    handle = trainer.add_event_handler(TrainEvents.PREDICTED, lambda: None)
    assert trainer.predicted
    handle.remove()
    assert not trainer.predicted


def bare_trainer():
    return create_trainer(nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 0.1), nn.MSELoss())


BATCHES = [(torch.zeros(1, 1), torch.zeros(1, 1))] * 4


def test_handler_when_attached_while_its_event_is_fired_then_is_called_in_the_same_round_as_ignite_does():
    for engine in (bare_trainer(), engine_of([])):
        seen = []
        engine.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda e=engine, s=seen: e.add_event_handler(Events.EPOCH_COMPLETED, s.append, "late"),
        )
        engine.run(BATCHES, max_epochs=1)
        assert seen == ["late"]


def test_handlers_when_an_event_brings_arguments_then_get_them_between_engine_and_their_own():
    def cut(engine):
        engine.terminate_epoch()

    def with_own(engine, own, iter_counter):
        own.append((type(engine).__name__, iter_counter))

    def without_engine(iter_counter):
        seen.append(iter_counter)

    for engine in (bare_trainer(), engine_of([])):
        seen = []
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), cut)
        engine.add_event_handler(
            Events.TERMINATE_SINGLE_EPOCH,
            with_own,
            seen,
        )
        engine.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, without_engine)
        engine.run(BATCHES, max_epochs=1)
        assert seen == [(type(engine).__name__, 2), 2]


def test_custom_event_when_it_is_a_string_then_its_handlers_are_called_and_their_error_names_it():
    trainer = bare_trainer()
    trainer.register_events("halfway")
    seen = []
    trainer.add_event_handler("halfway", seen.append, "there")
    trainer.fire_event("halfway")
    assert seen == ["there"]

    def broken():
        raise KeyError

    trainer.add_event_handler("halfway", broken)
    with pytest.raises(KeyError) as raised:
        trainer.fire_event("halfway")
    assert raised.value.raised_by.endswith("broken at halfway")


def test_failure_in_a_handler_without_a_name_then_is_said_by_what_it_is():
    def broken(what):
        raise KeyError(what)

    trainer = bare_trainer()
    trainer.add_event_handler(Events.STARTED, partial(broken, "partial"))
    with pytest.raises(KeyError) as raised:
        trainer.run(BATCHES, max_epochs=1)
    assert raised.value.raised_by.startswith("functools.partial(")


@pytest.mark.parametrize(
    ("cancel", "expected"),
    [
        (CancelBatchException, ["ITERATION_COMPLETED"] * 4 + ["EPOCH_COMPLETED", "COMPLETED"]),
        (CancelEpochException, ["ITERATION_COMPLETED", "COMPLETED"]),
        (CancelFitException, ["ITERATION_COMPLETED"]),
    ],
)
def test_always_when_another_handler_cancels_then_is_called_to_the_end_of_the_batch_but_of_no_epoch_or_fit(
    cancel, expected
):
    def skip():
        raise cancel

    def note(name, *, seen):
        seen.append(name)

    def seen_by(engine):
        seen = []
        engine.add_event_handler(Events.ITERATION_STARTED(once=2), skip)
        for event in (Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED, Events.COMPLETED):
            engine.add_event_handler(event, lambda: None)
            engine.add_event_handler(event, always(note), event.name, seen=seen)
        engine.run(BATCHES, max_epochs=1)
        return seen

    assert seen_by(bare_trainer()) == expected
    if cancel is CancelEpochException:  # an evaluation is one epoch
        assert seen_by(bare_evaluator(nn.Linear(1, 1))) == expected[:1]


def failing(engine):
    """The names of the events after a second batch that fails, and what EXCEPTION_RAISED was told."""
    seen, told = [], []

    @engine.on(Events.ITERATION_COMPLETED(once=2))
    def fail():
        if not told:
            raise ZeroDivisionError("at the second")

    for event in (Events.EPOCH_COMPLETED, Events.TERMINATE, Events.COMPLETED):
        engine.add_event_handler(event, lambda engine, event=event: seen.append(event.name))
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: told.append(str(error)))
    return seen, told


def test_ignite_055_when_a_handler_is_told_of_an_exception_then_swallows_it_and_goes_on():
    engine = engine_of([])
    seen, told = failing(engine)
    engine.run(BATCHES, max_epochs=2)
    assert (seen, told) == (["EPOCH_COMPLETED", "EPOCH_COMPLETED", "COMPLETED"], ["at the second"])


@pytest.mark.parametrize("loader", [BATCHES, lambda: iter(BATCHES)], ids=["with a length", "without"])
def test_exception_when_a_handler_is_told_of_it_then_it_goes_on_and_the_next_run_goes_well(loader):
    trainer = bare_trainer()
    seen, told = failing(trainer)
    with pytest.raises(ZeroDivisionError, match="at the second"):
        trainer.run(loader, max_epochs=2)
    assert (seen, told) == ([], ["at the second"])
    trainer.state.max_epochs = None
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        trainer.run(loader, max_epochs=2)
    assert (seen, told) == (["EPOCH_COMPLETED"], ["at the second", "division by zero"])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_exception_when_a_handler_that_is_told_of_it_ends_the_run_then_it_is_dealt_with(error):
    trainer, seen = bare_trainer(), []

    @trainer.on(Events.ITERATION_COMPLETED(once=2))
    def fail():
        raise error

    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: trainer.terminate())
    for event in (Events.EPOCH_COMPLETED, Events.TERMINATE, Events.COMPLETED):
        trainer.add_event_handler(event, lambda engine, event=event: seen.append(event.name))
    assert trainer.run(BATCHES, max_epochs=2).iteration == 2
    assert seen == ([] if error is KeyboardInterrupt else ["TERMINATE"])


def test_exception_when_the_run_had_been_ended_then_is_not_taken_for_one_that_was_dealt_with():
    trainer = bare_trainer()

    @trainer.on(Events.ITERATION_COMPLETED)
    def fail():
        trainer.terminate()
        raise ZeroDivisionError

    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: None)
    with pytest.raises(ZeroDivisionError):
        trainer.run(BATCHES, max_epochs=2)


@pytest.mark.parametrize("error", [ZeroDivisionError, CancelFitException])
def test_run_when_the_last_one_was_left_then_goes_on_at_the_next_epoch_or_begins_anew_where_that_is_asked_for(error):
    trainer, epochs = bare_trainer(), []

    @trainer.on(Events.ITERATION_COMPLETED)
    def leave():
        if trainer.state.epoch == 2 and len(epochs) == 2:
            raise error

    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: epochs.append(trainer.state.epoch))
    with contextlib.suppress(ZeroDivisionError):
        trainer.run(BATCHES, max_epochs=4)
    trainer.run(BATCHES, max_epochs=4)
    trainer.state.max_epochs = None
    trainer.run(BATCHES, max_epochs=1)
    assert epochs == [1, 2, 3, 4, 1]


def test_filtered_method_when_removed_by_its_handle_or_by_itself_then_is_called_no_more():
    class Counts:
        n = 0

        def count(self):
            self.n += 1

    trainer, counts = bare_trainer(), Counts()
    handle = trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), counts.count)
    trainer.run(BATCHES, max_epochs=1)
    handle.remove()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), counts.count)
    trainer.remove_event_handler(counts.count, Events.ITERATION_COMPLETED)
    trainer.state.max_epochs = None
    trainer.run(BATCHES, max_epochs=1)
    assert counts.n == 2


@pytest.mark.parametrize("skip", [False, True])
def test_terminate_when_told_to_skip_what_follows_then_does_as_ignite_does(skip):
    def seen_by(engine, ends_the_run):
        seen = []
        for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):
            engine.add_event_handler(event, lambda engine: seen.append((engine.state.epoch, engine.state.iteration)))
        end = (lambda: engine.terminate(skip)) if ends_the_run else (lambda: engine.terminate_epoch(skip))
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), end)
        engine.run(BATCHES, max_epochs=2)
        return seen

    for ends_the_run in (False, True):
        assert seen_by(bare_trainer(), ends_the_run) == seen_by(engine_of([]), ends_the_run)


@pytest.mark.parametrize("how", [{"max_iters": 6}, {"max_epochs": 2, "epoch_length": 3}], ids=lambda how: "-".join(how))
def test_run_when_given_max_iters_or_epoch_length_then_sees_the_batches_that_ignite_does_each_time(how):
    batches = [(torch.full((1, 1), float(i)), torch.zeros(1, 1)) for i in range(4)]

    def seen_by(engine):
        seen = []
        for event in (Events.GET_BATCH_STARTED, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
            engine.add_event_handler(
                event, lambda: seen.append((engine.state.iteration, engine.state.batch, engine.last_event_name))
            )
        for _ in range(2):
            engine.run(batches, **how)
            seen.append(engine.last_event_name)
        return seen

    ours, ignites = seen_by(bare_trainer()), seen_by(engine_of([]))
    assert ours == ignites
    values = [each[1][0].item() for each in ours if isinstance(each, tuple) and each[2] == Events.ITERATION_STARTED]
    assert values == [0, 1, 2, 3, 0, 1] * 2


def test_handler_when_attached_by_decorator_with_arguments_then_gets_them():
    trainer, seen = bare_trainer(), []

    @trainer.on(Events.EPOCH_COMPLETED, "own", key="word")
    @trainer.on(Events.STARTED | Events.COMPLETED, "of two", key="other")
    def over(engine, own, key):
        seen.append((engine, own, key))

    trainer.run(BATCHES, max_epochs=1)
    assert seen == [(trainer, "of two", "other"), (trainer, "own", "word"), (trainer, "of two", "other")]


def test_loader_when_its_epoch_is_cut_then_is_let_go_of_at_once_as_by_a_break():
    seen = []

    def loader():
        try:
            yield from BATCHES
        finally:
            seen.append("closed")

    trainer = bare_trainer()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate_epoch())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append("epoch completed"))
    trainer.run(loader, max_epochs=1)
    assert seen == ["closed", "epoch completed"]


def test_create_trainer_and_evaluator_when_given_a_device_then_move_the_model_and_else_leave_it():
    opt = optim.SGD([torch.zeros(1)], 0.1)
    for create in (lambda model, **how: create_trainer(model, opt, nn.MSELoss(), **how), bare_evaluator):
        assert create(nn.Linear(1, 1), device="meta").loop.model.weight.is_meta
        assert create(nn.Linear(1, 1, device="meta")).loop.model.weight.is_meta


def bare_evaluator(model, **how):
    return create_evaluator(model, nn.MSELoss(), **how)


def test_create_evaluator_when_given_precision_and_prepare_batch_then_follows_them():
    dicts = [{"x": x, "y": y} for x, y in BATCHES]
    evaluator = bare_evaluator(nn.Linear(1, 1), precision="bf16", prepare_batch=lambda batch: (batch["x"], batch["y"]))
    preds, _ = evaluator.run(dicts).output
    assert preds.dtype == torch.bfloat16


def test_loader_of_a_raw_trainer_when_it_is_empty_or_too_short_lived_then_is_refused():
    with pytest.raises(ValueError, match="the training loader is empty"):
        bare_trainer().run([], max_epochs=1)
    with pytest.raises(TypeError, match="once an epoch, 2 times here; the training loader is a one-shot"):
        bare_trainer().run(iter(BATCHES), max_epochs=2)
    assert bare_trainer().run(iter(BATCHES)).iteration == 4


@pytest.mark.parametrize(("event", "n_batches"), [(Events.STARTED, 0), (Events.COMPLETED, 3)])
def test_evaluation_when_a_handler_of_the_whole_run_cancels_the_epoch_then_that_ends_it(event, n_batches):
    evaluator = create_evaluator(nn.Identity(), nn.MSELoss())

    @evaluator.on(event)
    def cancel():
        raise CancelEpochException

    state = evaluator.run([(torch.zeros(2, 1), torch.ones(2, 1))] * 3)
    assert state.iteration == n_batches


def test_set_data_when_a_run_is_going_on_then_is_refused_with_a_way_out():
    trainer = create_trainer(model := nn.Linear(1, 1), torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
    data = [(torch.ones(2, 1), torch.ones(2, 1))]
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: trainer.set_data(data))
    with pytest.raises(RuntimeError, match="give run a function that returns the loader of each epoch"):
        trainer.run(data)


def test_dataloader_when_a_handler_asks_the_state_for_it_then_has_the_loaders_attributes():
    evaluator = create_evaluator(nn.Identity(), nn.MSELoss())
    loader = torch.utils.data.DataLoader([(torch.ones(1), torch.ones(1))] * 4, batch_size=2)
    seen = []
    evaluator.add_event_handler(
        Events.EPOCH_STARTED,
        lambda engine: seen.append((engine.state.dataloader.sampler, len(engine.state.dataloader))),
    )
    evaluator.run(loader)
    assert seen == [(loader.sampler, 2)]
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'samples'"):
        evaluator.state.dataloader.samples  # noqa: B018


def test_run_when_an_endless_stream_is_given_with_an_epoch_length_then_goes_on_through_it_as_ignite_does():
    pair = (torch.zeros(1, 1), torch.zeros(1, 1))

    def seen_by(engine):
        seen = []
        stream = ((*pair[:1], pair[1] + i) for i in itertools.count())
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(engine.state.batch[1].item()))
        engine.run(stream, max_epochs=2, epoch_length=3)
        return seen

    assert seen_by(bare_trainer()) == seen_by(engine_of([])) == [0, 1, 2, 3, 4, 5]
