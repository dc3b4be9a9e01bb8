"""The learning rate of each epoch, against the schedulers of torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim import lr_scheduler

import nnlab
from nnlab import records
from nnlab.config import SGD
from nnlab.rates import Schedule
from nnlab.stopping import Epoch

EPOCHS = 12
CLOSE = 1e-12  # torch multiplies the rate before, which rounds in every epoch
LOSSES = [1.0, 0.5, 0.6, 0.49999, 0.51, 0.4, 0.4, 0.41, 0.42, 0.43, 0.44, 0.45]


def schedulers(optimizer: torch.optim.Optimizer, options: SGD) -> Any:
    """Return torch's scheduler of some options."""
    after: dict[str, lr_scheduler.LRScheduler] = {
        "constant": lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "step": lr_scheduler.StepLR(optimizer, options.step_size, options.gamma),
        "cosine": lr_scheduler.CosineAnnealingLR(
            optimizer, EPOCHS - options.warmup, options.min_lr
        ),
    }
    first = lr_scheduler.LinearLR(optimizer, 1 / (options.warmup + 1), 1.0, options.warmup or 1)
    if options.warmup == 0:
        return after[options.schedule]
    both = [first, after[options.schedule]]
    return lr_scheduler.SequentialLR(optimizer, both, [options.warmup])


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_rates_are_those_of_torch(schedule: str, warmup: int) -> None:
    options = SGD(lr=0.3, schedule=schedule, warmup=warmup, step_size=2, gamma=0.7, min_lr=0.01)
    ours = Schedule(options, EPOCHS)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SequentialLR's own calls
        oracle = schedulers(optimizer, options)
        for _ in range(EPOCHS):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            oracle.step()
    found = [ours.rate_of(epoch) for epoch in range(1, EPOCHS + 1)]
    assert found == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("min_lr", [0.0, 0.02])
@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateaus_are_those_of_torch(patience: int, min_lr: float) -> None:
    options = SGD(lr=0.3, schedule="plateau", patience=patience, gamma=0.3, min_lr=min_lr)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    oracle = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=patience, min_lr=min_lr)
    ours = Schedule(options, EPOCHS)
    epochs: list[Epoch] = []
    found = []
    for number, loss in enumerate([*LOSSES, float("nan")], 1):
        found.append(ours.next(epochs))
        assert found[-1] == optimizer.param_groups[0]["lr"]
        epochs.append(Epoch(number, 9.0, 0.5, loss, 0.5, 1.0))
        oracle.step(loss)
    assert Schedule(options, EPOCHS).rates(epochs) == found
    again = Schedule(options, EPOCHS)  # as after an interruption
    assert again.next(epochs) == ours.next(epochs) == optimizer.param_groups[0]["lr"] < 0.3


def test_a_plateau_begins_after_the_warm_up_and_without_validation_takes_the_training_loss() -> (
    None
):
    options = SGD(lr=0.3, schedule="plateau", warmup=2, patience=0, gamma=0.5)
    schedule = Schedule(options, EPOCHS)
    epochs: list[Epoch] = []
    found = []
    for number, loss in enumerate([1.0, 2.0, 3.0, 4.0], 1):
        found.append(schedule.next(epochs))
        epochs.append(Epoch(number, loss, 0.5, None, None, 1.0))
    assert [*found, schedule.next(epochs)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.15])


def test_a_sweep_over_schedules_writes_the_rates(tmp_path: Path) -> None:
    options = {"dataset": "boolean", "stopping.max_epochs": 4, "optimizer.lr": 0.4}
    schedules = {"optimizer.schedule": ["constant", "cosine", "step"], "optimizer.step_size": 1}
    nnlab.sweep(options | schedules, study="rates", output_dir=tmp_path)
    study = tmp_path / "rates"
    tables = {path.parent.name: pd.read_csv(path) for path in study.glob("*/metrics.csv")}
    rates = {name: table["lr"].tolist() for name, table in tables.items() if "lr" in table}
    cosine = (0.2 * (1 + np.cos(np.pi * np.arange(4) / 4))).tolist()
    assert rates == {
        "optimizer.schedule=cosine": pytest.approx(cosine, rel=1e-8),  # nine digits
        "optimizer.schedule=step": pytest.approx([0.4, 0.04, 0.004, 0.0004]),
    }
    assert len(tables) == 3
    curves = nnlab.curves(study)
    assert curves["lr"].isna().sum() == 4


def test_fit_has_the_rates_in_its_metrics() -> None:
    data = torch.eye(4), torch.arange(4)
    for options, columns in ((SGD(warmup=1), ["seconds", "lr"]), (SGD(), ["seconds"])):
        model = nnlab.mlp(4, [], 4, generator=torch.Generator().manual_seed(0))
        result = nnlab.fit(model, data, optimizer=options, max_epochs=2)
        assert list(result.metrics.columns[5:]) == columns


def test_rates_are_the_same_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "dataset": "boolean",
        "optimizer.schedule": "plateau",
        "optimizer.patience": 0,
        "optimizer.warmup": 2,
        "optimizer.lr": 2.0,
        "checkpoint.seconds": 0,
        "stopping.max_epochs": 12,
    }
    append = records.RunFolder.append

    def break_off(folder: records.RunFolder, row: Any) -> None:
        if row[0] == 8:
            raise KeyboardInterrupt
        append(folder, row)

    nnlab.sweep(options, study="whole", output_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(records.RunFolder, "append", break_off)
        with pytest.raises(KeyboardInterrupt):
            nnlab.sweep(options, study="broken", output_dir=tmp_path)
    nnlab.sweep(options, study="broken", output_dir=tmp_path)
    (expected,), (found,) = (
        [pd.read_csv(path) for path in tmp_path.glob(f"{study}/*/metrics.csv")]
        for study in ("whole", "broken")
    )
    assert "goes on after epoch 7" in next(tmp_path.glob("broken/*/run.log")).read_text()
    assert found["lr"].nunique() > 4
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
