"""A damaged file of a study is an error that names it, or its run is trained anew."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import nnlab
from nnlab import checkpoint, records
from nnlab.checkpoint import Checkpoint
from tests.reliability import warm
from tests.reliability.studies import Ended, content_of, content_of_run, runs_of, table_of

COMMAND = (
    *("train_size=50,60", "valid_size=20", "test_size=100", "model.hidden=[8]"),
    *("stopping=patience", "stopping.patience=3", "stopping.max_epochs=12", "study=s"),
)
BEGUN = (*COMMAND, "train_size=50,60,70")  # the last of which is not at its end
KINDS = (
    *("truncated", "flipped", "rotten", "emptied", "removed", "swapped", "random bytes"),
    *("folder", "pipe", "dangling link", "link to another file"),
)
FILES = 4  # of a study, that are damaged at a time
KEPT = b"what a link in a study points to\n"


class Base(NamedTuple):
    """A study to be damaged, and what its files and its table are when all is trained."""

    folder: Path
    content: dict[str, Any]
    weights: dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    done = warm.run(*BEGUN, cwd=folder)
    assert done.status == 0, done.said
    study = folder / "outputs" / "s"
    content = content_of(study)
    weights = {run.name: load_file(run / records.WEIGHTS) for run in runs_of(study)}
    shutil.rmtree(study)
    assert warm.run(*COMMAND, cwd=folder).status == 0
    leave_half_trained(folder, study / "train_size=70")
    return Base(folder, content, weights)


def leave_half_trained(cwd: Path, run: Path) -> None:
    """Make a run's folder as a kill leaves it, with a checkpoint: stopped by an epoch's end."""
    half = [argument for argument in BEGUN if not argument.startswith("train_size")]
    code = (*half, "train_size=70,71", "checkpoint.seconds=0")
    interrupted(cwd, *code)
    assert (run / records.CHECKPOINT).is_file()
    shutil.rmtree(run.parent / "train_size=71", ignore_errors=True)


def interrupted(cwd: Path, *arguments: str) -> None:
    process = warm.server.Process(target=stop_after_five, args=(arguments, cwd))
    process.start()
    process.join()
    assert process.exitcode == 9


def stop_after_five(arguments: tuple[str, ...], cwd: Path) -> None:
    """Be a command that is killed after the fifth epoch of a run of 70 images."""
    save = checkpoint.save

    def save_and_die(path: Path, checkpoint: Checkpoint) -> None:
        save(path, checkpoint)
        if path.parent.name == "train_size=70" and len(checkpoint.epochs) == 5:
            os._exit(9)

    checkpoint.save = save_and_die
    warm.be("nnlab.run", arguments, cwd, cwd, draw=False)


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Damage a file, which is there."""
    content, status = path.read_bytes(), path.stat()
    if kind in ("flipped", "rotten"):
        if not content:
            return
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        if kind == "rotten":  # by the disk: no time of the file tells
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif kind == "truncated":
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "random bytes":
        path.write_bytes(chance.randbytes(chance.randrange(1, 2000)))
    elif kind == "swapped":
        swap(path, chance)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
            (path / "note.txt").write_text("somebody's")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "dangling link":
            path.symlink_to(path.parent / "nowhere" / "at all")
        elif kind == "link to another file":
            path.symlink_to(kept_file(path))


def kept_file(path: Path) -> Path:
    """Return the file outside the study that a link in it points to."""
    outputs = next(parent for parent in path.parents if parent.name == "outputs")
    kept = outputs.parent / "kept.txt"
    kept.write_bytes(KEPT)
    return kept


def swap(path: Path, chance: random.Random) -> None:
    """Exchange a file with that of the same name in another run."""
    run = path.parent if path.parent.name != ".hydra" else path.parent.parent
    found = [other / path.relative_to(run) for other in runs_of(run.parent) if other != run]
    others = [other for other in found if other.is_file() and not other.is_symlink()]
    if run.name.startswith("train_size=") and others:
        other = chance.choice(others)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)


def files_of(study: Path) -> list[Path]:
    return sorted(path for path in study.rglob("*") if path.is_file())


def fits(shown: dict[str, str], expected: list[dict[str, str]]) -> bool:
    """Say whether a row of a table is one of a finished run, or of one that has not ended.

    A result may have come from another folder with its metrics: it is that of its own run.
    """
    if shown["status"] in ("running", "failed"):
        return True
    told = {key: value for key, value in shown.items() if key != "folder"}
    return any(all(row.get(key, value) == value for key, value in told.items()) for row in expected)


def check(seed: int, base: Base, folder: Path) -> None:
    """Damage four files in a copy of a study; then look at it in every way that there is."""
    chance = random.Random(seed)
    shutil.copytree(base.folder, folder, symlinks=True)
    study = folder / "outputs" / "s"
    damaged = {path: chance.choice(KINDS) for path in chance.sample(files_of(study), FILES)}
    for path, kind in damaged.items():
        if path.is_file() and not path.is_symlink():  # a swap may have been there first
            damage(path, kind, chance)
    said = ", ".join(f"{path.relative_to(study)} {kind}" for path, kind in damaged.items())
    note = f"{said} (seed {seed})"
    steps = [look_by_loading, look_by_command, look_by_report]
    if chance.random() < 0.3:
        steps.reverse()
    for step in steps:
        step(study, damaged, note, base)
    if (folder / "kept.txt").exists():
        assert (folder / "kept.txt").read_bytes() == KEPT, note
    shutil.rmtree(folder)


