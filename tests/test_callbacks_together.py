"""The package's callbacks beside each other, outside a fit, subclassed, and over several fits."""

import pickle
import signal

import pytest
import torch
from ignite.engine import Events
from torch import nn, optim
from torch.optim.lr_scheduler import CyclicLR, ReduceLROnPlateau, StepLR

from ignite_trainer import (
    EMA,
    Callback,
    Checkpoint,
    EarlyStopping,
    Learner,
    NaNGuard,
    Progress,
    RunFiles,
    Schedule,
    TensorBoard,
    TimeLimit,
)
from ignite_trainer.optim import check_step
from tests.tiny import mlp, ready
from tests.tiny import seeded_learner as learner

DATA = ready()


class Rates(Callback):
    """The rate of each step."""

    def __init__(self):
        self.seen = []

    def before_batch(self, learn):
        if learn.model.training:
            self.seen.append(round(learn.opt.param_groups[0]["lr"], 6))


@pytest.mark.parametrize("make", [EMA, EarlyStopping, Progress, RunFiles, NaNGuard, Checkpoint, TensorBoard])
def test_callback_when_pickled_then_is_as_it_was_made(make):
    cb = make()
    assert vars(pickle.loads(pickle.dumps(cb))).keys() == vars(cb).keys()


def test_two_checkpoints_then_both_note_a_signal_and_give_the_signals_back(tmp_path):
    class Signals(Callback):
        def after_step(self, learn):
            if learn.step == 2:
                signal.raise_signal(signal.SIGTERM)

    cbs = [Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "b"), Signals()]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with pytest.raises(SystemExit):
        learner(cbs).fit(1)
    assert [cb.signals.received for cb in cbs[:2]] == ["SIGTERM", "SIGTERM"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_checkpoint_when_a_write_in_the_background_fails_with_another_error_then_only_that_fit_is_broken(
    tmp_path, caplog
):
    class Breaks(Callback):
        def after_batch(self, learn):
            if learn.step == 2 and learn.model.training:
                self.checkpoint.folder(learn).joinpath("step-00000001.pt").unlink(missing_ok=True)
                self.checkpoint.writer.failure = OSError(28, "No space left on device")
                raise KeyError("another")

    checkpoint, breaks = Checkpoint(every_steps=1, background=True), Breaks()
    breaks.checkpoint = checkpoint
    learn = learner([breaks, checkpoint], folder=tmp_path)
    with pytest.raises(KeyError, match="another"):
        learn.fit(1)
    assert "the last checkpoint was not written: [Errno 28] No space left on device" in caplog.text
    learn.cbs = [checkpoint]
    learn.fit(1)


def test_checkpoint_when_an_earlier_folder_was_deleted_then_the_next_gets_a_new_number(tmp_path):
    for _ in range(3):
        learner([Checkpoint()], folder=tmp_path).fit(1)
    folder = tmp_path / "checkpoints"
    (folder / "earlier-1").rename(tmp_path / "kept")
    learner([Checkpoint()], folder=tmp_path).fit(1)
    assert sorted(path.name for path in folder.glob("earlier-*")) == ["earlier-2", "earlier-3"]


def test_fit_of_no_epochs_then_leaves_the_checkpoints_of_the_run(tmp_path):
    learner([Checkpoint()], folder=tmp_path).fit(1)
    learner([Checkpoint()], folder=tmp_path).fit(0)
    learn = learner([Checkpoint()], folder=tmp_path)
    learn.fit(2, resume=True)
    assert learn.resumed_from is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: Checkpoint(folder, every_steps=1),
        lambda folder: Schedule(lambda step: 0.9**step),
        lambda folder: Schedule(lambda step: 0.9**step, step="epoch"),
        lambda folder: TimeLimit(1e-9),
        lambda folder: EMA(),
        lambda folder: NaNGuard(),
        lambda folder: NaNGuard("skip"),
        lambda folder: EarlyStopping(),
        lambda folder: TensorBoard(folder),
        lambda folder: Progress(bar=True),
    ],
)
def test_callbacks_of_the_package_when_there_was_no_fit_then_runs_outside_one_go_on(make, tmp_path):
    for run in (
        lambda learn: learn.one_epoch(True),
        lambda learn: learn.one_epoch(False),
        lambda learn: learn.trainer.run(DATA, max_epochs=2),
        lambda learn: learn.evaluate(),
        lambda learn: (setattr(learn, "batch", DATA[0]), learn.one_batch()),
    ):
        run(learner([make(tmp_path)]))
    assert not list(tmp_path.rglob("*.pt"))


def test_progress_outside_a_fit_then_the_bar_says_which_phase_it_is(capsys):
    learner([Progress(bar=True)]).one_epoch(True)
    assert "training:" in capsys.readouterr().err
    learner([Progress(bar=True)]).evaluate()
    assert "evaluation:" in capsys.readouterr().err


class FrozenMode(nn.Sequential):
    """A model that is always in eval mode, as people write it to keep batch norm's statistics."""

    def train(self, mode=True):
        return super().train(False)


