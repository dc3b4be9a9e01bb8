"""Exported networks against ``nnlab.load``, by the programs that read each format."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import nnlab
from nnlab import export_model
from tests.analysis.trained import trained

SMALL = ("train_size=100", "test_size=50", "stopping.max_epochs=2", "model.hidden=[16]")
RUNS = {
    "pixels": SMALL,
    "normalized": (*SMALL, "dataset.normalize=true"),
    "perceptrons": ("dataset=boolean", "model=perceptron", "dataset.inputs=3"),
}


@pytest.fixture(params=RUNS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Tensor, Tensor]:
    """The folder of a run, some examples, and what the loaded network says of them."""
    trained(tmp_path / "run", *RUNS[request.param])
    network = nnlab.load(tmp_path / "run")
    some = torch.rand(7, *network.shape, generator=torch.Generator().manual_seed(0))
    return tmp_path / "run", some, network.predict(some)


def export(run: Path, name: str) -> Path:
    path = run.parent / f"exported.{name}"
    assert export_model.main([str(run), "--to", name, "--output", str(path)]) == 0
    return path


def test_onnx_gives_what_the_run_does(exported: tuple[Path, Tensor, Tensor]) -> None:
    pytest.importorskip("onnxscript", exc_type=ImportError)
    runtime = pytest.importorskip("onnxruntime")
    run, some, expected = exported
    session = runtime.InferenceSession(export(run, "onnx"))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("examples", ["N", *some.shape[1:]])
    assert (given.name, given.shape) == ("probabilities", ["N", expected.shape[1]])
    for count in (7, 1):
        (found,) = session.run(None, {"examples": some[:count].numpy()})
        # float32, in another order of summation.
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)


def test_torchscript_gives_what_the_run_does(exported: tuple[Path, Tensor, Tensor]) -> None:
    run, some, expected = exported
    path = export(run, "torchscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.load(path)
    for count in (7, 1):
        assert_close(model(some[:count]), expected[:count], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["normalized"], indirect=True)
def test_torch_gives_what_the_run_does_without_nnlab(
    exported: tuple[Path, Tensor, Tensor],
) -> None:
    run, some, expected = exported
    torch.save(some, run / "some")
    code = (
        "import sys, torch; model = torch.export.load(sys.argv[1]).module(); "
        "some = torch.load(sys.argv[2]); torch.save([model(some), model(some[:1])], sys.argv[2]); "
        "assert 'nnlab' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(export(run, "torch")), str(run / "some")]
    subprocess.run(command, check=True, cwd=run)
    whole, first = torch.load(run / "some")
    assert_close(whole, expected, rtol=1e-5, atol=1e-6)
    assert_close(first, expected[:1], rtol=1e-5, atol=1e-6)


def test_the_name_and_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "digits" / "default", *SMALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert export_model.main(["digits/default", "--to", "torchscript"]) == 0
    assert (tmp_path / "digits-default.pt").is_file()
    assert capsys.readouterr().out.splitlines() == [
        "digits-default.pt",
        "examples: [N, 28, 28] float32, pixels from 0 to 1",
        "probabilities: [N, 10] float32",
    ]


def test_what_cannot_be_exported_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "run", *SMALL)
    diverging = ("optimizer.lr=1e30", "stopping.max_epochs=9")
    trained(tmp_path / "diverged", "train_size=100", "test_size=50", *diverging)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for arguments, message in (
        (["run", "--to", "onnx"], "pip install 'nnlab[onnx]'"),
        (["nothing", "--to", "torch"], "nothing holds no run"),
        (["diverged", "--to", "torch"], "the run in diverged diverged"),
        (["run", "--to", "torchscript", "--output", "no/folder.pt"], "no/folder.pt cannot be"),
    ):
        assert export_model.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert sorted(tmp_path.rglob("*")) == before
