"""Trials put everything back: a fit after one is, bit for bit, the fit without one; after an exception too."""

import copy
import random
from collections import UserList

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn, optim
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler

from ignite_trainer import (
    Callback,
    DataLoaders,
    Learner,
    LRFinder,
    OverfitBatch,
    Progress,
    SampleLoader,
    TrainStep,
    check,
    seed_everything,
)
from ignite_trainer.rng import get_rng_state
from ignite_trainer.trial import Memory, own_callbacks
from tests.tiny import blobs, dropout_net, mlp, ready


class Moody(nn.Module):
    """A model that keeps all kinds of things: a plain tensor, an array, a counter, a list, a buffer made anew."""

    def __init__(self):
        super().__init__()
        self.net = dropout_net()
        self.register_buffer("last", torch.zeros(1))
        self.memory, self.array, self.n_calls, self.shapes = torch.zeros(2), np.zeros(2), 0, []

    def forward(self, x):
        self.n_calls += 1
        self.shapes.append(len(x))
        self.memory += 1
        self.array += 1
        self.last = x.detach().mean() + torch.zeros(len(self.shapes))
        return self.net(x) + self.n_calls + self.memory[0] + self.array[1].item() + self.last.sum()


class Noisy(Dataset):
    """Draws from a generator of its own, from the global ones, and counts."""

    def __init__(self, n=40):
        self.x, self.y = blobs(n)
        self.generator, self.numpy, self.n_reads = torch.Generator().manual_seed(5), np.random.default_rng(3), 0

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        self.n_reads += 1
        noise = torch.randn(6, generator=self.generator) + torch.randn(6) + self.numpy.normal() + random.random()
        return self.x[index] + noise + self.n_reads / 100, self.y[index]


def stock(ds, **how):
    return DataLoader(ds, 8, shuffle=True, **how)


KEPT = []  # where the collector takes a learner and its loader at once, torch waits 5 s for the loader's workers


def with_workers():
    KEPT.append(stock(Noisy(), num_workers=1, persistent_workers=True))
    return KEPT[-1]


def batches():
    x, y = blobs(40)
    return list(zip(x.split(8), y.split(8), strict=True))


def generated():
    yield from ((x + torch.randn(1), y) for x, y in batches())


def own_sampler():
    ds = Noisy()
    return DataLoader(ds, 8, sampler=RandomSampler(ds, generator=torch.Generator().manual_seed(1)))


