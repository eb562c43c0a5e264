"""Sequential Fashion-MNIST: clothes from their pixels, one grey level after another (Xiao, Rasul & Vollgraf
2017; pixel by pixel as in Le, Jaitly & Hinton 2015)."""

import gzip
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.data.alphabet import LINEAR
from ssm_seq.errors import InputError
from ssm_seq.tasks.task import Device, Example, Task

PIXELS = 28 * 28
VALID = 5_000  # the last of the 60,000 training images
PACKAGE = "dataset-fashion-mnist"
CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat"]
CLASSES += ["sandal", "shirt", "sneaker", "bag", "ankle boot"]


class FashionMnist(Task):
    """Ten classes; an image is read row by row, or in one order drawn once for all images (`permuted`).
    Half of the images drawn for training are mirrored, left for right: a shirt remains a shirt.

    folder: the four files of the data set as their authors and Debian's package have them. They are read at
    the first batch.
    """

    classes = CLASSES
    vocab_size = 256
    alphabet = LINEAR.name

    def __init__(self, folder: Path | str, permuted: bool) -> None:
        self.folder = Path(folder)
        pixels = np.arange(PIXELS)
        self.order = np.random.default_rng(0).permutation(PIXELS) if permuted else pixels
        mirrored = pixels.reshape(28, 28)[:, ::-1].reshape(-1)
        self.mirrored = torch.from_numpy(np.argsort(self.order)[mirrored[self.order]])
        self._on_device: dict[tuple[str, Device], tuple[Tensor, Tensor, Tensor]] = {}

    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        images, labels, mirrored = self._split(split, length, generator.device)
        chosen = torch.randint(len(images), (count,), generator=generator, device=generator.device)
        inputs = images[chosen]
        if split == "train":
            turned = torch.rand(count, generator=generator, device=generator.device) < 0.5
            inputs = torch.where(turned[:, None], inputs[:, mirrored], inputs)
        return Example(inputs, labels[chosen])

    def test(self, count: int, size: int, length: int, seed: int, device: Device) -> Iterator[Example]:
        """The first `count` test images; the seed means nothing."""
        images, labels, _ = self._split("test", length, torch.device(device))
        for start in range(0, min(count, len(images)), size):
            end = min(start + size, count)
            yield Example(images[start:end], labels[start:end])

    def _split(self, split: str, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """On the device: images (n, 784) uint8 in the order of reading, classes (n,) int64, and where each
        pixel of a mirrored image is to be found (784,) int64."""
        if length != PIXELS:
            raise InputError(f"length {length}: an image has {PIXELS} pixels (data.window, evaluate.lengths)")
        if (split, device) not in self._on_device:
            images, labels = self._train if split != "test" else self._test
            cut = {"train": slice(0, -VALID), "valid": slice(-VALID, None), "test": slice(None)}[split]
            self._on_device[split, device] = (
                torch.from_numpy(images[cut][:, self.order]).to(device),
                torch.from_numpy(labels[cut].astype(np.int64)).to(device),
                self.mirrored.to(device),
            )
        return self._on_device[split, device]

    @cached_property
    def _train(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._read("train")

    @cached_property
    def _test(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._read("t10k")

    def _read(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        images = _idx(self.folder / f"{name}-images-idx3-ubyte.gz", 3).reshape(-1, PIXELS)
        labels = _idx(self.folder / f"{name}-labels-idx1-ubyte.gz", 1)
        if len(images) != len(labels):
            raise InputError(f"{self.folder}: {len(images)} images and {len(labels)} labels in {name}")
        return images, labels


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """A gzipped IDX file of bytes: magic number 00 00 08 and the dimensions, big-endian sizes, the bytes."""
    try:
        with gzip.open(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; `snakemake data/sources/fashion-mnist` brings it, or install Debian's "
            f"package {PACKAGE} and say task.images=/usr/share/datasets/fashion-mnist"
        ) from None
    except (EOFError, gzip.BadGzipFile):
        raise InputError(f"{path}: damaged or truncated, not a whole gzip file") from None
    head = 4 + 4 * dimensions
    sizes = np.frombuffer(data[4:head], ">i4")
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != head + np.prod(sizes):
        raise InputError(f"{path}: not an IDX file of bytes with {dimensions} dimensions")
    return np.frombuffer(data[head:], np.uint8).reshape(sizes)
