"""Networks that a function of the user's own makes, from the command line and back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

import nnlab
from nnlab import compose, datasets, predict, run
from nnlab.config import Config, fingerprint
from tests import plain_loop

SOURCE = """
import numpy as np
from torch import nn
from beside import PADDING

def cnn(shape, classes, width=8, drop=0.0):
    channels, height, width_of_image = shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=PADDING), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(drop), Flat(), nn.LazyLinear(classes),
    )

class Flat(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)

def tied(shape, classes):
    return Tied(int(np.prod(shape)), classes)

class Tied(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.first = nn.Linear(inputs, inputs)
        self.second = nn.Linear(inputs, inputs)
        self.second.weight = self.first.weight
        self.noise = nn.Parameter(self.first.weight.new_tensor(np.random.rand(inputs)))
        self.last = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.last(self.second(self.first(x + self.noise).relu()).relu())
"""
QUICK = ("train_size=40", "test_size=30", "stopping.max_epochs=2", "model=function")
OWN = (*QUICK, "model.function=my_nets:cnn")


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_nets.py").write_text(SOURCE)
    Path("beside.py").write_text("PADDING = 1")
    datasets.forget()


def command(*arguments: str) -> int:
    with run.alone():
        return run.run([*arguments])


def result(study: str = "mnist", name: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("outputs", study, name, "result.json").read_text())
    return found


def weights(study: str) -> dict[str, torch.Tensor]:
    return load_file(Path("outputs", study, "default", "model.safetensors"))


def numbers(study: str) -> list[list[str]]:
    """Return a run's epochs without their times."""
    lines = Path("outputs", study, "default", "metrics.csv").read_text().splitlines()
    return [line.split(",")[:5] for line in lines]


def test_the_same_run_twice_has_the_same_bits_and_the_global_generators_are_left_alone() -> None:
    for study in ("a", "b"):
        torch.rand(3)  # what others draw does not matter
        before = torch.get_rng_state(), str(np.random.get_state())
        assert command(*OWN, "model.options={drop: 0.3}", f"study={study}") == 0
        assert torch.equal(torch.get_rng_state(), before[0])
        assert str(np.random.get_state()) == before[1]
    assert numbers("a") == numbers("b")
    assert weights("a").keys() == weights("b").keys()
    for name, tensor in weights("a").items():
        assert torch.equal(tensor, weights("b")[name]), name
    assert command(*OWN, "model.options={drop: 0.3}", "seed=1", "study=c") == 0
    assert not torch.equal(weights("a")["network.0.weight"], weights("c")["network.0.weight"])


def test_a_run_is_the_same_alone_and_in_a_sweep() -> None:
    options = (*OWN, "model.options={drop: 0.3}")
    assert command(*options, "seed=1", "study=alone", "hydra.sweep.subdir=default") == 0
    assert command(*options, "seed=0,1", "study=both") == 0
    both = load_file(next(Path("outputs/both").glob("*seed=1*")) / "model.safetensors")
    for name, tensor in weights("alone").items():
        assert torch.equal(tensor, both[name]), name


def test_it_is_trained_as_a_loop_by_hand_trains_it() -> None:
    """Bit for bit: the same operations on the same numbers in the same order."""
    assert command(*OWN, "stopping.max_epochs=0", "study=before") == 0
    assert command(*OWN, "batch_size=7", "optimizer=adam") == 0
    by_hand = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(0.0), nn.Flatten(), nn.Linear(8 * 14 * 14, 10)),
    )
    initial = {k.removeprefix("network."): v for k, v in weights("before").items()}
    by_hand.load_state_dict(initial)
    config = compose.load([*OWN, "batch_size=7"])
    split = config.load_data().train
    order = nnlab.seeds.generator(0, "order")
    inputs, labels = map(torch.from_numpy, split.examples)
    inputs = inputs.view(-1, 1, 28, 28)
    orders = [order.permutation(40).tolist() for _ in range(2)]
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.001)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        history = plain_loop.train(by_hand, inputs, labels, adam, 7, orders)
    finally:
        torch.set_num_threads(threads)
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(tensor, weights("mnist")[f"network.{name}"]), name
    found = [[float(value) for value in row[1:3]] for row in numbers("mnist")[1:]]
    # metrics.csv has 9 digits.
    assert_close(torch.tensor(found), torch.tensor(history), rtol=1e-6, atol=1e-7)


def config(*overrides: str) -> Config:
    return compose.load([*OWN, *overrides])


def test_options_and_source_are_part_of_what_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(config())
    assert fingerprint(config("model.options={width:32}")) != before
    assert fingerprint(config("model.function=my_nets:tied")) != before
    assert fingerprint(config()) == before
    assert command(*OWN) == 0
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert result()["model_source_sha256"] == digest
    assert result()["fingerprint"] == before
    assert result()["engine"] == "torch"
    assert command(*OWN) == 0
    assert "already done: 1 of 1" in capsys.readouterr().out
    Path("my_nets.py").write_text(SOURCE + "# changed\n")
    assert fingerprint(config()) != before
    assert command(*OWN) == 1
    assert "holds a run with other code" in capsys.readouterr().err
    assert command(*OWN, "study=new") == 0


def test_a_sweep_over_its_options_is_told_apart() -> None:
    options = "model.options=null,{width: 2},{drop: 0.1}"
    assert command(*OWN, options) == 0
    assert len(list(Path("outputs/mnist").glob("*/result.json"))) == 3
    rows = Path("outputs/mnist/summary.csv").read_text().splitlines()
    assert "model.options.width" in rows[0]
    assert "model.options.drop" in rows[0]
    assert len(rows) == 4


