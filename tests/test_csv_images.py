"""Images that a table names: every kind of image and label, and a clear word for everything that is wrong."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ignite_trainer.data.csv_images import CSVImages
from ignite_trainer.data.loaders import DataLoaders
from ignite_trainer.vision import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


@pytest.fixture
def write(tmp_path):
    """Writes rows into a table, and a small image for each named file that ends in .png; the table's path."""

    def write_table(rows, images=True):
        table = tmp_path / "table.csv"
        with table.open("w", newline="") as target:
            csv.writer(target).writerows(rows)
        for row in rows:
            for cell in row:
                if images and str(cell).endswith(".png"):
                    (tmp_path / cell).parent.mkdir(exist_ok=True)
                    Image.fromarray(GREY).save(tmp_path / cell)
        return table

    return write_table


def test_labels_when_integers_are_numbers_of_classes(write, tmp_path):
    dataset = CSVImages(write([["a.png", 2], ["b.png", 0], ["c.png", 2]]), tmp_path)
    assert (dataset.classes, dataset.targets.tolist(), len(dataset)) == (["0", "1", "2"], [2, 0, 2], 3)
    assert dataset[2][1] == 2


def test_labels_when_names_are_numbered_in_sorted_order(write, tmp_path):
    dataset = CSVImages(write([["a.png", "dog"], ["b.png", "cat"], ["c.png", "7"]]), tmp_path)
    assert (dataset.classes, dataset.targets.tolist()) == (["7", "cat", "dog"], [2, 1, 0])


@pytest.mark.parametrize(
    ("labels", "classes", "targets"),
    [(["dog", "dog"], ["dog", "cat"], [0, 0]), ([1, 0], ["dog", "cat"], [1, 0]), ([7, 3], ["7", "3"], [0, 1])],
    ids=["names", "numbers", "names that are digits"],
)
def test_labels_when_classes_are_given_are_numbered_by_them(labels, classes, targets, write, tmp_path):
    dataset = CSVImages(write([["a.png", labels[0]], ["b.png", labels[1]]]), tmp_path, classes=classes)
    assert (dataset.classes, dataset.targets.tolist()) == (classes, targets)


@pytest.mark.parametrize("header", [["file", "label"], ["image.name", "class"], ["", "0"]])
def test_header_when_there_is_left_out(header, write, tmp_path):
    dataset = CSVImages(write([header, ["sub/a.png", 1]]), tmp_path)
    assert (dataset.paths, dataset.targets.tolist()) == ([tmp_path / "sub" / "a.png"], [1])


def test_first_row_when_its_file_has_an_odd_name_is_no_header(write, tmp_path):
    Image.fromarray(GREY).save(tmp_path / "scan", format="png")
    assert len(CSVImages(write([["scan", 1], ["a.png", 0]]), tmp_path)) == 2


def test_columns_blanks_spaces_quotes_and_a_byte_order_mark_are_read(write, tmp_path):
    write([["a, b.png"]])
    table = tmp_path / "excel.csv"
    table.write_bytes('\ufeff"a, b.png",1,left \r\n\r\n"a, b.png" ,2,right\r\n'.encode())
    dataset = CSVImages(table, tmp_path, label_column=2)
    assert (dataset.classes, len(dataset)) == (["left", "right"], 2)


@pytest.mark.parametrize(
    ("image", "mode", "tensor"),
    [
        (Image.fromarray(GREY), "L", torch.from_numpy(GREY)[None] / 255),
        (Image.fromarray(GREY > 100), "L", torch.from_numpy(GREY > 100)[None].float()),
        (Image.fromarray(GREY).convert("LA"), "L", torch.from_numpy(GREY)[None] / 255),
        (
            Image.fromarray(GREY.astype(np.uint16) * 257 + 3),
            "F",
            torch.from_numpy(GREY.astype(np.float32) * 257 + 3)[None] / 65535,
        ),
        (Image.fromarray(COLOUR), "RGB", torch.from_numpy(COLOUR).permute(2, 0, 1) / 255),
        (Image.fromarray(COLOUR).convert("RGBA"), "RGB", torch.from_numpy(COLOUR).permute(2, 0, 1) / 255),
        (Image.fromarray(COLOUR).convert("P"), "RGB", None),
    ],
    ids=["grey", "black and white", "grey and alpha", "16 bits", "RGB", "RGBA", "palette"],
)
def test_image_of_any_mode_is_read_with_all_its_bits(image, mode, tensor, tmp_path):
    image.save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("a.png,0\n")
    opened, _ = CSVImages(tmp_path / "table.csv", tmp_path)[0]
    assert (opened.mode, opened.size) == (mode, (4, 3))
    read, _ = CSVImages(tmp_path / "table.csv", tmp_path, transforms.ToTensor())[0]
    expected = transforms.ToTensor()(image.convert("RGB")) if tensor is None else tensor
    assert torch.equal(read, expected)


def test_image_of_floats_keeps_them(tmp_path):
    Image.fromarray(GREY.astype(np.float32) / 7).save(tmp_path / "a.tiff")
    (tmp_path / "table.csv").write_text("a.tiff,0\n")
    read, _ = CSVImages(tmp_path / "table.csv", tmp_path, transforms.ToTensor())[0]
    assert torch.equal(read[0], torch.from_numpy(GREY.astype(np.float32) / 7))


