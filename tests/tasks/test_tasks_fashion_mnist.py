"""Fashion-MNIST from its files: splits, the order of pixels, and what is said of files that will not do."""

import gzip

import numpy as np
import pytest
import torch

from ssm_seq.errors import InputError
from ssm_seq.tasks import fashion_mnist
from ssm_seq.tasks.fashion_mnist import PIXELS, FashionMnist
from ssm_seq.tasks.task import numbered_generator

CORNERS = [0, 27, PIXELS - 28, PIXELS - 1]


def write(folder, name, count, labels=None):
    """`count` images; every pixel of the i-th is i, but the corners say where they are."""
    images = np.repeat(np.arange(count, dtype=np.uint8), PIXELS).reshape(count, PIXELS)
    images[:, CORNERS] = 200, 201, 202, 203
    head = b"\0\0\x08\x03" + np.array([count, 28, 28], ">i4").tobytes()
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz", "wb") as file:
        file.write(head + images.tobytes())
    count = count if labels is None else labels
    head = b"\0\0\x08\x01" + np.array([count], ">i4").tobytes()
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
        file.write(head + bytes(i % 10 for i in range(count)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "VALID", 5)
    write(tmp_path, "train", 30)
    write(tmp_path, "t10k", 12)
    return tmp_path


@pytest.mark.parametrize(("split", "images"), [("train", range(25)), ("valid", range(25, 30))])
def test_a_split_has_its_images_and_no_others(folder, split, images):
    task = FashionMnist(folder, permuted=False)
    inputs, classes = task.draw(split, 400, PIXELS, numbered_generator(0, split, 0, "cpu"))
    assert set(inputs[:, 1].tolist()) == set(images)
    assert torch.equal(classes, inputs[:, 1].long() % 10)


@pytest.mark.parametrize("permuted", [False, True])
def test_half_of_the_images_of_training_are_mirrored(folder, permuted):
    task = FashionMnist(folder, permuted)
    places = [int(np.flatnonzero(task.order == corner)[0]) for corner in CORNERS]

    def found(split):
        inputs, _ = task.draw(split, 400, PIXELS, numbered_generator(0, split, 0, "cpu"))
        assert torch.equal(inputs.sort(1).values[:, -4:], torch.tensor([[200, 201, 202, 203]] * 400).byte())
        corners = [tuple(image) for image in inputs[:, places].tolist()]
        return {each: corners.count(each) for each in set(corners)}

    as_they_are, mirrored = (200, 201, 202, 203), (201, 200, 203, 202)
    assert found("valid") == {as_they_are: 400}
    assert found("train").keys() == {as_they_are, mirrored}
    assert 140 < found("train")[mirrored] < 260


def test_all_test_images_come_once(folder):
    batches = list(FashionMnist(folder, permuted=False).test(100, 5, PIXELS, 0, "cpu"))
    assert [len(batch.inputs) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch.inputs[:, 1] for batch in batches]).tolist() == list(range(12))
    (first,) = FashionMnist(folder, permuted=False).test(3, 5, PIXELS, 0, "cpu")
    assert first.inputs[:, 1].tolist() == [0, 1, 2]


def test_permuted_images_share_one_order(folder):
    rows, shuffled = (
        next(FashionMnist(folder, permuted).test(12, 12, PIXELS, 0, "cpu")).inputs
        for permuted in (False, True)
    )
    assert torch.equal(rows.sort(1).values, shuffled.sort(1).values)
    for corner in (200, 201):
        places = (shuffled == corner).nonzero()[:, 1]
        assert (places == places[0]).all()
    assert not torch.equal(rows, shuffled)


def test_files_that_will_not_do(folder, tmp_path):
    def message(task, length=PIXELS):
        with pytest.raises(InputError) as raised:
            list(task.test(1, 1, length, 0, "cpu"))
        return str(raised.value)

    assert "an image has 784 pixels" in message(FashionMnist(folder, False), 700)
    assert "dataset-fashion-mnist" in message(FashionMnist(tmp_path / "nowhere", False))
    images = folder / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:-20])
    assert "damaged or truncated" in message(FashionMnist(folder, False))
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    assert "not an IDX file" in message(FashionMnist(folder, False))
    write(folder, "t10k", 12, labels=11)
    assert "12 images and 11 labels" in message(FashionMnist(folder, False))
