"""Resume: from every checkpoint of a run the end has the same bits; finished runs and other jobs are noticed."""

import copy
import warnings
from functools import partial

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import PiecewiseLinear
from ignite.metrics import Average
from torch import nn, optim
from torch.utils.data import DataLoader

from ignite_trainer import (
    Callback,
    Checkpoint,
    EarlyStopping,
    Learner,
    Schedule,
    TimeLimit,
    one_cycle,
    seed_everything,
    warmup_cosine,
)
from ignite_trainer.handlers.state_files import load_checkpoint
from tests.resume_jobs import LOADERS, N_EPOCHS, Noisy, end_of, equal, make
from tests.tiny import blobs, mlp


@pytest.mark.parametrize("name", LOADERS)
def test_resume_from_every_checkpoint_of_a_run_then_the_end_has_the_same_bits(name, tmp_path, soak):
    whole = make(name, tmp_path / "whole", keep=1000)
    whole.fit(N_EPOCHS)
    expected = end_of(whole)
    paths = sorted((tmp_path / "whole" / "checkpoints").glob("step-*.pt"))
    assert len(paths) >= 3 * N_EPOCHS
    if "workers" in name and not soak:
        paths = paths[1::3]  # each resume starts its workers anew
    for path in paths:
        resumed = make(name, tmp_path / path.stem)
        resumed.fit(N_EPOCHS, resume=path)
        assert equal(end_of(resumed), expected), path.name


def check_every_resume(make, folder):
    """From each checkpoint of a run, made as ``make(folder)`` makes it, the end has the same bits."""
    whole = make(folder / "whole")
    whole.fit(N_EPOCHS)
    expected = end_of(whole)
    paths = sorted((folder / "whole" / "checkpoints").glob("step-*.pt"))
    assert paths
    for path in paths:
        resumed = make(folder / path.stem)
        resumed.fit(N_EPOCHS, resume=path)
        assert equal(end_of(resumed), expected), path.name


@pytest.mark.parametrize("name", ["tensors", "samples", "stock", "stock, own generator"])
def test_resume_when_a_callback_looks_into_the_training_loader_then_the_end_has_the_same_bits(name, tmp_path):
    class Look(Callback):
        def after_batch(self, learn):
            if learn.model.training and learn.iter == 1 and learn.epoch != 1:
                next(iter(learn.train_dl))

    def looking(folder):
        learn = make(name, folder, keep=1000)
        learn.cbs.append(Look())
        return learn

    check_every_resume(looking, tmp_path)


def test_resume_when_the_loader_had_been_put_elsewhere_before_the_fit_then_the_end_has_the_same_bits(tmp_path):
    def elsewhere(folder):
        learn = make("tensors", folder, keep=1000)
        learn.train_dl.seek(3, 2)
        return learn

    check_every_resume(elsewhere, tmp_path)


def test_resume_when_nothing_was_saved_yet_then_begins_from_the_start(tmp_path):
    ends = []
    for resume in (False, True):
        learn = make("tensors", tmp_path / str(resume))
        learn.fit(N_EPOCHS, resume=resume)
        ends.append(end_of(learn))
    assert equal(*ends)


def test_resume_of_a_finished_run_then_trains_nothing_says_so_and_has_the_same_weights(tmp_path):
    first = make("tensors", tmp_path)
    results = first.fit(N_EPOCHS)
    batches = []

    class Count(Callback):
        def before_batch(self, learn):
            batches.append(learn.iter)

    again = make("tensors", tmp_path)
    again.cbs.append(Count())
    assert again.fit(N_EPOCHS, resume=True) == results
    assert batches == []
    assert again.stop_reason == f"finished before, after epoch 3 and step {first.step}; nothing was left to train"
    assert equal(again.model.state_dict(), first.model.state_dict())
    assert again.history == first.history


