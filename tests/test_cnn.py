"""The convolutional network, against one that is put together and trained by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

import nnlab
from nnlab import compose, engines, footprint, run, seeds
from nnlab.config import EngineName
from nnlab.device import CPU
from nnlab.model import Shaped, cnn
from nnlab.perceptron import parameters
from tests import plain_loop


def by_hand(channels: int, edge: int, classes: int, hidden: int | None = None) -> nn.Sequential:
    """Return the network of the defaults, as torch makes it: 16 and 32 channels, kernel 3."""
    last = 32 * (edge // 4) ** 2
    head = [nn.Linear(last, classes)]
    if hidden is not None:
        head = [nn.Linear(last, hidden), nn.ReLU(), nn.Linear(hidden, classes)]  # type: ignore[list-item]
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), *head),
    )


def take(network: nn.Module, state: dict[str, Tensor]) -> None:
    network.load_state_dict({name.removeprefix("network."): t for name, t in state.items()})


def images(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return examples [N, I], channels last, as torch takes images: [N, C, H, W]."""
    height, width, channels = (*shape, 1)[:3]
    planes = [inputs[:, c::channels].reshape(-1, height, width) for c in range(channels)]
    return torch.stack(planes, 1)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (12, 12, 3), (13, 13, 3)])
@pytest.mark.parametrize("hidden", [None, 5])
def test_it_is_the_network_by_hand(shape: tuple[int, ...], hidden: int | None) -> None:
    generator = np.random.default_rng(1)
    ours = cnn(shape, [16, 32], 3, [] if hidden is None else [hidden], 4, generator)
    theirs = by_hand((*shape, 1)[2], shape[0], 4, hidden)
    take(theirs, ours.state_dict())
    inputs = torch.from_numpy(generator.random((7, math.prod(shape)), np.float32))
    # Sums of up to 288 products in another order.
    assert_close(ours(inputs), theirs(images(inputs, shape)), rtol=1e-5, atol=1e-6)
    assert parameters(ours) == parameters(theirs)
    assert max(ours.values) == 16 * shape[0] * shape[1]


