"""One other framework beside the hand-written loop, in one process: run with the Python of the framework's environment.

    DIR/lightning/bin/python scripts/benchmarks/peers.py lightning --root data --rounds 3

Prints JSON: the version, and the seconds of CPU and by the clock of each job, a pair for each round. Needs torch,
torchvision and the framework; Fashion-MNIST unpacked in ROOT/FashionMNIST/raw. As few extras as each lets one have.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path

import by_hand
import torch
from timing import compare
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset


class Lightning:
    """Without progress bar, logger, checkpoints and model summary."""

    def __init__(self):
        from lightning import LightningModule, Trainer

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.net, self.loss_func = by_hand.Net(), nn.CrossEntropyLoss()

            def training_step(self, batch, number):
                return self.loss_func(self.net(batch[0]), batch[1])

            def validation_step(self, batch, number):
                preds = self.net(batch[0])
                n = len(batch[1])
                self.log("loss", self.loss_func(preds, batch[1]), batch_size=n)
                self.log("accuracy", (preds.argmax(dim=1) == batch[1]).float().mean(), batch_size=n)

            def configure_optimizers(self):
                return optim.Adam(self.parameters(), 1e-3)

        self.module = Module
        quiet = ("enable_progress_bar", "enable_checkpointing", "enable_model_summary", "logger")
        self.trainer = lambda **how: Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(quiet, False), **how)

    def train(self, train_dl, valid_dl=None):
        self.trainer(num_sanity_val_steps=0).fit(self.module(), train_dl, valid_dl)

    def evaluate(self, valid_dl):
        self.trainer().validate(self.module(), valid_dl, verbose=False)


class Fastai:
    """Without log lines; the progress bar is an import of its own; the Recorder, with its training loss, stays."""

    def __init__(self):
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.losses import CrossEntropyLossFlat
        from fastai.metrics import accuracy
        from fastai.optimizer import Adam

        def make(train_dl, valid_dl):
            dls = DataLoaders(train_dl, valid_dl)
            return Learner(dls, by_hand.Net(), loss_func=CrossEntropyLossFlat(), opt_func=Adam, metrics=accuracy)

        self.make = make

    def train(self, train_dl, valid_dl=None):
        learn = self.make(train_dl, valid_dl or [])
        with learn.no_logging():
            learn.fit(1, 1e-3)

    def evaluate(self, valid_dl):
        self.make(valid_dl, valid_dl).validate()


class Skorch:
    """As it comes; evaluation gives predictions alone, so it has no row."""

    evaluate = None

    def __init__(self):
        from skorch import NeuralNetClassifier
        from skorch.helper import predefined_split

        self.net, self.split = NeuralNetClassifier, predefined_split

    def train(self, train_dl, valid_dl=None):
        net = self.net(
            by_hand.Net,
            criterion=nn.CrossEntropyLoss,
            optimizer=optim.Adam,
            lr=1e-3,
            max_epochs=1,
            batch_size=train_dl.batch_size,
            iterator_train__shuffle=isinstance(train_dl.sampler, RandomSampler),
            iterator_train__collate_fn=train_dl.collate_fn,
            iterator_valid__collate_fn=train_dl.collate_fn,
            train_split=None if valid_dl is None else self.split(valid_dl.dataset),
            classes=list(range(10)),
        )
        net.fit(train_dl.dataset, y=None)


class Accelerate:
    """The hand-written loop with prepared parts, as its guide has it."""

    def __init__(self):
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=True)

    def train(self, train_dl, valid_dl=None):
        accelerator, loss_func = self.accelerator, nn.CrossEntropyLoss()
        model = by_hand.Net()
        model, opt, train_dl = accelerator.prepare(model, optim.Adam(model.parameters(), 1e-3), train_dl)
        model.train()
        for xb, yb in train_dl:
            loss = loss_func(model(xb), yb)
            accelerator.backward(loss)
            opt.step()
            opt.zero_grad()
        if valid_dl is not None:
            self.evaluate(valid_dl, model)

    def evaluate(self, valid_dl, model=None):
        accelerator, loss_func = self.accelerator, nn.CrossEntropyLoss()
        valid_dl = accelerator.prepare(valid_dl)
        model = accelerator.prepare(by_hand.Net()) if model is None else model
        model.eval()
        loss = right = n = 0
        with torch.no_grad():
            for xb, yb in valid_dl:
                preds, y = accelerator.gather_for_metrics((model(xb), yb))
                loss += loss_func(preds, y).item() * len(y)
                right += (preds.argmax(dim=1) == y).sum().item()
                n += len(y)
        return loss / n, right / n


PEERS = {"lightning": Lightning, "fastai": Fastai, "skorch": Skorch, "accelerate": Accelerate}


class Ready(Dataset):
    """Batches that are there already, as the items of a dataset."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def as_they_are(batches):
    """Ready batches in a stock DataLoader, which some frameworks ask for; the hand-written loop gets it too."""
    return DataLoader(Ready(batches), batch_size=None, collate_fn=lambda batch: batch)


def import_torchvision():
    """Our own way, which needs torch alone; some frameworks import it themselves, so it comes before them."""
    path = Path(__file__).parents[2] / "ignite_trainer" / "vision.py"
    spec = importlib.util.spec_from_file_location("vision", path)
    vision = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vision)
    return vision.import_torchvision()


def images(root):
    """The two loaders of job A, made of torchvision's dataset with ToTensor."""
    torchvision = import_torchvision()
    dataset = torchvision.datasets.FashionMNIST(root, train=True, transform=torchvision.transforms.ToTensor())
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    n = by_hand.IMAGES["train"]
    parts = Subset(dataset, order[:n]), Subset(dataset, order[n:])
    return DataLoader(parts[0], by_hand.BATCH_SIZE, shuffle=True), DataLoader(parts[1], by_hand.BATCH_SIZE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=PEERS)
    parser.add_argument("--root", default="data", help="folder of the images")
    parser.add_argument("--rounds", type=int, default=3, help="how often each job is run, in turn")
    parser.add_argument("--batches", type=int, default=1000, help="ready batches of job B")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import_torchvision()
    framework = PEERS[options.framework]()
    root = os.path.abspath(options.root)
    os.chdir(tempfile.mkdtemp())  # some leave files behind
    few = as_they_are(by_hand.ready_batches(5))
    framework.train(few, few)  # what is done once is not the epoch's cost
    ready = as_they_are(by_hand.ready_batches(options.batches))
    loaders = images(root)
    model, loss_func = by_hand.Net(), nn.CrossEntropyLoss()
    jobs = {
        "a": {"hand": lambda: by_hand.train(*loaders), "peer": lambda: framework.train(*loaders)},
        "b": {"hand": lambda: by_hand.train(ready), "peer": lambda: framework.train(ready)},
    }
    if framework.evaluate is not None:
        hand = lambda: by_hand.evaluate(model, loss_func, ready)  # noqa: E731
        jobs["evaluation"] = {"hand": hand, "peer": lambda: framework.evaluate(ready)}
    result = {job: compare(options.rounds, both) for job, both in jobs.items()}
    print(json.dumps({"version": importlib.metadata.version(options.framework), **result}))


if __name__ == "__main__":
    main()
