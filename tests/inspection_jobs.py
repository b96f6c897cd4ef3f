"""Jobs to look at: good ones of many kinds, and what makes one wrong."""

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ignite_trainer import Callback, DataLoaders, EarlyStopping, Learner, Progress, SampleLoader
from ignite_trainer.models import SmallCNN
from tests.tiny import blobs, dropout_net, mlp


def points(n=200, seed=0, n_classes=3):
    """Clouds of points with mean 0 and deviation 1; training and validation."""
    x, y = blobs(n, n_classes=n_classes, seed=seed)
    return (x - x.mean(0)) / x.std(0), y


def pictures(n=96, seed=0, size=12):
    """Grey squares in one of four corners on noise, from 0 to 1: (n, 1, size, size), and the corner."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    x = 0.3 * torch.rand(n, 1, size, size, generator=generator)
    half = size // 2
    for image, corner in zip(x, y.tolist(), strict=True):
        top, left = corner // 2 * half, corner % 2 * half
        image[0, top : top + half, left : left + half] += 0.7
    return x, y


def loaders(make, n_train=200, n_valid=40, **how):
    return DataLoaders.from_tensors(make(n_train, 0), make(n_valid, 1), 16, **how)


def learner(model, dls, loss=None, lr=0.1, **options):
    return Learner(model, dls, loss or nn.CrossEntropyLoss(), lr, device="cpu", **options)


def cut(x, y):
    return list(zip(x.split(16), y.split(16), strict=True))


# ---- good jobs ---------------------------------------------------------------------------------------------------


def classifier():
    return learner(mlp(), loaders(points))


def pictures_in_memory():
    return learner(SmallCNN(n_out=4), loaders(pictures), cbs=[Progress(), EarlyStopping()])


def bytes_scaled_by_the_loader():
    def as_bytes(n, seed):
        x, y = pictures(n, seed)
        return (255 * x).byte(), y

    flip = lambda x, generator: x.flip(-1) if torch.rand((), generator=generator) < 0 else x  # noqa: E731
    dls = loaders(as_bytes, images=True, mean=[0.3], std=[0.3], transform=flip)
    return learner(SmallCNN(n_out=4), dls, lr=0.01, opt_func=optim.Adam)


def bytes_scaled_by_the_model():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmallCNN(n_out=4)

        def forward(self, x):
            return self.net(x.float() / 255)

    x, y = pictures()
    return learner(Scaled(), (cut((255 * x).byte(), y), None))


class Augmented(Dataset):
    """Pictures with noise that is drawn anew for each reading."""

    def __init__(self, n, seed):
        self.x, self.y = pictures(n, seed)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index] + 0.05 * torch.randn(1, 12, 12), self.y[index]


def augmented_with_workers():
    return learner(SmallCNN(n_out=4), (SampleLoader(Augmented(96, 0), 16, shuffle=True, num_workers=1), None))


def stock_loaders():
    dls = DataLoader(TensorDataset(*points()), 16, shuffle=True), DataLoader(TensorDataset(*points(40, 1)), 40)
    return learner(dropout_net(), dls, lr=0.01, opt_func=optim.Adam)


def regression():
    x, _ = points()
    y = x @ torch.tensor([1.0, -1, 0.5, 0, 0, 0.2]) + 0.1
    return learner(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), (cut(x, y), cut(x, y)), nn.MSELoss())


def binary():
    x, y = points(n_classes=2)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return learner(model, (cut(x, y.float()), None), nn.BCEWithLogitsLoss(), 0.5)


def segmentation():
    """Each pixel has a class; unlabelled borders are ignored, classes have weights."""
    x, _ = pictures()
    y = (x[:, 0] > 0.5).long()
    y[:, 0] = 255
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0]), ignore_index=255)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    return learner(model, (cut(x, y), None), loss)


def soft_targets():
    """Distributions over classes, and a loss that smooths them further: far from 0 at its lowest."""
    x, y = points()
    soft = 0.4 * F.one_hot(y, 3) + 0.2
    return learner(mlp(), (cut(x, soft), cut(x, soft)), nn.CrossEntropyLoss(label_smoothing=0.1))


def no_label_in_the_first_batch():
    x, y = points()
    y[:16] = -100
    return learner(mlp(), (cut(x, y), None))


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.net = nn.Embedding(50, 4), mlp(10)

    def forward(self, x):
        return self.net(torch.cat([x["numbers"], self.words(x["word"])], 1))


def dict_inputs():
    x, y = points()
    word = torch.randint(50, (len(y),), generator=torch.Generator().manual_seed(0))
    return learner(OfDict(), ([({"numbers": a, "word": b}, c) for a, b, c in _cut(x, word, y)], None))


def _cut(*tensors):
    return zip(*(tensor.split(16) for tensor in tensors), strict=True)


class FineTuned(nn.Module):
    """A frozen trunk that stays in eval mode, and a new head; norms of the middle keep their statistics."""

    def __init__(self):
        super().__init__()
        self.trunk, self.middle, self.head = dropout_net(n_classes=8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.trunk.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.trunk.eval()
        self.middle.eval()
        return self

    def forward(self, x):
        return self.head(self.middle(self.trunk(x)))


def fine_tuning():
    torch.manual_seed(0)
    return learner(FineTuned(), loaders(points), lr=0.5)


def generated():
    yield from cut(*points())


def generator_function():
    return learner(mlp(), (lambda: generated(), generated), F.cross_entropy)


class Tied(nn.Module):
    """Encoder and decoder share one matrix; targets are the inputs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.encoder(x))