def test_tied_weights_and_rows_of_numbers() -> None:
    pytest.importorskip("sklearn")
    options = ("model.function=my_nets:tied", "dataset=sklearn", "dataset.name=iris")
    assert command(*QUICK[2:], *options, "checkpoint.seconds=0") == 0
    network = nnlab.load("outputs/iris/default", function="my_nets:tied")
    state = network.model.state_dict()
    assert torch.equal(state["network.first.weight"], state["network.second.weight"])


def test_a_loaded_network_gives_the_accuracy_of_its_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(*OWN, "model.options={width: 4}", "evaluation=[hardest]") == 0
    assert Path("outputs/mnist/default/hardest.csv").exists()
    folder = "outputs/mnist/default"
    with pytest.raises(ValueError, match=r"made by my_nets:cnn, code of your own; to have it"):
        nnlab.load(folder)
    with pytest.raises(ValueError, match="code of your own"):
        nnlab.load(folder, function="my_nets:tied")
    network = nnlab.load(folder, function="my_nets:cnn")
    test = config().load_data().test
    assert test is not None
    inputs, labels = map(torch.from_numpy, test.examples)
    right = network.probabilities(inputs).argmax(1) == labels
    assert right.float().mean().item() == pytest.approx(network.result["test_accuracy"], abs=1e-6)
    np.save("images.npy", inputs.view(-1, 28, 28).numpy())
    assert predict.main([folder, "images.npy"]) == 1
    assert "--function my_nets:cnn" in capsys.readouterr().err
    assert predict.main([folder, "images.npy", "--function", "my_nets:cnn"]) == 0
    Path("my_nets.py").write_text(SOURCE + "# changed\n")
    with pytest.raises(ValueError, match=r"my_nets\.py has changed since the run"):
        nnlab.load(folder, function="my_nets:cnn")
    Path("my_nets.py").unlink()
    with pytest.raises(ValueError, match=r"there is no my_nets\.py in the working directory"):
        nnlab.load(folder, function="my_nets:cnn")


@pytest.mark.parametrize("name", ["value", "led"])
def test_a_file_may_not_name_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"model": {"function": "my_nets:cnn"}}
    led = {"model": {"function": "${output_dir}"}, "output_dir": "my_nets:cnn"}
    folder = Path("conf/experiment")
    folder.mkdir(parents=True)
    content = {"defaults": [{"override /model": "function"}], **(own if name == "value" else led)}
    text = "# @package _global_\n" + yaml.safe_dump(content, sort_keys=False)
    (folder / "given.yaml").write_text(text)
    Path("my_nets.py").write_text("open('called', 'w')\n" + SOURCE)
    files = f"hydra.searchpath=[file://{folder.parent.absolute()}]"
    # Nor does it help that another option names it.
    for more in ([], ["+dataset.function=my_nets:cnn", "dataset=function"]):
        assert command(files, "experiment=given", *more) == 1
        said = capsys.readouterr().err
        assert "model.function=my_nets:cnn names code" in said or more
        assert not Path("called").exists()


RETURNS = {
    "return 3": r"broken:net returned a int; it has to return an nn\.Module",
    "return nn.ReLU()": "returned a ReLU without weights to train",
    "return nn.Sequential(nn.Flatten(), nn.Linear(784, classes + 1))": (
        r"its network gives \[2, 11\] of float32; it has to give logits \[2, 10\]"
    ),
    "return nn.Conv2d(1, 10, 3)": r"its network gives \[2, 10, 26, 26\] of float32",
    "return nn.RNN(28, 10)": r"does not take examples \[2, 1, 28, 28\]: RuntimeError|ValueError",
    "return 1 / 0": r"raised ZeroDivisionError: .*\(line 3 of broken\.py\)",
    "return nn.Linear(28, 10)\ndef net(shape): ...": (
        r"is called with \(shape, classes\) and model\.options=\{\}, which it does not take"
    ),
    "...\nimport no_such": r"broken\.py cannot be imported: ModuleNotFoundError",
    "...\ndel net": r"broken\.py has no function net",
}


@pytest.mark.parametrize("body", RETURNS)
def test_what_is_no_network_is_said_before_anything_is_written(
    body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"from torch import nn\ndef net(shape, classes):\n    {body}\n"
    Path("broken.py").write_text(source)
    assert command(*QUICK, "model.function=broken:net") == 1
    with pytest.raises(ValueError, match=RETURNS[body]):
        raise ValueError(capsys.readouterr().err)
    assert not Path("outputs/mnist").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model.function=my_nets"], "model.function=my_nets is not possible: name a module"),
        (["model.function=my_nts:cnn"], "there is no my_nts.py in the working directory; did you"),
        (["model.options={wdith:3}"], "it does not take: got an unexpected keyword arg"),
        (["model.options=3"], "model.options=3 is not possible: give names and values"),
        (["engine=native"], "engine=native cannot train this run: the network takes examples in"),
        (["engine=stacked"], "engine=stacked cannot train this run: the network takes examples"),
    ],
)
def test_options_that_do_not_fit_are_said_before_anything_is_written(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {each.partition("=")[0]: each for each in (*OWN, *options)}
    assert command(*named.values()) == 1
    assert said in capsys.readouterr().err
    assert not Path("outputs/mnist").exists()