def plain(folder, n=40, batch_size=8, cbs=(), model=None, **how):
    seed_everything(0)
    dls = DataLoader(list(zip(*blobs(n), strict=True)), batch_size, shuffle=True), None
    cbs = [*cbs, Checkpoint()]
    return Learner(model or mlp(), dls, nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", folder=folder, **how)


def loading(folder, **how):
    learn = plain(folder)
    learn.dls = DataLoader(list(zip(*blobs(40), strict=True)), 8, **how), None
    return learn


def slower(folder):
    learn = plain(folder)
    learn.lr = 0.01
    return learn


class Curriculum(Callback):
    """A loader that gives more batches in each epoch, as a callback tells it to."""

    def __init__(self):
        self.n = 0

    def before_epoch(self, learn):
        self.n = learn.epoch + 2

    def __iter__(self):
        x, y = blobs(40)
        return iter(list(zip(x.split(8), y.split(8), strict=True))[: self.n])


def test_resume_when_the_loader_has_more_batches_in_each_epoch_and_no_length_then_ends_with_the_same_bits(tmp_path):
    def grown(folder):
        curriculum = Curriculum()
        learn = plain(folder, cbs=[curriculum])
        learn.dls = curriculum, None
        return learn

    whole = grown(tmp_path / "whole")
    whole.fit(3)
    expected = end_of(whole)
    grown(tmp_path / "run").fit(2)
    again = grown(tmp_path / "run")
    again.fit(3, resume=True)
    assert again.step == 2 + 3 + 4
    assert equal(end_of(again), expected)


def test_resume_with_more_epochs_then_goes_on_from_the_end_as_if_they_had_been_asked_for(tmp_path):
    whole = plain(tmp_path / "whole")
    whole.fit(5)
    expected = end_of(whole)
    plain(tmp_path / "parts").fit(2)
    parts = plain(tmp_path / "parts")
    parts.fit(5, resume=True)
    assert equal(end_of(parts), expected)


def test_resume_after_early_stopping_then_is_finished(tmp_path):
    stopping = lambda: EarlyStopping("train_loss", mode="max", patience=1)  # noqa: E731
    plain(tmp_path, cbs=[stopping()]).fit(9)
    again = plain(tmp_path, cbs=[stopping()])
    again.fit(9, resume=True)
    assert again.stop_reason.startswith("finished before, after epoch 2 and ")


def test_resume_after_a_time_limit_then_goes_on_to_the_same_bits(tmp_path):
    whole = plain(tmp_path / "whole")
    whole.fit(3)
    expected = end_of(whole)

    class Stop(Callback):
        def after_batch(self, learn):
            if (learn.epoch, learn.iter) == (1, 2):
                learn.stop("time limit", outcome="resumable")

    plain(tmp_path / "parts", cbs=[Stop(), TimeLimit(1000)]).fit(3)
    parts = plain(tmp_path / "parts")
    parts.fit(3, resume=True)
    assert equal(end_of(parts), expected)


CHANGED = {
    "momentum": (
        lambda folder: plain(folder, opt_func=partial(optim.SGD, momentum=0.5)),
        "saved with optimizer.momentum 0, the option has 0.5 now",
    ),
    "order": (
        lambda folder: loading(folder),
        "saved with sampler 'RandomSampler', the training loader has 'SequentialSampler' now",
    ),
    "generators": (
        lambda folder: loading(folder, shuffle=True, generator=torch.Generator()),
        "saved with generators 0, the training loader has 1 now",
    ),
    "rate": (lambda folder: slower(folder), "was saved with lr 0.1, the option has 0.01 now"),
    "data length": (
        lambda folder: plain(folder, n=41),
        "was saved with length 5, the training loader has 6 now: the same is needed to resume, or no __len__ where it",
    ),
    "batch size": (lambda folder: plain(folder, n=80, batch_size=16), "saved with batch_size 8, .* has 16 now"),
    "shapes": (
        lambda folder: plain(folder, model=nn.Linear(6, 3)),
        r"saved with 0.weight of shape \(16, 6\), the model has None now",
    ),
    "accumulate": (lambda folder: plain(folder, accumulate=2), "saved with accumulate 1, the option has 2 now"),
    "optimizer": (
        lambda folder: plain(folder, opt_func=optim.Adam),
        "saved with optimizer 'SGD', the option has 'Adam'",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_resume_of_another_job_then_is_refused_with_both_values(what, tmp_path):
    plain(tmp_path).fit(1)
    changed, text = CHANGED[what]
    learn = changed(tmp_path)
    learn.one_epoch(True)
    before, optimizer = copy.deepcopy(learn.model.state_dict()), learn.opt
    with pytest.raises(ValueError, match=text):
        learn.fit(2, resume=True)
    assert learn.opt is optimizer
    assert equal(learn.model.state_dict(), before)


def test_resume_when_the_rate_of_a_given_optimizer_changed_then_is_refused_with_both(tmp_path):
    def make(lr):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr)
        dls = [blobs(8)] * 2, None
        return Learner(
            model, dls, nn.CrossEntropyLoss(), cbs=[Checkpoint()], optimizer=optimizer, device="cpu", folder=tmp_path
        )

    make(0.1).fit(1)
    with pytest.raises(ValueError, match=r"was saved with optimizer\.lr 0.1, the option has 0.01 now"):
        make(0.01).fit(2, resume=True)


def test_resume_when_a_callback_adds_groups_later_then_says_how_to_do_without(tmp_path):
    class Thaw(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.opt.add_param_group({"params": learn.model[2].parameters()})

    def make():
        learn = plain(tmp_path, cbs=[Thaw()])
        learn.opt_func = lambda parameters, lr: optim.SGD(list(parameters)[:2], lr)
        return learn

    make().fit(2)
    rule = (
        "has the groups of parameters that were saved; SGD has 1 now, the checkpoint 2: make all of them at the start"
    )
    learn = make()
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match=rule):
        learn.fit(3, resume=True)
    assert equal(learn.model.state_dict(), before)


class Heavy:
    """An optimizer with momentum, of which no checkpoint knows."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self):
        with torch.no_grad():
            for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
                velocity.mul_(0.9).add_(parameter.grad)
                parameter -= self.lr * velocity

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None


def test_resume_when_something_has_a_state_that_no_checkpoint_holds_then_it_is_named(tmp_path):
    def make():
        learn = plain(tmp_path, opt_func=Heavy)
        steps = PiecewiseLinear(optim.SGD(learn.model.parameters(), 0.1), "lr", [(0, 0.1), (9, 0.0)])
        learn.trainer.add_event_handler(Events.ITERATION_STARTED, steps)
        learn.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: None)
        Average().attach(learn.trainer, "average")
        return learn

    make().fit(1)
    with pytest.warns(UserWarning, match="has no state of") as caught:
        make().fit(2, resume=True)
    texts = [str(warning.message).partition("step-00000005.pt ")[2].partition(":")[0] for warning in caught]
    assert texts == [
        "has no state of PiecewiseLinear, which is attached to an engine",
        "has no state of Heavy, which has no state_dict",
    ]


def test_resume_when_the_seed_of_our_loader_changed_then_is_refused_with_both(tmp_path):
    make("tensors", tmp_path).fit(1)
    other = make("tensors", tmp_path)
    other.train_dl.order.seed = 9
    with pytest.raises(ValueError, match="was saved with seed 0, the training loader has 9 now"):
        other.fit(3, resume=True)


def test_resume_when_a_schedule_spans_another_run_then_is_refused(tmp_path):
    plain(tmp_path, cbs=[Schedule(one_cycle(0.5))]).fit(2)
    with pytest.raises(ValueError, match="was laid out over 10 steps, the run has 15 now"):
        plain(tmp_path, cbs=[Schedule(one_cycle(0.5))]).fit(3, resume=True)


def in_two(milestone, gamma=0.5):
    def make(opt):
        parts = optim.lr_scheduler.ConstantLR(opt, 0.5), optim.lr_scheduler.ExponentialLR(opt, gamma)
        return optim.lr_scheduler.SequentialLR(opt, parts, [milestone])

    return make


SCHEDULES = {
    "kind": (one_cycle(0.5), lambda step: 0.9**step, "kind was one_cycle then and is LambdaLR now"),
    "highest rate": (one_cycle(0.5), one_cycle(0.1), "max_lr was 0.5 then and is 0.1 now"),
    "highest rate that is given": (one_cycle(), one_cycle(0.1), "max_lr was None then and is 0.1 now"),
    "torch's options": (
        lambda opt: optim.lr_scheduler.StepLR(opt, 1, gamma=0.5),
        lambda opt: optim.lr_scheduler.StepLR(opt, 1, gamma=0.1),
        "gamma was 0.5 then and is 0.1 now",
    ),
    "torch's highest rate": (
        lambda opt: optim.lr_scheduler.OneCycleLR(opt, 0.5, 10),
        lambda opt: optim.lr_scheduler.OneCycleLR(opt, 0.1, 10),
        "max_lr of group 0 was 0.5 then and is 0.1 now",
    ),
    "highest rate of each group": (one_cycle([0.5]), one_cycle([0.1]), r"max_lr was \[0.5\] then and is \[0.1\] now"),
    "milestones": (
        lambda opt: optim.lr_scheduler.MultiStepLR(opt, [3, 7]),
        lambda opt: optim.lr_scheduler.MultiStepLR(opt, [7, 9]),
        r"milestones was \[\[3, 1\], \[7, 1\]\] then and is \[\[7, 1\], \[9, 1\]\] now",
    ),
    "milestones of a sequence": (in_two(4), in_two(6), r"milestones was \[4\] then and is \[6\] now"),
    "part of a sequence": (in_two(4), in_two(4, 0.3), "gamma of part 1 was 0.5 then and is 0.3 now"),
    "mode": (
        lambda opt: optim.lr_scheduler.CyclicLR(opt, 0.01, 0.1, mode="triangular"),
        lambda opt: optim.lr_scheduler.CyclicLR(opt, 0.01, 0.1, mode="triangular2"),
        "mode was 'triangular' then and is 'triangular2' now",
    ),
}


@pytest.mark.parametrize("what", SCHEDULES)
def test_resume_when_the_schedule_is_another_then_is_refused_with_both_before_anything_is_put_back(what, tmp_path):
    then, now, text = SCHEDULES[what]
    plain(tmp_path, cbs=[Schedule(then), TimeLimit(1e-9)]).fit(2)
    learn = plain(tmp_path, cbs=[Schedule(now)])
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match=f"a resumed Schedule goes on with what was saved; its {text}: give the same"):
        learn.fit(2, resume=True)
    assert equal(learn.model.state_dict(), before)


@pytest.mark.parametrize("schedule", [one_cycle(0.5), lambda opt: optim.lr_scheduler.ExponentialLR(opt, 0.5)])
def test_resume_when_a_schedule_is_new_then_warns_that_it_begins_anew_and_goes_on(schedule, tmp_path):
    plain(tmp_path, cbs=[TimeLimit(1e-9)]).fit(2)
    learn = plain(tmp_path, cbs=[Schedule(schedule)])
    with pytest.warns(UserWarning, match="has no state of Schedule, which was not there: it begins anew"):
        learn.fit(2, resume=True)
    assert learn.step == 10


def test_resume_when_the_options_of_groups_changed_then_is_refused_with_both(tmp_path):
    def make(rate):
        learn = plain(tmp_path)
        groups = [
            {"params": learn.model[0].parameters(), "weight_decay": 0.1},
            {"params": learn.model[2].parameters(), "lr": rate},
        ]
        dls, loss_func = learn.dls, nn.CrossEntropyLoss()
        return Learner(
            learn.model, dls, loss_func, 0.1, [Checkpoint()], param_groups=groups, device="cpu", folder=tmp_path
        )

    make(0.5).fit(1)
    make(0.5).fit(2, resume=True)
    with pytest.raises(ValueError, match=r"was saved with lr of group 1 0\.5, the option has 0\.01 now"):
        make(0.01).fit(3, resume=True)


def test_resume_when_a_schedule_of_epochs_spans_another_run_then_is_refused_without_a_length_too(tmp_path):
    def make():
        learn = plain(tmp_path, cbs=[Schedule(warmup_cosine(warmup_steps=1), step="epoch")])
        learn.dls = (lambda: iter([blobs(8)] * 5)), None
        return learn

    make().fit(3)
    with pytest.raises(ValueError, match="was laid out over 3 epochs, the run has 6 now"):
        make().fit(6, resume=True)


def test_resume_when_a_callback_is_gone_then_warns_and_goes_on(tmp_path):
    plain(tmp_path, cbs=[EarlyStopping("train_loss")]).fit(1)
    with pytest.warns(UserWarning, match="has a state of EarlyStopping, and there is no such callback now"):
        plain(tmp_path).fit(2, resume=True)


def test_resume_without_what_it_needs_then_says_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = Learner(mlp(), ([blobs(8)], None), nn.CrossEntropyLoss(), 0.1, device="cpu")
    with pytest.raises(ValueError, match=r"this Learner has none: add Checkpoint\(\)"):
        learn.fit(1, resume=True)
    learn.cbs.append(Checkpoint())
    with pytest.raises(ValueError, match="named by the time unless it is given"):
        learn.fit(1, resume=True)
    with pytest.raises(FileNotFoundError, match="a checkpoint or the folder of a run; there is none at nowhere"):
        learn.fit(1, resume="nowhere")


@pytest.mark.parametrize("place", [0, 1], ids=["training", "validation"])
def test_checkpoint_with_persistent_workers_of_a_stock_loader_then_is_refused(place, tmp_path):
    loaders = [[blobs(4)], [blobs(4)]]
    loaders[place] = DataLoader(Noisy(8, 0), 4, num_workers=1, persistent_workers=True)
    learn = Learner(mlp(), loaders, nn.CrossEntropyLoss(), 0.1, [Checkpoint()], folder=tmp_path)
    with pytest.raises(ValueError, match=r"take DataLoaders.from_datasets, or leave persistent_workers out"):
        learn.fit(1)


def test_checkpoints_when_kept_then_are_the_newest_and_the_best(tmp_path):
    class Values(Callback):
        def after_validate(self, learn):
            learn.history[-1]["train_loss"] = (3.0, 1.0, 2.0, float("nan"))[learn.epoch]

    learn = plain(tmp_path, cbs=[Values()])
    learn.cbs[-1] = Checkpoint(keep=2, monitor="train_loss")
    learn.fit(4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    steps = ["best.pt", "step-00000015.pt", "step-00000020.pt"]
    assert names == sorted([*steps, *(f"{name}.sha256" for name in steps)])
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["progress"]["step"] == 10


def test_checkpoint_in_the_background_then_is_the_same_file_content(tmp_path):
    states = []
    for background in (False, True):
        learn = plain(tmp_path / str(background))
        learn.cbs[-1] = Checkpoint(every_steps=2, keep=100, background=background)
        learn.fit(2)
        paths = sorted((tmp_path / str(background) / "checkpoints").glob("*.pt"))
        states.append({path.name: load_checkpoint(path)["model"] for path in paths})
    assert equal(*states)


@pytest.mark.parametrize(
    ("name", "value"),
    [("every_steps", 0), ("every_steps", 2.5), ("every_epochs", -1), ("keep", 0), ("every_seconds", 0)],
)
def test_checkpoint_when_an_interval_makes_no_sense_then_is_refused(name, value):
    number = "" if name == "every_seconds" else "a whole number "
    with pytest.raises(ValueError, match=f"^{name} is {number}above 0, or None; got {value}$"):
        Checkpoint(**{name: value})


def test_checkpoint_when_keep_is_none_then_all_are_kept(tmp_path):
    learn = plain(tmp_path)
    learn.cbs[-1] = Checkpoint(every_steps=1, keep=None)
    learn.fit(2)
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == learn.step


def test_checkpoint_when_the_monitor_is_unknown_then_is_refused(tmp_path):
    learn = plain(tmp_path)
    learn.cbs[-1] = Checkpoint(monitor="f1")
    with pytest.raises(ValueError, match="one of epoch, step, train_loss, lr, seconds; got 'f1'"):
        learn.fit(1)


def test_nan_when_the_guard_stops_the_fit_then_the_last_good_checkpoint_is_the_newest(tmp_path):
    from ignite_trainer import NaNGuard

    class Poison(Callback):
        def after_loss(self, learn):
            if learn.epoch == 2:
                learn.loss = learn.loss * float("nan")

    plain(tmp_path, cbs=[Poison(), NaNGuard(every_steps=1)]).fit(5)
    again = plain(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(5, resume=True)
    assert all(parameter.isfinite().all() for parameter in again.model.parameters())
    assert len(again.history) == 5


@pytest.mark.parametrize("name", ["tensors", "samples", "stock, own generator", "list", "generator function"])
def test_weights_when_saved_exported_and_loaded_then_are_the_same_and_the_training_goes_on_as_without(name, tmp_path):
    ends = []
    for export in (False, True):
        learn = make(name, tmp_path / str(export))
        learn.fit(1)
        if export:
            learn.export(tmp_path / "model.pt2", "torch")
            learn.save(tmp_path / "weights.safetensors")
        learn.fit(1)
        ends.append(end_of(learn))
    assert equal(*ends)
    fresh = make(name, tmp_path / "fresh")
    fresh.load(tmp_path / "weights.safetensors")
    program = torch.export.load(str(tmp_path / "model.pt2")).module()
    x = torch.randn(11, 6)
    assert torch.equal(program(x), fresh.model.eval()(x))
