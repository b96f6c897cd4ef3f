"""The documents' systems, each beside its hand-written form: one table, exit code 1 where a row does not hold.

    python scripts/documents.py

On the first 6,000 training and 1,000 test images of Fashion-MNIST, so that it takes a minute.
"""

import csv
import io
import itertools
import sys
import tempfile
from contextlib import redirect_stdout
from copy import deepcopy
from functools import partial
from pathlib import Path

import linear_regression
import loop_to_learner
import torch
import tyro
from matplotlib.figure import Figure
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Subset, TensorDataset

from ignite_trainer import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CSVImages,
    Learner,
    Schedule,
    accuracy,
    fashion_mnist,
    fit,
    param_groups,
    run_cbs,
    show_images,
)
from ignite_trainer.models import MLP, SimpleNN, SmallCNN, mlp
from ignite_trainer.vision import import_torchvision

NAMES = ("model", "dls", "loss_func", "lr", "cbs", "opt_func", "opt", "batch", "iter", "preds", "loss", "dl")
NAMES += ("epoch", "epochs", "n_epochs")
Row = tuple[str, str, str, str, bool]  # system, what the documents print, hand loop, ours, whether it holds


def hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl):
    """The loop written by hand: each epoch's (training loss, validation loss, validation accuracy)."""
    rows = []
    for _ in range(epochs):
        model.train()
        train_loss = 0.0
        for xb, yb in train_dl:
            loss = loss_fn(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            train_loss += loss.item() * len(yb)
        model.eval()
        loss = right = n = 0
        with torch.no_grad():
            for xb, yb in valid_dl:
                preds = model(xb)
                loss += loss_fn(preds, yb).item() * len(yb)
                right += (preds.argmax(dim=1) == yb).sum().item()
                n += len(yb)
        rows.append((train_loss / len(train_dl.dataset), loss / n, right / n))
    return rows


def same_bits(one, other):
    """Whether two models hold the same bits."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def tensors_of(data):
    """The first 2,000 images as rows of numbers, and their labels."""
    images, labels = next(iter(DataLoader(data, 2000)))
    return images.flatten(1), labels


def same_batches(one, other):
    """Whether two lists of batches ``(x, y)`` hold the same bits."""
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x1, x2) and torch.equal(y1, y2) for (x1, y1), (x2, y2) in pairs)


def d1(train, valid) -> Row:
    """``fit`` with a CNN and SGD 0.1: line, return value, weights."""
    runs = []
    printed = io.StringIO()
    for job in (hand_fit, fit):
        torch.manual_seed(0)
        model = SmallCNN()
        dls = DataLoader(train, 64, shuffle=True), DataLoader(valid, 64)
        with redirect_stdout(printed):
            runs.append((job(2, model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), *dls), model))
    (hand, hand_model), (ours, model) = runs
    lines = [f"{epoch} loss = {loss}, accuracy = {acc}" for epoch, (_, loss, acc) in enumerate(hand)]
    holds = printed.getvalue().splitlines() == lines and ours == hand[-1][1:] and same_bits(model, hand_model)
    documents = "0 loss = 0.5227519570827485, accuracy = 0.8274"
    return "D1 fit", documents, lines[-1], printed.getvalue().splitlines()[-1], holds


def d2(train, valid) -> Row:
    """A perceptron as ``nn.Module`` and as ``nn.Sequential``: equal starts, equal ends."""
    x, y = tensors_of(train)
    ends = []
    batches = DataLoader(TensorDataset(x, y), 50)
    for job, form in itertools.product((hand_fit, fit), (MLP, mlp)):
        torch.manual_seed(0)
        model = form(784, 50, 10)
        with redirect_stdout(io.StringIO()):
            job(1, model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), batches, batches)
        ends.append(model)
    holds = all(same_bits(end, ends[0]) for end in ends)
    hand, ours = (f"Σ weights {nn.utils.parameters_to_vector(end.parameters()).sum():.4f}" for end in ends[::2])
    return "D2 model", "nn.Module, nn.Sequential: l1, l2, relu", hand, ours, holds


def d3(train, valid) -> Row:
    """From the loop over slices to the Learner."""
    with redirect_stdout(io.StringIO()):
        rows = loop_to_learner.compare(*tensors_of(train))
    hand, ours = (max(row[1] for row in rows if ("Learner" in row[0]) == by_us) for by_us in (False, True))
    shown = [f"within {difference:.0e} of the first loop" for difference in (hand, ours)]
    return "D3 optimizer", "p -= p.grad * lr; Optimizer; optim.SGD", *shown, all(row[-1] for row in rows)


def d4(train, valid) -> Row:
    """A Dataset that takes slices, and a DataLoader that yields them."""
    x, y = tensors_of(train)
    batches = loop_to_learner.DataLoader(loop_to_learner.Dataset(x, y), 70)
    seen = []

    class Look:
        def after_loss(self, learn):
            if learn.model.training:
                seen.append(learn.batch)

    learn = Learner(MLP(784, 50, 10), (batches, batches), nn.CrossEntropyLoss(), 0.1, [Look()], device="cpu")
    learn.fit(1)
    hand = [(x[i : i + 70], y[i : i + 70]) for i in range(0, len(x), 70)]
    sizes = [f"{len(each)} batches, the last of {len(each[-1][1])}" for each in (hand, seen)]
    return "D4 dataset", "Dataset(x, y), DataLoader(ds, bs)", *sizes, same_batches(hand, seen)


def d5(train, valid) -> Row:
    """Linear regression by full-batch descent, no validation."""
    hand = linear_regression.by_hand(10, 1e-3)
    with redirect_stdout(io.StringIO()):
        ours = linear_regression.main(10, 1e-3)
    shown = [f"{losses[0]:.1f} … {losses[-1]:.1f}" for losses in (hand, ours)]
    return "D5 regression", "starts near 880, falls about 1 % an epoch", *shown, ours == hand


def d6(train, valid) -> Row:
    """A grid of 25 images of a shuffled batch of 64."""
    images, labels = next(iter(DataLoader(train, 64, shuffle=True)))
    hand = Figure(figsize=(10, 10))
    for i in range(25):
        ax = hand.add_subplot(5, 5, i + 1)
        ax.imshow(images[i].squeeze(), cmap="gray")
        ax.set_title(str(labels[i].item()))
        ax.axis("off")
    ours = show_images(images[:25], labels[:25])
    seen = [[look_of(ax) for ax in figure.axes] for figure in (hand, ours)]
    sizes = ["{:g}×{:g} inches".format(*figure.get_size_inches()) for figure in (hand, ours)]
    holds = seen[0] == seen[1] and sizes[0] == sizes[1]
    shown = [f"{len(axes)} axes, {size}" for axes, size in zip(seen, sizes, strict=True)]
    return "D6 show_images", "5×5, 10×10 inches, grey, labels as titles", *shown, holds


def look_of(ax):
    """What a cell of a grid shows."""
    (image,) = ax.images
    return ax.get_title(), ax.axison, image.get_cmap().name, image.get_array().tobytes()


class HandImages:
    """The dataset of one's own, as it is written by hand."""

    def __init__(self, csv_file, root_dir, transform=None):
        with open(csv_file, newline="") as table:
            self.rows = list(csv.reader(table))
        self.root_dir, self.transform = root_dir, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        name, label = self.rows[i]
        image = Image.open(self.root_dir / name)
        return self.transform(image) if self.transform else image, int(label)


def d7(train, valid) -> Row:
    """Images that a table names, read by two workers in batches of four."""
    transforms = import_torchvision().transforms
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "labels.csv"
        rows = [(f"{i}.png", *train[i]) for i in range(10)]
        for file, image, _ in rows:
            transforms.ToPILImage()(image).save(folder / file)
        table.write_text("".join(f"{file},{label}\n" for file, _, label in rows))
        datasets = HandImages(table, folder, transform), CSVImages(table, folder, transform)
        hand, ours = (list(DataLoader(dataset, batch_size=4, num_workers=2)) for dataset in datasets)
    shapes = [", ".join(str(list(images.shape)) for images, _ in batches) for batches in (hand, ours)]
    return "D7 own images", "Dataset(csv_file, root_dir, transform)", *shapes, same_batches(hand, ours)


def d8(train, valid) -> Row:
    """SGD with momentum, a rate that changes with time, and another for each part of the model."""
    torch.manual_seed(0)
    hand_model = SimpleNN()
    model, data = deepcopy(hand_model), list(DataLoader(train, 500))

    def groups(net):
        return param_groups(net, lr=0.05, overrides={"fc2": {"lr": 0.2}})

    optimizer = optim.SGD(groups(hand_model), momentum=0.9)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * len(data))
    for i, (xb, yb) in enumerate(data * 2):
        nn.functional.cross_entropy(hand_model(xb), yb).backward()
        optimizer.step()
        optimizer.zero_grad()
        if i + 1 < 2 * len(data):
            scheduler.step()
    schedule = Schedule(lambda opt: optim.lr_scheduler.CosineAnnealingLR(opt, 2 * len(data)))
    momentum = partial(optim.SGD, momentum=0.9)
    learn = Learner(
        model, (data, None), nn.CrossEntropyLoss(), cbs=[schedule], opt_func=momentum, param_groups=groups, device="cpu"
    )
    learn.fit(2)
    rates = [[f"{group['lr']:.4f}" for group in opt.param_groups] for opt in (optimizer, learn.opt)]
    shown = [f"last rates {', '.join(each)}" for each in rates]
    return "D8 optimizers", "momentum, lr over time, lr per parameter", *shown, same_bits(model, hand_model)


