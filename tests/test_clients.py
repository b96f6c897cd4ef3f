"""Other people's libraries as they are: torchmetrics, torchvision, timm, datasets of dicts, a study of Optuna's."""

import copy

import optuna
import pytest
import torch
from ignite.metrics import ConfusionMatrix
from torch import nn, optim

from ignite_trainer import (
    Accuracy,
    Callback,
    Checkpoint,
    DataLoaders,
    EarlyStopping,
    Learner,
    Progress,
    RunFiles,
    SampleLoader,
    TensorBoard,
    accuracy,
)
from ignite_trainer.vision import import_torchvision
from tests.tiny import blobs, hand_fit, mlp, same_state

torchvision = import_torchvision()  # beside any build of torch; the next three import it themselves

import timm.data  # noqa: E402
import timm.loss  # noqa: E402
import timm.optim  # noqa: E402
import torchmetrics.classification as tm  # noqa: E402
from torchmetrics import MetricCollection  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def batches(n=50, size=16, **how):
    x, y = blobs(n, **how)
    return list(zip(x.split(size), y.split(size), strict=True))


def pictures(n=20, size=8, seed=0):
    """Batches of noise of 32×32 with three channels, of 3 classes; the last batch is short."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 3, 32, 32, generator=generator), torch.randint(3, (n,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


# ---- torchmetrics --------------------------------------------------------------------------------------------------


def test_torchmetrics_when_given_as_metrics_then_equal_their_values_over_all_predictions_at_once():
    metrics = {
        "macro_f1": tm.MulticlassF1Score(3, average="macro"),
        "auroc": tm.MulticlassAUROC(3),  # keeps every prediction: its mean over batches is another number
        "micro_accuracy": tm.MulticlassAccuracy(3, average="micro"),
        "accuracy": accuracy,
    }
    valid = batches(50, seed=1)
    learn = Learner(mlp(), (batches(), valid), nn.CrossEntropyLoss(), 0.1, metrics=metrics, device="cpu")
    results = learn.fit(2)
    preds, y = learn.predict(valid), torch.cat([y for _, y in valid])
    for name in ("macro_f1", "auroc", "micro_accuracy"):
        assert results[name] == copy.deepcopy(metrics[name])(preds, y).item()
    assert results["micro_accuracy"] == pytest.approx(results["accuracy"], abs=1e-7)  # theirs is float32
    assert learn.history[-1]["valid_auroc"] == results["auroc"]
    assert not metrics["auroc"].preds  # a copy was used


def test_collection_of_torchmetrics_when_given_as_the_metrics_then_each_is_a_metric():
    collection = MetricCollection([tm.MulticlassF1Score(3), tm.MulticlassPrecision(3)])
    valid = batches(30, seed=1)
    learn = Learner(mlp(), (batches(), valid), nn.CrossEntropyLoss(), 0.1, metrics=collection, device="cpu")
    results = learn.fit(1)
    together = collection(learn.predict(valid), torch.cat([y for _, y in valid]))
    assert results == {"loss": results["loss"], **{name: value.item() for name, value in together.items()}}


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        (tm.MulticlassF1Score(3, average=None), r"Tensor of shape \(3,\)"),
        (tm.MulticlassConfusionMatrix(3), r"Tensor of shape \(3, 3\)"),
        (MetricCollection([tm.MulticlassF1Score(3)]), "dict"),
        (ConfusionMatrix(3), r"Tensor of shape \(3, 3\)"),
    ],
    ids=["per class", "matrix", "collection", "ignite's matrix"],
)
def test_metric_when_it_computes_more_than_a_number_then_the_error_says_so(metric, what):
    learn = Learner(mlp(), (batches(), batches()), nn.CrossEntropyLoss(), 0.1, metrics={"f1": metric}, device="cpu")
    with pytest.raises(
        TypeError, match=f"one number an epoch; 'f1' computed a {what}: have it averaged, give a metric for each"
    ):
        learn.fit(1)


def test_metric_of_torchmetrics_when_monitored_then_stops_and_is_shown_and_written(tmp_path, capsys):
    f1 = tm.MulticlassF1Score(3)
    cbs = [EarlyStopping("valid_f1", patience=2), Progress(), RunFiles(), TensorBoard(), Checkpoint(monitor="valid_f1")]
    data = batches(), batches(30, seed=1)
    learn = Learner(
        mlp(), data, nn.CrossEntropyLoss(), 0.1, cbs, metrics={"f1": f1}, device="cpu", folder=tmp_path / "run"
    )
    learn.fit(3)
    assert f"Validation F1: {learn.history[0]['valid_f1']:.4f}" in capsys.readouterr().out
    assert "valid_f1" in (tmp_path / "run" / "history.csv").read_text().splitlines()[0]
    assert (tmp_path / "run" / "checkpoints" / "best.pt").is_file()


# ---- models of torchvision and timm --------------------------------------------------------------------------------


def test_model_of_torchvision_when_trained_then_equals_the_hand_written_loop():
    torch.manual_seed(0)
    by_hand = torchvision.models.mobilenet_v3_small(weights=None, num_classes=3)  # batch norm and dropout
    model = copy.deepcopy(by_hand)
    state = torch.get_rng_state()
    learn = Learner(model, (pictures(), pictures(seed=1)), nn.CrossEntropyLoss(), 0.05, metrics={"a": Accuracy()})
    results = learn.fit(2)
    torch.set_rng_state(state)
    optimizer = optim.SGD(by_hand.parameters(), 0.05)
    loss, right, n = hand_fit(2, by_hand, optimizer, nn.CrossEntropyLoss(), pictures(), pictures(seed=1))[-1]
    assert results == {"loss": loss, "a": right / n}
    assert same_state(model.state_dict(), by_hand.state_dict())


def test_transforms_of_torchvision_when_random_then_give_the_same_batches_for_any_number_of_workers():
    transform = v2.Compose([v2.RandomCrop(24), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3)])

    class Noise:
        def __len__(self):
            return 13

        def __getitem__(self, i):
            return transform(torch.full((3, 32, 32), i / 13) + torch.rand(3, 32, 32)), i

    first, second = (list(SampleLoader(Noise(), 4, shuffle=True, num_workers=n)) for n in (0, 2))
    assert all(torch.equal(x, other) and torch.equal(y, of) for (x, y), (other, of) in zip(first, second, strict=True))


def vit():
    """A vision transformer of timm's, cut small, with stochastic depth; nothing is downloaded."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, drop_path_rate=0.2, **sizes)


