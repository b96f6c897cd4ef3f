"""Accumulation, clipping, precision and scaling: each step equals that of one large batch, or of the loop by hand."""

import math
from functools import partial

import pytest
import torch
from torch import nn, optim

from ignite_trainer import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    Learner,
    TrainEvents,
    create_trainer,
    param_groups,
)
from tests.tiny import blobs, mlp, same_state

SIZES = (2, 2, 2, 2, 1)
POINTS = ["before_batch", "after_predict", "after_loss", "after_backward", "after_step", "after_batch"]


def batches(sizes=SIZES):
    x, y = blobs(sum(sizes))
    return list(zip(x.double().split(sizes), y.split(sizes), strict=True))


class CancelAt(Callback):
    """Cancels one batch of each epoch at a point; keeps which batches it did cancel before they counted."""

    def __init__(self, point, index, error=CancelBatchException):
        def method(learn):
            if learn.model.training and learn.iter == index:
                raise error

        setattr(self, point, method)


def by_hand(n_epochs, k, left_out, loss_func):
    """One large batch per window of k batches, without those left out."""
    torch.manual_seed(0)
    model = mlp().double()
    opt = optim.SGD(model.parameters(), 0.1)
    kept = [batch for i, batch in enumerate(batches()) if i != left_out]
    steps = 0
    for _ in range(n_epochs):
        for i in range(0, len(kept), k):
            x, y = (torch.cat(parts) for parts in zip(*kept[i : i + k], strict=True))
            loss_func(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            steps += 1
    return model, steps


def assert_close(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)  # another order of float64 additions


WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("k", range(1, 7))
@pytest.mark.parametrize("loss_func", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(WEIGHT)], ids=["plain", "weighted"])
def test_accumulate_when_batches_are_short_then_equals_one_large_batch_a_window(k, loss_func):
    expected, steps = by_hand(2, k, None, loss_func)
    torch.manual_seed(0)
    learn = Learner(mlp().double(), (batches(), None), loss_func, 0.1, device="cpu", accumulate=k)
    learn.fit(2)
    assert_close(learn.model, expected)
    assert learn.step == steps == 2 * math.ceil(5 / k)


class OfScores(nn.CrossEntropyLoss):
    """Of a model that gives a tuple."""

    def forward(self, preds, y):
        return super().forward(preds[0], y)


@pytest.mark.parametrize("in_a_tuple", [False, True])
def test_accumulate_when_a_batch_has_labels_of_weight_0_alone_then_equals_one_large_batch_a_window(in_a_tuple):
    """torch's own gradient of such a batch is 0/0."""
    weight = torch.ones(3).double()
    weight[batches()[-1][1]] = 0.0
    expected, _ = by_hand(2, 5, None, nn.CrossEntropyLoss(weight))
    torch.manual_seed(0)
    loss_func, model = nn.CrossEntropyLoss(weight), mlp().double()
    if in_a_tuple:
        loss_func = OfScores(weight)
        model.register_forward_hook(lambda module, args, output: (output,))
    learn = Learner(model, (batches(), None), loss_func, 0.1, device="cpu", accumulate=5)
    learn.fit(2)
    assert learn.loss.isnan()
    assert_close(learn.model, expected)


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("point", POINTS)
def test_accumulate_when_a_batch_is_cancelled_then_equals_large_batches_without_it(point, index, k):
    loss_func = nn.CrossEntropyLoss()
    counted = point in ("after_batch", "after_step")  # the batch is in its window before these are reached
    expected, steps = by_hand(2, k, None if counted else index, loss_func)
    torch.manual_seed(0)
    cbs = [CancelAt(point, index)]
    learn = Learner(mlp().double(), (batches(), None), loss_func, 0.1, cbs, device="cpu", accumulate=k)
    learn.fit(2)
    assert_close(learn.model, expected)
    assert learn.step == steps