def look_by_command(study: Path, damaged: dict[Path, str], note: str, base: Base) -> None:
    done = warm.run(*BEGUN, cwd=study.parents[1], draw=False)
    about = f"{note}\n{done.said}"
    assert "Traceback" not in done.said, about
    if done.status == 0:
        assert table_of(study) == base.content["summary.csv"], about
        rotten = {path.parent for path, kind in damaged.items() if kind == "rotten"}
        for run in runs_of(study):
            if run.name in base.weights and run not in rotten:
                assert numbers(content_of_run(run)) == numbers(base.content[run.name]), about
    else:
        assert done.status == 1, about
        named(done, damaged, about)


def numbers(content: dict[str, Any]) -> list[Any]:
    return [content[part] for part in ("result", "metrics", "weights")]


def named(done: Ended, damaged: dict[Path, str], about: str) -> None:
    """See that an error names what is damaged: the file, or the folder of its run."""
    text = " ".join(done.said.split())
    assert any(path.name in text or path.parent.name in text for path in damaged), about


def look_by_report(study: Path, damaged: dict[Path, str], note: str, base: Base) -> None:
    done = warm.run("outputs/s", cwd=study.parents[1], module="nnlab.report", draw=False)
    about = f"report: {note}\n{done.said}"
    assert "Traceback" not in done.said, about
    if done.status == 0:
        for row in table_of(study):
            assert fits(row, base.content["summary.csv"]), f"{about}\n{row}"
    else:
        named(done, damaged, about)


def look_by_loading(study: Path, damaged: dict[Path, str], note: str, base: Base) -> None:
    whole = {base.content[name]["result"]["fingerprint"]: name for name in base.weights}
    swapped = (records.RESULT, "swapped") in ((path.name, kind) for path, kind in damaged.items())
    for name in base.weights:
        try:
            network = nnlab.load(study / name)
        except (ValueError, OSError) as error:
            if name in str(error):
                continue
            raise AssertionError(note) from error
        # A result that came with its weights from another folder is that of its own run.
        run = whole[network.result["fingerprint"]]
        assert run == name or swapped, note
        for key, tensor in network.model.state_dict().items():
            assert torch.equal(tensor, base.weights[run][key]), note
        # What is told of the network is that of its training, too.
        told = base.content[run]["result"]
        assert {k: v for k, v in network.result.items() if k in told} == told, note


LINKS = {
    "run": ["train_size=50"],
    "folders of a run": ["train_size=50/.hydra", "train_size=50/.new", "train_size=60/.new"],
    "files of a run": ["train_size=50/*.*", "train_size=50/.hydra/*"],
    "files of the study": ["*.csv", "*.html", "*.yaml", ".index.jsonl"],
    "lock": [".lock"],
    "what was sent": [".batches"],
}
COMMANDS = {
    "again": (),
    "force": ("force=true",),
    "basic": ("force=true", "hydra/launcher=basic"),
    "sweeper": ("force=true", "hydra/launcher=basic", "hydra/sweeper=basic"),
    "batches": ("force=true", "hydra/launcher=batches"),
}
LAUNCHERS = ("basic", "sweeper", "batches")


@pytest.mark.parametrize(
    "command",
    ["force", *(pytest.param(each, marks=pytest.mark.slow) for each in ("again", *LAUNCHERS))],
)
@pytest.mark.parametrize("links", LINKS)
def test_nothing_is_written_where_a_link_leads(
    links: str, command: str, base: Base, tmp_path: Path
) -> None:
    shutil.copytree(base.folder, tmp_path / "work")
    study, outside = tmp_path / "work" / "outputs" / "s", tmp_path / "outside"
    for name in LINKS[links]:
        places = [path for path in study.glob(name) if path.is_file()] if "*" in name else []
        for path in places or [study / name]:
            target = outside / path.relative_to(study)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.rename(target)
            elif path.name in (".new", ".batches"):
                shutil.copytree(study / "train_size=60", target)
            else:
                target.write_bytes(KEPT)
            path.symlink_to(target)
    before = content(outside)
    done = warm.run(*BEGUN, *COMMANDS[command], cwd=study.parents[1], draw=False)
    assert content(outside) == before
    assert "Traceback" not in done.said
    named = [f"outputs/s/{name}" in done.err for name in ("train_size=50", ".lock")]
    assert done.status == 0 or (any(named) and "remove" in done.err), done.said
    deleted = warm.run("outputs/s", "--delete", "--yes", cwd=study.parents[1], module="nnlab.runs")
    assert deleted.status == (links == "lock"), deleted.said
    assert content(outside) == before


def content(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("part", range(5))
def test_a_damaged_file_is_named_or_its_run_trained_anew(
    part: int, base: Base, tmp_path: Path
) -> None:
    for seed in range(5 * part, 5 * part + 5):
        check(seed, base, tmp_path / str(seed))


@pytest.mark.long
@pytest.mark.parametrize("part", range(50))
def test_ten_thousand_damaged_files(part: int, base: Base, tmp_path: Path) -> None:
    for seed in range(1000 + 50 * part, 1050 + 50 * part):
        check(seed, base, tmp_path / str(seed))
