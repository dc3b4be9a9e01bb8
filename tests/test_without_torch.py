"""What trains, evaluates and reports without torch: by asking a process what it has imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnlab.engines import library

pytestmark = pytest.mark.skipif(library.available() is not None, reason="no compiled library")
SWEEP = ("train_size=50,100", "valid_size=50", "test_size=50", "stopping.max_epochs=4")


def imported(folder: Path, module: str, *arguments: str) -> set[str]:
    """Give a command in a process of its own; return what it had imported at its end."""
    code = (
        "import importlib, sys\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "try:\n"
        f"    ended = importlib.import_module({module!r}).main()\n"
        "except SystemExit as end:\n"
        "    ended = end.code\n"
        "open('modules', 'w').write(' '.join(sys.modules))\n"
        "sys.exit(ended)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set((folder / "modules").read_text().split())


@pytest.mark.parametrize(
    "options",
    [
        (
            *("stopping=patience", "stopping.patience=1", "checkpoint.seconds=0", "optimizer=adam"),
            *("dataset.normalize=true", "model.dropout=0.2", "model.init=orthogonal"),
        ),
        pytest.param(  # in the dual form
            (
                *("dataset=dogset_synthetic", "model.hidden=[4]", "stopping=plateau"),
                *("full_train_metrics=true", "loss.class_weights=balanced"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["usual", "dual"],
)
def test_a_sweep_is_trained_and_reported(options: tuple[str, ...], tmp_path: Path) -> None:
    command = "nnlab.run", *SWEEP, *options, "study=a", "-m"
    assert "torch" not in imported(tmp_path, *command)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/a/*/result.json")]
    assert {each["engine"] for each in results} == {"native"}
    assert {each["status"] for each in results} <= {"finished", "stopped"}
    assert all(each["versions"]["torch"] for each in results)
    assert pd.read_csv(tmp_path / "outputs/a/summary.csv")["test_accuracy"].notna().all()
    assert (tmp_path / "outputs/a/index.html").is_file()
    assert not {"torch", "matplotlib", "pandas", "scipy"} & imported(tmp_path, *command)


@pytest.mark.slow
def test_evaluations_and_predictions_of_perceptrons(tmp_path: Path) -> None:
    asked = "evaluation=[hardest,weights,metrics]"
    assert "torch" not in imported(tmp_path, "nnlab.run", *SWEEP[1:], "train_size=50", asked)
    run = tmp_path / "outputs" / "mnist" / "default"
    assert all((run / name).is_file() for name in ("hardest.png", "weights.png", "scores.csv"))
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "digit.png")
    assert "torch" not in imported(tmp_path, "nnlab.predict", str(run), "digit.png")
    boolean = ("dataset=boolean", "stopping.max_epochs=3", "evaluation=[boundary,weights]")
    assert "torch" not in imported(tmp_path, "nnlab.run", *boolean)
    rows = ("dataset=sklearn", "dataset.name=wine", "stopping.max_epochs=3")
    assert "torch" not in imported(tmp_path, "nnlab.run", *rows, "evaluation=[importance]")


def test_a_description_without_pictures(tmp_path: Path) -> None:
    assert not {"torch", "matplotlib"} & imported(tmp_path, "nnlab.describe", "dataset=boolean")
