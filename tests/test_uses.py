"""Uses that people come upon: looking amid a fit, assigning between fits, strange models, metrics and loaders."""

import copy
import inspect
import math
import random
import subprocess
import sys
import threading
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ignite.metrics import MeanAbsoluteError, Metric, Precision, Recall
from torch import nn, optim
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from ignite_trainer import (
    EMA,
    Callback,
    Checkpoint,
    EarlyStopping,
    Learner,
    LRFinder,
    NaNGuard,
    OverfitBatch,
    RunFiles,
    SampleLoader,
    Schedule,
    TensorBoard,
    TensorLoader,
    check,
    glyphs,
    one_cycle,
)
from ignite_trainer.distributed import initialize
from ignite_trainer.first_batch import check_broadcast
from ignite_trainer.handlers.crash import load_crash
from ignite_trainer.handlers.soundness import bad_tensors
from ignite_trainer.metrics import BatchMean
from ignite_trainer.rng import get_rng_state, seed_everything
from ignite_trainer.steps import on_device
from tests.tiny import blobs, dropout_net, mlp, ready
from tests.tiny import seeded_learner as learner

X, Y = blobs(40)
DATA = ready()


class Pair(NamedTuple):
    first: Any
    second: Any


def weights(learn):
    return [parameter.detach().clone() for parameter in learn.model.parameters()]


def equal(first, second):
    return all(map(torch.equal, first, second))


# ---- looking changes nothing --------------------------------------------------------------------------------------


class Looks(Callback):
    def __init__(self, look, point):
        setattr(self, point, look)


LOOKS = [
    lambda learn: learn.evaluate(learn.train_dl) if learn.in_fit and learn.model.training else None,
    lambda learn: learn.predict(learn.valid_dl),
    lambda learn: learn.predict(learn.train_dl),
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("point", ["after_batch", "after_validate"])
@pytest.mark.parametrize("stock", [False, True])
def test_evaluate_and_predict_amid_a_fit_then_change_no_bit(look, point, stock):
    def fit(cbs):
        torch.manual_seed(0)
        dataset = TensorDataset(X, Y)
        mine = TensorLoader(X, Y, batch_size=10, shuffle=True), TensorLoader(X, Y, batch_size=20)
        data = (DataLoader(dataset, 10, shuffle=True), DataLoader(dataset, 20)) if stock else mine
        learn = learner(cbs, model=dropout_net(), data=data)
        learn.fit(2)
        return weights(learn), learn.results, get_rng_state()["torch"]

    alone, looked_at = fit([]), fit([Looks(look, point)])
    assert equal(alone[0], looked_at[0])
    assert alone[1] == looked_at[1]
    assert torch.equal(alone[2], looked_at[2])


def test_resume_in_mid_epoch_when_a_callback_evaluates_the_training_data_then_is_bit_equal(tmp_path):
    def fit(**how):
        data = TensorLoader(X, Y, batch_size=10, shuffle=True), TensorLoader(X, Y, batch_size=20)
        cbs = [Looks(LOOKS[0], "after_batch"), Checkpoint(every_steps=1, keep=None)]
        learn = learner(cbs, model=dropout_net(), data=data, folder=tmp_path)
        learn.fit(3, **how)
        return weights(learn)

    assert equal(fit(), fit(resume=tmp_path / "checkpoints/step-00000006.pt"))


def test_export_without_an_input_when_the_loader_is_used_up_or_empty_then_is_an_error(tmp_path):
    batches = iter(DATA)
    with pytest.raises(TypeError, match=r"x, an input, is that of a first batch, unless it is given; .* list_iterator"):
        learner(data=(batches, None)).export(tmp_path / "model.pt2", "torch")
    assert len(list(batches)) == 4
    with pytest.raises(ValueError, match="a loader gives at least one batch an epoch; this one gave none"):
        learner(data=([], None)).export(tmp_path / "model.pt2", "torch")


# ---- assigning between fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss_func", nn.MSELoss, "loss_func is called with .* got the class MSELoss: make an instance of it"),
        ("lr", "0.1", "lr is a number, such as 1e-3; got '0.1'"),
        ("opt_func", 3, "opt_func makes an optimizer"),
    ],
)
def test_assigned_between_fits_when_it_is_of_another_kind_then_is_refused_at_the_fit(name, value, message):
    learn = learner()
    learn.fit(1)
    before = weights(learn)
    setattr(learn, name, value)
    with pytest.raises(TypeError, match=message):
        learn.fit(1)
    assert equal(before, weights(learn))


