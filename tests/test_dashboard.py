"""The dashboard of real runs, as the real TensorBoard serves it and as a real browser shows it."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Subset

from ignite_trainer import Callback, CancelFitException, Learner, TensorBoard, accuracy, fashion_mnist
from ignite_trainer.models import SimpleNN
from ignite_trainer.vision import import_torchvision
from tests.browser import browser, open_page, tensorboard, wait_for_runs, why_no_browser

RUNS = ["adam", "resumed", "sgd"]
N_STEPS, N_EPOCHS = 75, 4  # 300 steps
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


class StopAt(Callback):
    """Leaves the fit at a step, and lets another go on from there: what a resume does, by hand."""

    order = -1

    def __init__(self, *, begin=0, end=None):
        self.begin, self.end = begin, end

    def before_fit(self, learn):
        learn.step = self.begin

    def after_step(self, learn):
        if learn.step == self.end:
            raise CancelFitException


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, fashion_mnist_root):
    """Three runs on Fashion-MNIST: Adam, SGD, and one that was stopped and gone on with."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    train, test = fashion_mnist(fashion_mnist_root, import_torchvision().transforms.ToTensor(), download=False)
    dls = DataLoader(Subset(train, range(32 * N_STEPS)), 32), DataLoader(Subset(test, range(1000)), 64)

    def fit(name, lr, opt_func, model, n_epochs=N_EPOCHS, *cbs):
        board = TensorBoard(folder / name, every_steps=25)
        how = {"metrics": {"accuracy": accuracy}, "device": "cpu"}
        learn = Learner(model, dls, nn.CrossEntropyLoss(), lr, [board, *cbs], opt_func, **how)
        learn.fit(n_epochs)
        return learn.history

    torch.manual_seed(0)
    histories = {"adam": fit("adam", 1e-3, optim.Adam, SimpleNN()), "sgd": fit("sgd", 0.1, optim.SGD, SimpleNN())}
    model = SimpleNN()
    fit("resumed", 1e-3, optim.Adam, model, N_EPOCHS, StopAt(end=2 * N_STEPS + 40))
    fit("resumed", 1e-3, optim.Adam, model, 2, StopAt(begin=2 * N_STEPS))
    return folder, histories


