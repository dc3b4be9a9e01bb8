"""Data, sweeps and results from Python, against the command line and its files."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException

import nnlab
from nnlab import notebook, seeds
from nnlab.network import load
from nnlab.progress import Progress
from tests.test_run import REPOSITORY, files, measured, nnlab_run, result

QUICK: dict[str, Any] = {"test_size": 100, "stopping.max_epochs": 2}
SWEPT = ("seed=0,1", "test_size=100", "stopping.max_epochs=2", "study=rates")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sweep_is_that_of_the_command_line(tmp_path: Path) -> None:
    """Folders, records and numbers; its frame is the command's summary.csv."""
    done = nnlab_run(*SWEPT, "train_size=60,80", "output_dir=theirs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    options = {"train_size": [60, 80], "seed": range(2)} | QUICK
    frame = nnlab.sweep(options, study="rates", output_dir="ours")

    ours, theirs = tmp_path / "ours" / "rates", tmp_path / "theirs" / "rates"
    assert files(ours) == files(theirs)
    assert len(frame) == 4
    for name in frame["folder"]:
        assert measured(ours / name) == measured(theirs / name)
        weights = [(study / name / "model.safetensors").read_bytes() for study in (ours, theirs)]
        assert weights[0] == weights[1]
        for key in ("fingerprint", "test_loss", "test_accuracy", "engine"):
            assert result(ours / name)[key] == result(theirs / name)[key]
    summary = pd.read_csv(ours / "summary.csv")
    pd.testing.assert_frame_equal(frame, summary, check_exact=True)
    differ = ["train_seconds", "train_cpu_seconds", "concurrent_runs"]
    expected = pd.read_csv(theirs / "summary.csv")
    pd.testing.assert_frame_equal(frame.drop(columns=differ), expected.drop(columns=differ))


def test_two_threads_sweep_one_after_the_other() -> None:
    def numbers(seed: int) -> list[float]:
        return list(nnlab.sweep({"seed": [seed]} | QUICK, study=f"s{seed}")["test_loss"])

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(numbers, [1, 2]))
    assert both == [numbers(1), numbers(2)]


def test_a_program_may_have_no_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert len(nnlab.sweep({"seed": [1, 2]} | QUICK, study="x")) == 2


def test_what_is_trained_is_not_trained_again(tmp_path: Path) -> None:
    """By a sweep after the command line, and by the command line after a sweep."""
    sizes = ("train_size=60,80", "seed=0", *SWEPT[1:])
    assert nnlab_run(*sizes, cwd=tmp_path).returncode == 0
    study = tmp_path / "outputs" / "rates"
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/result.json")}
    frame = nnlab.sweep({"train_size": [60, 80], "seed": [0, 1]} | QUICK, study="rates")
    assert len(before) == 2
    assert len(frame) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    done = nnlab_run(*SWEPT, "train_size=60,80", cwd=tmp_path)
    assert "already done: 4 of 4" in done.stdout


def test_an_interrupted_sweep_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"seed": [0, 1, 2], "train_size": 60, "test_size": 100, "stopping.max_epochs": 6}
    expected = nnlab.sweep(options, study="whole")

    epochs = []

    def interrupted(self: Progress, examples: int) -> None:
        epochs.append(examples)
        if len(epochs) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nnlab.sweep(options, study="broken")
    assert "running" in set(nnlab.results("outputs/broken")["status"])
    frame = nnlab.sweep(options, study="broken")
    differ = ["train_seconds", "train_cpu_seconds", "concurrent_runs"]
    pd.testing.assert_frame_equal(frame.drop(columns=differ), expected.drop(columns=differ))


def test_an_interrupt_stays_one_whatever_was_made_of_it() -> None:
    def compose() -> None:
        try:
            try:
                raise KeyboardInterrupt
            finally:
                None.undo()  # type: ignore[attr-defined]  # as OmegaConf does with half an object
        except AttributeError as error:
            raise ConfigCompositionException from error

    with pytest.raises(KeyboardInterrupt), notebook.explained():
        compose()


def test_the_process_is_afterwards_as_before() -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        root = logging.getLogger()
        hydras = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        return [sys.argv[:], handlers, root.handlers[:], root.level, *hydras, sys.stdout]

    before = state()
    nnlab.sweep({"train_size": 60} | QUICK)
    nnlab.load_data("mnist", train_size=60)
    with pytest.raises(ValueError, match="Did you mean 'train_size'"):
        nnlab.sweep({"train_sise": 60})
    assert state() == before


def test_a_sweep_says_what_went_wrong_and_keeps_the_rest() -> None:
    options = {"optimizer.lr": [0.1, -1], "train_size": 60} | QUICK
    said = r"1 of 2 runs could not be trained.*\noptimizer.lr=-1: optimizer.lr=-1.0 is not possible"
    with pytest.raises(ValueError, match=said):
        nnlab.sweep(options, study="rates")
    assert nnlab.results("outputs/rates")["folder"].tolist() == ["optimizer.lr=0.1"]
    for refused, message in (
        ({"train_size": []}, "train_size has no values; give at least one"),
        ({"dataset": "mnits"}, "Did you mean 'mnist'"),
        ({"train_size": 10**6}, "train_size=1000000 exceeds"),
    ):
        with pytest.raises(ValueError, match=message):
            nnlab.sweep(refused, study="refused")
    assert not Path("outputs/refused").exists()


