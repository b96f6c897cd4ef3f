"""The dashboard's event files: what is in them, that nothing else is changed, and what they do in every ending."""

import math
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from torch import nn, optim

from ignite_trainer import (
    Callback,
    CancelEpochException,
    CancelFitException,
    Checkpoint,
    Learner,
    TensorBoard,
    accuracy,
)
from ignite_trainer.handlers.event_files import event_files
from ignite_trainer.resume import WALL_CLOCK
from tests.event_records import accumulated, all_steps, hparams, scalars
from tests.tiny import blobs, mlp, own_step, same_state

QUIET = {"images": False, "histograms": False, "pr_curves": False}


def batches(n=40, size=10, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(size), y.split(size), strict=True))


def learner(cbs, model=None, dls=None, **how):
    how = {"metrics": {"accuracy": accuracy}, "device": "cpu", "lr": 0.1, **how}
    return Learner(model or mlp(), dls or (batches(), batches(20, seed=1)), nn.CrossEntropyLoss(), cbs=cbs, **how)


def pictures(n=24, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(
        zip(torch.rand(n, 1, 8, 8, generator=generator).split(size), (torch.arange(n) % 3).split(size), strict=True)
    )


def conv_net():
    """Everything a dashboard could disturb: batch norm's buffers, dropout's random numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.4), nn.Linear(144, 3)
    )


class At(Callback):
    """Calls a function at one point, in training, at one step."""

    def __init__(self, point, do, step=None, order=99):
        self.order = order
        setattr(self, point, lambda learn: do(learn) if step in (None, learn.step) and learn.model.training else None)


def raising(error):
    def do(learn):
        raise error

    return do


def rounded(value):
    return torch.tensor(value).item()  # files hold float32


def test_tensorboard_when_a_fit_ran_then_has_every_row_over_the_steps(tmp_path):
    learn = learner([TensorBoard()], folder=tmp_path / "run")
    learn.fit(3)
    found = scalars(tmp_path / "run")
    tags = ["accuracy/valid", "loss/batch", "loss/train", "loss/valid", "lr/group0", "norm/gradient_max"]
    assert sorted(found) == [*tags, "norm/gradient_mean", "time/epoch", "time/samples_per_second"]
    for tag, key in (("loss/train", "train_loss"), ("loss/valid", "valid_loss"), ("accuracy/valid", "valid_accuracy")):
        assert found[tag] == [(row["step"], rounded(row[key])) for row in learn.history]
    assert found["time/epoch"] == [(4, 1), (8, 2), (12, 3)]
    assert found["lr/group0"] == [(step, rounded(0.1)) for step in (4, 8, 12)]


def test_tensorboard_when_a_run_is_of_images_then_has_pictures_curves_histograms_and_text(tmp_path):
    learn = learner([TensorBoard()], conv_net(), (pictures(), pictures(seed=1)), folder=tmp_path)
    learn.fit(2)
    tags = accumulated(tmp_path).Tags()
    assert sorted(tags["images"]) == ["images/confusion", "images/training_batch", "images/worst_predictions"]
    assert sorted(tags["histograms"]) == sorted(f"weights/{name}" for name, _ in learn.model.named_parameters())
    for tag in ("pr_curves/0", "pr_curves/2", "text/config/text_summary", "custom_scalars__config__"):
        assert tag in tags["tensors"]
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert all_steps(tmp_path)["images/confusion"] == [3, 6]


def test_tensorboard_when_a_run_is_a_regression_then_has_no_confusion_but_the_worst_as_a_table(tmp_path):
    x = torch.randn(40, 3)
    data = list(zip(x.split(10), x[:, :1].split(10), strict=True))
    learn = Learner(nn.Linear(3, 1), (data, data), nn.MSELoss(), 0.1, [TensorBoard()], folder=tmp_path, device="cpu")
    learn.fit(2)
    tags = accumulated(tmp_path).Tags()
    assert tags["images"] == []
    assert not any(tag.startswith("pr_curves") for tag in tags["tensors"])
    (table,) = accumulated(tmp_path).Tensors("text/worst_predictions/text_summary")[-1].tensor_proto.string_val
    assert table.decode().splitlines()[0] == "| sample | target | predicted | error |"
    assert len(table.decode().splitlines()) == 2 + 16
    assert (tmp_path / "report.png").exists()


def test_tensorboard_when_there_is_no_validation_then_has_the_training_alone(tmp_path):
    Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), 0.1, [TensorBoard()], folder=tmp_path, device="cpu").fit(2)
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [4, 8]
    assert "loss/valid" not in scalars(tmp_path)


def test_tensorboard_when_parts_are_switched_off_then_they_are_not_there(tmp_path):
    learner([TensorBoard(**QUIET)], conv_net(), (pictures(), pictures(seed=1)), folder=tmp_path).fit(1)
    tags = accumulated(tmp_path).Tags()
    assert (tags["images"], tags["histograms"]) == ([], [])
    assert not any(tag.startswith("pr_curves") for tag in tags["tensors"])


def test_tensorboard_when_training_has_begun_then_hparams_layout_and_values_can_be_read(tmp_path):
    seen = []
    look = At("after_batch", lambda learn: seen.append((hparams(tmp_path), all_steps(tmp_path))), step=1)
    learner([TensorBoard(hparams={"width": 16}), look], opt_func=optim.Adam, folder=tmp_path).fit(1)
    (((start, status), steps),) = seen
    names = {"model": "Sequential", "optimizer": "Adam", "lr": 0.1, "loss_func": "CrossEntropyLoss", "width": 16}
    assert (start, status) == (names, None)
    assert steps["custom_scalars__config__"] == steps["text/config/text_summary"] == [0]


def test_tensorboard_between_two_points_then_shows_the_mean_loss_of_all_batches_and_the_norms(tmp_path):
    losses, norms = [], []
    look = At("after_batch", lambda learn: losses.append(learn.loss.item()))
    norm = At(
        "after_step",
        lambda learn: norms.append(math.sqrt(sum(p.grad.double().square().sum() for p in learn.model.parameters()))),
    )
    learner([TensorBoard(every_steps=3), look, norm], folder=tmp_path).fit(2)
    found = scalars(tmp_path)
    # the epoch's end writes what is there; norms are of the first of these steps and of every third from the second on
    spans = {3: ([0, 1, 2], [0, 1]), 4: ([3], [3]), 6: ([4, 5], [4]), 8: ([6, 7], [6, 7])}
    assert [step for step, _ in found["loss/batch"]] == list(spans)
    for (_, loss), (_, mean), (_, top), (steps, looked_at) in zip(
        found["loss/batch"], found["norm/gradient_mean"], found["norm/gradient_max"], spans.values(), strict=True
    ):
        # float32 sums of up to three numbers, against float64
        assert loss == pytest.approx(np.mean(np.take(losses, steps)), rel=1e-6)
        of_steps = np.take(norms, looked_at)
        assert (mean, top) == pytest.approx((np.mean(of_steps), np.max(of_steps)), rel=1e-6)


def test_tensorboard_when_epochs_are_shorter_than_a_window_then_each_point_has_a_norm(tmp_path):
    learner([TensorBoard()], folder=tmp_path).fit(3)
    found = scalars(tmp_path)
    assert [step for step, _ in found["norm/gradient_max"]] == [step for step, _ in found["loss/batch"]] == [4, 8, 12]


def test_tensorboard_when_gradients_are_sparse_then_takes_their_norm_too(tmp_path):
    model = nn.Sequential(nn.EmbeddingBag(10, 3, sparse=True), nn.Linear(3, 2))
    data = [(torch.arange(8).view(4, 2), torch.arange(4) % 2)] * 3
    norms = []
    squares = At(
        "after_step", lambda learn: norms.append(sum(p.grad.to_dense().square().sum() for p in model.parameters()))
    )
    learner([TensorBoard(tmp_path, every_steps=1), squares], model, (data, data)).fit(1)
    found = [value for _, value in scalars(tmp_path)["norm/gradient_mean"]]
    assert found == pytest.approx([norm.sqrt().item() for norm in norms], rel=1e-6)  # another order of float32 sums


def test_tensorboard_when_the_step_is_ones_own_then_has_its_losses(tmp_path):
    learner([TensorBoard(tmp_path, every_steps=2)], step=own_step).fit(1)
    assert [step for step, _ in scalars(tmp_path)["loss/batch"]] == [2, 4]


@pytest.mark.parametrize("how", [{}, {"graph": True, "every_steps": 1}])
def test_tensorboard_with_everything_on_then_changes_no_bit_of_the_training(tmp_path, how):
    outcomes = []
    for cbs in ([], [TensorBoard(tmp_path, **how)]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        learn = learner(cbs, conv_net(), (pictures(), pictures(seed=1)), opt_func=optim.Adam, lr=0.01)
        learn.model[4].eval()  # a mode of its own
        results = learn.fit(2)
        modes = [module.training for module in learn.model.modules()]
        state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        outcomes.append((learn.model.state_dict(), results, modes, state))
    (weights, *rest), (weights_with, *rest_with) = outcomes
    assert same_state(weights, weights_with)
    assert rest == rest_with


ENDINGS = {
    "after_fit": (None, STATUS_SUCCESS),
    "cancelled": (CancelFitException(), STATUS_SUCCESS),
    "exception": (KeyError("it"), STATUS_FAILURE),
    "interrupted": (KeyboardInterrupt(), STATUS_FAILURE),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are looked up in /proc")
def test_tensorboard_in_every_ending_then_is_closed_with_the_last_batches_and_the_status(tmp_path, ending):
    error, status = ENDINGS[ending]
    board = TensorBoard(tmp_path)
    cbs = [board] if error is None else [board, At("after_batch", raising(error), step=6)]
    learn = learner(cbs)
    if status is STATUS_FAILURE:
        with pytest.raises(type(error)):
            learn.fit(2)
    else:
        learn.fit(2)
    assert board.events is None
    assert hparams(tmp_path)[1] == status
    assert [step for step, _ in scalars(tmp_path)["loss/batch"]] == ([4, 8] if error is None else [4, 6])
    assert not any(str(tmp_path) in os.path.realpath(opened) for opened in Path("/proc/self/fd").iterdir())


def test_tensorboard_when_a_validation_is_cancelled_then_shows_nothing_of_it(tmp_path):
    class Cut(Callback):
        def after_batch(self, learn):
            if not learn.model.training:
                raise CancelEpochException

    learner([TensorBoard(tmp_path), Cut()]).fit(1)
    assert not any(tag.startswith("pr_curves") for tag in all_steps(tmp_path))
    assert math.isnan(scalars(tmp_path)["loss/valid"][0][1])


def test_tensorboard_when_a_phase_is_cancelled_before_it_begins_then_shows_nothing_of_it(tmp_path):
    class Cancels(Callback):
        order = -1

        def before_epoch(self, learn):
            if (learn.epoch, learn.engine.training) in ((0, True), (2, False)):
                raise CancelEpochException

    learn = learner([Cancels(), TensorBoard(tmp_path)])
    learn.fit(4)
    assert all_steps(tmp_path)["text/worst_predictions/text_summary"] == [0, 4, 12]
    assert math.isnan(learn.history[2]["valid_loss"])


def test_tensorboard_when_the_folder_cannot_be_made_then_warns_once_and_training_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    plain = learner([], torch.manual_seed(0) and mlp())
    plain.fit(2)
    learn = learner([TensorBoard(tmp_path / "file" / "run")], torch.manual_seed(0) and mlp())
    learn.fit(2)
    assert same_state(plain.model.state_dict(), learn.model.state_dict())
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"the dashboard in {tmp_path}/file/run ends here, training goes on without it"
    )


def test_tensorboard_when_the_disk_fails_in_the_middle_then_warns_once_and_training_goes_on(tmp_path):
    program = """
        import resource, sys
        from tests.test_tensorboard import *
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        learn = learner([TensorBoard(sys.argv[1], every_steps=1)])
        learn.fit(30)
        print(len(learn.history))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "30\n"
    (line,) = [line for line in done.stderr.splitlines() if "ends here" in line]
    assert line == f"the dashboard in {tmp_path} ends here, training goes on without it: [Errno 27] File too large"
    steps = [step for step, _ in scalars(tmp_path)["loss/batch"]]
    assert steps == list(range(1, len(steps) + 1))  # what was written before is whole
    assert steps


def test_tensorboard_when_a_fit_starts_in_a_used_folder_then_the_earlier_is_a_run_of_its_own(tmp_path):
    learn = learner([TensorBoard(**QUIET)], folder=tmp_path)
    for _ in range(3):
        learn.fit(1)
    for folder in (tmp_path, tmp_path / "earlier-1", tmp_path / "earlier-2"):
        assert [step for step, _ in scalars(folder)["loss/train"]] == [4]
        assert len(event_files(folder)) == 1


def test_tensorboard_when_a_run_goes_on_from_the_middle_then_no_point_differs_from_one_that_was_not_stopped(tmp_path):
    train, start = batches(), mlp()
    weights = start.state_dict()

    def fit(folder, cbs, state, dl, n_epochs=1):
        model = mlp()
        model.load_state_dict(state)
        board = TensorBoard(tmp_path / folder, every_steps=3)
        learner([board, *(cb(board) for cb in cbs)], model, (dl, batches(20, seed=1))).fit(n_epochs)

    fit("whole", [], weights, train, 2)
    saved = {}

    def save(learn, board):
        saved.update(board=board.state_dict(), model={k: v.clone() for k, v in learn.model.state_dict().items()})

    stop = At("after_batch", raising(CancelFitException()), step=7)  # two steps after the state was saved
    fit(
        "run",
        [lambda board: At("after_batch", lambda learn: save(learn, board), step=5), lambda _: stop],
        weights,
        train,
        2,
    )
    assert max(all_steps(tmp_path / "run")["loss/batch"]) == 7

    def go_on(learn):
        learn.step = 5

    def load(board):
        board.load_state_dict(saved["board"])
        return At("before_fit", go_on, order=-1)

    fit("run", [load], saved["model"], train[1:])
    whole, run = scalars(tmp_path / "whole"), scalars(tmp_path / "run")
    for tag in ("loss/batch", "norm/gradient_mean", "norm/gradient_max", "lr/group0", "loss/valid", "accuracy/valid"):
        assert run[tag] == whole[tag]
    for tag, steps in all_steps(tmp_path / "run").items():
        assert steps == sorted(set(steps)), tag
    assert hparams(tmp_path / "run")[1] == STATUS_SUCCESS  # and hparams() has seen one session start


@pytest.mark.parametrize("step", [5, 6, 8])
def test_tensorboard_when_a_run_is_stopped_to_be_resumed_then_its_last_step_is_no_point_of_its_own(tmp_path, step):
    def fit(name, cbs, resume):
        torch.manual_seed(0)
        board = TensorBoard(every_steps=3, **QUIET)
        learner([board, Checkpoint(), *cbs], folder=tmp_path / name).fit(3, resume=resume)

    fit("whole", [], False)
    fit("run", [At("after_batch", lambda learn: learn.stop("later", outcome="resumable"), step=step)], False)
    assert max(all_steps(tmp_path / "run")["loss/batch"]) < step or step % 3 == 0
    fit("run", [], True)
    whole, run = scalars(tmp_path / "whole"), scalars(tmp_path / "run")
    for tag in ("loss/batch", "norm/gradient_mean", "lr/group0", "loss/train", "loss/valid"):
        assert run[tag] == whole[tag]


@pytest.mark.parametrize("step", [5, 6])
def test_tensorboard_when_a_fit_raises_just_after_a_save_and_is_resumed_then_has_the_points_of_a_whole_run(
    tmp_path, step
):
    def fit(name, cbs, resume):
        torch.manual_seed(0)
        board = TensorBoard(every_steps=4, **QUIET)
        learner([board, Checkpoint(every_steps=1), *cbs], folder=tmp_path / name).fit(3, resume=resume)

    fit("whole", [], False)
    with pytest.raises(OSError, match="the disk"):
        fit("run", [At("before_batch", raising(OSError("the disk")), step=step)], False)
    fit("run", [], True)
    whole, run = scalars(tmp_path / "whole"), scalars(tmp_path / "run")
    for tag in ("loss/batch", "norm/gradient_mean", "lr/group0", "loss/train", "loss/valid"):
        assert run[tag] == whole[tag]


def test_tensorboard_outside_a_fit_then_does_nothing(tmp_path):
    learn = learner([TensorBoard(tmp_path)])
    learn.evaluate()
    learn.one_epoch(True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every_steps", [0, 2.5])
def test_tensorboard_when_every_steps_is_no_count_then_is_refused(every_steps):
    with pytest.raises(
        ValueError, match=f"every_steps is a number of optimizer steps, a whole one from 1; got {every_steps}"
    ):
        TensorBoard(every_steps=every_steps)


def test_tensorboard_when_an_hparam_cannot_be_shown_then_is_refused():
    with pytest.raises(TypeError, match=r"a value of hparams is a number, a string or a bool; got \[1\] for 'layers'"):
        TensorBoard(hparams={"layers": [1]})


def test_tensorboard_when_there_are_no_targets_then_shows_the_batch(tmp_path):
    data = [(x, None) for x, _ in pictures()]
    learn = Learner(
        conv_net(), (data, None), lambda preds, y: preds.square().mean(), 0.1, [TensorBoard(tmp_path)], device="cpu"
    )
    learn.fit(1)
    assert accumulated(tmp_path).Tags()["images"] == ["images/training_batch"]


def test_dashboard_when_a_callback_evaluates_then_shows_the_validation_alone(tmp_path):
    def fit_with(folder, *cbs):
        torch.manual_seed(0)
        learner([TensorBoard(folder, every_steps=2), *cbs]).fit(2)
        return {tag: values for tag, values in scalars(folder).items() if tag not in WALL_CLOCK}

    class Evaluate(Callback):
        def __init__(self, order):
            self.order = order

        def after_batch(self, learn):
            if learn.model.training:
                learn.evaluate(batches(40, seed=2))

        def after_validate(self, learn):
            learn.evaluate(batches(40, seed=2))

    looked = fit_with(tmp_path / "looked", Evaluate(59), Evaluate(61))
    assert looked == fit_with(tmp_path / "plain")
    pictures_of_both = [
        [image.encoded_image_string for image in accumulated(tmp_path / name).Images("images/confusion")]
        for name in ("looked", "plain")
    ]
    assert pictures_of_both[0] == pictures_of_both[1]


def test_tensorboard_when_a_finished_run_is_resumed_then_its_files_stay_as_they_are(tmp_path):
    def job():
        return learner([TensorBoard(), Checkpoint()], folder=tmp_path)

    job().fit(2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    again = job()
    again.fit(2, resume=True)
    assert again.stop_reason.startswith("finished before")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_dashboard_when_weights_are_complex_and_pixels_infinite_then_is_written_without_a_warning(tmp_path):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 3, dtype=torch.complex64))

        def forward(self, x):
            return (x.nan_to_num(0, 1, -1).flatten(1).to(torch.complex64) @ self.weight).abs()

    images = torch.rand(9, 1, 8, 8)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = torch.inf, -torch.inf
    data = [(images, torch.arange(9) % 3)]
    Learner(Complex(), (data, data), nn.CrossEntropyLoss(), 0.1, [TensorBoard(tmp_path)], device="cpu").fit(1)
    assert (tmp_path / "report.png").exists()


def test_graph_when_tracing_raises_whatever_it_does_then_is_left_out_with_a_warning(tmp_path):
    class Inputs(NamedTuple):
        x: torch.Tensor
        scale: torch.Tensor

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, inputs):
            return self.layer(inputs.x) * inputs.scale  # tracing makes a plain tuple of it

    data = [(Inputs(torch.ones(3, 2), torch.ones(3, 1)), torch.arange(3))]
    cbs = [TensorBoard(tmp_path, graph=True)]
    with pytest.warns(UserWarning, match="graph=True shows what torch can trace; Net is not: "):
        Learner(Net(), (data, None), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu").fit(1)