class Endless:
    """A loader of one's own that counts its epochs."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return ((x * self.epoch, y) for x, y in batches())


LOADERS = {
    "tensor loader": lambda: DataLoaders.from_tensors(blobs(40), batch_size=8).train,
    "sample loader": lambda: SampleLoader(Noisy(), 8, shuffle=True),
    "stock loader": lambda: stock(Noisy()),
    "stock loader with a generator": lambda: stock(Noisy(), generator=torch.Generator().manual_seed(2)),
    "stock loader of joined datasets": lambda: stock(ConcatDataset([Noisy(24), Noisy(16)])),
    "stock loader with workers": with_workers,
    "sampler with a generator": own_sampler,
    "list": batches,
    "function": lambda: generated,
    "loader that counts": Endless,
}


CROSS_ENTROPY = nn.CrossEntropyLoss()


def step_of_ones_own(learn):
    learn.loss = learn.loss_func(learn.model(learn.batch[0]), learn.batch[1]) + torch.rand(())
    learn.loss.backward()
    learn.opt.step()
    learn.opt.zero_grad()


def step_with_its_loss(learn):
    learn.loss = nn.functional.cross_entropy(learn.model(learn.batch[0]), learn.batch[1])
    learn.loss.backward()
    learn.opt.step()
    learn.opt.zero_grad()


def rows():
    return [{"x": x, "y": y} for x, y in batches()]


JOBS = {
    "plain": {},
    "adam": {"opt_func": optim.Adam},
    "an optimizer that is kept": {"optimizer": lambda model: optim.AdamW(model.parameters(), 0.01)},
    "groups": {"param_groups": lambda model: [{"params": [p], "lr": 0.01} for p in model.parameters()]},
    "windows": {"accumulate": 2, "clip_norm": 1.0},
    "float16": {"precision": "fp16"},
    "a step of one's own": {"step": step_of_ones_own},
    "TrainStep as a step": {"step": TrainStep(lambda batch: batch)},
    "prepared batches": {"loader": rows, "valid": rows, "prepare_batch": lambda row: (row["x"], row["y"])},
    "no loss but the step's": {"step": step_with_its_loss, "loss_func": None, "valid": lambda: None},
}


def make(loader=batches, model=Moody, valid=batches, loss_func=CROSS_ENTROPY, **options):
    """A learner that has been used a little."""
    seed_everything(7)
    model = model()
    if "optimizer" in options:
        options["optimizer"] = options["optimizer"](model)
    else:
        options["lr"] = 0.05
    learn = Learner(model, (loader(), valid()), loss_func, device="cpu", **options)
    learn.fit(1)
    return learn


class Breaks(Callback):
    """Raises in the middle of a trial."""

    def __init__(self, point, error=RuntimeError):
        self.n, self.error = 0, error
        setattr(self, point, self.count)

    def count(self, learn):
        self.n += 1
        if self.n == 5:
            raise self.error("in the middle")


def find_lr(learn):
    assert len(LRFinder(learn, n_steps=20).run().losses) > 1


def overfit(learn):
    assert len(OverfitBatch(learn, n_steps=20).run().losses) == 20


def break_step(learn):
    with pytest.raises(RuntimeError, match="in the middle"):
        LRFinder(learn, cbs=[Breaks("after_backward")]).run()


def break_by_keyboard(learn):
    with pytest.raises(KeyboardInterrupt):
        OverfitBatch(learn, cbs=[Breaks("before_batch", KeyboardInterrupt)]).run()


TRIALS = {"LRFinder": find_lr, "OverfitBatch": overfit, "an exception": break_step, "Ctrl-C": break_by_keyboard}


def all_of(learn):
    """What can be seen of a learner."""
    state = {f"model {name}": tensor.clone() for name, tensor in learn.model.state_dict().items()}
    state |= {f"grad {name}": p.grad is None for name, p in learn.model.named_parameters()}
    state["history"] = [{key: row[key] for key in row if key != "seconds"} for row in learn.history]
    plain = ("step", "epoch", "n_epochs", "epochs", "results", "in_fit", "stop_reason", "lr")
    state |= {name: copy.copy(getattr(learn, name)) for name in plain}
    state["objects"] = id(learn.engine), id(learn.dl), id(learn.opt)
    state["modes"] = [module.training for module in learn.model.modules()]
    state["rng"] = repr(get_rng_state())
    state["engine"] = learn.trainer.state.iteration, learn.evaluator.state.iteration, learn.iter
    if hasattr(learn.model, "memory"):
        state["own"] = learn.model.memory.tolist(), learn.model.n_calls, list(learn.model.shapes)
    state["optimizer"] = repr(learn.opt.state_dict())
    state["scaler"] = learn.scaler and learn.scaler.state_dict()
    return state


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        equal = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        assert equal, key


def compare(run, **job):
    one, other = make(**job), make(**job)
    seed_everything(11)
    one.model.train()
    one.model.net[3].eval()
    before = all_of(one)
    loader = one.train_dl
    run(one)
    same(all_of(one), before)
    assert one.train_dl is loader
    one.fit(2)
    seed_everything(11)
    other.model.train()
    other.fit(2)
    a, b = all_of(one), all_of(other)
    for key in ("objects", "modes"):
        a.pop(key), b.pop(key)
    a["engine"], b["engine"] = a["engine"][:2], b["engine"][:2]
    same(a, b)


@pytest.mark.parametrize("run", TRIALS.values(), ids=TRIALS)
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_fit_after_a_trial_when_compared_with_one_without_then_is_bit_equal(loader, run):
    compare(run, loader=loader)


@pytest.mark.parametrize("run", TRIALS.values(), ids=TRIALS)
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_fit_after_a_trial_of_any_job_when_compared_with_one_without_then_is_bit_equal(job, run):
    if "step" in job and not isinstance(job["step"], TrainStep) and run is break_step:
        pytest.skip("a step of one's own does not announce after_backward")
    compare(run, **job)


def test_trial_when_gradients_lie_there_then_they_are_the_same_tensors_with_the_same_numbers():
    learn = make()
    learn.loss_func(learn.model(batches()[0][0]), batches()[0][1]).backward()
    grads = {name: (p.grad, p.grad.clone()) for name, p in learn.model.named_parameters()}
    find_lr(learn)
    for name, parameter in learn.model.named_parameters():
        assert parameter.grad is grads[name][0]
        assert torch.equal(parameter.grad, grads[name][1])


def test_trial_when_a_callback_freezes_and_hooks_then_neither_is_left():
    class Meddles(Callback):
        def before_batch(self, learn):
            learn.model[0].weight.requires_grad = False
            learn.model.register_forward_hook(lambda module, args, output: output)
            learn.model.extra = torch.zeros(3)

    learn = make(model=mlp)
    OverfitBatch(learn, n_steps=2, cbs=[Meddles()]).run()
    assert learn.model[0].weight.requires_grad
    assert not hasattr(learn.model, "extra")
    assert not learn.model._forward_hooks


def test_trial_when_the_learner_has_callbacks_and_handlers_then_none_is_called(tmp_path, capsys):
    called = []

    class Notes(Callback):
        def before_fit(self, learn):
            called.append("callback")

    learn = make()
    learn.cbs = [Notes(), Progress()]
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: called.append("handler"))
    find_lr(learn)
    assert called == []
    assert capsys.readouterr() == ("", "")


def test_trial_in_a_fit_then_says_so():
    class Looks(Callback):
        def after_epoch(self, learn):
            LRFinder(learn).run()

    learn = make()
    learn.cbs.append(Looks())
    with pytest.raises(RuntimeError, match="this learner is in the middle of a fit"):
        learn.fit(1)


def test_trial_when_the_loader_can_be_read_once_then_says_so_and_reads_nothing():
    loader = iter(batches())
    learn = Learner(mlp(), (loader, None), nn.CrossEntropyLoss(), lr=0.1, device="cpu")
    with pytest.raises(TypeError, match="this one is a one-shot list_iterator: give a list"):
        OverfitBatch(learn).run()
    assert len(list(loader)) == 5


def test_trial_when_a_parameter_has_no_shape_yet_then_says_so():
    learn = Learner(nn.LazyLinear(3), (batches(), None), nn.CrossEntropyLoss(), lr=0.1, device="cpu")
    with pytest.raises(ValueError, match="weight has none yet: run the model on one batch first"):
        LRFinder(learn).run()


def test_memory_when_numbers_are_nan_or_expanded_then_they_are_put_back_too():
    part = nn.Linear(2, 2)
    part.register_buffer("nan", torch.full((2,), torch.nan))
    part.register_buffer("expanded", torch.zeros(1).expand(5))
    memory = Memory([part])
    part.nan.zero_()
    part.expanded = torch.ones(1)
    memory.put_back()
    assert part.nan.isnan().all()
    assert part.expanded.tolist() == [0] * 5


class Resized(nn.Module):
    """Sets its scale on the first batch, as fake quantization does, and holds a sparse mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("mask", torch.eye(6).to_sparse())
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        if not self.mean.numel():
            self.mean.resize_(6).copy_(x.mean(0))
        self.mask.mul_(2)
        return self.layer(torch.sparse.mm(self.mask, (x - self.mean).T).T)