def test_model_when_what_is_assigned_is_none_then_is_refused_at_once():
    learn = learner()
    with pytest.raises(TypeError, match=r"model is an nn.Module, as in learn.model = ...; got 'x'"):
        learn.model = "x"
    learn.fit(1)


@pytest.mark.parametrize(("name", "value"), [("lr", 5.0), ("opt_func", optim.Adam)])
def test_assigned_between_fits_when_the_optimizer_was_given_then_is_refused(name, value):
    model = mlp()
    learn = learner(model=model, optimizer=optim.SGD(model.parameters(), 0.1))
    learn.fit(1)
    setattr(learn, name, value)
    with pytest.raises(ValueError, match=rf"{name} is for an optimizer that the Learner makes, and it has been given"):
        learn.fit(1)


def test_options_of_the_class_then_can_be_inspected():
    assert "metrics" in dict(inspect.getmembers(Learner))
    assert not hasattr(object.__new__(Learner), "metrics")


# ---- models and their state ---------------------------------------------------------------------------------------


class Versioned(nn.Linear):
    """A model that keeps something beside its tensors."""

    version = 1

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]


class Graph(nn.Module):
    """Spreads its outputs along the edges of a graph, a sparse buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("edges", (torch.eye(3) + 0.5).to_sparse())
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return torch.sparse.mm(self.edges, self.layer(x).T).T


def test_model_with_a_sparse_buffer_then_is_resumed_and_stopped_early_and_no_safetensors(tmp_path):
    start = Graph()
    whole = learner([EarlyStopping("train_loss"), NaNGuard()], model=copy.deepcopy(start))
    whole.fit(2)
    learner([Checkpoint()], model=copy.deepcopy(start), folder=tmp_path).fit(1)
    again = learner([Checkpoint()], model=Graph(), folder=tmp_path)
    again.fit(2, resume=True)
    assert torch.equal(again.model.layer.weight, whole.model.layer.weight)
    message = "safetensors holds dense tensors; edges of Graph is sparse_coo: take a Checkpoint, which keeps it, or"
    for refused in (
        lambda: learner([RunFiles()], model=Graph(), folder=tmp_path / "files").fit(1),
        lambda: again.save(tmp_path / "weights.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    again.model.edges.values()[0] = math.nan
    assert bad_tensors(again.model) == ["edges"]


def test_model_with_an_extra_state_then_is_resumed_and_loaded_and_no_safetensors(tmp_path):
    first = learner([Checkpoint()], model=Versioned(6, 3), folder=tmp_path)
    first.model.version = 7
    first.fit(1)
    second = learner([Checkpoint()], model=Versioned(6, 3), folder=tmp_path)
    second.fit(2, resume=True)
    assert second.model.version == 7
    third = learner(model=Versioned(6, 3))
    third.load(next((tmp_path / "checkpoints").glob("step-*08.pt")))
    assert third.model.version == 7
    assert equal(weights(second), weights(third))
    message = "safetensors holds tensors; _extra_state of Versioned is none: take a Checkpoint"
    with pytest.raises(ValueError, match=message):
        third.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        learner([RunFiles()], model=Versioned(6, 3), folder=tmp_path / "files").fit(1)


def test_lazy_model_then_is_resumed_loaded_and_shown(tmp_path):
    def lazy():
        torch.manual_seed(1)
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))

    whole = learner([Checkpoint(tmp_path / "whole")], model=lazy())
    whole.fit(2)
    cbs = [Checkpoint(), RunFiles(), TensorBoard()]
    learner(cbs, model=lazy(), folder=tmp_path / "run").fit(1)
    resumed = learner([Checkpoint(), RunFiles(), TensorBoard()], model=lazy(), folder=tmp_path / "run")
    resumed.fit(2, resume=True)
    assert equal(weights(whole), weights(resumed))
    loaded = learner(model=lazy())
    loaded.load(tmp_path / "run/model.safetensors")
    assert len(weights(loaded)) == 4


def test_options_of_a_subclass_that_takes_what_it_is_given_then_are_written(tmp_path):
    class Mine(Learner):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    cbs = [RunFiles(), TensorBoard()]
    Mine(mlp(), (DATA, DATA), nn.CrossEntropyLoss(), 0.1, cbs, folder=tmp_path, device="cpu").fit(1)
    assert "precision" in (tmp_path / "config.yaml").read_text()


def test_packed_sequence_when_it_is_moved_then_its_sizes_stay_on_the_cpu():
    packed = on_device(pack_sequence([torch.rand(3, 2), torch.rand(2, 2)]), torch.device("meta"))
    assert packed.data.device.type == "meta"
    assert packed.batch_sizes.device.type == "cpu"


@pytest.mark.parametrize("stock", [True, False])
def test_evaluate_of_the_loader_that_trains_when_its_workers_live_on_then_the_epoch_goes_on(stock):
    class Evaluates(Callback):
        def after_batch(self, learn):
            if learn.in_fit and learn.iter == 1 and learn.engine.training:
                losses.append(learn.evaluate(learn.train_dl)["loss"])
                losses.append(len(learn.predict(learn.train_dl)))

    losses, how = [], {"num_workers": 1, "persistent_workers": True}
    data = TensorDataset(X, Y)
    dl = DataLoader(data, 8, **how) if stock else SampleLoader(data, 8, **how)
    learn = learner([Evaluates()], data=(dl, None))
    learn.fit(1)
    assert (learn.step, losses[1]) == (5, 40)


def test_one_cycle_of_a_kept_optimizer_when_a_cycle_has_ended_before_then_rises_as_high_again():
    model = mlp()
    learn = learner([Schedule(one_cycle())], model=model, optimizer=optim.SGD(model.parameters(), 0.1, momentum=0.9))
    rates, highest = [], []

    class Rates(Callback):
        def after_step(self, learn):
            rates.append(learn.opt.param_groups[0]["lr"])

    learn.cbs.append(Rates())
    for _ in range(3):
        rates.clear()
        learn.fit(2)
        highest.append(max(rates))
    assert highest == [highest[0]] * 3


def test_check_when_the_dataset_is_iterable_then_its_batches_are_read():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    assert check(Learner(mlp(), (DataLoader(Stream(), 8), None), nn.CrossEntropyLoss(), 0.1, device="cpu")).facts == []


def test_batch_of_an_object_that_moves_itself_when_it_is_moved_then_is_asked_to():
    class Encoding(UserDict):  # as a tokenizer's
        def to(self, device):
            return Encoding({name: tensor.to(device) for name, tensor in self.items()})

    batch = Encoding(ids=torch.ones(2, 3)), Pair(torch.ones(2), ["a", None])
    x, y = on_device(batch, torch.device("meta"))
    assert (x["ids"].device.type, y.first.device.type, y.second) == ("meta", "meta", ["a", None])


def test_predict_when_batches_are_x_alone_and_a_dict_then_gives_the_model_it():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x["points"])

    learn = learner(model=Named(), data=([({"points": x}, y) for x, y in DATA], None))
    expected = learn.predict(learn.train_dl)
    assert torch.equal(learn.predict([{"points": x} for x, _ in DATA]), expected)
    assert torch.equal(learn.predict([({"points": x},) for x, _ in DATA]), expected)


# ---- metrics ------------------------------------------------------------------------------------------------------


class Samples(Metric):
    """Counts what it is given."""

    def reset(self):
        self.n = 0

    def update(self, output):
        self.n += len(output[1])

    def compute(self):
        return float(self.n)


def test_metrics_made_of_metrics_then_are_those_that_are_attached_by_hand():
    def transformed(output):
        return output[0] * 10, nn.functional.one_hot(output[1], 3).float() * 10

    def made():
        samples = Samples()
        precision, recall = Precision(average=True), Recall(average=True)
        return {
            "error": MeanAbsoluteError(output_transform=transformed) * 2.0,
            "samples": samples + samples,
            "f1": 2 * precision * recall / (precision + recall),
        }

    learn = learner(metrics=made())
    given = learn.evaluate()
    for name, metric in made().items():
        metric.attach(learn.evaluator, f"by hand {name}")
    again = learn.evaluate()
    for name in ("error", "samples", "f1"):
        assert given[name] == again[name] == learn.evaluator.state.metrics[f"by hand {name}"]
    assert given["samples"] == 80.0


def test_metric_function_that_cannot_be_copied_then_is_averaged_all_the_same():
    class Error:
        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, preds, y):
            return (preds.squeeze(1) - y).abs().mean()

    data = [(x, x.sum(1)) for x, _ in DATA]
    learn = learner(
        model=nn.Linear(6, 1),
        data=(data, data),
        loss_func=lambda preds, y: ((preds.squeeze(1) - y) ** 2).mean(),
        metrics={"error": Error()},
    )
    assert learn.evaluate()["error"] > 0


def test_mean_of_python_numbers_then_is_that_of_float64():
    metric = BatchMean(lambda preds, y: 0.1)
    metric.update((torch.zeros(4), torch.zeros(4)))
    assert metric.compute() == 0.1
    metric.add(torch.tensor(math.nan), 0)
    assert metric.compute() == 0.1


def test_dashboard_when_nothing_tells_the_number_of_samples_then_is_written_without(tmp_path):
    class Loses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    learn = learner(
        [TensorBoard(tmp_path)],
        model=Loses(),
        data=([((x, y), None) for x, y in DATA], None),
        loss_func=lambda preds, y: preds,
        loss_size=lambda preds, y: 10,
    )
    learn.fit(1)
    assert list(tmp_path.glob("events*"))


# ---- loaders, schedules, steps ------------------------------------------------------------------------------------


def test_stock_loader_of_whole_batches_when_resumed_then_its_inner_sampler_goes_on(tmp_path):
    dataset = TensorDataset(X, Y)

    def fit(**how):
        samples = RandomSampler(dataset, generator=torch.Generator().manual_seed(3))
        loader = DataLoader(dataset, batch_size=None, sampler=BatchSampler(samples, 10, False))
        learn = learner([Checkpoint(every_steps=1, keep=None)], data=(loader, None), folder=tmp_path)
        learn.fit(3, **how)
        return weights(learn)

    assert equal(fit(), fit(resume=tmp_path / "checkpoints/step-00000006.pt"))


def test_schedule_of_epochs_when_the_loader_has_no_length_then_is_laid_out_over_the_epochs():
    def batches():
        yield from DATA

    learn = learner([Schedule(one_cycle(0.5), step="epoch")], data=(batches, None))
    learn.fit(4)
    assert len({row["lr"] for row in learn.history}) > 1


def own_step(learn):
    learn.preds = learn.model(learn.batch[0])
    learn.loss = learn.loss_func(learn.preds, learn.batch[1])
    learn.loss.backward()
    learn.opt.step()
    learn.callback("after_step")
    learn.opt.zero_grad()
    return learn.loss.detach()


class Rates(Callback):
    """Notes the rate and the number of steps after each step, and the rate at the end of the fit."""

    order = 90

    def __init__(self):
        self.seen = []

    def after_step(self, learn):
        self.seen.append((learn.step, learn.opt.param_groups[0]["lr"]))

    def after_fit(self, learn):
        self.after_step(learn)


def test_step_of_ones_own_when_it_calls_after_step_then_callbacks_see_what_the_built_in_step_shows_them():
    seen = []
    for step in (None, own_step):
        rates = Rates()
        torch.manual_seed(0)
        model = mlp()
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        learn = Learner(
            model,
            (DATA, DATA),
            nn.CrossEntropyLoss(),
            cbs=[Schedule(one_cycle()), rates],
            optimizer=optimizer,
            step=step,
        )
        for _ in range(2):
            learn.fit(2)
        seen.append(rates.seen)
    assert seen[0] == seen[1]
    assert seen[0][0][0] == 1


def silent_step(learn):
    own_step(Quiet(learn))
    return learn.loss.detach()


class Quiet:
    """The learner, but for its ``callback``."""

    def __init__(self, learn):
        object.__setattr__(self, "learn", learn)

    def __getattr__(self, name):
        return (lambda point: None) if name == "callback" else getattr(self.learn, name)

    def __setattr__(self, name, value):
        setattr(self.learn, name, value)


@pytest.mark.parametrize(
    ("cb", "points"),
    [
        (EMA(0.5), "after_step"),
        (Schedule(lambda step: 0.5**step), "after_step"),
        (NaNGuard("skip"), "after_backward"),
    ],
)
def test_callback_that_waits_for_a_point_within_the_step_when_the_step_is_ones_own_then_is_warned_of(cb, points):
    with pytest.warns(
        UserWarning, match=rf"points within TrainStep .*; {type(cb).__name__} has waited for {points}: have"
    ):
        learner([cb], step=silent_step).fit(1)


def test_schedule_when_a_step_of_ones_own_calls_its_point_then_moves_the_rate():
    learn = learner([Schedule(lambda step: 0.5**step)], step=own_step)
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] < 0.1


def test_error_of_a_model_that_is_compiled_then_is_the_models_own():
    x, y = torch.rand(4, 5), torch.zeros(4).long()
    learn = learner(data=([(x, y)], None), compile=True)
    with pytest.raises(Exception, match=r"same reduction dim|mat1 and mat2") as raised:
        learn.fit(1)
    assert "needs a compiler" not in str(raised.value)


def test_loaders_when_workers_are_started_by_a_server_then_train(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, torch\n"
        "from torch import nn\n"
        "from ignite_trainer import Learner, SampleLoader\n"
        "class Points:\n"
        "    def __len__(self): return 20\n"
        "    def __getitem__(self, i): return torch.full((2,), float(i)), i % 2\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('forkserver')\n"
        "    loader = SampleLoader(Points(), batch_size=5, num_workers=1)\n"
        "    learn = Learner(nn.Linear(2, 2), (loader, loader), nn.CrossEntropyLoss(), 0.1, device='cpu')\n"
        "    print(sorted(learn.fit(1)))\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "['loss']\n", done.stderr


# ---- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: NaNGuard(every_steps=2.5), ValueError, "every_steps is the number of steps .* got 2.5"),
        (lambda: NaNGuard(every_steps="5"), ValueError, "every_steps is the number of steps .* got '5'"),
        (lambda: Checkpoint(every_steps="5"), ValueError, "every_steps is a whole number above 0, or None; got '5'"),
        (lambda: Checkpoint(every_seconds="5"), ValueError, "every_seconds is above 0, or None; got '5'"),
        (lambda: EarlyStopping(start_epoch="1"), ValueError, "start_epoch is an epoch, counted from 0; got '1'"),
        (lambda: glyphs("3"), ValueError, "n is the number of pictures, so at least 1; got '3'"),
        (lambda: LRFinder(learner(), n_steps=10.5), ValueError, "n_steps is .* got 10.5"),
        (lambda: OverfitBatch(learner(), n_steps=2.5), ValueError, "n_steps is .* got 2.5"),
        (lambda: check(learner(), n_batches=2.5), ValueError, "n_batches .* got 2.5"),
        (lambda: TensorBoard(50), TypeError, "folder is a path; got 50: give the others by name, as in every_steps=50"),
        (lambda: RunFiles(3), TypeError, "folder is a path; got 3: give it as a string or a Path"),
    ],
)
def test_number_or_folder_when_it_is_of_another_kind_then_is_refused_where_it_enters(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_numbers_of_numpy_then_serve():
    assert TensorBoard(every_steps=np.int64(5)).every_steps == 5
    assert Checkpoint(every_steps=np.int64(5)).every_steps == 5


def test_names_of_ones_own_that_are_like_points_then_are_left_alone():
    class Mine(Callback):
        def after_save(self): ...

        def after_load(self): ...

        def after_log(self): ...

        def after_test(self): ...

    for slip in ("after_bacth", "before_fitt", "after_stp", "after_fix", "after_validation"):
        with pytest.raises(TypeError, match=f"{slip} is not a callback point; did you mean"):
            type("Slips", (Callback,), {slip: lambda self, learn: None})
    assert Mine().order == 0


def test_weights_that_torch_saved_alone_when_loaded_then_the_way_is_said(tmp_path):
    learn = learner()
    torch.save(learn.model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"has no w.pt.sha256: copy both, or, if torch.save wrote it, give model.load_"
    ):
        learn.load(tmp_path / "w.pt")


def test_crash_report_when_it_is_a_folder_then_is_said(tmp_path):
    with pytest.raises(ValueError, match="is a folder; one file in it is needed"):
        load_crash(tmp_path)


def test_ranks_on_cuda_when_nothing_says_which_device_then_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="which LOCAL_RANK says; WORLD_SIZE is set and that is not: start"):
        initialize("cuda")


def test_history_when_the_optimizer_has_no_groups_then_the_rate_is_not_a_number():
    class Plain:
        def __init__(self, parameters):
            self.parameters = list(parameters)

        def step(self):
            with torch.no_grad():
                for parameter in self.parameters:
                    parameter -= 0.1 * parameter.grad

        def zero_grad(self):
            for parameter in self.parameters:
                parameter.grad = None

    model = mlp()
    learn = learner([EarlyStopping("lr", mode="min")], model=model, optimizer=Plain(model.parameters()))
    learn.fit(2)
    assert [math.isnan(row["lr"]) for row in learn.history] == [True] * len(learn.history)


@pytest.mark.parametrize("looks", ["summary", "first batch"])
def test_looking_when_model_or_loss_draws_numbers_of_any_kind_then_those_are_given_back(looks):
    def draw():
        return random.random() + np.random.rand() + torch.rand(()).item()

    class Draws(nn.Linear):
        def forward(self, x):
            return super().forward(x) + draw()

    def squared(preds, y):
        return 0 * draw() + ((preds.squeeze(1) - y) ** 2).mean()

    model, x = Draws(6, 3), torch.rand(2, 6)
    seed_everything(0)
    expected = draw()
    seed_everything(0)
    if looks == "summary":
        learner(model=model).summary(x)
    else:
        check_broadcast(squared, torch.zeros(4, 1), torch.zeros(4), torch.tensor(0.0), "training")
    assert draw() == expected


def test_summary_when_a_layer_uses_the_weights_of_its_parts_itself_then_counts_them():
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)
    layer.extra = nn.Sequential()
    layer.scale = nn.Parameter(torch.ones(3))
    lines = learner(model=layer).summary(torch.rand(2, 5, 4)).splitlines()
    shown = sum(int(line.rsplit(None, 1)[1]) for line in lines[1:-1])
    n = sum(parameter.numel() for parameter in layer.parameters())
    assert shown == n
    assert lines[-1].startswith(f"total {n} parameters")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_graph_of_a_model_that_torch_cannot_trace_then_is_left_out_with_a_warning(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return {"scores": self.net(x), "name": "points"}

    learn = learner(
        [TensorBoard(tmp_path, graph=True, images=False)],
        model=Named(),
        data=(DATA, None),
        loss_func=lambda preds, y: nn.functional.cross_entropy(preds["scores"], y),
    )
    with pytest.warns(UserWarning, match="graph=True shows what torch can trace; Named is not"):
        learn.fit(1)
    assert learn.step == 4


def test_metric_object_when_given_then_the_learner_counts_in_one_of_its_own():
    class Lists:
        def __init__(self):
            self.seen = [[]]

        def update(self, preds, y):
            self.seen[0].append(len(y))

        def compute(self):
            return float(sum(self.seen[0]))

        def reset(self):
            self.seen[0].clear()

    given = Lists()
    assert learner(metrics={"n": given}).evaluate()["n"] == 40.0
    assert given.seen == [[]]


def test_save_under_the_name_of_a_file_of_torch_then_says_what_it_writes(tmp_path):
    rule = (
        r"^weights are written as safetensors; got '.*w.pt': end it in .safetensors, or call torch.save\(learn.model."
    )
    with pytest.raises(ValueError, match=rule):
        learner().save(tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())


def test_predict_of_x_alone_when_batches_are_prepared_then_x_goes_to_the_model_as_it_is():
    learn = learner(prepare_batch=lambda batch: (batch[0], batch[1]))
    assert learn.predict([X[:4]]).shape == (4, 3)


def test_one_batch_in_a_fit_then_the_fit_still_has_its_end():
    class Steps(Callback):
        ended = False

        def after_validate(self, learn):
            learn.batch = DATA[0]
            learn.one_batch()

        def after_fit(self, learn):
            self.ended = True

    steps = Steps()
    learner([steps]).fit(1)
    assert steps.ended


def test_stock_loader_whose_sampler_has_no_length_then_is_evaluated():
    class Some:
        def __iter__(self):
            return iter(range(20))

    loader = DataLoader(TensorDataset(X, Y), 10, sampler=Some())
    learn = learner(data=(loader, loader))
    learn.fit(1)
    assert learn.predict(loader).shape == (20, 3)
    assert learn.evaluate()["loss"] > 0


def test_subclass_when_it_calls_what_the_callback_has_left_out_then_nothing_comes_of_it():
    class Rate(Schedule):
        def after_step(self, learn):
            super().after_step(learn)

    class Guard(NaNGuard):
        def after_backward(self, learn):
            super().after_backward(learn)

    guard = Guard()
    learn = learner([Rate(lambda step: 0.5**step, step="epoch"), guard])
    learn.fit(2)
    assert learn.opt.param_groups[0]["lr"] == 0.05
    assert guard.skipped == 0
