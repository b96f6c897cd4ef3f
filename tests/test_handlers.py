"""Early stopping, progress and TensorBoard on real fits."""

import io
import math

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Callback, EarlyStopping, Learner, Progress, TensorBoard, accuracy
from tests.tiny import blobs, dropout_net, mlp, same_state


def batches(n=40, size=10, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(size), y.split(size), strict=True))


def learner(cbs, model=None, lr=0.1, **how):
    dls = batches(), batches(20, seed=1)
    how = {"metrics": {"accuracy": accuracy}, "device": "cpu", **how}
    return Learner(model or mlp(), dls, nn.CrossEntropyLoss(), lr, cbs, **how)


class Values(Callback):
    """Puts made-up validation losses into the history, and keeps the weights of each epoch."""

    def __init__(self, *values):
        self.values, self.weights = values, []

    def after_validate(self, learn):
        learn.history[-1]["valid_loss"] = self.values[learn.epoch]
        self.weights.append({key: value.clone() for key, value in learn.model.state_dict().items()})


def test_early_stopping_when_nothing_gets_better_then_stops_and_the_best_weights_are_back():
    values = Values(3.0, 2.0, 2.0, math.nan, 1.0)
    learn = learner([values, EarlyStopping(patience=2)])
    learn.fit(5)
    assert len(learn.history) == 4
    assert same_state(learn.model.state_dict(), values.weights[1])
    assert learn.stop_reason == "early stopping: valid_loss has not been better than 2 (epoch 2), with patience 2"


def test_early_stopping_when_the_fit_runs_to_its_end_then_the_best_weights_are_back_too():
    values = Values(3.0, 1.0, 2.0)
    learn = learner([values, EarlyStopping(patience=5)])
    learn.fit(3)
    assert same_state(learn.model.state_dict(), values.weights[1])
    assert learn.stop_reason == ""


def test_early_stopping_when_restore_best_is_off_then_the_last_weights_stay():
    values = Values(1.0, 2.0)
    learn = learner([values, EarlyStopping(restore_best=False)])
    learn.fit(2)
    assert same_state(learn.model.state_dict(), values.weights[1])


def test_early_stopping_when_all_is_nan_then_stops_and_says_so():
    learn = learner([Values(math.nan, math.nan, 1.0), EarlyStopping(patience=2)])
    learn.fit(3)
    assert learn.stop_reason == "early stopping: valid_loss has been NaN, with patience 2"


def test_early_stopping_when_epochs_come_before_start_epoch_then_they_do_not_count():
    learn = learner([Values(1.0, 9.0, 9.0, 8.0), EarlyStopping(patience=1, start_epoch=2)])
    learn.fit(4)
    assert len(learn.history) == 4


def test_early_stopping_when_used_for_two_fits_then_the_second_begins_anew():
    values = Values(1.0, 2.0, 2.0)
    learn = learner([values, EarlyStopping(patience=2)])
    learn.fit(3)
    learn.fit(3)
    assert len(learn.history) == 3


def test_early_stopping_when_the_monitor_is_unknown_then_names_the_keys():
    with pytest.raises(
        ValueError, match=r"one of epoch, step, train_loss, valid_loss, valid_accuracy, .*got 'val_loss'"
    ):
        learner([EarlyStopping("val_loss")]).fit(1)


def test_early_stopping_when_start_epoch_is_negative_then_is_refused():
    with pytest.raises(ValueError, match="start_epoch is an epoch, counted from 0; got -1"):
        EarlyStopping(start_epoch=-1)


def test_progress_in_a_pipe_then_writes_a_line_an_epoch_and_no_bar(capsys):
    learn = learner([Progress()])
    learn.fit(2)
    out, err = capsys.readouterr()
    rows = learn.history
    assert out.splitlines() == [
        f"Epoch {i + 1}/2, Training Loss: {row['train_loss']:.4f}, Validation Loss: {row['valid_loss']:.4f}, "
        f"Validation Accuracy: {row['valid_accuracy']:.2%}"
        for i, row in enumerate(rows)
    ]
    assert err == ""


def test_progress_when_evaluated_outside_a_fit_then_its_bar_is_closed(capsys):
    progress = Progress(bar=True)
    learner([progress]).evaluate()
    assert progress._bars == {}
    assert "evaluation:" in capsys.readouterr().err


def test_progress_when_asked_for_a_bar_then_shows_and_closes_it_even_after_an_exception(capsys):
    class Fail(Callback):
        def after_batch(self, learn):
            if learn.epoch == 1:
                raise KeyError

    progress = Progress(bar=True, file=io.StringIO())
    with pytest.raises(KeyError):
        learner([progress, Fail()]).fit(2)
    assert "Epoch 1/2 training:   0%|          | 0/4" in capsys.readouterr().err
    assert progress._bars == {}


def test_progress_when_a_callback_evaluates_within_an_epoch_then_the_bar_of_the_epoch_goes_on(capsys):
    progress, moved = Progress(bar=True), []

    class Evaluates(Callback):
        order = 99

        def after_batch(self, learn):
            if learn.engine.training:
                moved.append(progress._bars["training"].n)
                learn.evaluate()

    learner([progress, Evaluates()]).fit(1)
    assert moved == [1, 2, 3, 4]
    assert progress._bars == {}
    shown = capsys.readouterr().err
    assert "Epoch 1/1 training:" in shown
    assert "Epoch 1/1 validation:" in shown
    assert "evaluation:" in shown


def test_progress_when_a_fit_is_stopped_then_says_why(capsys):
    learner([Progress(), Values(1.0, 2.0), EarlyStopping(patience=1)]).fit(5)
    assert capsys.readouterr().out.splitlines()[-1].startswith("early stopping: valid_loss has not been better than 1")


def test_handlers_when_hung_on_a_fit_then_change_no_bit_of_it(tmp_path):
    states = []
    for cbs in ([], [TensorBoard(tmp_path), Progress(file=io.StringIO()), EarlyStopping(restore_best=False)]):
        torch.manual_seed(0)
        learn = learner(cbs, dropout_net(), 0.01, opt_func=optim.Adam)
        learn.fit(2)
        states.append((learn.model.state_dict(), torch.get_rng_state()))
    assert same_state(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def test_folder_when_none_is_given_then_is_named_by_the_time_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = learner([TensorBoard()])
    learn.fit(1)
    learn.fit(1)
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == learn.folder.name