@pytest.fixture(scope="module")
def server(logdir):
    with tensorboard(logdir[0]) as running:
        wait_for_runs(running, len(RUNS))
        yield running


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = Path(os.environ.get("DASHBOARD_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def driver():
    reason = why_no_browser()
    if reason:
        pytest.skip(reason)
    with browser() as driver:
        yield driver


def test_dashboard_of_three_runs_then_has_three_runs(server):
    assert sorted(server.get("runs")) == RUNS


def test_dashboard_then_serves_the_numbers_of_the_history(server, logdir):
    for run in ("adam", "sgd"):
        for tag, key in (
            ("loss/train", "train_loss"),
            ("loss/valid", "valid_loss"),
            ("accuracy/valid", "valid_accuracy"),
        ):
            served = [(step, value) for _, step, value in server.get("plugin/scalars/scalars", run=run, tag=tag)]
            expected = [(row["step"], torch.tensor(row[key]).item()) for row in logdir[1][run]]  # files hold float32
            assert served == expected


def test_dashboard_then_has_the_layout_of_train_over_valid(server):
    (layout,) = [
        category
        for category in server.get("plugin/custom_scalars/layout")["category"]
        if category["title"] == "train over valid"
    ]
    assert [chart["title"] for chart in layout["chart"]] == ["loss", "accuracy"]
    found = server.get("plugin/custom_scalars/scalars", run="adam", tag="^loss/(train|valid)$")["tag_to_events"]
    assert {tag: len(events) for tag, events in found.items()} == {"loss/train": 4, "loss/valid": 4}


def test_dashboard_then_has_pictures_curves_histograms_and_text_of_each_run(server):
    tags = {
        "images": ["images/confusion", "images/training_batch", "images/worst_predictions"],
        "histograms": [f"weights/fc{number}.{kind}" for number in (1, 2) for kind in ("bias", "weight")],
        "pr_curves": sorted(f"pr_curves/{name.replace('/', '-')}" for name in CLASSES),
        "text": ["text/config/text_summary", "text/worst_predictions/text_summary"],
    }
    for plugin, expected in tags.items():
        found = server.get(f"plugin/{plugin}/tags")
        for run in RUNS:
            assert sorted(found[run]) == expected, (plugin, run)
    picture = server.get("plugin/images/images", run="adam", tag="images/confusion", sample=0)[-1]
    assert server.get(f"plugin/images/individualImage?{picture['query']}")[:4] == b"\x89PNG"
    curve = server.get("plugin/pr_curves/pr_curves", run="adam", tag="pr_curves/Bag")["adam"][-1]
    assert curve["step"] == 300
    assert curve["true_positives"][0] + curve["false_positives"][0] == 1000  # at threshold 0 all are chosen


def test_dashboard_then_has_one_session_a_run_with_its_results(server, logdir):
    groups = server.post(
        "plugin/hparams/session_groups",
        colParams=[{"metric": {"group": "", "tag": "loss/valid"}}],
        allowedStatuses=["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_FAILURE", "STATUS_RUNNING"],
        startIndex=0,
        sliceSize=10,
        experimentName="",
    )["sessionGroups"]
    sessions = {session["name"]: session for group in groups for session in group["sessions"]}
    assert sorted(sessions) == RUNS
    assert len(groups) == 3
    optimizers = {group["sessions"][0]["name"]: group["hparams"]["optimizer"] for group in groups}
    assert optimizers == {"adam": "Adam", "resumed": "Adam", "sgd": "SGD"}
    for run in ("adam", "sgd"):
        values = {metric["name"]["tag"]: metric["value"] for metric in sessions[run]["metricValues"]}
        assert values["loss/valid"] == torch.tensor(logdir[1][run][-1]["valid_loss"]).item()
    assert {session["status"] for session in sessions.values()} == {"STATUS_SUCCESS"}


@pytest.mark.parametrize("options", [(), ("--load_fast=false",)])
def test_dashboard_of_a_run_that_was_stopped_and_gone_on_with_then_has_each_step_once(logdir, options):
    with tensorboard(logdir[0] / "resumed", *options) as running:
        wait_for_runs(running, 1)
        for tag in running.get("plugin/scalars/tags")["."]:
            steps = [step for _, step, _ in running.get("plugin/scalars/scalars", run=".", tag=tag)]
            is_of_steps = tag == "loss/batch" or tag.startswith(("lr/", "norm/"))
            places = [25, 50, 75] if is_of_steps else [75]
            assert steps == [epoch * N_STEPS + place for epoch in range(N_EPOCHS) for place in places], tag
        pictures = running.get("plugin/images/images", run=".", tag="images/confusion", sample=0)
        assert [picture["step"] for picture in pictures] == [75, 150, 225, 300]


PAGES = {
    "scalars": ["accuracy/valid", "loss/batch", "loss/train", "loss/valid"],
    "custom_scalars": ["train over valid", "loss", "accuracy", "learning rate", "gradient norm"],
    "images": ["images/confusion", "images/training_batch", "images/worst_predictions"],
    "histograms": ["weights/fc1.weight", "weights/fc2.bias"],
    "hparams": ["batch_size.train", "SimpleNN", "CrossEntropyLoss", "0.0010000", "0.10000"],
    "pr_curves": ["pr_curves/Bag", "pr_curves/Ankle boot"],
    "text": ["text/config", "101770", "Learner", "text/worst_predictions"],
}


@pytest.mark.parametrize("tab", PAGES)
def test_dashboard_in_a_browser_then_shows(server, driver, screenshots, tab):
    text = open_page(driver, server, tab, PAGES[tab], screenshots / f"{tab}.png")
    assert "No dashboards are active" not in text
    assert "adam" in text
    assert (screenshots / f"{tab}.png").stat().st_size > 20_000  # an empty page is smaller