def test_columns_when_others_are_named_are_read(write, tmp_path):
    dataset = CSVImages(write([["dog", 5, "a.png"], ["cat", 6, "b.png"]]), tmp_path, path_column=2, label_column=0)
    assert (dataset.paths[0], dataset.targets.tolist()) == (tmp_path / "a.png", [1, 0])


def test_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(COLOUR).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    (tmp_path / "table.csv").write_text("a.png,0\n")
    assert CSVImages(tmp_path / "table.csv", tmp_path)[0][0].mode == "RGB"


def test_images_through_workers_make_the_documents_batches(write, tmp_path):
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    dataset = CSVImages(write([[f"{i}.png", i % 3] for i in range(10)]), tmp_path, transform)
    dls = DataLoaders.from_datasets(dataset, dataset, 4, num_workers=2)
    assert [tuple(x.shape) for x, _ in dls.train] == [(4, 1, 3, 4), (4, 1, 3, 4), (2, 1, 3, 4)]
    for mine, theirs in zip(dls.valid, DataLoader(dataset, 4), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_table_when_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"the table of images is a CSV file; there is no file {tmp_path}/t.csv"
    ):
        CSVImages(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n , \n"])
def test_table_when_empty_says_so(content, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=r"t\.csv is empty; a row names an image and its label"):
        CSVImages(tmp_path / "t.csv", tmp_path)


def test_table_when_it_has_only_a_header_says_so(write, tmp_path):
    with pytest.raises(ValueError, match=r"table\.csv has no row that names an image and its label"):
        CSVImages(write([["file", "label"]]), tmp_path)


def test_row_when_short_is_named_with_its_line(write, tmp_path):
    with pytest.raises(ValueError, match=r"table.csv needs 2 columns, .*; line 2 is \['b.png'\]"):
        CSVImages(write([["a.png", 0], ["b.png"]]), tmp_path)


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (1, "names 1 image that is not in {root}: '0.png'$"),
        (5, "names 5 images that are not in {root}: '0.png', '1.png', '2.png', '3.png', '4.png'$"),
        (7, "names 7 images that are not in {root}: '0.png', '1.png', '2.png', '3.png', '4.png', …$"),
    ],
)
def test_images_when_not_there_are_counted_and_the_first_five_named(n, message, write, tmp_path):
    table = write([[f"{i}.png", 0] for i in range(n)], images=False)
    with pytest.raises(FileNotFoundError, match=message.format(root=tmp_path)):
        CSVImages(table, tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 40])
def test_image_when_it_does_not_decode_is_named_with_its_line(cut, write, tmp_path):
    dataset = CSVImages(write([["file", "label"], ["a.png", 0], ["b.png", 0]]), tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:cut])
    with pytest.raises(
        ValueError, match=r"b.png \(line 3 of .*table.csv\) is not an image that can be read: "
    ) as raised:
        dataset[1]
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cat", "cow"], ["cat", "dog"], "from 0 to 1; .* has 1 others, the first in line 2: 'cow'"),
        (["0", "2"], ["cat", "dog"], "from 0 to 1; .* has 1 others, the first in line 2: '2'"),
        (["-1", "1"], None, "from 0 to 1; .* has 1 others, the first in line 1: '-1'"),
    ],
)
def test_labels_when_they_do_not_fit_the_classes_are_counted_and_named(labels, classes, message, write, tmp_path):
    table = write([["a.png", labels[0]], ["b.png", labels[1]]])
    with pytest.raises(ValueError, match=f"labels are the names of the classes or their numbers {message}"):
        CSVImages(table, tmp_path, classes=classes)


def test_label_when_empty_then_is_refused_with_its_line(write, tmp_path):
    with pytest.raises(ValueError, match=r"a label is a name or a number; .*table\.csv has none in line 2"):
        CSVImages(write([["a.png", "cat"], ["b.png", ""]]), tmp_path)


def test_label_when_too_large_a_number_for_a_class_then_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"from 0 without large gaps; .*table\.csv has 100000000000 in 1 rows"):
        CSVImages(write([["a.png", "100000000000"]]), tmp_path)


@pytest.mark.parametrize(
    ("n_rows", "says"),
    [
        (3, r"files and labels are one line each; in .*table\.csv a cell ends in line 5 that begins with 'dog\\na.png"),
        (20_000, r"table\.csv has a row in line 2 that does not end \(field larger than field limit"),
    ],
)
def test_table_when_a_quote_is_left_open_then_the_line_is_named(n_rows, says, tmp_path):
    (tmp_path / "table.csv").write_text('a.png,cat\na.png,"dog\n' + "a.png,cat\n" * n_rows)
    with pytest.raises(ValueError, match=says):
        CSVImages(tmp_path / "table.csv", tmp_path)


def test_table_when_not_utf8_then_is_named(tmp_path):
    (tmp_path / "table.csv").write_bytes("bär.png,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"table\.csv is not UTF-8 .*: save it as UTF-8"):
        CSVImages(tmp_path / "table.csv", tmp_path)
