"""What is assigned to a learner, between fits and within one: it counts, or it is refused."""

import functools

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from ignite_trainer import Callback, Checkpoint, Learner
from tests.tiny import blobs, mlp, ready, same_state, seeded_learner


def by_one_epoch(learn):
    learn.one_epoch(train=True)


def by_one_batch(learn):
    learn.model.train()
    learn.batch = ready()[0]
    learn.one_batch()


def by_its_engine(learn):
    learn.trainer.run(ready(), max_epochs=1)


WAYS = pytest.mark.parametrize("way", [by_one_epoch, by_one_batch, by_its_engine])


@WAYS
def test_model_when_assigned_after_a_fit_then_it_is_the_one_that_is_trained_without_fit_too(way):
    learn, reference = seeded_learner(), seeded_learner()
    learn.fit(1)
    torch.manual_seed(1)
    learn.model = mlp()
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    reference.model.load_state_dict(before)
    for each in (learn, reference):
        way(each)
    assert not same_state(before, learn.model.state_dict())
    assert same_state(reference.model.state_dict(), learn.model.state_dict())


@WAYS
def test_model_when_assigned_beside_an_optimizer_of_another_then_is_refused_without_fit_too(way):
    model = mlp()
    learn = seeded_learner(model=model, optimizer=optim.SGD(model.parameters(), 0.1))
    learn.model = mlp()
    with pytest.raises(
        ValueError, match=r"^optimizer moves the model's parameters; 4 of its tensors are not among those"
    ):
        way(learn)


def test_one_batch_when_in_evaluation_then_makes_no_optimizer():
    learn = seeded_learner()
    learn.model.eval()
    learn.batch = ready()[0]
    learn.one_batch()
    assert learn.opt is None


class AtEpoch1(Callback):
    """Assigns something to the learner when the second epoch of training begins."""

    def __init__(self, **values):
        self.values = values

    def before_epoch(self, learn):
        if learn.engine.training and learn.epoch == 1:
            for name, value in self.values.items():
                setattr(learn, name, value)


def test_loss_when_assigned_within_a_fit_then_epochs_and_windows_are_weighed_by_its_rule():
    x, y = blobs(40)
    heavy = nn.CrossEntropyLoss(weight=torch.tensor([10.0, 0.1, 0.1]))
    learn = seeded_learner([AtEpoch1(loss_func=heavy)], data=(ready(), None), accumulate=4)
    model = mlp()
    model.load_state_dict(learn.model.state_dict())
    learn.fit(2)
    opt, losses = optim.SGD(model.parameters(), 0.1), []
    for loss_func in (F.cross_entropy, heavy):
        loss = loss_func(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    # sums of four batches and of one, in float32
    assert [row["train_loss"] for row in learn.history] == pytest.approx(losses, rel=1e-6)
    for ours, theirs in zip(learn.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["model", "dls", "lr", "cbs"])
def test_part_when_assigned_within_a_fit_then_is_refused_with_a_way_out(name):
    learn = seeded_learner()
    learn.cbs = [AtEpoch1(**{name: getattr(learn, name)})]
    with pytest.raises(RuntimeError, match=f"^learn.{name} is assigned between fits, and one is running: "):
        learn.fit(2)


def test_cbs_when_no_list_is_assigned_then_is_refused_at_once():
    with pytest.raises(TypeError, match=r"^cbs is a list of callbacks; got an AtEpoch1: put it into a list$"):
        seeded_learner().cbs = AtEpoch1()


def test_lr_when_a_number_of_numpy_is_assigned_then_checkpoints_take_it(tmp_path):
    learn = seeded_learner([Checkpoint()], folder=tmp_path)
    learn.lr = np.float64(0.05)
    learn.fit(1)
    assert type(learn.lr) is float
    assert learn.history[0]["lr"] == 0.05


def test_evaluate_when_called_by_a_callback_then_the_first_batch_of_its_loader_is_looked_at():
    x, _ = blobs(8)
    good, bad = [(x, torch.zeros(8, 1))], [(x, torch.zeros(8))]

    class Evaluate(Callback):
        def after_validate(self, learn):
            learn.evaluate(bad)

    learn = seeded_learner([Evaluate()], model=nn.Linear(6, 1), data=(good, good), loss_func=nn.MSELoss())
    with pytest.raises(ValueError, match=r"the first validation batch has \(8, 1\) against \(8,\)"):
        learn.fit(1)


@pytest.mark.parametrize("name", ["train_dl", "valid_dl"])
def test_loader_when_assigned_then_is_that_of_the_next_fit_and_is_refused_within_one(name):
    learn = seeded_learner()
    setattr(learn, name, ready()[:2])
    learn.fit(1)
    assert learn.step == (2 if name == "train_dl" else 4)
    learn.cbs = [AtEpoch1(**{name: ready()})]
    with pytest.raises(
        RuntimeError, match=f"^learn.{name} is assigned between fits, .* returns the loader of each epoch"
    ):
        learn.fit(2)


def test_dls_when_it_makes_its_loaders_at_each_question_then_is_asked_once():
    class Makes:
        n_made, valid, vocabulary = 0, None, 5

        @property
        def train(self):
            self.n_made += 1
            return ready()

    learn = seeded_learner(data=(dls := Makes()))
    n_made = dls.n_made
    learn.fit(2)
    learn.train_dl = ready()[:2]
    learn.fit(1)
    assert (learn.step, dls.n_made, learn.dls.vocabulary) == (2, n_made, 5)


def test_model_when_it_is_assigned_to_itself_or_compiled_then_the_optimizer_stays():
    learn = seeded_learner(opt_func=lambda parameters, lr: optim.SGD(parameters, lr, momentum=0.9))
    learn.one_epoch(train=True)
    opt = learn.opt
    learn.model = learn.model
    learn.model = torch.compile(learn.model, backend="eager")
    assert learn.opt is opt


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"opt_func": lambda parameters: None},
            r"^opt_func is called with \(parameters, lr\), which the function given",
        ),
        ({"opt_func": functools.partial(optim.SGD, lr=0.1)}, r"^opt_func is called with \(parameters, lr\), which"),
        (
            {"loss_size": 5},
            r"^loss_size is called with \(preds, y\); got an int: give a function, lambda preds, y: ...$",
        ),
        ({"step": lambda: None}, r"^step is called with \(learn\), which the function given does not take: "),
        ({"prepare_batch": lambda x, y: (x, y)}, r"^prepare_batch is called with \(batch\), which the function given"),
    ],
)
def test_function_when_it_does_not_take_what_it_is_called_with_then_is_refused_at_once(how, message):
    with pytest.raises(TypeError, match=message):
        seeded_learner(**how)


