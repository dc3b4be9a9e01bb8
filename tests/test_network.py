from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import nnlab
from nnlab.network import Network
from nnlab.perceptron import MLP, Layer
from nnlab.trained import Trained, log_odds
from tests.analysis.trained import outcome, trained

SMALL = ("train_size=200", "test_size=100", "stopping.max_epochs=5", "model.hidden=[16]")


def test_predict_takes_examples_of_any_type_and_layout(tmp_path: Path) -> None:
    trained(tmp_path / "a", *SMALL, "stopping.max_epochs=1")
    network = nnlab.load(tmp_path / "a")
    whole = np.random.default_rng(0).integers(0, 2, (3, 28, 28)).astype(np.float32)
    expected = network.predict(whole)
    fixed = whole.copy()
    fixed.flags.writeable = False
    backwards = whole[::-1].copy()[::-1]
    tensor = torch.from_numpy(whole)
    of_types = [tensor.to(dtype) for dtype in (torch.bfloat16, torch.float64, torch.bool)]
    for given in (
        fixed,
        backwards,
        whole.astype(">f8"),
        tensor.clone().requires_grad_(),
        *of_types,
    ):
        assert_close(network.predict(given), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="give pixels from 0 to 1"):
        network.predict(np.full((1, 28, 28), 1e300))


@pytest.mark.parametrize("normalize", ["false", "true"])
def test_a_loaded_network_gives_the_accuracy_of_its_result(tmp_path: Path, normalize: str) -> None:
    core, data, _ = trained(tmp_path / "a", *SMALL, f"dataset.normalize={normalize}")
    assert data.test is not None
    network = nnlab.load(tmp_path / "a")
    inputs, labels = map(torch.from_numpy, data.test.examples)
    right = network.probabilities(inputs).argmax(1) == labels
    assert right.float().mean().item() == pytest.approx(network.result["test_accuracy"], abs=1e-6)
    assert network.classes == [str(digit) for digit in range(10)]
    assert network.shape == (28, 28)
    # From pixels: standardising them is what loading the data does, within rounding.
    pixels = network.pixels(inputs)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert_close(network.standardised(pixels), inputs, rtol=1e-5, atol=1e-5)
    assert_close(
        network.predict(pixels.view(-1, 28, 28)),
        torch.softmax(network.model(inputs), 1).detach(),
        rtol=1e-4,
        atol=1e-5,
    )
    # Without torch, in other sums of float32.
    for theirs, ours in (
        (network.logits(inputs), core.logits(inputs.numpy())),
        (network.probabilities(inputs), core.probabilities(inputs.numpy())),
        (pixels, core.pixels(inputs.numpy())),
        (network.standardised(pixels), core.standardised(pixels.numpy())),
        (network.predict(pixels.clamp(0, 1)), core.predict(pixels.clamp(0, 1))),
    ):
        assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)
    own = labels.numpy()
    odds = torch.from_numpy(log_odds(core.logits(inputs.numpy()).astype(np.float64), own))
    p = network.logits(inputs).double().softmax(1).gather(1, labels[:, None])[:, 0]
    assert_close(odds, (p / (1 - p)).log(), rtol=1e-3, atol=1e-4)


def test_a_network_of_perceptrons_is_loaded(tmp_path: Path) -> None:
    options = ("dataset=boolean", "model=perceptron", "dataset.function=majority")
    _, data, _ = trained(tmp_path / "a", *options, "dataset.inputs=3")
    network = nnlab.load(tmp_path / "a")
    assert network.result["status"] == "finished"
    assert network.result["stop_reason"] == "no epochs: evaluated, not trained"
    found = network.predict(data.train.inputs)
    # In every row: the value of the majority of three, without a doubt.
    ones = torch.from_numpy(data.train.inputs).sum(1) >= 2
    assert_close(found, nn.functional.one_hot(ones.long(), 2).float(), rtol=0, atol=0)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "a", *SMALL)
    network = nnlab.load(tmp_path / "a")
    with pytest.raises(ValueError, match="this network takes 28 x 28"):
        network.predict(torch.zeros(1, 27, 27))
    with pytest.raises(ValueError, match=r"lie in 0 to 255; give pixels from 0 to 1"):
        network.predict(255 * torch.eye(28).unsqueeze(0))
    image = torch.eye(28).unsqueeze(0)
    assert_close(network.predict(image.numpy()), network.predict(image), rtol=0, atol=0)


def test_folders_without_a_finished_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        nnlab.load(tmp_path)
    folder = tmp_path / "a"
    assert outcome(folder, *SMALL).error is None
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        nnlab.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        nnlab.load(folder)
    record = json.loads((folder / "result.json").read_text())
    del record["checksum"]
    (folder / "result.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(ValueError, match="is running, or was interrupted, so it has no"):
        nnlab.load(folder)


@pytest.mark.parametrize("normalize", ["false", "true"])
def test_frames_and_no_examples_at_all(tmp_path: Path, normalize: str) -> None:
    trained(tmp_path / "a", *SMALL, f"dataset.normalize={normalize}")
    network = nnlab.load(tmp_path / "a")
    for empty in (torch.zeros(0, 28, 28), np.zeros((0, 784))):
        assert_close(network.predict(empty), torch.zeros(0, 10))
    images = torch.eye(28).repeat(2, 1, 1)
    frame = pd.DataFrame(images.flatten(1).numpy().astype(np.float64))
    # Where an array lies in memory decides how its products are summed, in float32.
    expected = network.predict(images)
    assert_close(network.predict(frame), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="this network takes 28 x 28"):
        network.predict(torch.zeros(0, 27, 27))


def test_outputs_that_overflow_are_nan_without_a_warning() -> None:
    huge = np.full((2, 3), 3e38, np.float32)
    config, result = {"dataset": {"name": "own"}}, {"dataset": {"bounded": False}}
    model = MLP([Layer("0", np.full((2, 3), 2, np.float32), None)])
    network = Trained(model, config, result, ["a", "b"], (3,), None, None)
    assert np.isnan(network.predict(huge)).all()
    assert Network(network).predict(huge).isnan().all()
