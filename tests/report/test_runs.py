from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnlab import identity, network, study
from nnlab.report import run_folders, runs, summary, summary_notes
from tests.report.studies import DIVERGED, FAILED, curves, lay
from tests.test_runs import as_nobody


def names(folder: Path) -> list[str]:
    return [run.name for run in run_folders.read(folder)]


def test_runs_are_ordered_by_number_not_as_text(tmp_path: Path) -> None:
    for size in (2000, 500, 10_000, 1000):
        lay(tmp_path, {"train_size": size})
    expected = ["train_size=500", "train_size=1000", "train_size=2000", "train_size=10000"]
    assert names(tmp_path) == expected


def test_every_field_is_read(tmp_path: Path) -> None:
    folder = lay(tmp_path, {"train_size": 1000}, epochs=2, train_seconds=0.5)
    (run,) = run_folders.read(tmp_path)
    assert (run.folder, run.name, run.status) == (folder, "train_size=1000", "finished")
    assert (run.stop_reason, run.error, run.epochs) == ("reached max_epochs=2", None, 2)
    assert (run.train_seconds, run.test_loss, run.test_accuracy) == (0.5, 0.5, 0.847)
    assert (run.weights_of_epoch, run.synthetic, run.reading) == (2, False, None)
    assert (run.weights, run.parameters, run.full_size) == (109184, 109386, 60000)
    assert (run.engine, run.device) == ("native", "AMD EPYC")
    assert (run.inputs, run.outputs) == (784, 10)
    expected = {
        "epoch": [1, 2],
        "train_loss": [2, 1],
        "train_accuracy": [0.5, 0.75],
        "valid_loss": [np.nan, np.nan],
        "valid_accuracy": [np.nan, np.nan],
        "seconds": [0.25, 0.5],
    }
    assert set(run.curves) == set(expected)
    for column, values in expected.items():
        np.testing.assert_array_equal(run.curves[column], values, err_msg=column)
    assert run.last("train_loss") == 1
    assert run.last("valid_loss") is None


def test_runs_of_a_table_are_those_that_were_read(tmp_path: Path) -> None:
    """Also of several kinds, and after they went to another process."""
    validated = curves([1, 0.5, 0.4, 0.6, 0.7, 0.8, 0.9, 1.1])
    lay(tmp_path, {"seed": 0, "optimizer": "adam"}, overrides=["seed=0", "optimizer=adam"])
    lay(tmp_path, {"seed": 2**70, "valid_size": 50}, rows=validated, epochs=8, overrides=["seed=0"])
    lay(tmp_path, {"seed": 1}, rows="", right={"test": np.array([True, False, True])})
    lay(tmp_path, {"model.hidden": [3]}, rows="1,2,0,,,1\n", **DIVERGED)
    lay(tmp_path, {"seed": 4}, **FAILED)
    found = run_folders.read(tmp_path)
    assert len(found) == 5
    for run in (*found, *pickle.loads(pickle.dumps(found))):
        whole = run_folders.read_run(run.folder)
        whole.settings["data"] = run.settings["data"]  # which is named among others
        names = [each.name for each in dataclasses.fields(runs.RunRecord)]
        names += ["reading", "still_falls", "last_epoch", "knows_right", "computed", "complete"]
        for name in names:
            one, other = getattr(run, name), getattr(whole, name)
            if name == "curves":
                one, other = (
                    {key: list(map(repr, v)) for key, v in c.items()} for c in (one, other)
                )
            assert type(one) is type(other) or isinstance(one, Mapping), name
            assert one == other, name