def d9(train, valid) -> Row:
    """Everything together: SimpleNN, Adam 1e-3, batches of 32, the documents' line."""

    def line(epoch, train_loss, valid_loss, acc):
        losses = f"Training Loss: {train_loss:.4f}, Validation Loss: {valid_loss:.4f}"
        return f"Epoch {epoch}/2, {losses}, Validation Accuracy: {acc:.2%}"

    torch.manual_seed(0)
    hand_model = SimpleNN()
    dls = DataLoader(train, 32, shuffle=True), DataLoader(valid, 32)
    hand = hand_fit(2, hand_model, optim.Adam(hand_model.parameters(), 1e-3), nn.CrossEntropyLoss(), *dls)[-1]
    torch.manual_seed(0)
    learn = Learner(
        SimpleNN(), dls, nn.CrossEntropyLoss(), 1e-3, (), optim.Adam, metrics={"accuracy": accuracy}, device="cpu"
    )
    learn.fit(2)
    row = learn.history[-1]
    ours = row["train_loss"], row["valid_loss"], row["valid_accuracy"]
    documents = "Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%"
    return (
        "D9 all of it",
        documents,
        line(2, *hand),
        line(2, *ours),
        ours == hand and same_bits(learn.model, hand_model),
    )


def d10(train, valid) -> Row:
    """Training and evaluation mode, and no gradients in evaluation."""
    seen = set()

    class Look:
        def after_batch(self, learn):
            seen.add((learn.model.training, torch.is_grad_enabled()))

    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10))
    learn = Learner(model, (DataLoader(train, 500), DataLoader(valid, 500)), nn.CrossEntropyLoss(), 0.1, [Look()])
    learn.fit(1)
    model.train()
    learn.evaluate()
    holds = seen == {(True, True), (False, False)} and all(module.training for module in model.modules())
    return "D10 modes", "model.train(), model.eval()", "train: gradients, eval: none", str(sorted(seen)), holds


