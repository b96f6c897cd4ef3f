"""What all tests share: one thread, and the flag for long soaks."""

from pathlib import Path

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="run the long forms of the randomised tests")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread: sums then have one order, and two test processes do not fight for two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def soak(request):
    """Whether the long forms of the randomised tests were asked for."""
    return request.config.getoption("--soak")


@pytest.fixture(scope="session")
def fashion_mnist_root():
    """The repository's data folder, with Fashion-MNIST in it (or installed as Debian's package)."""
    from ignite_trainer.data.images import fashion_mnist

    root = Path(__file__).parents[1] / "data"
    try:
        fashion_mnist(root, download=False)
    except FileNotFoundError as error:
        pytest.fail(str(error))
    return root
