"""Batches made sample by sample: the same bits for any number of workers, from any place, with any randomness."""

import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ignite_trainer.data.order import BatchOrder
from ignite_trainer.data.samples import SampleError, SampleLoader
from ignite_trainer.rng import seed_sample
from ignite_trainer.vision import import_torchvision
from tests.processes import finish

import_torchvision()
from torchvision.transforms import v2  # noqa: E402

# more workers than processors are a strain, and to be right all the same
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

N, BATCH_SIZE = 22, 5
AUGMENT = v2.Compose(
    [v2.RandomResizedCrop(8, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
)


class Augmented(Dataset):
    """Pictures with every kind of randomness that people use in a dataset."""

    def __init__(self, n=N):
        self.images = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = AUGMENT(self.images[index]) + torch.from_numpy(np.random.rand(8, 8).astype(np.float32))
        return image + random.random() + random.gauss(0, 1), index


class Plain(Dataset):
    """Numbers, with a count of how many were read in this process."""

    def __init__(self, n=N):
        self.n, self.reads = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.reads += 1
        return torch.tensor([float(index)]), index


class Broken(Plain):
    """A dataset of which one sample cannot be read."""

    def __getitem__(self, index):
        if index == 7:
            raise KeyError("no such column")
        return super().__getitem__(index)


class ProcessNumbers(Plain):
    """Which process made the sample."""

    def __getitem__(self, index):
        return os.getpid()


def digest(batches):
    """One sha256 over all bits of all batches."""
    total = hashlib.sha256()
    for images, labels in batches:
        total.update(images.numpy().tobytes() + labels.numpy().tobytes())
    return total.hexdigest()


def random_collate(samples):
    """Like MixUp: a batch made with a draw of its own."""
    images, labels = default_collate(samples)
    return images * torch.rand(()) + random.random() * np.random.rand(), labels


def loader(**options):
    """A shuffled loader of augmented pictures."""
    return SampleLoader(Augmented(), BATCH_SIZE, shuffle=True, seed=1, collate_fn=random_collate, **options)


@pytest.fixture(scope="module")
def reference():
    """The batches of three epochs, read without workers."""
    one = loader()
    return [list(one) for _ in range(3)]


def by_hand(epoch):
    """The batches of an epoch as the rule says, in a plain loop: independent of DataLoader and workers."""
    order, dataset = BatchOrder(N, BATCH_SIZE, shuffle=True, seed=1), Augmented()
    order.set_epoch(epoch)
    for batch, indices in enumerate(order):
        samples = []
        for index in indices:
            seed_sample(1, epoch, index)
            samples.append(dataset[index])
        seed_sample(1, epoch, -1 - batch)
        yield random_collate(samples)


def test_batches_are_a_function_of_seed_epoch_and_index(reference):
    assert [digest(epoch) for epoch in reference] == [digest(by_hand(epoch)) for epoch in range(3)]


@pytest.mark.parametrize(
    ("workers", "persistent"), [(1, False), (1, True), (2, False), (2, True), (4, False), (4, True)]
)
def test_batches_of_three_epochs_when_read_by_workers_have_the_same_bits(workers, persistent, reference):
    several = loader(num_workers=workers, persistent_workers=persistent)
    assert digest(batch for _ in range(3) for batch in several) == digest(itertools.chain(*reference))


@pytest.mark.parametrize("workers", [0, 2])
def test_seek_to_every_batch_gives_the_rest_with_the_same_bits(workers, reference):
    late = loader(num_workers=workers, persistent_workers=workers > 0)
    for epoch, batches in enumerate(reference):
        for batch in range(len(batches) + 1):
            late.seek(epoch, batch)
            assert digest(late) == digest(batches[batch:])


def test_epoch_when_abandoned_by_a_reader_with_workers_is_not_repeated(reference):
    persistent = loader(num_workers=2, persistent_workers=True)
    next(iter(persistent))
    assert digest(persistent) == digest(reference[1])
    assert digest(persistent) == digest(reference[2])


def test_samples_of_different_epochs_and_seeds_differ():
    in_order, other_seed = SampleLoader(Augmented(), N), SampleLoader(Augmented(), N, seed=1)
    assert len({digest(in_order), digest(in_order), digest(other_seed)}) == 3


@pytest.mark.parametrize(("workers", "error"), [(0, False), (0, True), (2, False)])
def test_global_generators_are_untouched(workers, error):
    random.gauss(0, 1)
    np.random.standard_normal()  # the other halves of these pairs are state, too
    before = random.getstate(), [str(part) for part in np.random.get_state()], torch.get_rng_state().tolist()
    if error:
        with pytest.raises(SampleError):
            list(SampleLoader(Broken(), 4, num_workers=workers))
    else:
        list(loader(num_workers=workers))
    after = random.getstate(), [str(part) for part in np.random.get_state()], torch.get_rng_state().tolist()
    assert after == before


def test_samples_that_are_not_seeded_draw_as_in_a_stock_loader():
    ours = SampleLoader(Augmented(), BATCH_SIZE, seed_samples=False)
    stock = DataLoader(Augmented(), BATCH_SIZE, generator=torch.Generator())
    digests = []
    for each in (ours, stock):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        digests.append(digest(each))
    assert digests[0] == digests[1]


def test_samples_that_are_not_seeded_in_a_worker_depend_on_the_epoch_only():
    def unseeded():
        return SampleLoader(Augmented(), N, seed_samples=False, num_workers=1)

    through, late = unseeded(), unseeded()
    first, second = digest(through), digest(through)
    late.set_epoch(1)
    assert first != second == digest(late)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("seed_samples", [True, False])
def test_plain_dataset_gives_the_batches_of_the_stock_loader(workers, seed_samples):
    ours = SampleLoader(Plain(), 4, drop_last=True, num_workers=workers, seed_samples=seed_samples)
    stock = DataLoader(Plain(), 4, drop_last=True)
    for mine, theirs in zip(ours, stock, strict=True):
        assert type(mine) is type(theirs)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert len(ours) == len(stock) == 5


def test_seek_reads_no_sample():
    dataset = Plain(1000)
    late = SampleLoader(dataset, 10, shuffle=True)
    late.seek(12, 98)
    iterator = iter(late)
    assert dataset.reads == 0
    assert [len(labels) for _, labels in iterator] == [10, 10]
    assert dataset.reads == 20


def test_ranks_join_to_the_samples_of_one_process():
    def share(rank, world):
        return list(SampleLoader(Augmented(), BATCH_SIZE, shuffle=True, rank=rank, world=world))

    whole, first, second = share(0, 1), share(0, 2), share(1, 2)
    joined = [torch.cat([a, b]) for (a, _), (b, _) in zip(first, second, strict=True)]
    assert all(torch.equal(images, mine) for (images, _), mine in zip(whole, joined, strict=True))


# once with a worker only: torch takes 5 seconds to end a worker whose dataset raised
@pytest.mark.parametrize(("workers", "seed_samples"), [(0, True), (0, False), (1, True)])
def test_dataset_that_raises_is_named_with_index_place_and_original_error(workers, seed_samples):
    broken = SampleLoader(Broken(), 4, num_workers=workers, seed_samples=seed_samples)
    broken.seek(2, 0)
    message = r"sample 7 of the dataset cannot be read \(epoch 2, batch 1\): KeyError\('no such column'\)"
    with pytest.raises(SampleError, match=message) as raised:
        list(broken)
    if workers == 0:
        assert isinstance(raised.value.__cause__, KeyError)
    else:
        assert 'raise KeyError("no such column")' in str(raised.value)


def test_loader_goes_on_after_a_dataset_that_raised():
    broken = SampleLoader(Broken(), 4)
    with pytest.raises(SampleError):
        list(broken)
    broken.seek(0, 2)
    _, labels = next(iter(broken))
    assert labels.tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_workers_when_signalled_go_on(number):
    one = SampleLoader(ProcessNumbers(200), 1, num_workers=1)
    iterator = iter(one)
    worker = int(next(iterator))
    assert worker != os.getpid()
    os.kill(worker, number)
    time.sleep(0.1)
    assert {int(process) for process in iterator} == {worker}


def own_init(worker):
    """A worker_init_fn as users write them."""
    os.environ["OWN_INIT"] = f"worker {worker}"


class Environment(Plain):
    """What the environment of the process says."""

    def __getitem__(self, index):
        return os.environ.get("OWN_INIT")


def test_own_worker_init_fn_runs_too():
    (names,) = SampleLoader(Environment(2), 2, num_workers=1, worker_init_fn=own_init)
    assert names == ["worker 0"] * 2


def test_identity_names_kind_and_everything_that_moves_a_batch():
    assert SampleLoader(Plain(), 4, shuffle=True, seed=2, num_workers=1).identity() == {
        "kind": "SampleLoader",
        "n_samples": N,
        "batch_size": 4,
        "shuffle": True,
        "drop_last": False,
        "seed": 2,
        "seed_samples": True,
    }


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class WithoutLength(Dataset):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("dataset", [Stream(), WithoutLength(), (n for n in range(3)), {1, 2}])
def test_dataset_without_length_or_items_is_refused_with_the_way_out(dataset):
    name = type(dataset).__name__
    with pytest.raises(TypeError, match=f"has a length and items by number; got {name}: .* torch's own DataLoader"):
        SampleLoader(dataset)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="a loader gives batches of at least one sample; got a dataset of 0: add some"):
        SampleLoader([])


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_two_shapes_when_they_are_joined_then_both_are_named(workers):
    data = [(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 4), 1), (torch.zeros(3, 4, 5), 1)]
    with pytest.raises(SampleError, match=r"sample 0 has \(1, 4, 4\), sample 2 has \(3, 4, 5\): resize them"):
        list(SampleLoader(data, 3, num_workers=workers))


class Blocked(Dataset):
    """Which of the two signals wait in the process that reads, from its beginning on."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return torch.tensor([signal.SIGINT in blocked, signal.SIGUSR1 in blocked])


def _see_signals(method):
    loader = SampleLoader(Blocked(), 2, num_workers=1)
    loader.stock.multiprocessing_context = method
    (batch,) = loader
    assert batch.all()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_signals_when_workers_are_started_then_wait_in_these_and_not_in_the_main_process(method):
    # in a process of its own: the fork server that other tests share was started before signals waited
    process = multiprocessing.get_context("spawn").Process(target=_see_signals, args=(method,))
    process.start()
    assert finish(process, timeout=120) == 0
