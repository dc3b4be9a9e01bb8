"""A run is what it computes and on which data, whatever its folder is called."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save

from nnlab import seeds, study
from tests.conftest import Run
from tests.test_run import result

QUICK = ("stopping.max_epochs=2", "test_size=100")


def runs(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/result.json")}


def trained_at(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}


def test_a_run_is_found_under_any_name(tmp_path: Path, run: Run) -> None:
    mnist = tmp_path / "outputs" / "mnist"
    run("train_size=40,60", *QUICK)
    before = trained_at(mnist)

    said = run("train_size=60", *QUICK)
    assert "default is train_size=60" in said
    assert "already done: 1 of 1" in said
    # Constants named or not, in any order, and options that change no number.
    for command in (
        ["train_size=60,40", "seed=0"],
        ["train_size=40,60", "batch_size=10", "seed=0"],
        ["train_size=40", "evaluation=[hardest]", "hardest.per_class=1"],
        ["train_size=40", "objective=test_loss", "threads=2", "device=cpu"],
        ["train_size=40", "engine=" + result(mnist / "train_size=40")["engine"]],
        ["train_size=40", "seed=7", "seeds.data=0", "seeds.weights=0", "seeds.order=0"],
        ["train_size=40", "dataset.source=bundled"],
        ["train_size=40", "hydra/launcher=basic"],
    ):
        run(*command, *QUICK)
        assert trained_at(mnist) == before, command
    # The question went to the run that was there.
    assert (mnist / "train_size=40" / "confusion.csv").is_file()

    table = pd.read_csv(mnist / "summary.csv")
    assert sorted(table["folder"]) == ["train_size=40", "train_size=60"]
    assert not (mnist / "default").exists()


def test_two_names_for_one_run_in_one_sweep_train_it_once(tmp_path: Path, run: Run) -> None:
    said = run("dataset.source=auto,bundled", "train_size=40", *QUICK)
    mnist = tmp_path / "outputs" / "mnist"
    assert runs(mnist) == {"dataset.source=auto"}
    assert "dataset.source=bundled is dataset.source=auto" in said
    assert len(pd.read_csv(mnist / "summary.csv")) == 1


def test_what_computes_with_something_else_is_another_run(tmp_path: Path, run: Run) -> None:
    run("engine=torch,auto", "train_size=40", *QUICK)
    mnist = tmp_path / "outputs" / "mnist"
    used = {result(mnist / name)["engine"] for name in runs(mnist)}
    assert len(runs(mnist)) == len(used)  # without a compiler auto is torch
    said = run("engine=torch", "threads=2", "train_size=40", *QUICK)
    assert "already done" not in said


def test_force_trains_the_run_anew_where_it_is(tmp_path: Path, run: Run) -> None:
    mnist = tmp_path / "outputs" / "mnist"
    run("train_size=40,60", *QUICK)
    before = trained_at(mnist)
    run("train_size=60", "force=true", *QUICK)
    after = trained_at(mnist)
    assert runs(mnist) == {"train_size=40", "train_size=60"}
    assert after["train_size=40"] == before["train_size=40"]
    assert after["train_size=60"] > before["train_size=60"]


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """A DogSet of three breeds, four images each of two partitions."""
    folder = tmp_path / "dogs"
    (folder / "images").mkdir(parents=True)
    random, lines = np.random.default_rng(0), ["filename,semantic_label,numeric_label,partition"]
    for number in range(24):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        part = "train" if number < 12 else "test"
        lines.append(f"{number}.png,breed {number % 3},{number % 3},{part}")
    (folder / "dogs.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_changed_data_are_not_those_that_a_run_saw(dogs: Path, tmp_path: Path, run: Run) -> None:
    command = ("dataset=dogset", f"dataset.folder={dogs}", "valid_size=0", *QUICK[:1])
    folder = tmp_path / "outputs" / "dogset" / "default"
    run(*command)
    first = result(folder)
    assert "already done: 1 of 1" in run(*command)

    table = dogs / "dogs.csv"
    table.write_text(table.read_text().replace("0.png,breed 0,0", "0.png,breed 1,1", 1))
    for options in ([], ["evaluation=[hardest]"], ["hydra/launcher=basic"]):
        said = run(*command, *options, status=1)
        assert f"{Path('outputs/dogset/default')} is this run, but saw other data" in said
        assert "force=true" in said
    assert result(folder) == first

    # Another seed is trained, and never averaged with the first.
    said = run(*command, "seed=1,2")
    assert "Not all runs saw the same data" in said
    found = pd.read_csv(folder.parent / "summary.csv")
    assert found["data"].nunique() == 2
    assert "3 " not in said.partition("epochs")[2].partition("Not all")[0].partition("n ")[0]

    run(*command, "force=true")
    assert result(folder)["dataset"]["content"] != first["dataset"]["content"]

    # One pixel of one image, its size and time of change kept.
    image = dogs / "images" / "5.png"
    known = image.stat()
    pixels = np.asarray(Image.open(image)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(image)
    assert "saw other data" in run(*command, status=1)
    assert image.stat().st_ino == known.st_ino


@pytest.mark.slow
def test_a_run_of_other_random_numbers_is_no_answer(tmp_path: Path, run: Run) -> None:
    """An earlier nnlab drew others from the same seed: the same command would find otherwise."""
    mnist = tmp_path / "outputs" / "mnist"
    command = ("train_size=40,50", *QUICK)
    run(*command)
    assert result(mnist / "train_size=40")["random_numbers"] == seeds.RANDOM_NUMBERS
    for folder in (mnist / "train_size=40", mnist / "train_size=50"):
        record = result(folder)
        del record["random_numbers"], record["checksum"]
        (folder / "result.json").write_text(json.dumps(record))
    before = trained_at(mnist)
    for options in ([], ["hydra/launcher=basic"]):
        said = run(*command, *options, status=1)
        assert f"{Path('outputs/mnist/train_size=40')} is this run, but of an earlier nnlab" in said
        assert "give it another study=NAME, or train it anew with force=true" in said
        assert trained_at(mnist) == before
    run(*command, "study=another")

    # Another seed is trained, and never averaged with them; what there was is still reported.
    run("train_size=40", "seed=1", *QUICK)
    found = pd.read_csv(mnist / "summary.csv").set_index("seed")
    assert found.loc[0, "random_numbers"].tolist() == [1, 1]
    assert found.loc[1, "random_numbers"] == seeds.RANDOM_NUMBERS
    assert pd.read_csv(mnist / "cells.csv")["runs"].tolist() == [1, 1, 1]

    run(*command, "force=true")
    assert result(mnist / "train_size=40")["random_numbers"] == seeds.RANDOM_NUMBERS
    assert "already done: 2 of 2" in run(*command)


def test_a_run_that_an_earlier_version_left_unfinished_begins_anew(
    tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "outputs" / "mnist" / "default"
    run("train_size=40", *QUICK)
    record = result(folder)
    for key in ("random_numbers", "checksum", "sha256"):
        del record[key]
    (folder / "result.json").write_text(json.dumps(record | {"status": "interrupted"}))
    older = {"epochs": [], "rule": {}, "status": "running", "stop_reason": "", "identity": {}}
    (folder / ".checkpoint.safetensors").write_bytes(save({}, {"state": json.dumps(older)}))
    assert "already done" not in run("train_size=40", *QUICK)
    assert result(folder)["status"] == "finished"
    assert "continued" not in result(folder)


def test_other_folders_of_data_are_other_runs(dogs: Path, tmp_path: Path, run: Run) -> None:
    other = tmp_path / "more"
    shutil.copytree(dogs, other)
    image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    image.save(other / "images" / "3.png")
    command = ("dataset=dogset", "model.hidden=[4]", "valid_size=0", *QUICK[:1])
    run(*command, f"dataset.folder={dogs},{other}")
    assert len(runs(tmp_path / "outputs" / "dogset")) == 2
    # The same files elsewhere are the same data.
    moved = dogs.rename(tmp_path / "moved")
    said = run(*command, f"dataset.folder={moved}")
    assert "already done: 1 of 1" in said
    # And where there are none, what was asked for cannot be told from what there was.
    shutil.rmtree(moved)
    run(*command, f"dataset.folder={moved}", status=1)


def test_official_files_that_appear_are_other_data(tmp_path: Path, run: Run) -> None:
    """Official files that appear are other data than the bundled sample."""
    official = Path(__file__).parents[2] / "shared" / "data" / "mnist"
    if not official.is_dir():
        pytest.skip("needs the official files")
    run("train_size=40", *QUICK)
    shutil.copytree(official, tmp_path / "data" / "mnist")
    said = run("train_size=40", *QUICK, status=1)
    assert "saw other data than there are now (official mnist files in data/mnist)" in said
    assert "already done" in run("train_size=40", "dataset.source=bundled", *QUICK)


def test_the_index_is_a_help_and_never_the_truth(tmp_path: Path, run: Run) -> None:
    mnist = tmp_path / "outputs" / "mnist"
    run("seed=0,1", "train_size=40", *QUICK)
    index = mnist / study.INDEX
    lines = index.read_text().splitlines()
    head, first, second = map(json.loads, lines)
    assert {entry["folder"] for entry in (first, second)} == {"seed=0", "seed=1"}
    for each in (head, first):
        del each["checksum"]

    def of(*changed: object) -> str:
        return "\n".join([*map(json.dumps, changed), *lines[len(changed) :]])

    damaged = ["", "{", "[]", json.dumps({"nnlab": "0"}), of(head, 1), *lines, "\n".join(lines[:2])]
    damaged += ["\n".join([lines[0], "", *lines[1:]]), lines[0] + "\n" + lines[1][:-9]]
    wrongs: list[dict[str, object]] = [{"commands": None}, {"commands": [[1]]}, {"stamp": 3}]
    for wrong in [*wrongs, {"result": []}, {"result": {}}]:
        damaged.append(of(head, first | wrong))
    damaged.append(of(head | {"report": {"of": 1, "files": [2]}}))
    damaged.append(of(head | {"report": []}))
    damaged.append("\n".join([lines[0], "[" * 10_000, *lines[1:]]))
    known = {entry.folder: entry.result for entry in study.Study(mnist).entries.values()}
    for damage in damaged:
        index.write_text(damage)
        runs = study.Study(mnist)  # as in a process of its own
        runs.look()
        assert {entry.folder: entry.result for entry in runs.entries.values()} == known
    study._known.cache_clear()
    assert "already done: 2 of 2" in run("seed=0,1", "train_size=40", *QUICK)
    # A run that is gone, or changed, since the index was written.
    shutil.rmtree(mnist / "seed=1")
    assert "already done: 1 of 2" in run("seed=0,1", "train_size=40", *QUICK)
    changed = result(mnist / "seed=0") | {"status": "running"}
    del changed["checksum"]
    (mnist / "seed=0" / "result.json").write_text(json.dumps(changed))
    assert "already done: 1 of 2" in run("seed=0,1", "train_size=40", *QUICK)


def test_a_refused_command_is_refused_again(tmp_path: Path, run: Run) -> None:
    """The run whose folder it would have is another one, and no answer to it."""
    mnist = tmp_path / "outputs" / "mnist"
    run("seed=0,1", "train_size=40", *QUICK)
    before = {path: path.read_bytes() for path in mnist.glob("*/result.json")}
    for _ in range(2):
        said = run("seed=0,1,2", "train_size=40", "optimizer.lr=0.5", *QUICK, status=1)
        assert "seed=0 holds a run with optimizer.lr=0.01; this one has optimizer.lr=0.5" in said
    assert {path: path.read_bytes() for path in before} == before
    assert "already done: 2 of 2" in run("seed=0,1", "train_size=40", *QUICK)
    # Nor where another command has replaced the run since.
    run("seed=0,1", "train_size=40", "optimizer.lr=0.5", "force=true", *QUICK)
    said = run("seed=0,1", "train_size=40", *QUICK, status=1)
    assert "seed=0 holds a run with optimizer.lr=0.5; this one has optimizer.lr=0.01" in said


@pytest.mark.slow
def test_what_is_derived_is_made_again_where_it_is_missing_or_old(tmp_path: Path, run: Run) -> None:
    mnist = tmp_path / "outputs" / "mnist"
    command = ("train_size=40,60", *QUICK)
    run(*command)
    made = ("summary.csv", "accuracy.png", "loss.png", "train_time.png", "index.html")
    times = {name: (mnist / name).stat().st_mtime_ns for name in made}
    run(*command)
    assert {name: (mnist / name).stat().st_mtime_ns for name in made} == times
    for name in made:
        (mnist / name).unlink()
        run(*command)
        assert (mnist / name).is_file()
    # As if Ctrl-C had come while figures were drawn: the runs are newer than their report.
    again = result(mnist / "train_size=40") | {"test_accuracy": 0.125}
    del again["checksum"]
    time.sleep(0.01)
    (mnist / "train_size=40" / "result.json").write_text(json.dumps(again))
    run(*command)
    assert 0.125 in pd.read_csv(mnist / "summary.csv")["test_accuracy"].tolist()
    shutil.rmtree(mnist / "train_size=40")
    run("train_size=60", *QUICK)
    assert len(pd.read_csv(mnist / "summary.csv")) == 1


def test_studies_of_one_command_are_apart(tmp_path: Path, run: Run) -> None:
    run("study=a,b", "seed=0,1", "train_size=40", *QUICK)
    for name in ("a", "b"):
        study_folder = tmp_path / "outputs" / name
        assert len(runs(study_folder)) == 2
        assert len(pd.read_csv(study_folder / "summary.csv")) == 2
        assert (study_folder / "index.html").is_file()


def test_other_test_images_are_a_setting(tmp_path: Path, run: Run) -> None:
    run("seed=0,1", "train_size=40", *QUICK)
    assert "the same for every seed" in run("seed=0,1", "train_size=40", *QUICK)
    said = run("seed=2,3", "seeds.test=5", "train_size=40", *QUICK)
    assert "others for each seeds.test" in said
    table = pd.read_csv(tmp_path / "outputs" / "mnist" / "summary.csv")
    assert table.groupby("seeds.test")["seed"].apply(list).to_dict() == {0: [0, 1], 5: [2, 3]}


def test_rows_go_by_what_was_read_and_used(dogs: Path, tmp_path: Path, run: Run) -> None:
    command = ("dataset=dogset", "model.hidden=[4]", "valid_size=0", "engine=auto", *QUICK[:1])
    shutil.copytree(dogs, tmp_path / "copy")
    run(*command, f"dataset.folder={dogs}", "seed=0,1")
    run(*command, "dataset.folder=copy", "seed=2,3", "threads=2")
    table = pd.read_csv(tmp_path / "outputs" / "dogset" / "summary.csv")
    assert sorted(table["seed"]) == [0, 1, 2, 3]
    varied = set(table.columns[: table.columns.get_loc("status")]) - {"name", "seed"}
    assert varied <= {"threads"}  # which counts on the torch engine, where there is no compiler


def test_a_lost_picture_of_the_only_run_is_drawn_again(tmp_path: Path, run: Run) -> None:
    command = ("train_size=40", *QUICK)
    run(*command)
    run(*command, "seed=1,2")
    picture = tmp_path / "outputs" / "mnist" / "default" / "curves.png"
    picture.unlink()
    run(*command)
    assert picture.is_file()


def test_names_of_one_truth_table_are_one_run(tmp_path: Path, run: Run) -> None:
    run("dataset=boolean", "model=perceptron", "dataset.function=xor,0110,parity", "seed=0,1")
    assert len(runs(tmp_path / "outputs" / "boolean")) == 1


def test_data_that_can_no_longer_be_read_are_not_those_that_a_run_saw(dogs: Path, run: Run) -> None:
    command = ("dataset=dogset", f"dataset.folder={dogs}", "valid_size=0", "model.hidden=[4]")
    run(*command, *QUICK[:1])
    table = dogs / "dogs.csv"
    good = table.read_text()
    # A label alone: its breed has another one in other rows.
    table.write_text(good.replace("0.png,breed 0,0", "0.png,breed 0,1", 1))
    said = run(*command, *QUICK[:1], status=1)
    assert "contradicts" in said
    assert "already done" not in said
    table.write_text(good)
    (dogs / "images" / "5.png").write_bytes(b"no image")
    assert "5.png cannot be read" in run(*command, *QUICK[:1], status=1)
    # Data that are gone have not changed.
    shutil.rmtree(dogs)
    said = run(*command, *QUICK[:1])
    assert "already done: 1 of 1" in said
    assert "cannot tell whether the data have changed" in said


@pytest.mark.parametrize("dataset", ["table", "arrays"])
def test_files_that_are_gone_have_not_changed(dataset: str, tmp_path: Path, run: Run) -> None:
    if dataset == "table":
        file = tmp_path / "t.csv"
        file.write_text("x,kind\n" + "1,a\n2,b\n" * 20)
        command = [f"dataset.file={file}", "dataset.label=kind"]
    else:
        file = tmp_path / "a.npz"
        np.savez(file, x=np.arange(40.0).reshape(-1, 1), y=np.arange(40) % 2)
        command = [f"dataset.file={file}"]
    options = (f"dataset={dataset}", *command, "stopping.max_epochs=1", "model.hidden=[]")
    run(*options)
    file.unlink()
    said = run(*options)
    assert "already done: 1 of 1" in said
    assert "cannot tell whether the data have changed" in said
    assert "there is no file" in run(*options, "study=other", status=1)


def test_a_damaged_official_file_is_told_before_a_run_counts_as_done(
    tmp_path: Path, run: Run
) -> None:
    official = Path(__file__).parents[2] / "shared" / "data" / "mnist"
    if not official.is_dir():
        pytest.skip("needs the official files")
    shutil.copytree(official, tmp_path / "data" / "mnist")
    run("train_size=40", *QUICK)
    file = tmp_path / "data" / "mnist" / "train-labels-idx1-ubyte.gz"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"{Path('data/mnist/train-labels-idx1-ubyte.gz')} is damaged" in run(
        "train_size=40", *QUICK, status=1
    )