def test_settings_are_spelled_as_on_the_command_line(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": None, "optimizer": "adam", "model.hidden": []})
    (run,) = run_folders.read(tmp_path)
    assert run.settings["optimizer"] == "adam"
    assert run.settings["optimizer.lr"] == 0.01
    assert run.settings["model.hidden"] == ()
    # What was really used, where the configuration leaves it open.
    assert run.settings["train_size"] == 60000
    assert (run.settings["device"], run.settings["engine"]) == ("AMD EPYC", "native")
    assert not {key.partition(".")[0] for key in run.settings} & set(identity.NOT_IDENTITY)


def test_varied_puts_size_first_and_seed_last(tmp_path: Path) -> None:
    for seed, lr, size in ((0, 0.1, 500), (1, 0.1, 1000), (0, 0.2, 500)):
        lay(tmp_path, {"seed": seed, "optimizer.lr": lr, "train_size": size})
    assert runs.varied(run_folders.read(tmp_path)) == ["train_size", "optimizer.lr", "seed"]


def test_folds_share_their_sizes_and_are_repeats_as_seeds_are(tmp_path: Path) -> None:
    """Of 11 and of 22 examples in three folds, which the runs were dealt."""
    for examples in (11, 22):
        for fold in range(3):
            valid = len(range(examples)[fold::3])
            options = {"train_size": examples - valid, "valid_size": valid}
            folder = lay(tmp_path, options | {"folds": 3, "fold": fold}, name=f"{examples},{fold}")
            content = json.loads((folder / "result.json").read_text())
            content["config"] |= {"train_size": examples, "valid_size": 0}
            (folder / "result.json").write_text(json.dumps(content))
    found = run_folders.read(tmp_path)
    sizes = [(run.settings["train_size"], run.settings["valid_size"]) for run in found]
    assert sizes == [(7, 4)] * 3 + [(14, 8)] * 3
    assert runs.factors(found) == ["train_size", "fold"]
    assert runs.repeats(found) == "folds"
    for seed in (1, 2):
        lay(tmp_path, {"folds": 3, "fold": 0, "seed": seed}, name=f"seed {seed}")
    assert runs.repeats(run_folders.read(tmp_path)) == "runs"
    lay(tmp_path, {"train_size": 7}, name="of an nnlab without folds")
    assert "folds" in runs.factors(run_folders.read(tmp_path))


def test_a_failed_run_without_engine_and_device_does_not_vary_them(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": 500})
    lay(tmp_path, {"train_size": 1000}, **FAILED)
    assert runs.varied(run_folders.read(tmp_path)) == ["train_size"]


def test_engines_and_devices_vary_by_what_was_used(tmp_path: Path) -> None:
    lay(tmp_path, {"engine": "auto"}, device={"name": "Tesla T4"})
    lay(tmp_path, {"engine": "native"})
    assert runs.varied(run_folders.read(tmp_path)) == ["device"]


def test_runs_that_are_known_already_are_named_again_alike(tmp_path: Path) -> None:
    for seed, content in enumerate(("a1", "b2")):
        lay(tmp_path, {"seed": seed}, dataset={"source": "sample", "content": content})
    known = {folder: run_folders.read_run(folder) for folder in tmp_path.iterdir()}
    named = [run.settings["data"] for run in run_folders.read(tmp_path, known.__getitem__)]
    assert sorted(map(str, named)) == ["sample (a1)", "sample (b2)"]
    assert [run.settings["data"] for run in run_folders.read(tmp_path, known.__getitem__)] == named


def test_what_a_choice_brings_along_is_no_factor(tmp_path: Path) -> None:
    for name, lr in (("sgd", 0.01), ("adam", 0.001)):
        for size in (500, 1000):
            options = {"optimizer": name, "optimizer.lr": lr, "train_size": size}
            lay(tmp_path, options)
    read = run_folders.read(tmp_path)
    assert runs.varied(read) == ["train_size", "optimizer", "optimizer.lr"]
    assert runs.factors(read) == ["train_size", "optimizer"]
    lay(tmp_path, {"optimizer": "adam", "optimizer.lr": 0.01, "train_size": 500})
    assert runs.factors(run_folders.read(tmp_path)) == ["train_size", "optimizer", "optimizer.lr"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "\x00\x00",
        '{"status": "finished"}',
        '{"status": "finished", "config": {}, "epochs": "many"}',
        '{"status": "finished", "config": {}, "epochs": 6.0}',
        '{"status": "finished", "config": {}, "epochs": 6, "weights_of_epoch": 1e300}',
        '{"status": "finished", "config": {}, "epochs": 10000000000000000}',
        '{"status": "finished", "config": {}, "dataset": "mnist"}',
        '{"status": "finished", "config": {}, "dataset": {"shape": 784}}',
        '{"status": "finished", "config": {}, "dataset": {"classes": [[1], "a"]}}',
        '{"status": "finished", "config": {}, "sha256": true}',
        '{"status": "finished", "config": {"optimizer": {"momentum": 1%s}}}' % (400 * "0"),
    ],
)
def test_a_damaged_result_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    lay(tmp_path, {"train_size": 500})
    damaged = lay(tmp_path, {"train_size": 1000}) / "result.json"
    damaged.write_text(text)
    with caplog.at_level(logging.WARNING, logger="nnlab"):
        assert names(tmp_path) == ["train_size=500"]
    assert [record.name for record in caplog.records] == ["nnlab"]
    assert str(damaged) in caplog.text


def test_a_run_that_cannot_be_entered_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"train_size": 500})
    locked = lay(tmp_path, {"train_size": 1000})
    assert len(names(tmp_path)) == 2  # and all is imported, which may be root's
    locked.chmod(0)
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)  # what is above is root's
    with as_nobody():
        found, left_out = run_folders.read_all(Path())
    locked.chmod(0o700)
    assert [run.name for run in found] == ["train_size=500"]
    assert left_out == ["train_size=1000"]
    assert "left out train_size=1000/result.json: [Errno 13] Permission denied" in caplog.text


