"""Whatever happens to a study, in any order, its numbers are those of an undisturbed one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from PIL import Image

import nnlab
from nnlab import records
from tests.reliability import warm
from tests.reliability.studies import Ended, content_of_run, runs_of
from tests.reliability.test_damage import KINDS, damage, files_of

SEEDS = ((0, 1), (1, 2), (0, 1, 2))
RATES = (0.01, 0.05)
TABLES = ("dogs", "other labels")  # the data, and what they may change into
COMMAND = (
    *("dataset=dogset", "dataset.folder=dogs", "valid_size=6", "model.hidden=[4]", "study=s"),
    *("stopping=patience", "stopping.patience=30", "stopping.max_epochs=40"),
    "checkpoint.seconds=0",
)
given: dict[str, Any] = {
    "seeds": some.sampled_from(SEEDS),
    "rate": some.sampled_from((RATES[0], *RATES)),
    "force": some.sampled_from((False, False, True)),
}
instants = some.floats(0, 0.8)


def make_data(folder: Path, table: str) -> None:
    """Write a DogSet of three breeds; the labels of two images depend on the table."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    numbers, lines = np.random.default_rng(0), ["filename,semantic_label,numeric_label,partition"]
    for number in range(36):
        pixels = numbers.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        if not (folder / "images" / f"{number}.png").exists():
            Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        part = ("train", "valid", "test")[number // 12]
        breed = (number + (table != TABLES[0] and number < 2)) % 3
        lines.append(f"{number}.png,breed {breed},{breed},{part}")
    (folder / "dogs.csv").write_text("\n".join(lines) + "\n")


def command_of(seeds: tuple[int, ...], rate: float, force: bool = False) -> tuple[str, ...]:
    """One seed more than there is would be a run of its own, whose folder has another name."""
    swept = f"seed={','.join(map(str, seeds))}"
    return (*COMMAND, swept, f"optimizer.lr={rate}", *["force=true"] * force)


@functools.cache
def undisturbed(rate: float, table: str) -> tuple[dict[str, Any], str]:
    """Return the numbers of every run by its folder's name, and the digest of their data."""
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder) / "dogs", table)
        done = warm.run(*command_of(SEEDS[-1], rate), cwd=Path(folder), draw=False)
        assert done.status == 0, done.said
        runs = runs_of(Path(folder) / "outputs" / "s")
        (content,) = {
            json.loads((run / "result.json").read_text())["dataset"]["content"] for run in runs
        }
        return {run.name: numbers(run) for run in runs}, content


def numbers(run: Path) -> tuple[Any, ...]:
    content = content_of_run(run)
    tested = [content["result"][key] for key in ("test_loss", "test_accuracy", "valid_loss")]
    return content["metrics"], content["weights"], tested


class Histories(RuleBasedStateMachine):
    """A study that is trained, killed, stopped, damaged, copied and changed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.study = self.folder / "outputs" / "s"
        self.damaged = False

    def teardown(self) -> None:
        self.ends_as_if_nothing_had_happened()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.change_data(TABLES[0])

    @rule(table=some.sampled_from(TABLES))
    def change_data(self, table: str) -> None:
        make_data(self.folder / "dogs", table)
        self.table = table

    @rule(**given)
    def train(self, seeds: tuple[int, ...], rate: float, force: bool) -> None:
        self.ended(warm.run(*command_of(seeds, rate, force), cwd=self.folder, draw=False), rate)

    @rule(**given, instant=instants)
    def kill(self, seeds: tuple[int, ...], rate: float, force: bool, instant: float) -> None:
        process = self.begun(seeds, rate, force, instant)
        process.kill()
        process.end()
        self.nothing_is_wrong()

    @rule(
        **given,
        instant=instants,
        number=some.sampled_from([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]),
    )
    def stop(
        self, seeds: tuple[int, ...], rate: float, force: bool, instant: float, number: int
    ) -> None:
        process = self.begun(seeds, rate, force, 0.3 + instant)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(process.pid, number)
        self.ended(process.end(), rate, 128 + number)

    @rule(**given, other=some.sampled_from(SEEDS), instant=instants)
    def start_two(
        self,
        seeds: tuple[int, ...],
        rate: float,
        force: bool,
        other: tuple[int, ...],
        instant: float,
    ) -> None:
        first = self.begun(seeds, rate, force, instant)
        second = self.begun(other, rate, False, 0)
        self.ended(first.end(), rate)
        self.ended(second.end(), rate)

    @rule(kind=some.sampled_from(KINDS), seed=some.integers(0, 10_000))
    def damage_a_file(self, kind: str, seed: int) -> None:
        chance = random.Random(seed)
        files = files_of(self.study) if self.study.exists() else []
        if files:
            damage(chance.choice(files), kind, chance)
            self.damaged = True
        self.nothing_is_wrong()

    def begun(
        self, seeds: tuple[int, ...], rate: float, force: bool, instant: float
    ) -> warm.Command:
        process = warm.Command(command_of(seeds, rate, force), self.folder, draw=False)
        time.sleep(instant)
        return process

    def ended(self, done: Ended, rate: float, stopped: int = 0) -> None:
        """A command comes to its end, is stopped, or says why not and what to do."""
        assert "Traceback" not in done.said, done.said
        assert done.status in (0, 1, stopped), done.said
        if done.status == 1:
            assert "outputs/s" in done.err, done.said
        self.nothing_is_wrong()

    def nothing_is_wrong(self) -> None:
        """What can be loaded of a run is what was trained, from the data that it names."""
        for run in runs_of(self.study) if self.study.exists() else []:
            try:
                network = nnlab.load(run)
                records.check_files(run, network.result)
            except (ValueError, OSError):
                continue
            rate = network.config["optimizer"]["lr"]
            known = [undisturbed(rate, table) for table in TABLES]
            content = network.result["dataset"]["content"]
            (expected,) = (runs for runs, digest in known if digest == content)
            assert numbers(run) in expected.values(), run

    def ends_as_if_nothing_had_happened(self) -> None:
        """With force=true where it was damaged or is another run; a folder in a file's place,
        which nnlab does not remove, is removed by hand."""
        command = command_of(SEEDS[-1], RATES[0])
        done = warm.run(*command, cwd=self.folder, draw=False)
        assert "Traceback" not in done.said, done.said
        if done.status != 0:
            done = warm.run(*command, "force=true", cwd=self.folder, draw=False)
        if done.status != 0 and self.damaged:
            assert "outputs/s" in done.err, done.said
            shutil.rmtree(self.study)
            done = warm.run(*command, cwd=self.folder, draw=False)
        assert done.status == 0, done.said
        expected, _ = undisturbed(RATES[0], self.table)
        for run in runs_of(self.study):
            if run.name in expected and not self.damaged:
                assert numbers(run) == expected[run.name]
        self.nothing_is_wrong()


@pytest.mark.slow
def test_no_history_leads_to_a_wrong_number() -> None:
    histories(4, 8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_many_histories(seed: int) -> None:
    histories(25, 15)


def histories(count: int, steps: int) -> None:
    settings = hypothesis.settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        derandomize=count < 10,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Histories, settings=settings)
