"""torchvision is imported beside any build of torch, once, and loudly if it is not there."""

import subprocess
import sys

from ignite_trainer.vision import import_torchvision


def python(code):
    """What a fresh interpreter prints that runs ``code``."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_when_repeated_gives_the_same_module():
    assert import_torchvision() is import_torchvision() is sys.modules["torchvision"]


def test_import_in_a_fresh_process_gives_working_datasets_and_transforms():
    printed = python(
        "from ignite_trainer.vision import import_torchvision\n"
        "import torch\n"
        "torchvision = import_torchvision()\n"
        "from torchvision.transforms import v2\n"
        "print(v2.CenterCrop(2)(torch.arange(16).reshape(1, 4, 4)).tolist(), torchvision.datasets.MNIST.__name__)"
    )
    assert printed == "[[[5, 6], [9, 10]]] MNIST"


def test_import_of_the_package_module_alone_does_not_import_torchvision():
    assert (
        python("import sys, ignite_trainer.vision, ignite_trainer.data; print('torchvision' in sys.modules)") == "False"
    )


def test_import_when_torchvision_is_not_installed_says_so():
    printed = python(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without:\n"  # an interpreter that has everything but torchvision
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name == 'torchvision' else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Without()]\n"
        "from ignite_trainer.vision import import_torchvision\n"
        "try:\n"
        "    import_torchvision()\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)"
    )
    assert printed == "No module named 'torchvision'"
