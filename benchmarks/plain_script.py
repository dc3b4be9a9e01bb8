"""The main job as a user would write it by hand: four training-set sizes, then two figures.

``python benchmarks/plain_script.py FOLDER [EPOCHS]`` writes FOLDER/results.png. Imports
nothing of nnlab; reads the images that come with it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SAMPLE = Path(__file__).parents[1] / "src" / "nnlab" / "datasets" / "mnist_sample.npz"
SIZES = (500, 1000, 1500, 2000)


class Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def balanced(data: Images, size: int) -> Images:
    chosen = [(data.labels == digit).nonzero()[: size // 10, 0] for digit in range(10)]
    index = torch.cat(chosen)
    return Images(data.images[index], data.labels[index])


def train(data: Images, epochs: int) -> tuple[nn.Module, float, list[float]]:
    """Return the trained model, the seconds that took, and the loss of every epoch."""
    model = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    loader = DataLoader(data, batch_size=10, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_function = nn.CrossEntropyLoss()
    losses = []
    started = time.time()
    for _ in range(epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_function(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(loader))
    return model, time.time() - started, losses


def main() -> None:
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    torch.manual_seed(0)
    with np.load(SAMPLE) as arrays:
        train_set, test_set = (
            Images(
                torch.from_numpy(arrays[f"{name}_images"]).flatten(1).float() / 255,
                torch.from_numpy(arrays[f"{name}_labels"]).long(),
            )
            for name in ("train", "test")
        )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4))
    seconds, accuracies = [], []
    for size in SIZES:
        model, took, losses = train(balanced(train_set, size), epochs)
        with torch.no_grad():
            right_ones = model(test_set.images).argmax(1) == test_set.labels
        seconds.append(took)
        accuracies.append(right_ones.float().mean().item())
        print(f"{size} images: {took:.1f} s, test accuracy {accuracies[-1]:.1%}")
        right.plot(losses, label=f"{size} images")
    left.plot(SIZES, seconds, "o-")
    left.set(xlabel="training images", ylabel="training time, s")
    middle.plot(SIZES, accuracies, "o-")
    middle.set(xlabel="training images", ylabel="test accuracy")
    right.set(xlabel="epoch", ylabel="training loss")
    right.legend()
    figure.savefig(Path(sys.argv[1], "results.png"))


if __name__ == "__main__":
    main()