def test_guard_when_the_model_keeps_itself_in_eval_mode_then_training_is_still_looked_at():
    model = FrozenMode(nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 0, batch 0"):
        learner([NaNGuard("raise", every_steps=1)], model=model).fit(1)


def test_checkpoint_when_the_model_keeps_itself_in_eval_mode_then_saves_in_mid_epoch(tmp_path):
    learner([Checkpoint(every_steps=1, keep=None)], model=FrozenMode(nn.Linear(6, 3)), folder=tmp_path).fit(1)
    assert (tmp_path / "checkpoints/step-00000002.pt").exists()


def test_guard_when_gradients_are_sparse_then_skips_by_their_values():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    x, y = torch.randint(5, (8, 2)), torch.randint(2, (8,))
    guard = NaNGuard("skip")
    learn = Learner(model, ([(x, y)], None), nn.CrossEntropyLoss(), 0.1, [guard], device="cpu")
    learn.fit(1)
    assert (learn.step, guard.skipped) == (1, 0)


def test_hooks_of_a_subclass_when_the_callback_has_some_there_too_then_are_called():
    seen = []

    class Guard(NaNGuard):
        def after_batch(self, learn):
            seen.append("guard")
            super().after_batch(learn)

        def after_backward(self, learn):
            seen.append("guard's own")

    class Rate(Schedule):
        def after_step(self, learn):
            seen.append("rate")
            super().after_step(learn)

    class Bar(Progress):
        def before_epoch(self, learn):
            seen.append("bar")

    learner([Guard(), Rate(lambda step: 1.0), Bar(bar=False)]).fit(1)
    assert {"guard", "guard's own", "rate", "bar"} == set(seen)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule(lambda step: 0.9**step),
        lambda: Schedule(lambda opt: StepLR(opt, 1, gamma=0.5), step="epoch"),
        lambda: Schedule(lambda opt: ReduceLROnPlateau(opt, patience=0, threshold=1e3), step="validate"),
    ],
    ids=["steps", "epochs", "plateau"],
)
def test_schedule_when_resumed_with_more_epochs_then_is_as_if_they_had_been_asked_for_at_once(make, tmp_path):
    def run(folder, *plan):
        rates = []
        for n_epochs in plan:
            cb = Rates()
            learn = learner([make(), Checkpoint(), cb], folder=folder)
            learn.fit(n_epochs, resume=True)
            rates += cb.seen
        return rates, learn

    (at_once, whole), (in_parts, resumed) = run(tmp_path / "a", 4), run(tmp_path / "b", 1, 2, 4)
    assert at_once == in_parts
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


def test_schedule_whose_state_is_used_up_by_loading_when_resumed_in_mid_epoch_then_goes_on(tmp_path):
    def fit(n_epochs, **how):
        def cyclic(opt):
            return CyclicLR(opt, 0.01, 0.1, step_size_up=2, cycle_momentum=False)

        rates = Rates()
        learn = learner([Schedule(cyclic), Checkpoint(every_steps=3, keep=None), rates], folder=tmp_path)
        learn.fit(n_epochs, **how)
        return rates.seen, learn

    whole, first = fit(2)
    rest, second = fit(2, resume=tmp_path / "checkpoints/step-00000003.pt")
    assert rest == whole[3:]
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


def test_callback_that_keeps_what_it_is_given_when_resumed_in_mid_epoch_then_has_the_state_that_was_saved(tmp_path):
    class Log(Callback):
        def before_fit(self, learn):
            self.log = []

        def before_epoch(self, learn):
            if learn.model.training:
                self.log.append(learn.epoch)

        def state_dict(self):
            return {"log": self.log}

        def load_state_dict(self, state):
            self.log = state["log"]

    learner([Log(), Checkpoint(every_steps=2, keep=None)], folder=tmp_path).fit(3)
    learn = learner([Log(), Checkpoint(every_steps=2, keep=None)], folder=tmp_path)
    learn.fit(3, resume=tmp_path / "checkpoints/step-00000006.pt")
    assert learn.cbs[0].log == [0, 1, 2]


def test_optimizer_that_a_scheduler_was_made_for_when_given_then_trains_and_trains_again():
    model = mlp()
    opt = optim.SGD(model.parameters(), 0.1)
    StepLR(opt, 1)
    learn = learner([Schedule(lambda step: 0.9**step)], model=model, optimizer=opt)
    learn.fit(1)
    learn.fit(1)
    assert learn.step == 4
    check_step(opt)


def test_optimizer_that_wants_a_closure_when_a_scheduler_was_made_for_it_then_is_refused():
    opt = optim.LBFGS(mlp().parameters())
    StepLR(opt, 1)
    with pytest.raises(TypeError, match="is called without arguments; LBFGS's needs some"):
        check_step(opt)


def test_trainer_run_by_its_user_then_handlers_of_the_run_are_called_and_nothing_is_swallowed():
    seen = []
    learn = learner()
    for event in (Events.STARTED, Events.COMPLETED):
        learn.trainer.add_event_handler(event, lambda engine, event=event: seen.append(event.name))
    learn.trainer.register_events("mine")
    learn.trainer.add_event_handler("mine", lambda: seen.append("mine"))
    learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: learn.trainer.fire_event("mine"))
    learn.trainer.run(DATA, max_epochs=1)
    assert seen == ["STARTED", "mine", "COMPLETED"]

    @learn.trainer.on(Events.ITERATION_COMPLETED(once=2))
    def fails():
        raise RuntimeError("no more")

    @learn.trainer.on(Events.EXCEPTION_RAISED)
    def sees(error):
        seen.append(str(error))
        raise error

    with pytest.raises(RuntimeError, match="no more"):
        learn.trainer.run(DATA, max_epochs=1)
    assert seen[-1] == "no more"