def test_opt_func_when_the_rates_are_in_the_groups_then_need_not_take_one():
    learn = seeded_learner(model=mlp())
    groups = [{"params": list(learn.model.parameters()), "lr": 0.5}]
    model = learn.model
    learn = Learner(
        model, (ready(), None), F.cross_entropy, opt_func=lambda groups: optim.SGD(groups), param_groups=groups
    )
    learn.fit(1)
    assert learn.history[0]["lr"] == 0.5


def test_function_when_it_wraps_another_then_its_own_arguments_count():
    def raw(learn, scale):
        learn.preds = learn.model(learn.batch[0])
        learn.loss = scale * learn.loss_func(learn.preds, learn.batch[1])
        learn.loss.backward()
        learn.opt.step()
        learn.opt.zero_grad()

    @functools.wraps(raw)
    def step(learn):
        raw(learn, 2.0)

    learn = seeded_learner(step=step)
    learn.fit(1)
    assert learn.step == 4


@pytest.mark.parametrize("name", ["after_pred", "after_create", "after_cancel_fit", "before_validate", "on_epoch_end"])
def test_callback_when_it_has_a_point_of_fastai_or_keras_alone_then_is_warned_of(name):
    cb = type("Mine", (), {name: lambda self, learn: None})()
    with pytest.warns(UserWarning, match=f"a fit calls no {name}$"):
        seeded_learner([cb]).fit(1)


def test_callback_when_it_has_a_point_of_ones_own_then_is_not_warned_of():
    class Mine(Callback):
        def before_step(self, learn): ...

    seeded_learner([Mine()]).fit(1)


def test_folder_when_the_runs_cannot_be_made_then_naming_it_says_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted" / "disk")
    learn = seeded_learner()
    assert learn.folder.parent.name == "runs"
    learn.fit(1)


def test_lr_when_none_is_assigned_then_the_fit_is_refused_as_a_learner_without_would_be():
    learn = seeded_learner([])
    learn.fit(1)
    former, learn.lr = learn.opt, None
    with pytest.raises(ValueError, match="a Learner needs lr, for opt_func, or optimizer, an instance; got neither"):
        learn.fit(1)
    assert learn.opt is former