def test_accumulate_when_the_epoch_is_cancelled_then_drops_the_open_window():
    torch.manual_seed(0)
    cbs = [CancelAt("before_batch", 3, CancelEpochException)]
    learn = Learner(mlp().double(), (batches(), None), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", accumulate=2)
    learn.fit(2)
    torch.manual_seed(0)
    again = Learner(mlp().double(), (batches()[:2], None), nn.CrossEntropyLoss(), 0.1, device="cpu", accumulate=2)
    again.fit(2)
    assert learn.step == 2
    assert same_state(learn.model.state_dict(), again.model.state_dict())


def test_accumulate_of_one_when_given_then_is_bit_equal_to_the_plain_loop():
    models = []
    for how in ({}, {"accumulate": 1}):
        torch.manual_seed(0)
        learn = Learner(mlp(), (_float(batches()), None), nn.CrossEntropyLoss(), 0.1, device="cpu", **how)
        learn.fit(3)
        models.append(learn.model.state_dict())
    assert same_state(*models)


def _float(data):
    return [(x.float(), y) for x, y in data]


def test_stepped_when_accumulating_then_fires_once_a_window_the_open_one_at_the_epochs_end_too():
    steps = []
    learn = Learner(mlp(), (_float(batches()), None), nn.CrossEntropyLoss(), 0.1, device="cpu", accumulate=2)
    learn.trainer.add_event_handler(TrainEvents.STEPPED, lambda: steps.append((learn.iter, learn.step)))
    learn.fit(1)
    assert steps == [(1, 1), (3, 2), (4, 3)]


def test_create_trainer_when_it_accumulates_then_equals_the_learner():
    expected, steps = by_hand(2, 3, None, nn.CrossEntropyLoss(WEIGHT))
    torch.manual_seed(0)
    model = mlp().double()
    trainer = create_trainer(model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(WEIGHT), accumulate=3)
    trainer.run(batches(), max_epochs=2)
    assert_close(model, expected)
    assert trainer.loop.step == steps


@pytest.mark.parametrize(
    "how",
    [
        {"clip_norm": 0.1},
        {"precision": "bf16"},
        {"precision": "fp16", "accumulate": 2},
        {"prepare_batch": lambda batch: (2 * batch[0], batch[1])},
    ],
    ids=lambda how: "-".join(how),
)
def test_create_trainer_when_given_options_then_equals_the_learner(how):
    torch.manual_seed(0)
    learn = Learner(mlp(), (_float(batches()), None), nn.CrossEntropyLoss(), 0.1, device="cpu", **how)
    torch.manual_seed(0)
    model = mlp()
    trainer = create_trainer(model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), **how)
    learn.fit(2)
    trainer.run(_float(batches()), max_epochs=2)
    assert trainer.loop.step == learn.step
    assert same_state(model.state_dict(), learn.model.state_dict())


def test_clip_norm_when_given_then_equals_the_loop_that_clips_by_hand():
    def train(clip):
        torch.manual_seed(0)
        model, data = mlp(), _float(batches())
        if clip == "ours":
            Learner(model, (data, None), nn.CrossEntropyLoss(), 0.5, device="cpu", clip_norm=0.1).fit(2)
            return model.state_dict()
        opt = optim.SGD(model.parameters(), 0.5)
        for x, y in data * 2:
            nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            opt.step()
            opt.zero_grad()
        return model.state_dict()

    assert same_state(train("ours"), train("by hand"))


def see(seen, learn):
    seen.add(learn.preds.dtype)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_when_low_then_equals_the_hand_loop_in_autocast(precision, device):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    data, results = [(x.to(device), y.to(device)) for x, y in _float(batches())], []
    for ours in (True, False):
        torch.manual_seed(0)
        model = mlp().to(device)
        seen = set()
        if ours:
            learn = Learner(model, (data, data), nn.CrossEntropyLoss(), 0.1, device=device, precision=precision)
            learn.trainer.add_event_handler(TrainEvents.PREDICTED, partial(see, seen, learn))
            learn.fit(2)
            assert seen == {dtype}
            assert learn.predict(data).dtype == dtype
        else:
            opt, scaler = optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler(device, enabled=precision == "fp16")
            for x, y in data * 2:
                with torch.autocast(device, dtype):
                    loss = nn.functional.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
        results.append(model.state_dict())
    assert same_state(*results)


def test_fp16_when_gradients_overflow_then_the_step_is_not_taken_and_not_counted():
    class Overflow(Callback):
        def after_backward(self, learn):
            if learn.iter == 1:
                next(learn.model.parameters()).grad.fill_(math.inf)

    torch.manual_seed(1)  # for one in three weights the scaler's first scale leaves out another step by itself
    learn = Learner(
        mlp(), (_float(batches()), None), nn.CrossEntropyLoss(), 0.1, [Overflow()], device="cpu", precision="fp16"
    )
    learn.fit(1)
    assert learn.step == 4
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())