def tied_weights():
    x, _ = points()
    return learner(Tied(), (cut(x, x), None), nn.MSELoss())


class Relabels(Callback):
    """The classes of this job are numbered from 1; it trains from 0."""

    def before_batch(self, learn):
        x, y = learn.batch
        learn.batch = x, y - 1


def relabelled_by_a_callback():
    x, y = points()
    return learner(mlp(), (cut(x, y + 1), cut(x, y + 1)), cbs=[Relabels()])


def masked_targets():
    """Targets that are not known are NaN, and the loss leaves them out."""
    x, _ = points()
    y = x[:, :2].clone()
    y[::3, 0] = torch.nan

    def loss(preds, y):
        return F.mse_loss(preds[~y.isnan()], y[~y.isnan()])

    return learner(nn.Linear(6, 2), (cut(x, y), None), loss)


class Skips(nn.Module):
    """Layers are left out at random; a first pass in eval mode makes the targets."""

    def __init__(self):
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(6, 6), nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), mlp()

    def forward(self, x):
        with torch.no_grad():
            self.last.eval()
            self.last(x)
            self.last.train()
        x = self.first(x)
        for layer in self.layers:
            if not self.training or torch.rand(()) < 0.7:
                x = x + layer(x).relu()
        return self.last(x)


def layers_left_out():
    torch.manual_seed(1)
    return learner(Skips(), loaders(points), lr=0.05)


def two_models(learn):
    """A generator and a discriminator, each with its own optimizer."""
    model, x = learn.model, learn.batch[0]
    if not hasattr(model, "opts"):
        model.opts = [optim.Adam(part.parameters(), 1e-3) for part in model.children()]
    make, judge = model["make"], model["judge"]
    fake = make(torch.randn(len(x), 2))
    learn.loss = F.softplus(-judge(x)).mean() + F.softplus(judge(fake.detach())).mean()
    turns = (model.opts[1], judge, lambda: learn.loss), (model.opts[0], make, lambda: _fooled(judge, fake))
    for opt, part, loss in turns:
        torch.autograd.backward(loss(), inputs=[*part.parameters()])
        opt.step()
        opt.zero_grad()


def _fooled(judge, fake):
    return F.softplus(-judge(fake)).mean()


def adversarial():
    x, y = points()
    model = nn.ModuleDict({"make": nn.Linear(2, 6), "judge": nn.Linear(6, 1)})
    return learner(model, (cut(x, y), None), step=two_models, lr=1e-3)


def adversarial_without_a_loss():
    job = adversarial()
    return Learner(job.model, job.dls, None, 1e-3, device="cpu", step=two_models)


def rows_prepared():
    """Batches of named columns, of which ``prepare_batch`` makes pairs."""
    rows = [{"x": x, "y": y} for x, y in cut(*points())]
    return learner(mlp(), (rows, rows), prepare_batch=lambda row: (row["x"], row["y"]))


def smoothed_windows_in_bf16():
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    return learner(mlp(), loaders(points), loss, accumulate=2, clip_norm=1.0, precision="bf16")


def compiled():
    return learner(mlp(), loaders(points), compile=True)


def scripted():
    return learner(torch.jit.script(mlp()), loaders(points))


def loss_of_the_model():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            scores = self.net(x["x"])
            return {"loss": F.cross_entropy(scores, x["labels"]), "logits": scores}

    x, y = points()
    parts = [({"x": a, "labels": b}, b) for a, b in cut(x, y)]
    return learner(Whole(), (parts, None), lambda out, y: out["loss"])


GOOD = (
    compiled,
    scripted,
    loss_of_the_model,
    classifier,
    pictures_in_memory,
    bytes_scaled_by_the_loader,
    bytes_scaled_by_the_model,
    augmented_with_workers,
    stock_loaders,
    regression,
    binary,
    segmentation,
    soft_targets,
    no_label_in_the_first_batch,
    dict_inputs,
    fine_tuning,
    generator_function,
    tied_weights,
    relabelled_by_a_callback,
    masked_targets,
    layers_left_out,
    adversarial,
    adversarial_without_a_loss,
    rows_prepared,
    smoothed_windows_in_bf16,
)
