"""Job A, the documents' job, and job B, ready batches: by hand, with Ignite's own factories, with ours."""

import tempfile
from functools import partial

import torch
from ignite import metrics as ignite_metrics
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from torch import manual_seed, nn, optim
from torch.utils.data import DataLoader

from ignite_trainer import (
    Accuracy,
    Callback,
    DataLoaders,
    Learner,
    TensorBoard,
    TensorLoader,
    fashion_mnist,
    random_split,
)
from ignite_trainer.vision import import_torchvision

from . import by_hand
from .timing import compare


class Nothing(Callback):
    """A callback that does nothing at every point of a batch."""

    before_batch = after_predict = after_loss = after_backward = after_step = after_batch = lambda self, learn: None


def learner(dls, cbs=(), opt_func=optim.Adam, **how):
    """Ours; on the CPU, unless told otherwise."""
    manual_seed(0)
    how = {"metrics": {"accuracy": Accuracy()}, "device": "cpu", **how}
    return Learner(by_hand.Net(), dls, nn.CrossEntropyLoss(), 1e-3, cbs, opt_func, **how)


def with_ignite(train_dl, valid_dl=None):
    """Ignite's factories as they come, an epoch; without a validation loader, no metrics."""
    manual_seed(0)
    model, loss_func = by_hand.Net(), nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(model, optim.Adam(model.parameters(), 1e-3), loss_func)
    if valid_dl is not None:
        evaluator = ignite_evaluator(model, loss_func)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(valid_dl))
    trainer.run(train_dl, max_epochs=1)


def ignite_evaluator(model, loss_func):
    """Ignite's evaluator with its own loss and accuracy."""
    metrics = {"loss": ignite_metrics.Loss(loss_func), "accuracy": ignite_metrics.Accuracy()}
    return create_supervised_evaluator(model, metrics)


def images(root):
    """Training and validation part of Fashion-MNIST, as torchvision with ToTensor gives them."""
    train, _ = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    return random_split(train, list(by_hand.IMAGES.values()), seed=0)


def job_a(rounds, root):
    """Times of an epoch with validation, by name."""
    parts = images(root)
    stock = DataLoader(parts[0], by_hand.BATCH_SIZE, shuffle=True), DataLoader(parts[1], by_hand.BATCH_SIZE)
    in_memory = DataLoaders.from_datasets(*parts, by_hand.BATCH_SIZE)
    fused = partial(optim.Adam, fused=True)
    jobs = {
        "hand loop, stock DataLoader": lambda: by_hand.train(*stock),
        "Ignite's factories, stock DataLoader": lambda: with_ignite(*stock),
        "Learner, stock DataLoader": lambda: learner(stock).fit(1),
        "Learner, tensor loader": lambda: learner(in_memory).fit(1),
        "Learner, tensor loader, fused Adam": lambda: learner(in_memory, opt_func=fused).fit(1),
    }
    return compare(rounds, jobs)


def job_a_on(device, rounds, root):
    """Times of the same with the images on a device, of three pairs; the hand-written loop gets the same loaders."""
    dls = [
        TensorLoader(
            part.dataset.data[part.indices],
            part.dataset.targets[part.indices],
            batch_size=by_hand.BATCH_SIZE,
            shuffle=shuffle,
            images=True,
            device=device,
        )
        for part, shuffle in zip(images(root), (True, False), strict=True)
    ]
    fused = partial(optim.Adam, fused=True)
    model = torch.compile(by_hand.Net().to(device))
    compiled = learner(dls, opt_func=fused, device=device, compile=True)
    pairs = [
        {
            "hand loop": lambda: by_hand.train(*dls, device),
            "Learner": lambda: learner(dls, device=device).fit(1),
        },
        {
            "hand loop, fused Adam": lambda: by_hand.train(*dls, device, fused=True),
            "Learner, fused Adam": lambda: learner(dls, opt_func=fused, device=device).fit(1),
        },
        {
            "hand loop, fused Adam, compiled model": lambda: by_hand.train(*dls, device, model, fused=True),
            "Learner, fused Adam, compile=True": lambda: compiled.fit(1),
        },
    ]
    for pair in pairs:
        compare(1, pair)  # what is compiled and loaded once is not the epoch's cost
    return [compare(rounds, pair) for pair in pairs]


def dashboard(rounds, root):
    """Times of the five epochs that the documents train, without and with the default dashboard and its report."""
    parts = images(root)
    stock = DataLoader(parts[0], by_hand.BATCH_SIZE, shuffle=True), DataLoader(parts[1], by_hand.BATCH_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        few = [next(iter(stock[0]))] * 2
        learner((few, few), [TensorBoard(f"{folder}/first")]).fit(1)  # what is imported once is not the epoch's cost
        jobs = {
            "Learner, stock DataLoader, five epochs": lambda: learner(stock).fit(5),
            "the same with TensorBoard and its report": lambda: learner(stock, [TensorBoard(folder)]).fit(5),
        }
        return compare(rounds, jobs)


def job_b(rounds, n_batches):
    """Times on ready batches, by name: of training, of the Learner's with callbacks, and of evaluation."""
    data = by_hand.ready_batches(n_batches)
    training = {
        "hand loop": lambda: by_hand.train(data),
        "Ignite's factories, no epoch loss": lambda: with_ignite(data),
        "Learner": lambda: learner((data, None)).fit(1),
    }
    callbacks = {
        "without": training["Learner"],
        "with five callbacks": lambda: learner((data, None), [Nothing() for _ in range(5)]).fit(1),
    }
    model, loss_func = by_hand.Net(), nn.CrossEntropyLoss()
    evaluator, ours = ignite_evaluator(model, loss_func), learner((data, data))
    evaluation = {
        "hand loop": lambda: by_hand.evaluate(model, loss_func, data),
        "Ignite's factories": lambda: evaluator.run(data),
        "Learner": ours.evaluate,
    }
    compare(1, training)  # what a process does once is not a batch's cost
    return compare(rounds, training), compare(rounds, callbacks), compare(rounds, evaluation)