def test_weights_come_from_the_generator_alone_within_their_bounds() -> None:
    first = cnn((16, 16, 3), [16, 32], 5, [9], 4, np.random.default_rng(3))
    torch.rand(1)
    second = cnn((16, 16, 3), [16, 32], 5, [9], 4, np.random.default_rng(3))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    layers = [each for each in first.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    for layer, fan_in in zip(layers, (75, 400, 512, 9), strict=True):
        for drawn in layer.parameters():
            assert drawn.abs().max() <= fan_in**-0.5
        assert layer.weight.abs().max() > 0.8 * fan_in**-0.5
    assert layers[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dataset", ["mnist", "arrays"])
def test_it_is_trained_as_a_loop_by_hand_trains_it(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, where it has its images and weights in the same memory format."""
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    colour = draws.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
    np.savez("colour.npz", x=colour, y=np.arange(60) % 3)
    options = [f"dataset={dataset}", *["dataset.file=colour.npz"] * (dataset == "arrays")]
    options += ["model=cnn", "train_size=30", "valid_size=9", "test_size=9"]
    options += ["optimizer.lr=0.05", "optimizer.momentum=0.9", "study=a", "batch_size=8"]
    with run.alone():
        assert run.run([*options, "stopping.max_epochs=3"]) == 0
        assert run.run([*options, "stopping.max_epochs=0", "study=before"]) == 0
    data = compose.load(options).load_data()
    shape = tuple(data.provenance["shape"])
    theirs = by_hand((*shape, 1)[2], shape[0], len(data.classes))
    take(theirs, load_file("outputs/before/default/model.safetensors"))
    theirs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = seeds.generator(0, "order")
    orders = [order.permutation(30).tolist() for _ in range(3)]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    pixels, labels = map(torch.from_numpy, data.train.examples)
    inputs = images(pixels, shape)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        history = plain_loop.train(theirs, inputs, labels, optimizer, 8, orders)
    finally:
        torch.set_num_threads(threads)
    trained = load_file("outputs/a/default/model.safetensors")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, trained[f"network.{name}"]), name
    rows = Path("outputs/a/default/metrics.csv").read_text().splitlines()[1:]
    found = [[float(value) for value in row.split(",")[1:3]] for row in rows]
    # metrics.csv has 9 digits.
    assert_close(torch.tensor(found), torch.tensor(history), rtol=1e-6, atol=1e-7)
    network = nnlab.load("outputs/a/default")
    assert data.test is not None
    pixels, labels = map(torch.from_numpy, data.test.examples)
    accuracy = (network.probabilities(pixels).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(network.result["test_accuracy"], abs=1e-6)
    assert network.result["engine"] == "torch"


@pytest.mark.parametrize("options", [(), ("stopping=patience", "stopping.patience=2")])
def test_an_interrupted_run_goes_on_bit_for_bit(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["model=cnn", "train_size=30", "valid_size=20", "test_size=20", "optimizer=adam"]
    common += ["checkpoint.seconds=0", *options, "stopping.max_epochs=6"]
    with run.alone():
        assert run.run([*common, "study=whole"]) == 0
    from nnlab import interrupts

    counted = []
    requested = interrupts.requested

    def stop_in_the_third_epoch() -> bool:
        rows = Path("outputs/cut/default/metrics.csv")
        counted.append(rows.exists() and len(rows.read_text().splitlines()) > 3)
        return counted[-1] or requested()

    monkeypatch.setattr(interrupts, "requested", stop_in_the_third_epoch)
    with run.alone():
        run.run([*common, "study=cut"])
    monkeypatch.setattr(interrupts, "requested", requested)
    cut = Path("outputs/cut/default")
    assert json.loads((cut / "result.json").read_text())["status"] == "interrupted"
    with run.alone():
        assert run.run([*common, "study=cut"]) == 0
    results = [
        json.loads(Path("outputs", study, "default/result.json").read_text())
        for study in ("whole", "cut")
    ]
    for key in ("test_loss", "test_accuracy", "epochs", "stop_reason"):
        assert results[0][key] == results[1][key]
    whole, again = (
        load_file(Path("outputs", study, "default/model.safetensors")) for study in ("whole", "cut")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["dataset=boolean"], "model=cnn is not possible: it takes images; dataset=boolean has"),
        (["model.channels=[]"], r"model.channels=[] is not possible: give a convolution or more"),
        (["model.channels=[4,0]"], "give a convolution or more, each of at least 1 channel"),
        (["model.kernel=2"], "model.kernel=2 is not possible: it must be odd"),
        (["model.hidden=[0]"], "model.hidden=[0] is not possible: every hidden layer"),
        (["model.channels=[4,4,4,4,4]"], "they need 32 x 32 pixels, and have 28 x 28; give fewer"),
        (["engine=native"], "engine=native cannot train this run: the network takes examples in"),
        (["evaluation=[weights]"], "weights shows those of a layer that sees all pixels"),
        (["model.channels=[30000000]"], "model=cnn with optimizer=sgd needs"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with run.alone():
        try:
            status = run.run(["model=cnn", *options])
        except ValueError as error:  # of the configuration itself
            status = 1
            print(error)
    assert status == 1
    told = capsys.readouterr()
    assert said in told.err + told.out
    assert not Path("outputs").exists() or not list(Path("outputs").rglob("result.json"))


def test_it_is_evaluated_on_fewer_examples_at_a_time_where_layers_are_large() -> None:
    from nnlab.engines.torch import EVALUATION_VALUES, evaluation_batch

    network = cnn((64, 64, 3), [16, 32], 3, [], 10, None)
    assert max(network.values) == 16 * 64 * 64
    assert evaluation_batch(network) == EVALUATION_VALUES // (16 * 64 * 64)
    assert evaluation_batch(nn.Linear(3, 3)) == 8192
    assert isinstance(network, Shaped)
    config = compose.load(["model=cnn", "batch_size=5"])
    needed = footprint.of(config, "torch", 64 * 64 * 3, 10, [50, 0, 20], network=network)
    assert needed.copies == 2 * 4 * parameters(network)
    assert engines.likely(EngineName.auto, CPU) == "native"