def test_fp16_when_accumulating_and_clipping_then_gradients_are_unscaled_first():
    norms = []

    class Norm(Callback):
        def after_step(self, learn):
            norms.append(nn.utils.get_total_norm([p.grad for p in learn.model.parameters()]).item())

    how = {"precision": "fp16", "accumulate": 2, "clip_norm": 0.1}
    Learner(mlp(), (_float(batches()), None), nn.CrossEntropyLoss(), 0.1, [Norm()], device="cpu", **how).fit(1)
    assert norms  # the scaler may leave out the first steps, until its scale fits
    assert norms == [pytest.approx(0.1, rel=1e-4)] * len(norms)  # clipping divides by norm + 1e-6


def test_param_groups_when_given_as_list_or_function_then_each_has_its_rate():
    model = mlp()
    for groups, lr in (
        (param_groups(model, lr=0.1, overrides={"2": {"lr": 0.5}}), None),
        (lambda net: param_groups(net, lr=0.1, overrides={"2": {"lr": 0.5}}), 0.7),
    ):
        learn = Learner(model, (_float(batches()), None), nn.CrossEntropyLoss(), lr, device="cpu", param_groups=groups)
        learn.fit(1)
        assert {group["lr"] for group in learn.opt.param_groups} == {0.1, 0.5}


WRONG = {
    "accumulate": ({"accumulate": 0}, "accumulate is the number of batches in a step, a whole number from 1; got 0"),
    "clip_norm": ({"clip_norm": -1.0}, "clip_norm is the largest norm of the gradients, above 0, .*got -1.0"),
    "precision": ({"precision": "fp8"}, "precision is one of 'fp32', 'bf16' and 'fp16'; got 'fp8'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_gradient_option_when_it_makes_no_sense_then_is_refused(what):
    how, text = WRONG[what]
    with pytest.raises(ValueError, match=text):
        Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), 0.1, device="cpu", **how)
    with pytest.raises(ValueError, match=text):
        create_trainer(mlp(), optim.SGD([torch.zeros(1)], 0.1), nn.CrossEntropyLoss(), **how)


def test_param_groups_when_an_optimizer_is_given_too_then_are_refused():
    model = mlp()
    with pytest.raises(ValueError, match="param_groups are for opt_func; the optimizer given has groups already"):
        Learner(
            model,
            (batches(), None),
            nn.CrossEntropyLoss(),
            optimizer=optim.SGD(model.parameters(), 0.1),
            param_groups=[],
        )


def test_gradient_options_when_the_step_is_ones_own_then_a_warning_says_they_have_no_effect():
    text = (
        "^precision, accumulate and clip_norm belong to TrainStep; a step of one's own does that itself, so they "
        "have no effect here$"
    )
    with pytest.warns(UserWarning, match=text):
        Learner(
            mlp(), (batches(), None), nn.CrossEntropyLoss(), 0.1, device="cpu", step=lambda learn: None, accumulate=2
        )


def test_warning_of_options_without_effect_then_points_at_the_line_that_calls_the_learner():
    with pytest.warns(UserWarning, match="have no effect here") as warned:
        Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), 0.1, step=lambda learn: None, clip_norm=1.0)
    assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize("ignored", [(0, 1), (0,), (1,)])
def test_accumulate_when_a_batch_has_ignored_labels_alone_then_it_weighs_nothing(ignored):
    x, y = blobs(8)
    x = x.double()
    parts = [
        (x[i : i + 4], torch.full((4,), -100) if number in ignored else y[i : i + 4]) for number, i in enumerate((0, 4))
    ]
    torch.manual_seed(0)
    learn = Learner(mlp().double(), (parts, None), nn.CrossEntropyLoss(), 0.1, accumulate=2, device="cpu")
    learn.fit(1)
    torch.manual_seed(0)
    counted = [part for number, part in enumerate(parts) if number not in ignored]
    reference = Learner(
        mlp().double(), (counted or parts, None), nn.CrossEntropyLoss(), 0.1 * bool(counted), device="cpu"
    )
    reference.fit(1)
    assert_close(learn.model, reference.model)


def test_fp16_when_a_step_raised_then_the_next_fit_is_clean():
    class Once(optim.SGD):
        raised = False

        def step(self, closure=None):
            if not self.raised:
                self.raised = True
                raise KeyError("once")
            return super().step(closure)

    model = mlp()
    optimizer, data = Once(model.parameters(), 0.1), [blobs(10)] * 4
    learn = Learner(model, (data, None), nn.CrossEntropyLoss(), optimizer=optimizer, precision="fp16", device="cpu")
    with pytest.raises(KeyError, match="once"):
        learn.fit(1)
    learn.fit(1)
    assert learn.step > 0
