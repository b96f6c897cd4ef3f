"""The documents' systems, each beside its hand-written form: one table, exit code 1 where a row does not hold.

    python scripts/documents.py

On the first 6,000 training and 1,000 test images of Fashion-MNIST, so that it takes a minute.
"""

import io
import sys
from contextlib import redirect_stdout

import torch
import tyro
from torch import nn, optim
from torch.utils.data import DataLoader, Subset

from ignite_trainer import Learner, accuracy, fit
from ignite_trainer.data.images import fashion_mnist
from ignite_trainer.models import SimpleNN, SmallCNN
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


def main(root: str = "data") -> None:
    """Run the documents' systems beside their hand-written forms.

    Args:
        root: folder of the images.
    """
    torch.set_num_threads(1)  # one order of additions on both sides
    train, valid = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    data = Subset(train, range(6000)), Subset(valid, range(1000))
    rows = [system(*data) for system in (d1, d9, d10, d11)]
    for name, documents, hand, ours, holds in rows:
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}")
        print(f"    documents  {documents}\n    hand loop  {hand}\n    ours       {ours}")
    sys.exit(not all(row[-1] for row in rows))


if __name__ == "__main__":
    tyro.cli(main)