@pytest.mark.parametrize("run", TRIALS.values(), ids=TRIALS)
def test_trial_when_buffers_are_sparse_or_get_another_shape_then_are_put_back_with_the_weights(run):
    model = Resized()
    before = copy.deepcopy(model)
    run(Learner(model, (ready(), None), nn.CrossEntropyLoss(), 0.1, device="cpu"))
    assert torch.equal(model.layer.weight, before.layer.weight)
    assert (model.mean.shape, torch.equal(model.mask.to_dense(), torch.eye(6))) == ((0,), True)


def test_memory_when_a_part_cannot_be_put_back_then_all_others_are():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].table = np.zeros(3)
    before = copy.deepcopy(model.state_dict())
    memory = Memory([model])
    model[0].table.flags.writeable = False
    for parameter in model.parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match="read-only"):
        memory.put_back()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_own_callbacks_when_copied_then_they_are_the_users_alone_and_share_the_learner():
    class Mine(Callback):
        def __init__(self, learn):
            self.learn, self.seen = learn, []

    class Holds(Callback):
        def __init__(self):
            self.reads = (i for i in range(3))

    class Quiet(Progress):
        pass

    learn = make()
    learn.cbs = [Progress(), Mine(learn), Holds(), Quiet()]
    (copied,), refused = own_callbacks(learn)
    assert refused == ["Holds"]
    assert copied.learn is learn
    assert copied.seen == []
    assert copied.seen is not learn.cbs[1].seen


def test_trial_when_left_then_a_second_begins_the_same():
    learn = make(loader=LOADERS["stock loader"])
    assert LRFinder(learn, n_steps=15).run() == LRFinder(learn, n_steps=15).run()


def test_trial_when_a_callback_looks_then_the_options_are_the_learners():
    seen = set()

    class Look(Callback):
        def before_batch(self, learn):
            seen.add((learn.accumulate, learn.precision, learn.clip_norm))

    data = list(zip(*(part.split(10) for part in blobs(40)), strict=True))
    how = {"accumulate": 4, "precision": "bf16", "clip_norm": 1.0}
    learn = Learner(mlp(), (data, None), nn.CrossEntropyLoss(), 0.1, [Look()], device="cpu", **how)
    check(learn)
    assert seen == {(4, "bf16", 1.0)}


def test_memory_when_a_model_keeps_a_list_of_another_kind_then_it_is_put_back():
    model = nn.Linear(1, 1)
    model.kept = UserList([1, 2])
    memory = Memory([model])
    model.kept.append(3)
    memory.put_back()
    assert model.kept == [1, 2]


def test_trial_when_the_learner_was_warned_of_then_says_it_no_more():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, preds, y):
            return self.weight * nn.functional.cross_entropy(preds, y)

    data = list(zip(*(part.split(10) for part in blobs(40)), strict=True))
    with pytest.warns(UserWarning, match="Weighted has 1 that is not"):
        learn = Learner(mlp(), (data, None), Weighted(), 0.1, device="cpu")
    OverfitBatch(learn).run()