def d11(train, valid) -> Row:
    """The Learner's names, inside a fit and outside."""
    missing = set()

    class Look:
        def after_loss(self, learn):
            missing.update(name for name in NAMES if getattr(learn, name, None) is None)

    dls = DataLoader(train, 500), DataLoader(valid, 500)
    learn = Learner(SimpleNN(), dls, nn.CrossEntropyLoss(), 0.1, [Look()])
    learn.fit(1)
    before = learn.step
    learn.one_epoch(True)
    learn.model.train()
    learn.batch = next(iter(dls[0]))
    learn.one_batch()
    holds = not missing and learn.step == before + len(dls[0]) + 1
    return "D11 Learner", f"{len(NAMES)} names", "-", f"{len(NAMES) - len(missing)} names, {learn.step} steps", holds


def d12(train, valid) -> Row:
    """Callbacks in their order, and the three cancels."""
    calls = []

    class Count:
        def __init__(self, name, order):
            self.name, self.order = name, order

        def before_fit(self, learn):
            calls.append(self.name)

        def after_step(self, learn):
            if self.name == "a" and (learn.epoch, learn.iter) == (2, 0):
                raise CancelFitException

        def before_batch(self, learn):
            if self.name == "a" and learn.model.training and learn.iter == 1:
                raise (CancelBatchException, CancelEpochException)[learn.epoch]

    dls = DataLoader(train, 2000), DataLoader(valid, 1000)
    learn = Learner(SimpleNN(), dls, nn.CrossEntropyLoss(), 0.1, [Count("b", 1), Count("a", 0)])
    learn.fit(9)
    run_cbs(learn.cbs, "before_fit", learn)
    ours = f"{' '.join(calls)}; steps {learn.step}, epochs {len(learn.history)}"
    expected = "a b a b; steps 4, epochs 2"  # 2 of 3 batches, 1 of 3, then 1 and the fit is over
    return "D12 callbacks", "order, CancelBatch, CancelEpoch, CancelFit", expected, ours, ours == expected


SYSTEMS = (d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12)


def main(root: str = "data") -> None:
    """Run the documents' systems beside their hand-written forms.

    Args:
        root: folder of the images.
    """
    torch.set_num_threads(1)  # one order of additions on both sides
    train, valid = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    data = Subset(train, range(6000)), Subset(valid, range(1000))
    rows = [system(*data) for system in SYSTEMS]
    for name, documents, hand, ours, holds in rows:
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}")
        print(f"    documents  {documents}\n    hand loop  {hand}\n    ours       {ours}")
    sys.exit(not all(row[-1] for row in rows))


if __name__ == "__main__":
    tyro.cli(main)