def test_bytes_that_are_no_text_are_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path, {"train_size": 500})
    (lay(tmp_path, {"train_size": 1000}) / "result.json").write_bytes(b"\xff\xfe\xff")
    assert names(tmp_path) == ["train_size=500"]
    assert "train_size=1000" in caplog.text


ROW = "1,2.0,0.5,,,0.1\n"


@pytest.mark.parametrize(
    "rows",
    ["1,2,3\n4,5,6\n", "1,two,0.5,,,0.1\n", ROW + ROW, f"{ROW}3{ROW[1:]}", f"nan{ROW[1:]}"],
)
def test_damaged_metrics_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: str
) -> None:
    lay(tmp_path, {"train_size": 500})
    lay(tmp_path, {"train_size": 1000}, rows=rows)
    assert names(tmp_path) == ["train_size=500"]
    assert "train_size=1000" in caplog.text


def test_a_row_still_being_written_is_left_out(tmp_path: Path) -> None:
    folder = lay(tmp_path, rows="1,2.0,0.5,,,0.1\n2,1.5,0.")
    np.testing.assert_array_equal(run_folders.read_curves(folder, {})["epoch"], [1])


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    folder = lay(tmp_path)
    path = folder / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(
        run_folders.read_curves(path.parent, {})["train_loss"], [2, 1, 2 / 3]
    )


def test_missing_metrics_are_no_epochs(tmp_path: Path) -> None:
    folder = lay(tmp_path, **FAILED)
    (folder / "metrics.csv").unlink()
    (run,) = run_folders.read(tmp_path)
    assert (run.epochs, run.train_seconds, run.last("train_loss")) == (0, 0, None)
    assert not run.complete


@pytest.mark.parametrize("known", [{"epochs": None, "train_seconds": None}, {"epochs": 1}])
def test_a_running_run_counts_the_epochs_on_disk(tmp_path: Path, known: dict[str, None]) -> None:
    path = lay(tmp_path, epochs=3, train_seconds=0.75, status="running") / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | known))
    (run,) = run_folders.read(tmp_path)
    assert (run.epochs, run.train_seconds, run.complete) == (3, 0.75, False)


