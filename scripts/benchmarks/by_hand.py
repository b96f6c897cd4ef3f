"""The hand-written loop that everything is measured against. Needs torch alone."""

import torch
from torch import nn, optim

IMAGES = {"train": 50_000, "valid": 10_000}
BATCH_SIZE = 32


class Net(nn.Module):
    """784-128-10 with a ReLU, over flattened images."""

    def __init__(self):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


def train(train_dl, valid_dl=None, device="cpu", model=None, **options):
    """An epoch of the loop, with validation if there is a loader for it; options for Adam."""
    torch.manual_seed(0)
    model, loss_func = Net().to(device) if model is None else model, nn.CrossEntropyLoss()
    opt = optim.Adam(model.parameters(), 1e-3, **options)
    model.train()
    for xb, yb in train_dl:
        loss = loss_func(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    if valid_dl is not None:
        evaluate(model, loss_func, valid_dl)


def evaluate(model, loss_func, valid_dl):
    """Loss and accuracy over a loader."""
    model.eval()
    loss = right = n = 0
    with torch.no_grad():
        for xb, yb in valid_dl:
            preds = model(xb)
            loss += loss_func(preds, yb).item() * len(yb)
            right += (preds.argmax(dim=1) == yb).float().mean().item() * len(yb)
            n += len(yb)
    return loss / n, right / n


def ready_batches(n_batches):
    """A list of batches as they would come from Fashion-MNIST, made of random numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_batches, BATCH_SIZE, 784, generator=generator)
    return list(zip(x, torch.randint(10, (n_batches, BATCH_SIZE), generator=generator), strict=True))
