"""The private names of Ignite that the engines use, and a test for each behaviour that they work round."""

import ast
import pathlib
import re

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy
from torch import nn

import ignite_trainer
from ignite_trainer import Learner, TrainEvents, create_trainer

PRIVATE = {"_fire_event", "_compare_handlers", "_is_done", "_get_data_length", "_event_handlers"}


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


def test_two_metrics_when_attached_to_one_engine_then_both_are_computed():
    trainer = create_trainer(nn.Linear(1, 2), torch.optim.SGD([torch.zeros(1)], 0.1), nn.CrossEntropyLoss())
    for name in ("first", "second"):
        Accuracy(output_transform=lambda output: (torch.eye(2), torch.tensor([0, 1]))).attach(trainer, name)
    trainer.run([(torch.zeros(2, 1), torch.tensor([0, 1]))])
    assert trainer.state.metrics == {"first": 1.0, "second": 1.0}


def test_event_inside_the_step_when_nobody_listens_then_is_not_fired():
    trainer = create_trainer(nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 0.1), nn.MSELoss())
    assert not any(getattr(trainer, event.value) for event in TrainEvents)
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