def test_a_failed_run_may_know_nothing_of_itself(tmp_path: Path) -> None:
    path = lay(tmp_path, epochs=2, train_seconds=0.5) / "result.json"
    config = json.loads(path.read_text())["config"]
    path.write_text(json.dumps({"status": "failed", "error": "KeyError: 1", "config": config}))
    (run,) = run_folders.read(tmp_path)
    assert (run.name, run.epochs, run.train_seconds) == ("default", 2, 0.5)
    assert (run.error, run.engine, run.device, run.full_size) == ("KeyError: 1", None, None, None)
    assert (run.test_accuracy, run.weights) == (None, None)
    assert (run.inputs, run.outputs) == (None, None)
    assert (run.weights_of_epoch, run.synthetic) == (None, False)


def test_infinite_and_missing_losses_are_kept_as_such(tmp_path: Path) -> None:
    lay(tmp_path, rows="1,inf,0.1,,,0.1\n2,nan,0.1,,,0.2\n", **DIVERGED)
    (run,) = run_folders.read(tmp_path)
    np.testing.assert_array_equal(run.curves["train_loss"], [np.inf, np.nan])


def test_a_folder_without_runs_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        run_folders.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no runs$"):
        run_folders.read(tmp_path)
    folder = lay(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"it is a run itself, give {tmp_path}$"):
        run_folders.read(folder)


def test_a_dataset_may_bring_its_own_validation_split(tmp_path: Path) -> None:
    dataset = {"sizes": {"train": 7665, "valid": 2000, "test": 500}, "synthetic": True}
    lay(tmp_path, {"seed": 0, "valid_size": None}, dataset=dataset)
    lay(tmp_path, {"seed": 1, "valid_size": 2000}, dataset=dataset)
    lay(tmp_path, {"seed": 2, "valid_size": None}, dataset=None, **FAILED)
    read = run_folders.read(tmp_path)
    found = {run.settings["seed"]: (run.settings["valid_size"], run.synthetic) for run in read}
    assert found == {0: (2000, True), 1: (2000, True), 2: (None, False)}
    assert "valid_size" not in runs.varied(read)


def test_curves_are_read_with_the_size_of_the_validation_split(tmp_path: Path) -> None:
    # Validation accuracy falls by no more than half an example of three.
    falling = "".join(f"{e},{2 / e},0.9,{3 - e / 999},{0.8 - e / 999},{e}\n" for e in range(1, 13))
    lay(tmp_path, {"valid_size": 3}, epochs=12, rows=falling)
    lay(tmp_path, {"valid_size": 1000}, epochs=12, rows=falling)
    few, many = [run.reading for run in run_folders.read(tmp_path)]
    assert few is not None
    assert many is not None
    assert (few.best_epoch, few.learned_until) == (12, None)
    assert (many.best_epoch, many.learned_until) == (12, 1)


def test_one_run_under_two_names_counts_once(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    lay(tmp_path, {"train_size": 500})  # what the default is
    lay(tmp_path, {"seed": 1})
    found = run_folders.distinct(run_folders.read(tmp_path))
    assert sorted(run.settings["seed"] for run in found) == [0, 1]  # type: ignore[type-var]
    assert len(run_folders.read(tmp_path)) == 3


WRONG: tuple[Any, ...] = (
    *("x", -1, True, None, 2**70, 10**400, float("inf"), float("nan")),
    *([], [None], [{}], [[1]], {}, {"a": {"b": [{}]}}),
)


def paths(tree: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))


def test_values_of_another_kind_are_reported_or_left_out(tmp_path: Path) -> None:
    """Of a result without a checksum, as earlier versions have it."""
    for seed in (0, 1, 2):
        lay(tmp_path, {"seed": seed, "train_size": 500 * (seed + 1)})
    file = tmp_path / "seed=0,train_size=500" / "result.json"
    text = file.read_text()
    for path in paths(json.loads(text)):
        for wrong in WRONG:
            changed = json.loads(text)
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = wrong
            file.write_text(json.dumps(changed))
            found = run_folders.distinct(run_folders.read(tmp_path))
            assert len(list(summary.rows(found))) == len(found) in (2, 3)
            summary.table(found)
            summary_notes.notes(found)
            study.Study(tmp_path).look()
            with contextlib.suppress(ValueError):
                network.load(file.parent)
