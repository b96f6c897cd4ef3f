"""The look at a job: each fact and each hint is found where it was put, good jobs have no fact, nothing is changed."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from ignite_trainer import Callback, DataLoaders, Learner, SampleLoader, TensorLoader, accuracy, check, seed_everything
from ignite_trainer.inspection import Inspection
from ignite_trainer.inspection.findings import Finding
from ignite_trainer.inspection.losses import class_loss
from ignite_trainer.models import SmallCNN
from tests.inspection_jobs import GOOD, cut, learner, loaders, pictures, points
from tests.test_trial import Breaks, all_of, make, same
from tests.tiny import dropout_net, mlp, ready


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def facts(learn):
    return {finding.kind: finding.text for finding in check(learn).facts}


def hints(learn):
    return {finding.kind: finding.text for finding in check(learn).hints}


def only(found, kind):
    """The one finding there is."""
    assert list(found) == [kind], found
    return found[kind]


@pytest.mark.parametrize("job", GOOD)
def test_check_of_a_good_job_then_no_fact(job):
    inspection = check(job())
    assert inspection.facts == []
    assert inspection.hints == []  # these are good to the last; a hint alone would not make a job a bad one


def test_check_when_nothing_is_to_be_trained_then_says_so():
    model = mlp()
    text = only(facts(learner(model.requires_grad_(False), loaders(points))), "no gradient")
    assert text.startswith("a training step moves parameters that have requires_grad; the model has none: thaw those")


def test_check_when_thousands_of_labels_have_no_output_then_all_are_counted():
    x, y = torch.randn(2032, 6), torch.zeros(2032, dtype=torch.int64)
    y[32:] = 7
    train = list(zip(x.split(16), y.split(16), strict=True))
    text = facts(learner(mlp(), (train, None)))["labels outside the outputs"]
    assert "and 1995 more" in text


def test_check_when_a_loss_over_classes_is_a_subclass_then_knows_it_by_its_forward():
    class Named(nn.CrossEntropyLoss):
        pass

    assert class_loss(Named()) == class_loss(nn.CrossEntropyLoss())


def test_check_when_sequences_are_packed_then_counts_them_and_not_their_steps():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x):
            return self.net(x)[1][0][0]

    train = [(pack_sequence([torch.randn(4, 2), torch.randn(3, 2)]), torch.zeros(2, dtype=torch.int64))] * 5
    found = hints(Learner(Last(), (train, None), nn.CrossEntropyLoss(), 0.1, device="cpu"))
    assert "all of 10 training samples have 0" in found["constant labels"]


def test_check_when_a_callback_holds_a_layer_then_it_is_the_models():
    model = mlp()

    class Holds(Callback):
        def __init__(self):
            self.head = model[2]

        def after_predict(self, learn):
            learn.preds = learn.preds + 0 * self.head.weight.sum()

        def before_epoch(self, learn):
            self.head.requires_grad_(False)

    assert check(learner(model, loaders(points), cbs=[Holds()])).facts == []
    assert model[2].weight.requires_grad


def test_check_when_a_callback_reads_what_the_validation_gave_then_it_is_there():
    class Reads(Callback):
        def after_validate(self, learn):
            rows.append((learn.history[-1]["valid_loss"], learn.results["accuracy"]))

    rows = []
    job = learner(mlp(), loaders(points), cbs=[Reads()], metrics={"accuracy": accuracy})
    assert check(job).facts == []
    assert len(rows) == 1


def test_check_when_the_loss_raises_of_nan_then_names_the_sample():
    x, y = points(400, n_classes=2)
    x[333] = torch.nan  # behind the steps that are tried
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid(), nn.Flatten(0))
    text = only(facts(learner(model, (cut(x, y.float()), None), nn.BCELoss())), "nan")
    assert "333" in text


# ---- facts -------------------------------------------------------------------------------------------------------


def labels_in(x, y, kind):
    y = y.clone()
    y[[5, 17]] = torch.tensor([3, 7])
    if kind == "list":
        return cut(x, y), "samples 5, 17 in the loader's order"
    if kind == "tensor loader":
        return TensorLoader(x, y, batch_size=16, shuffle=True), "samples (5, 17|17, 5)"
    if kind == "sample loader":
        return SampleLoader(TensorDataset(x, y), 16, shuffle=True), "samples (5, 17|17, 5)"
    return DataLoader(TensorDataset(x, y), 16, shuffle=True), "samples (5, 17|17, 5)"


@pytest.mark.parametrize("kind", ["list", "tensor loader", "sample loader", "stock loader"])
@pytest.mark.parametrize("phase", ["training", "validation"])
def test_labels_outside_the_outputs_then_found_with_values_and_samples(kind, phase):
    loader, where = labels_in(*points(), kind)
    dls = (loader, cut(*points(40, 1))) if phase == "training" else (cut(*points(40, 1)), loader)
    text = only(facts(learner(mlp(), dls)), "labels outside the outputs")
    expected = (
        rf"labels are class numbers from 0 to 2 for a model of 3 outputs; got 3, 7 in the {phase} data \({where}\): "
        "number the classes from 0, or give the model more outputs"
    )
    assert re.fullmatch(expected, text), text


def test_labels_outside_the_outputs_where_a_callback_makes_them_then_found_in_its_batch():
    class Wrong(Callback):
        def before_batch(self, learn):
            learn.batch = learn.batch[0], learn.batch[1] + 1

    text = only(facts(learner(mlp(), (cut(*points()), None), cbs=[Wrong()])), "labels outside the outputs")
    assert re.search(r"got 3 in batch 0 of training \(rows \d", text), text


@pytest.mark.parametrize("loss", [nn.NLLLoss(), F.cross_entropy, nn.CrossEntropyLoss(ignore_index=1)])
def test_labels_outside_the_outputs_with_any_loss_over_classes_then_found(loss):
    x, y = points()
    assert "labels outside the outputs" in facts(learner(mlp(), (cut(x, y + 1), None), loss))


def test_nan_in_the_data_then_found_with_part_and_samples():
    x, y = points()
    x[[3, 40], 2] = torch.nan
    text = only(facts(learner(mlp(), (TensorLoader(x, y, batch_size=16, shuffle=True), None))), "nan")
    assert re.fullmatch(
        r"the training data is numbers; x has NaN in 2 of 200 samples \(samples (3, 40|40, 3)\): leave these "
        "samples out, or fill them",
        text,
    ), text


def test_nan_in_a_nest_and_in_targets_then_each_has_its_path():
    x, _ = points()
    parts = [({"numbers": a, "more": (a + torch.nan, a)}, a[:, :1] + torch.nan) for a in x.split(16)]

    class Takes(nn.Linear):
        def forward(self, x):
            return super().forward(x["numbers"] + x["more"][0])

    found = check(learner(Takes(6, 1), (parts, None), nn.MSELoss())).facts
    assert [finding.text.split(" has NaN in ")[0].split("; ")[1] for finding in found] == ["x['more'][0]", "y"]


def duplicated(kind):
    x, y = pictures(96)
    other, labels = pictures(32, seed=1)
    other[[4, 9]] = x[[50, 60]]
    if kind == "tensor loaders with a transform":

        def noise(x, generator):
            return x + 0.1 * torch.rand(x.shape, generator=generator)

        return DataLoaders.from_tensors((x, y), (other, labels), 16, transform=noise)
    if kind == "stock loaders":
        return DataLoader(TensorDataset(x, y), 16, shuffle=True), DataLoader(TensorDataset(other, labels), 16)
    if kind == "workers":
        return DataLoaders.from_datasets(
            [*zip(x, y, strict=False)], [*zip(other, labels, strict=False)], 16, num_workers=1
        )
    if kind == "one in memory":
        return TensorLoader(x, y, batch_size=16, shuffle=True), cut(other, labels)
    return cut(x, y), cut(other, labels)


@pytest.mark.parametrize(
    "kind", ["tensor loaders with a transform", "stock loaders", "workers", "one in memory", "lists"]
)
def test_the_same_image_in_training_and_validation_then_found_with_both_samples(kind):
    text = only(facts(learner(SmallCNN(n_out=4), duplicated(kind))), "same image")
    assert text == (
        "no image is in training and in validation; 2 of 32 validation images are among the training ones (training "
        "and validation sample 50 and 4, 60 and 9): split the data so that each is in one"
    )


def test_the_same_image_when_a_sampler_splits_one_dataset_then_it_is_not_found():
    dataset = TensorDataset(*pictures(96))
    dls = [DataLoader(dataset, 16, sampler=SubsetRandomSampler(part)) for part in (range(64), range(64, 96))]
    assert facts(learner(SmallCNN(n_out=4), dls)) == {}


def test_the_same_image_when_it_is_all_of_one_colour_then_it_is_not_found():
    (x, y), (other, labels) = pictures(96), pictures(32, seed=1)
    x[0] = other[0] = 0
    assert facts(learner(SmallCNN(n_out=4), (cut(x, y), cut(other, labels)))) == {}


class Detached(nn.Module):
    def __init__(self, detached=("first",)):
        super().__init__()
        self.first, self.last, self.detached = nn.Linear(6, 6), mlp(), detached

    def forward(self, x):
        x = self.first(x).detach() if "first" in self.detached else self.first(x)
        x = self.last(x)
        return x.detach() if "last" in self.detached else x


def test_a_parameter_without_gradient_then_found_by_its_name():
    text = only(facts(learner(Detached(), loaders(points))), "no gradient")
    assert text == (
        "parameters that are trained get a gradient; first.weight, first.bias got none in 13 steps: use them in what "
        "the loss depends on (no detach, no argmax before it), or freeze them with requires_grad_(False)"
    )


def test_a_loss_without_any_gradient_then_all_parameters_are_found():
    text = only(facts(learner(Detached(("last",)), loaders(points))), "no gradient")
    assert "first.weight, first.bias, last.0.weight, last.0.bias, last.2.weight and 1 more got none in any step" in text


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}])
def test_softmax_before_cross_entropy_then_found(options):
    model = nn.Sequential(mlp(), nn.Softmax(dim=1))
    text = only(facts(learner(model, loaders(points), lr=1.0, **options)), "softmax")
    assert text == (
        "cross-entropy takes scores and makes probabilities of them itself; in training and validation every row of "
        "the 3 outputs adds to 1 already: leave out the softmax at the model's end"
    )


def test_scores_into_nll_then_found_and_log_probabilities_not():
    text = only(facts(learner(mlp(), loaders(points), nn.NLLLoss(), lr=1.0)), "log-softmax")
    assert text == (
        "NLL takes log-probabilities; in training and validation no row of the 3 outputs is: end the model with a "
        "log_softmax, or take cross-entropy"
    )
    right = nn.Sequential(mlp(), nn.LogSoftmax(dim=1))
    assert facts(learner(right, loaders(points), nn.NLLLoss(), lr=1.0)) == {}


def test_softmax_in_evaluation_alone_then_found():
    class Serves(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x) if self.training else self.net(x).softmax(1)

    assert "; in validation every row" in only(facts(learner(Serves(), loaders(points))), "softmax")


class Forgets(nn.Module):
    """Uses itself in eval mode within forward, and leaves it so."""

    def __init__(self, part=None):
        super().__init__()
        self.net, self.part = dropout_net(), part

    def forward(self, x):
        (self if self.part is None else self.net[self.part]).eval()
        return self.net(x)


class Stubborn(nn.Module):
    """A train() of its own that does not call the one it overrides."""

    def __init__(self):
        super().__init__()
        self.net = dropout_net()
        self.training = False

    def train(self, mode=True):
        return self

    def forward(self, x):
        return self.net(x)


class Samples(Callback):
    """Looks at some outputs before each batch and forgets to go back."""

    def before_batch(self, learn):
        learn.model.eval()


@pytest.mark.parametrize(
    ("model", "cbs", "names"),
    [
        (Forgets(), [], "net"),
        (Forgets(0), [], "net.0"),
        (Stubborn(), [], "the model itself"),
        (dropout_net(), [Samples()], "the model itself"),
    ],
    ids=["in forward", "a part in forward", "train of its own", "callback"],
)
def test_a_model_left_in_eval_mode_then_found(model, cbs, names):
    text = only(facts(learner(model, loaders(points), lr=0.05, cbs=cbs)), "eval mode")
    assert text == (
        f"a training step runs in training mode; {names} ran in eval mode: look for eval() in forward or a callback, "
        "or a train() of the model's own"
    )


def test_a_teacher_that_runs_in_eval_mode_without_gradients_then_it_is_not_left_in_eval_mode():
    class Taught(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.teacher = mlp(), mlp()

        def forward(self, x):
            with torch.no_grad():
                target = self.teacher.eval()(x)
            return self.net(x) + 0.1 * target

    assert "4 more" not in only(facts(learner(Taught(), loaders(points))), "no gradient")


# ---- hints -------------------------------------------------------------------------------------------------------


def test_a_loss_at_the_start_far_from_ln_classes_then_hinted_with_both_numbers():
    model = mlp()
    with torch.no_grad():
        model[2].weight *= 100
    text = hints(learner(model, loaders(points)))["loss at the start"]
    assert re.match(r"a new model's loss is about ln\(3\) = 1\.1; the first batch has \d+\.\d+: above that", text), text
    trained = learner(mlp(), loaders(points))
    trained.fit(30)
    assert "below that it knows the labels already" in hints(trained)["loss at the start"]


@pytest.mark.parametrize(("factor", "mean", "deviation"), [(255, 83, 80.4), (1 / 255, 0.00128, 0.00124)])
def test_unscaled_inputs_then_hinted_with_mean_and_deviation(factor, mean, deviation):
    x, y = pictures()
    text = hints(learner(SmallCNN(n_out=4), (cut(factor * x, y), None), lr=1e-2))["unscaled inputs"]
    found = re.search(r"; x has mean (\S+) and standard deviation (\S+): scale it", text).groups()
    assert [float(number) for number in found] == [mean, deviation]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()])
def test_constant_labels_then_hinted_with_the_label(loss):
    x, y = points()
    y = torch.ones_like(y) if isinstance(loss, nn.CrossEntropyLoss) else torch.ones(len(y), 3)
    text = hints(learner(mlp(), (cut(x, y), None), loss))["constant labels"]
    assert text.startswith("labels differ, or there is nothing to learn; all of 200 training samples have 1: look")


def test_a_batch_that_cannot_be_overfitted_then_hinted_with_the_losses():
    x, y = points()
    text = hints(learner(mlp(), (cut(torch.zeros_like(x), y), None)))["cannot be overfitted"]
    numbers = re.search(r"its loss went from (\S+) to (\S+) in 100 steps with lr", text)
    assert 0.5 * float(numbers[1]) < float(numbers[2]) <= float(numbers[1])


@pytest.mark.parametrize("lr", [1e-5, 50.0])
def test_a_rate_that_the_finder_would_not_choose_then_hinted_with_both(lr):
    text = hints(learner(mlp(), loaders(points), lr=lr))["lr"]
    found = re.search(r"lr is (\S+); the finder sees the loss fall fastest at (\S+): try that", text).groups()
    assert float(found[0]) == lr
    assert 0.03 < float(found[1]) < 3


def test_a_low_rate_alone_then_the_batch_is_tried_with_the_finders():
    assert only(hints(learner(mlp(), loaders(points), lr=1e-5)), "lr")


# ---- the page ----------------------------------------------------------------------------------------------------


def test_page_when_printed_then_facts_come_first_in_80_columns():
    findings = [Finding("lr", "lr is 1; " + "word " * 30, False), Finding("nan", "the data is numbers; " * 5, True)]
    inspection = check(learner(mlp(), loaders(points)))
    inspection.findings = sorted(findings, key=lambda finding: not finding.is_fact)
    lines = str(inspection).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        "fact",
        "hint",
        "seconds per batch",
        "looked at",
    ]
    assert lines[-1] == "looked at: 13 training steps, 200 training samples, 40 validation samples"
    assert re.fullmatch(r"seconds per batch: [\d.]+ for data, [\d.]+ for computing", lines[-2])
    assert str(Inspection()) == "nothing found"


def test_seconds_when_the_loader_is_slow_then_they_are_the_datas():
    import time

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.02)
                yield batch

    inspection = check(learner(mlp(), (Slow(cut(*points(80))), None)))
    assert inspection.data_seconds >= 0.02 > inspection.compute_seconds


def test_page_when_not_all_was_read_then_it_says_so():
    inspection = check(learner(mlp(), loaders(points)), n_batches=2)
    assert inspection.looked_at == [
        "looked at: 13 training steps, 32 training samples, 32 validation samples",
        "of the training data only the first 2 batches were read",
        "of the validation data only the first 2 batches were read",
    ]


def test_page_when_a_callback_cannot_be_copied_then_it_says_so():
    class Holds(Callback):
        def __init__(self):
            self.file = (line for line in ())

    assert "Holds took no part: no copy can be made" in check(learner(mlp(), loaders(points), cbs=[Holds()])).looked_at


# ---- nothing is changed ------------------------------------------------------------------------------------------


def test_fit_after_a_check_when_compared_with_one_without_then_is_bit_equal():
    one, other = make(), make()
    seed_everything(3)
    before = all_of(one)
    check(one)
    same(all_of(one), before)
    one.fit(2)
    seed_everything(3)
    other.fit(2)
    a, b = all_of(one), all_of(other)
    a.pop("objects"), b.pop("objects")
    same(a, b)


@pytest.mark.parametrize("point", ["after_backward", "before_batch"])
def test_check_when_the_job_raises_then_it_is_raised_and_all_is_as_it_was(point):
    learn = make()
    learn.cbs.append(Breaks(point))
    before = all_of(learn)
    with pytest.raises(RuntimeError, match="in the middle"):
        check(learn)
    same(all_of(learn), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in learn.model.modules())
    assert not any(parameter._backward_hooks for parameter in learn.model.parameters())


def test_check_when_shapes_do_not_fit_then_raises_what_fit_raises():
    x, y = points()
    learn = learner(nn.Linear(6, 1), (cut(x, y.float()), None), nn.MSELoss())
    with pytest.raises(ValueError, match="predictions and targets have one shape"):
        check(learn)


def test_check_with_no_batches_then_says_so():
    with pytest.raises(ValueError, match="n_batches is how many batches are read, at least 1; got 0"):
        check(learner(mlp(), loaders(points)), n_batches=0)


def test_check_when_the_optimizer_lacks_parameters_that_are_trained_then_hints_at_them():
    model = mlp()
    optimizer = torch.optim.Adam(model[2].parameters(), 1e-2)
    learn = Learner(model, (ready(), None), nn.CrossEntropyLoss(), optimizer=optimizer, device="cpu")
    kinds = {finding.kind: finding for finding in check(learn).findings}
    assert "0.weight, 0.bias require a gradient and are in none of its groups" in kinds["outside the optimizer"].text
    assert not kinds["outside the optimizer"].is_fact
    model[0].requires_grad_(False)
    assert "outside the optimizer" not in {finding.kind for finding in check(learn).findings}