def test_model_of_timm_with_its_groups_and_its_loss_when_trained_then_equals_the_hand_written_loop():
    torch.manual_seed(0)
    by_hand = vit()
    model = copy.deepcopy(by_hand)
    loss_func = timm.loss.LabelSmoothingCrossEntropy(0.1)

    def groups(net):  # a smaller rate for earlier layers, in timm's own form: "lr_scale"
        layers = timm.optim.param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.7)
        return [{**group, "lr": 1e-3 * group["lr_scale"]} for group in layers]

    state = torch.get_rng_state()
    dls = pictures(), pictures(seed=1)
    learn = Learner(model, dls, loss_func, opt_func=optim.AdamW, param_groups=groups, device="cpu")
    results = learn.fit(2)
    assert len({group["lr"] for group in learn.opt.param_groups}) == 4  # embedding, two blocks, head
    torch.set_rng_state(state)
    loss, _, _ = hand_fit(2, by_hand, optim.AdamW(groups(by_hand)), loss_func, *dls)[-1]
    assert results == {"loss": loss}
    assert same_state(model.state_dict(), by_hand.state_dict())


def test_mixup_of_timm_when_it_makes_the_targets_then_the_loss_of_an_epoch_is_the_mean_over_samples():
    mix = timm.data.Mixup(mixup_alpha=0.8, num_classes=3)
    mixed = [mix(x, y) for x, y in pictures(24)]  # it takes even batches only
    learn = Learner(vit(), (mixed, mixed), timm.loss.SoftTargetCrossEntropy(), 1e-3, device="cpu")
    results = learn.fit(1)
    preds, y = learn.predict(mixed), torch.cat([y for _, y in mixed])
    whole = timm.loss.SoftTargetCrossEntropy()(preds, y).item()
    assert results["loss"] == pytest.approx(whole, rel=1e-6)  # another order of float32 additions


# ---- data sets of dicts, as the library datasets gives them ----------------------------------------------------------


class Rows:
    """What ``datasets.Dataset.with_format("torch")`` looks like from outside: rows are dicts of tensors."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"pixel_values": self.x[i], "label": self.y[i], "id": i}


def test_rows_that_are_dicts_when_prepared_then_train_as_pairs_do():
    dicts = DataLoaders.from_datasets(Rows(*blobs(50)), Rows(*blobs(20, seed=1)), 16, num_workers=2)
    pairs = DataLoaders.from_datasets(
        list(zip(*blobs(50), strict=True)), list(zip(*blobs(20, seed=1), strict=True)), 16
    )
    ends = []
    for dls, prepare in ((dicts, lambda batch: (batch["pixel_values"], batch["label"])), (pairs, None)):
        torch.manual_seed(0)
        learn = Learner(
            mlp(), dls, nn.CrossEntropyLoss(), 0.1, metrics={"accuracy": accuracy}, prepare_batch=prepare, device="cpu"
        )
        ends.append((learn.fit(3), learn.model.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert same_state(ends[0][1], ends[1][1])


def test_rows_that_are_dicts_when_not_prepared_then_the_error_says_what_to_pass():
    dls = DataLoaders.from_datasets(Rows(*blobs(8)), batch_size=4)
    with pytest.raises(TypeError, match="the loader gave a dict of 3: pass prepare_batch"):
        Learner(mlp(), dls, nn.CrossEntropyLoss(), 0.1, device="cpu").fit(1)


# ---- Optuna --------------------------------------------------------------------------------------------------------


class Pruning(Callback):
    """Reports each epoch's validation loss to a trial, and leaves the fit where the study's pruner says so."""

    def __init__(self, trial):
        self.trial = trial

    def after_validate(self, learn):
        self.trial.report(learn.history[-1]["valid_loss"], learn.epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def test_study_of_optuna_when_it_prunes_then_bad_trials_end_early_and_the_best_is_that_of_a_plain_fit():
    def fit(lr, cbs):
        torch.manual_seed(0)
        learn = Learner(mlp(), (batches(), batches(30, seed=1)), nn.CrossEntropyLoss(), lr, cbs, device="cpu")
        return learn.fit(3)["loss"], learn

    def objective(trial):
        return fit(trial.suggest_float("lr", 1e-6, 1.0, log=True), [Pruning(trial)])[0]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    for lr in (0.1, 1e-6):
        study.enqueue_trial({"lr": lr})
    study.optimize(objective, n_trials=2)
    good, bad = study.trials
    assert (good.state, bad.state) == (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert (len(good.intermediate_values), len(bad.intermediate_values)) == (3, 1)
    loss, learn = fit(0.1, [])
    assert study.best_value == loss
    assert list(good.intermediate_values.values()) == [row["valid_loss"] for row in learn.history]
