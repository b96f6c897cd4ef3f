"""Datasets of images: found where they lie, checked, and never half used."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_trainer.data import images
from ignite_trainer.data.images import fashion_mnist, image_folder, mnist

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@pytest.fixture
def raw(tmp_path, fashion_mnist_root):
    """A data folder of our own in torchvision's layout: links to the files, so that a test may replace one."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).symlink_to(fashion_mnist_root / "FashionMNIST" / "raw" / name)
    return folder


def pack(raw, folder):
    """The four files of ``raw`` as quickly made gz files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes(), compresslevel=1))


def test_fashion_mnist_when_there_has_60000_and_10000_images_of_ten_classes(raw, tmp_path):
    train, test = fashion_mnist(tmp_path, download=False)
    image, label = train[0]
    assert (len(train), len(test), image.size, image.mode, label) == (60_000, 10_000, (28, 28), "L", 9)
    assert train.classes[label] == "Ankle boot"
    assert torch.bincount(train.targets).tolist() == [6000] * 10


def test_fashion_mnist_when_given_a_transform_applies_it_to_both_sets(raw, tmp_path):
    train, test = fashion_mnist(tmp_path, transform=lambda image: image.size, download=False)
    assert (train[0], test[0]) == (((28, 28), 9), ((28, 28), 9))


@pytest.mark.parametrize("folder", ["", "usr/share/datasets/fashion-mnist"])
def test_fashion_mnist_when_packed_in_the_root_is_unpacked_into_torchvisions_folder(folder, raw, tmp_path):
    root = tmp_path / "packed"
    pack(raw, root / folder)
    fashion_mnist(root, download=False)
    unpacked = root / "FashionMNIST" / "raw"
    assert sorted(path.name for path in unpacked.iterdir()) == sorted(NAMES)
    assert all((unpacked / name).read_bytes() == (raw / name).read_bytes() for name in NAMES)


def test_fashion_mnist_when_debians_package_is_installed_reads_it(raw, tmp_path, monkeypatch):
    pack(raw, tmp_path / "debian")
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "debian")
    train, _ = fashion_mnist(tmp_path / "new" / "root", download=False)
    assert len(train) == 60_000


@pytest.mark.parametrize("name", NAMES)
def test_fashion_mnist_when_an_unpacked_file_is_truncated_names_it(name, raw, tmp_path):
    content = (raw / name).read_bytes()
    (raw / name).unlink()
    (raw / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name} is truncated or another file.*delete it and get it again"):
        fashion_mnist(tmp_path, download=False)


@pytest.mark.parametrize("keep", [0, 5, -100])
def test_fashion_mnist_when_a_packed_file_is_truncated_names_it_and_unpacks_nothing(keep, raw, tmp_path):
    packed = gzip.compress((raw / NAMES[1]).read_bytes())
    (raw / NAMES[1]).unlink()
    (tmp_path / f"{NAMES[1]}.gz").write_bytes(packed[:keep])
    with pytest.raises(
        ValueError, match=rf"{NAMES[1]}.gz (cannot be unpacked|is truncated).*; delete it and get it again"
    ):
        fashion_mnist(tmp_path, download=False)
    assert sorted(path.name for path in raw.iterdir()) == sorted(set(NAMES) - {NAMES[1]})


def test_fashion_mnist_when_a_packed_file_is_damaged_inside_names_it(raw, tmp_path):
    packed = bytearray(gzip.compress((raw / NAMES[1]).read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    (raw / NAMES[1]).unlink()
    (tmp_path / f"{NAMES[1]}.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=rf"{NAMES[1]}.gz cannot be unpacked \(.*\); delete it and get it again"):
        fashion_mnist(tmp_path, download=False)


def test_fashion_mnist_when_a_packed_file_is_another_one_names_it(raw, tmp_path):
    (raw / NAMES[1]).unlink()
    (tmp_path / f"{NAMES[1]}.gz").write_bytes(gzip.compress((raw / NAMES[3]).read_bytes()))
    with pytest.raises(ValueError, match=rf"{NAMES[1]}.gz is truncated or another file: .* sha256 0402a96d"):
        fashion_mnist(tmp_path, download=False)
    assert not (raw / NAMES[1]).exists()


def test_fashion_mnist_when_nowhere_names_the_places_and_debians_package(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(FileNotFoundError) as raised:
        fashion_mnist(tmp_path / "root", download=False)
    message = str(raised.value)
    places = ["root/FashionMNIST/raw", "root", f"root{tmp_path}/debian", "debian"]
    assert f"not found in {', '.join(str(tmp_path / place) for place in places)}; " in message.replace("//", "/")
    assert f"`apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb {tmp_path}/root`" in message
    assert not (tmp_path / "root").exists()


def test_mnist_when_nowhere_and_without_download_names_the_places(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        mnist(tmp_path, download=False)
    assert f"not found in {tmp_path}/MNIST/raw, {tmp_path}; put the four gz files of MNIST into {tmp_path}" in str(
        raised.value
    )


def test_mnist_when_a_file_is_another_one_names_it(raw, tmp_path):
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(raw)
    with pytest.raises(ValueError, match="MNIST/raw/train-images-idx3-ubyte is truncated or another file"):
        mnist(tmp_path, download=False)


def test_download_when_there_is_no_network_says_what_to_do_and_why(tmp_path):
    # a process of its own: a proxy that nobody answers at stands for a machine without a network
    code = (
        "import sys\n"
        "from ignite_trainer.data.images import mnist\n"
        "try:\n"
        "    mnist(sys.argv[1])\n"
        "except FileNotFoundError as error:\n"
        "    print(error, '|', error.__cause__)"
    )
    environment = os.environ | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=environment)
    message, cause = result.stdout.split("|")
    assert f"and the download failed; put the four gz files of MNIST into {tmp_path}" in message
    assert "Error downloading train-images-idx3-ubyte.gz" in cause


def test_image_folder_has_a_class_a_folder(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 3), color=200).save(tmp_path / name / "1.png")
    dataset = image_folder(tmp_path, transform=lambda image: (image.mode, image.size))
    assert (dataset.classes, list(dataset)) == (["cat", "dog"], [(("RGB", (4, 3)), 0), (("RGB", (4, 3)), 1)])


def test_image_folder_when_there_is_none_says_what_it_takes(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"takes a folder .* for each class; {tmp_path}/nowhere is no folder"):
        image_folder(tmp_path / "nowhere")


def test_image_folder_of_16_bits_of_grey_then_keeps_their_upper_8(tmp_path):
    for name, value in (("dark", 10_000), ("light", 50_000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / name / "a.png")
    images = image_folder(tmp_path)
    assert [(image.mode, image.getpixel((0, 0))[0]) for image, _ in images] == [("RGB", 39), ("RGB", 195)]