def test_what_is_swept_has_a_column_also_with_one_value() -> None:
    nnlab.sweep({"seed": [0, 1], "train_size": 60} | QUICK, study="rates")
    frame = nnlab.sweep({"seed": "range(2)", "train_size": 60} | QUICK, study="rates")
    assert frame["seed"].tolist() == [0, 1]
    assert nnlab.sweep({"plan": True, "train_size": 70} | QUICK, study="planned").empty
    frame = nnlab.sweep(
        {"seed": np.arange(1), "train_size": [60], "model.hidden": [[16, 8]]} | QUICK,
        study="rates",
    )
    assert frame[["seed", "train_size", "model.hidden"]].to_numpy().tolist() == [[0, 60, (16, 8)]]


def test_a_study_as_frames() -> None:
    options = {"model.hidden": [[8], [8, 4]], "train_size": 60, "valid_size": [0, 20]} | QUICK
    nnlab.sweep(options, study="rates")
    study = Path("outputs/rates")

    results = nnlab.results(study)
    expected = pd.read_csv(study / "summary.csv")
    assert results["model.hidden"].tolist() == [(8,), (8,), (8, 4), (8, 4)]
    drop = ["model.hidden"]
    pd.testing.assert_frame_equal(results.drop(columns=drop), expected.drop(columns=drop))

    curves = nnlab.curves(str(study))
    assert curves.columns.tolist()[:3] == ["name", *expected.columns[1:3]]
    for _, run in results.iterrows():
        rows = curves[curves["name"] == run["name"]].reset_index(drop=True)
        assert (rows["model.hidden"] == run["model.hidden"]).all()
        assert (rows["valid_size"] == run["valid_size"]).all()
        written = pd.read_csv(study / run["folder"] / "metrics.csv")
        pd.testing.assert_frame_equal(rows[written.columns], written)
    for read in (nnlab.results, nnlab.curves):
        with pytest.raises(FileNotFoundError, match="no folder outputs/none"):
            read("outputs/none")


def test_the_arrays_of_a_dataset_are_what_a_run_sees() -> None:
    """Training on them by hand is the run."""
    data = nnlab.load_data("mnist", train_size=60, valid_size=20, test_size=100, seed=3)
    assert data.valid is not None
    assert data.test is not None
    assert data.classes == list("0123456789")
    for (x, labels), each in zip((data.train, data.valid, data.test), (6, 2, 10)):
        assert x.shape == (10 * each, 28, 28)
        assert x.dtype == np.float32
        assert np.bincount(labels).tolist() == [each] * 10

    model = nnlab.mlp(784, [16], 10, generator=seeds.generator(3, "weights"))
    by_hand = nnlab.fit(
        *(model, data.train, data.valid, data.test),
        optimizer=nnlab.SGD(lr=0.1),
        max_epochs=2,
        seed=3,
    )
    options = {"train_size": 60, "valid_size": 20, "seed": 3, "model.hidden": [16]}
    frame = nnlab.sweep(options | {"optimizer.lr": 0.1} | QUICK)
    for name in ("train_loss", "valid_loss", "test_loss", "test_accuracy"):
        # metrics.csv has nine digits.
        assert frame[name].item() == pytest.approx(getattr(by_hand, name), rel=1e-8)
    trained = load(Path("outputs/mnist") / frame["folder"].item()).model.state_dict()
    for name, weights in model.state_dict().items():
        np.testing.assert_array_equal(weights, trained[name])


def test_arrays_of_other_datasets_and_what_is_refused() -> None:
    x, labels = nnlab.load_data("boolean", function="xor", inputs=2).train
    assert labels[np.lexsort(x.T[::-1])].tolist() == [0, 1, 1, 0]
    scaled, _ = nnlab.load_data("mnist", train_size=50, normalize=True).train
    assert scaled.mean() == pytest.approx(0, abs=1e-5)
    assert scaled.std() == pytest.approx(1, abs=1e-5)
    whole = nnlab.load_data("mnist", train_size=None, source="bundled")
    assert len(whole.train[0]) == 5000
    for options, message in (
        ({"train_size": 10**6}, "train_size=1000000 exceeds"),
        ({"trainsize": 10}, "trainsize"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            nnlab.load_data("mnist", **options)


@pytest.mark.slow
def test_the_notebook_of_the_docs(tmp_path: Path) -> None:
    """It runs from top to bottom, shows what it is to show, and is kept without outputs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    page = nbformat.read(REPOSITORY / "docs" / "notebook.ipynb", as_version=4)
    cells = [cell for cell in page.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)

    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(page, timeout=600, kernel_name="python3", resources=place).execute()

    outputs = [output for cell in cells for output in cell.outputs]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/png") == 2  # the curves of a fit, and of the sweep
    said = "".join(output.get("text", "") for output in outputs)
    assert "already done: 9 of 15" in said
    results = nnlab.results("outputs/notebook")
    assert results.groupby("train_size").size().tolist() == [5, 5, 5]
    means = results.groupby("train_size")["test_accuracy"].mean()
    assert means.is_monotonic_increasing
    assert means[1000] > 0.8


def test_importing_is_cheap() -> None:
    code = (
        "import sys, nnlab; dir(nnlab); slow = {'torch', 'pandas', 'hydra', 'matplotlib'}; "
        "assert not slow & sys.modules.keys(); nnlab.results; nnlab.curves; nnlab.sweep; "
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
