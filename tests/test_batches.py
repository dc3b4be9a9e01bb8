"""Sweeps in batches: the numbers of one process, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlab import (
    batches,
    claims,
    clusters,
    compose,
    plan,
    records,
    storage,
    study,
    sweeps,
    worker,
)
from nnlab.clusters import cluster, slurm
from nnlab.compact import Compact
from nnlab.jobs import Job, Outcome
from nnlab.tally import Tally
from tests.reliability import warm
from tests.reliability.studies import assert_same, content_of

Train: TypeAlias = Callable[..., list[Outcome]]
BATCHES = ("hydra/launcher=batches", "hydra.launcher.executor=processes")
SWEEP = (
    *("train_size=60,80", "optimizer.lr=0.01,0.1", "seed=0,1", "stopping.max_epochs=3", "-m"),
    "model.hidden=[8]",  # whose weights are drawn in no time
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep as the local launcher trains it."""
    folder = tmp_path_factory.mktemp("local")
    ended = warm.run(*SWEEP, "evaluation=[weights]", cwd=folder)
    assert ended.status == 0, ended.said
    return content_of(folder / "outputs/mnist")


@pytest.mark.parametrize("count", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))])
def test_in_any_number_of_batches_the_numbers_are_the_same(
    count: int, local: dict[str, Any], tmp_path: Path
) -> None:
    ended = warm.run(
        *SWEEP, "evaluation=[weights]", *BATCHES, f"hydra.launcher.batches={count}", cwd=tmp_path
    )
    assert ended.status == 0, ended.said
    found = content_of(tmp_path / "outputs/mnist")
    assert_same(without_launcher(found), without_launcher(local))
    assert "8 of 8 runs done" in ended.out
    assert not (tmp_path / "outputs/mnist" / claims.BATCHES).exists()


def without_launcher(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says by which launcher a run was trained."""
    return {
        name: {k: v for k, v in part.items() if k != "hydra"} if isinstance(part, dict) else part
        for name, part in content.items()
    }


# What becomes of batches, with workers in this process


class Later:
    """A future that is computed when its result is asked for."""

    def __init__(self, train: Callable[[worker.Batch], Any], batch: worker.Batch) -> None:
        self.train = train
        self.batch = batch

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def cancel(self) -> None: ...

    def result(self) -> Any:
        return self.train(self.batch)


class Inline(cluster.Cluster):
    """Trains batches in this process, with copies of them as another would have.

    losses: how many of the next batches are lost after they were trained. place: where workers
    think that the command was given.
    """

    def __init__(self, losses: int = 0, place: Path | None = None) -> None:
        super().__init__(cores=1, workers=2)
        self.losses = losses
        self.place = place
        self.batches: list[worker.Batch] = []

    def submit(self, batches: Sequence[worker.Batch]) -> Sequence[Any]:
        self.batches += batches
        return [Later(self.train, batch) for batch in batches]

    def train(self, batch: worker.Batch) -> Any:
        copy = pickle.loads(pickle.dumps(batch))
        copy.place = self.place or copy.place
        answers = worker.train(copy)
        if self.losses > 0:
            self.losses -= 1
            raise RuntimeError("its power\nwas cut")
        return answers


def options(**given: Any) -> Any:
    usual = {"batches": 2, "minutes_per_batch": 5.0, "max_retries": 3}
    return SimpleNamespace(**{**usual, **given})


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Train jobs on a cluster, as a command in tmp_path does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batches, "POLL", 0.01)

    def on(cluster: Inline, jobs: Sequence[Job], **given: Any) -> list[Outcome]:
        monkeypatch.setattr(clusters, "choose", lambda *_: cluster)
        return sweeps.train(jobs, where=batches.Batches("inline", options(**given)))

    return on


def some_jobs(*more: str, count: int = 4) -> list[Job]:
    return [job(Path(f"outputs/mnist/seed={seed}"), f"seed={seed}", *more) for seed in range(count)]


def job(folder: Path, *overrides: str) -> Job:
    config = compose.load(["train_size=50", "stopping.max_epochs=2", *overrides])
    files = {".hydra/overrides.yaml": "\n".join(overrides)}
    return Job(folder, list(overrides), "valid_loss", files, config)


def trained_here(folder: Path, jobs: Sequence[Job]) -> dict[str, bytes]:
    """Return the weights that the jobs' runs have when one process trains them."""
    outcomes = sweeps.train([replace(each, folder=folder / each.name) for each in jobs])
    return {each.job.name: (each.folder / records.WEIGHTS).read_bytes() for each in outcomes}


def weights(outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    return {each.job.name: (each.folder / records.WEIGHTS).read_bytes() for each in outcomes}


@pytest.mark.slow
def test_workers_that_share_no_files_send_them(tmp_path: Path, train: Train) -> None:
    jobs = some_jobs("evaluation=[weights]", "model.hidden=[8]")
    outcomes = train(Inline(place=tmp_path / "nowhere"), jobs)
    assert [each.error for each in outcomes] == [None] * 4
    assert weights(outcomes) == trained_here(tmp_path / "here", jobs)
    for each in outcomes:
        names = {path.name for path in each.folder.iterdir()}
        assert {records.RESULT, records.METRICS, records.LOG, ".hydra", "weights.png"} <= names
        assert records.NEW not in names
        assert each.evaluation_files == [each.folder / "weights.png"]
        # As the command gave it: that a worker has a core of its own is not told.
        kept = records.read_result(each.folder)
        assert kept is not None
        assert kept["config"] == each.job.identity["config"]
        fingerprint = each.job.identity["fingerprint"]
        assert study.look(each.folder.parent).find([fingerprint])[fingerprint]


class Post(worker.Inbox):
    """An inbox that is the same wherever it is sent to, for all that is this process."""

    sent: ClassVar[dict[str, dict[str, worker.Answer]]] = {}

    def put(self, batch: str, answers: dict[str, worker.Answer]) -> None:
        assert not set(answers) & self.names(batch)
        self.sent.setdefault(batch, {}).update(answers)

    def names(self, batch: str) -> set[str]:
        return set(self.sent.get(batch, {}))


class Posting(Inline):
    """Its workers send the files of runs as these end."""

    def submit(self, batches: Sequence[worker.Batch]) -> Sequence[Any]:
        for batch in batches:
            batch.inbox = Post()
        return super().submit(batches)

    def answers(self) -> dict[str, dict[str, worker.Answer]]:
        return Post.sent


@pytest.mark.slow
def test_what_has_arrived_is_not_trained_again_where_its_batch_is_lost(
    tmp_path: Path, train: Train
) -> None:
    jobs = some_jobs("evaluation=[weights]", "model.hidden=[8]")
    outcomes = train(Posting(losses=2, place=tmp_path / "nowhere"), jobs)
    assert [each.error for each in outcomes] == [None] * 4
    assert weights(outcomes) == trained_here(tmp_path / "here", jobs)
    assert all((each.folder / "weights.png").exists() for each in outcomes)
    logs = [(each.folder / records.LOG).read_text() for each in outcomes]
    assert [log.count("2 epochs in") for log in logs] == [1] * 4


def test_a_worker_with_other_data_trains_nothing(train: Train) -> None:
    class Elsewhere(Inline):
        def train(self, batch: worker.Batch) -> Any:
            return super().train(replace(batch, content=dict.fromkeys(batch.content, "other")))

    outcomes = train(Elsewhere(), some_jobs())
    assert all("has other data than the command" in str(each.error) for each in outcomes)
    assert not list(Path("outputs/mnist").glob("seed=*"))


def test_a_batch_that_is_lost_is_sent_again(train: Train, tmp_path: Path) -> None:
    inline = Inline(losses=3)
    outcomes = train(inline, some_jobs())
    assert [each.error for each in outcomes] == [None] * 4
    assert len(inline.batches) == 2 + 3
    logs = [(each.folder / records.LOG).read_text() for each in outcomes]
    assert [log.count("2 epochs in") for log in logs] == [1] * 4  # none was trained again
    assert not Path("outputs/mnist", claims.BATCHES).exists()


@pytest.mark.slow
def test_what_was_written_down_of_batches_may_be_gone(train: Train, tmp_path: Path) -> None:
    class Removed(Inline):
        def train(self, batch: worker.Batch) -> Any:
            try:
                return super().train(batch)
            finally:
                if self.losses:
                    shutil.rmtree(batch.record.parent)

    jobs = some_jobs()
    outcomes = train(Removed(losses=2), jobs)
    assert [each.error for each in outcomes] == [None] * 4
    assert weights(outcomes) == trained_here(tmp_path / "here", jobs)


def test_another_command_may_remove_the_folder_of_batches_as_one_is_sent(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = storage.make_folder
    removed: list[Path] = []

    def make_and_lose(folder: Path) -> None:
        make(folder)
        if folder.name == claims.BATCHES and not removed:
            removed.append(folder)
            folder.rmdir()

    monkeypatch.setattr(storage, "make_folder", make_and_lose)
    assert [each.error for each in train(Inline(), some_jobs())] == [None] * 4
    assert removed


def test_force_trains_once_also_where_its_batch_is_lost(train: Train) -> None:
    train(Inline(), some_jobs())
    outcomes = train(Inline(losses=1), some_jobs("force=true"))
    assert [each.error for each in outcomes] == [None] * 4
    logs = [(each.folder / records.LOG).read_text() for each in outcomes]
    assert [log.count("2 epochs in") for log in logs] == [1] * 4


@pytest.mark.parametrize("force", [False, True])
def test_what_a_batch_has_trained_that_is_lost_for_good_counts(force: bool, train: Train) -> None:
    class Elsewhere(Inline):
        """Workers that are processes of their own: the command sees not what they look at."""

        def train(self, batch: worker.Batch) -> Any:
            seen = study.known(batch.study)
            before = dict(seen.entries)
            try:
                return super().train(batch)
            finally:
                seen.entries = study.Entries()
                seen.entries.update(before)

    if force:
        train(Inline(), some_jobs())
    outcomes = train(Elsewhere(losses=9), some_jobs(f"force={force}"), max_retries=1)
    assert [each.error for each in outcomes] == [None] * 4
    logs = [(each.folder / records.LOG).read_text() for each in outcomes]
    assert [log.count("2 epochs in") for log in logs] == [1] * 4
    assert [each.result for each in outcomes] == [
        study.short(records.read_result(each.folder) or {}) for each in outcomes
    ]


def test_a_batch_that_is_lost_for_good_is_told_with_its_log(train: Train) -> None:
    class Lost(Inline):
        def train(self, batch: worker.Batch) -> Any:
            if "seed=0" in [each.name for each in batch.jobs]:
                raise RuntimeError("its power\nwas cut")
            return super().train(batch)

    outcomes = train(Lost(), some_jobs(), max_retries=2)
    failed = [each for each in outcomes if each.error is not None]
    assert 0 < len(failed) < 4
    assert all(each.result is not None for each in outcomes if each not in failed)
    assert re.fullmatch(
        r"batch \w+-0\d+ was lost 3 times: RuntimeError: was cut; see outputs/mnist/\S+\.log",
        str(failed[0].error),
    )


def test_batches_that_had_not_begun_are_not_lost_for_good_with_one_that_kills_its_worker(
    train: Train,
) -> None:
    class Breaking(Inline):
        """A pool that breaks, with all that it has, where its first batch is trained."""

        def train(self, batch: worker.Batch) -> Any:
            if batch is self.batches[0]:
                batch.log.touch()
            elif sum(each is batch for each in self.batches) > 4:  # without the first
                return super().train(batch)
            raise RuntimeError("its pool broke")

    outcomes = train(Breaking(), some_jobs(), batches=4)
    assert sum(each.result is not None for each in outcomes) == 3
    (failed,) = [each.error for each in outcomes if each.error is not None]
    assert "was lost 4 times: RuntimeError: its pool broke" in str(failed)


def test_a_batch_that_gets_on_is_sent_again_as_often_as_it_takes(train: Train) -> None:
    trained = 0

    class Slow(Inline):
        def train(self, batch: worker.Batch) -> Any:
            worker.train(pickle.loads(pickle.dumps(replace(batch, jobs=batch.jobs[:trained]))))
            raise RuntimeError("its power was cut")

        def submit(self, batches: Sequence[worker.Batch]) -> Sequence[Any]:
            nonlocal trained
            trained += 1
            return super().submit(batches)

    outcomes = train(Slow(), some_jobs(count=3), batches=1, max_retries=0)
    assert [each.error for each in outcomes] == [None] * 3


def test_an_error_of_a_run_is_told_as_it_is_and_harms_no_other(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = some_jobs()
    jobs[1].folder.mkdir(parents=True)
    (jobs[1].folder / "mine.txt").write_text("mine")
    outcomes = train(Inline(), jobs)
    assert [each.error is None for each in outcomes] == [True, False, True, True]
    assert "holds mine.txt" in str(outcomes[1].error)
    assert sweeps.tell_errors(Tally(outcomes)) == 1


def test_another_version_is_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(Inline):
        def train(self, batch: worker.Batch) -> Any:
            batch.version = "0.0.1"
            return super().train(batch)

    inline = Older()
    outcomes = train(inline, some_jobs())
    assert len(inline.batches) == 2  # it is not sent again
    assert "install the same on both" in str(outcomes[0].error)


def test_runs_that_another_command_means_to_train_are_left_to_it(train: Train) -> None:
    jobs = some_jobs()
    with claims.Claim(Path("outputs/mnist")) as theirs:
        theirs.announce(["seed=0", "seed=1"])
        leaving = threading.Timer(1.0, lambda: claims.forget(theirs.path))
        inline = Inline()
        leaving.start()
        outcomes = train(inline, jobs)
    first = {each.name for batch in inline.batches[:2] for each in batch.jobs}
    assert first == {"seed=2", "seed=3"}
    assert [each.error for each in outcomes] == [None] * 4  # when they are left, they are sent


def test_a_run_that_another_has_begun_meanwhile_is_left_to_it(tmp_path: Path, train: Train) -> None:
    """Until that dies: what a worker sends is not put over what a living one trains."""
    (asked,) = some_jobs(count=1)
    found: list[str] = []

    def die(lock: Path) -> None:
        result = records.read_result(asked.folder)
        found.append("nothing" if result is None else result["status"])
        claims.forget(lock)

    class Overtaken(Inline):
        def train(self, batch: worker.Batch) -> Any:
            answers = super().train(batch)
            if len(self.batches) == 1:
                theirs.announce([asked.folder.name])
                records.RunFolder(asked.folder, asked.identity, theirs.owner).begin({})
                threading.Timer(0.5, die, [theirs.path]).start()
            return answers

    with claims.Claim(asked.folder.parent) as theirs:
        (outcome,) = train(Overtaken(place=tmp_path / "nowhere"), [asked])
    assert found == ["running"]
    assert outcome.error is None
    result = records.read_result(asked.folder)
    assert result is not None
    assert result["status"] == "finished"
    records.check_files(asked.folder, result)


def test_batches_that_an_earlier_command_sent_are_followed(train: Train) -> None:
    class Stays(Inline):
        stays = True

        def ticket(self, future: Any) -> str:
            return "7"

        def attach(self, tickets: Sequence[str]) -> list[Any]:
            assert set(tickets) <= {"7"}
            return [Later(self.train, batch) for batch in first.batches[: len(tickets)]]

    class Queued(Stays):
        def train(self, batch: worker.Batch) -> Any:
            return None

    first, second = Queued(), Stays()
    outcomes = train(first, some_jobs(), detach=True)
    assert [(each.result, each.error) for each in outcomes] == [(None, None)] * 4
    assert len(list(Path("outputs/mnist", claims.BATCHES).glob("*.json"))) == 2
    outcomes = train(second, some_jobs(count=5))
    assert {each.name for batch in second.batches for each in batch.jobs} == {"seed=4"}
    assert [each.error for each in outcomes] == [None] * 5
    assert all(each.result is not None for each in outcomes)
    assert not Path("outputs/mnist", claims.BATCHES).exists()


def test_what_batches_left_that_ended_without_their_command_is_cleared(train: Train) -> None:
    class Queued(Inline):
        stays = True

        def train(self, batch: worker.Batch) -> Any:
            (batch.record.parent / batch.name.rpartition("-")[0]).mkdir(exist_ok=True)

    train(Queued(), some_jobs(), detach=True)
    left = Path("outputs/mnist", claims.BATCHES)
    some = sweeps.train(some_jobs(count=2))
    assert sweeps.conclude(Tally(some)) == 0
    assert len(list(left.glob("*.json"))) == 1  # its runs are still to come
    assert sweeps.conclude(Tally(sweeps.train(some_jobs()))) == 0
    assert not left.exists()


def test_a_batch_that_was_taken_over_is_sent_again_with_the_runs_that_are_asked_for(
    train: Train,
) -> None:
    class Stays(Inline):
        stays = True

        def ticket(self, future: Any) -> str:
            return "7"

        def attach(self, tickets: Sequence[str]) -> list[Any]:
            return [Later(self.train, batch) for batch in first.batches[: len(tickets)]]

    class Queued(Stays):
        def train(self, batch: worker.Batch) -> Any:
            return None

    first, second = Queued(), Stays(losses=1)
    train(first, some_jobs(count=3), batches=1, detach=True)
    outcomes = train(second, some_jobs(count=3)[1:], batches=1)
    assert [[each.name for each in batch.jobs] for batch in second.batches] == [
        ["seed=1", "seed=2"]
    ]
    for each in outcomes:
        assert each.result is not None
        assert each.result.items() <= (records.read_result(each.folder) or {}).items()


def test_who_takes_a_batch_over_is_its_owner(train: Train) -> None:
    class Stays(Inline):
        stays = True

        def ticket(self, future: Any) -> str:
            return "7"

        def attach(self, tickets: Sequence[str]) -> list[Any]:
            return [Later(self.look, batch) for batch in first.batches[: len(tickets)]]

        def look(self, batch: worker.Batch) -> Any:
            record = records.undamaged(batch.record.read_bytes())
            assert claims.alive(batch.study, record["owner"])
            assert {each.name for each in batch.jobs} <= set(claims.waiting(batch.study))
            return self.train(batch)

    class Queued(Stays):
        def train(self, batch: worker.Batch) -> Any:
            return None

    first, second = Queued(), Stays()
    train(first, some_jobs(), detach=True)
    outcomes = train(second, some_jobs())
    assert [each.error for each in outcomes] == [None] * 4
    assert second.batches == []


def test_what_a_cluster_refuses_to_take_is_told_and_leaves_nothing(train: Train) -> None:
    class Full(Inline):
        def __init__(self, room: int) -> None:
            super().__init__()
            self.room = room

        def submit(self, batches: Sequence[worker.Batch]) -> Sequence[Any]:
            self.room -= len(batches)
            if self.room < 0:
                raise ValueError("it is full")
            return super().submit(batches)

        def train(self, batch: worker.Batch) -> Any:
            if batch is self.batches[0]:
                raise RuntimeError("its power was cut")
            return super().train(batch)

    with pytest.raises(ValueError, match="it is full"):
        train(Full(room=1), some_jobs())
    assert not Path("outputs/mnist", claims.BATCHES).exists()
    outcomes = train(Full(room=2), some_jobs())
    failed = [each for each in outcomes if each.error is not None]
    assert len(failed) == 2
    assert all(each.result is not None for each in outcomes if each not in failed)
    told = r"was lost: RuntimeError: its power was cut; sent again, it was refused: it is full; see"
    assert all(re.search(told, str(each.error)) for each in failed)


@pytest.mark.parametrize(
    ("launcher", "option", "limit"),
    [
        ("batches", "batches=0", "at least 1"),
        ("batches", "minutes_per_batch=0", "above 0"),
        ("batches", "minutes_per_batch=nan", "above 0"),
        ("batches", "workers=-2", "at least 1"),
        ("batches", "cores_per_worker=0", "at least 1"),
        ("slurm", "max_retries=-1", "at least 0"),
        ("slurm", "timeout_min=0", "at least 1"),
        ("slurm", "mem_gb=nan", "at least 0"),
        ("ray", "num_gpus=nan", "at least 0"),
        ("slurm", "+constraint=avx512", "hydra/launcher=slurm has no such option"),
        ("batches", "+worker=2", "Did you mean 'workers'?"),
    ],
)
def test_options_that_are_not_possible_are_refused(
    launcher: str, option: str, limit: str, tmp_path: Path
) -> None:
    plus, name = option[: option.startswith("+")], option.removeprefix("+")
    given = (f"hydra/launcher={launcher}", f"{plus}hydra.launcher.{name}")
    ended = warm.run(*SWEEP, *given, cwd=tmp_path)
    assert ended.status == 1, ended.said
    assert f"hydra.launcher.{name.partition('=')[0]}" in ended.err
    assert limit in ended.err
    assert "Traceback" not in ended.said
    assert not (tmp_path / "outputs").exists()


# Cutting


@given(
    costs=st.lists(st.floats(0.01, 100), min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 3), min_size=60, max_size=60),
    count=st.integers(1, 20),
)
def test_batches_are_of_equal_cost(costs: list[float], sizes: list[int], count: int) -> None:
    tasks: Any = [task(size) for _, size in zip(costs, sizes)]
    count = min(count, len(costs))
    found = batches.cut(tasks, costs, count)
    assert sorted(id(each) for some in found for each in some) == sorted(map(id, tasks))
    assert len(found) <= count
    cost = dict(zip(map(id, tasks), costs))
    took = [sum(cost[id(each)] for each in some) for some in found]
    assert took == sorted(took, reverse=True)
    assert took[0] <= sum(costs) / count + max(costs) + 1e-9
    # Runs on the same images are together: each batch but for its first and last images has all.
    asked = [[each.outcome.job.identity["config"]["train_size"] for each in some] for some in found]
    changes = sum(len(set(some)) - 1 for some in asked)
    assert changes <= len(set(sizes[: len(costs)])) - 1


def task(size: int) -> Any:
    return SimpleNamespace(
        outcome=SimpleNamespace(job=SimpleNamespace(identity={"config": {"train_size": size}})),
        config=SimpleNamespace(seed_of=lambda part: 0),
        engine="native",
        device="cpu",
    )


@pytest.mark.parametrize(
    ("seconds", "each", "workers", "count"),
    [
        (100, 1, None, 1),  # less than the five minutes
        (3000, 1, None, 10),
        (3000, 4, None, 3),
        (100, 1, 4, 4),  # none is idle
        (25, 1, 4, 2),  # but no batch is shorter than ten seconds
        (3000, 1, 4, 12),
        (1, 1, 4, 1),
    ],
)
def test_the_number_of_batches_follows_from_their_time(
    seconds: float, each: int, workers: int | None, count: int
) -> None:
    times = [seconds / 1000] * 1000
    assert batches.how_many(times, options(batches=None), each, workers) == count


def test_the_number_of_batches_can_be_given() -> None:
    assert batches.how_many([1.0] * 5, options(batches=3), 1, None) == 3
    assert batches.how_many([1.0] * 5, options(batches=30), 1, None) == 5


def test_a_large_run_has_all_cores_of_its_batch(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of two steps that take a second each on two of four cores: alone half of that."""
    monkeypatch.setattr(plan, "measure", lambda *_: plan.Rate(step=1.0, example=0.0))
    large = ("engine=native", "train_size=128", "batch_size=64", "model.hidden=[256,256]")
    workers = Inline()
    workers.cores = 4
    jobs = some_jobs(*large, "stopping.max_epochs=1", "plan=true", count=2)
    assert [each.error for each in train(workers, jobs)] == [None] * 2
    assert "2 runs are 2 batches of 1.0 s on 4 cores: 1.0 s, 2 at a time" in capsys.readouterr().out


def test_cores_by_hand_come_before_those_that_the_cluster_gives(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[int | None] = []

    def note(jobs: list[Job], **_: Any) -> list[Outcome]:
        found.extend(job.config.cores for job in jobs if job.config is not None)
        return []

    workers = Inline()
    workers.cores = 4
    train(workers, some_jobs("cores=3", "plan=true"))
    assert "on 3 cores" in capsys.readouterr().out
    monkeypatch.setattr(sweeps, "train", note)
    for asked in ("cores=3", "cores=null"):
        batch = worker.Batch("a-0000", some_jobs(asked, count=1), Path.cwd(), cores=4)
        with contextlib.suppress(KeyError):  # of answers, of which there are none
            worker.train_here(batch, shared=False)
    assert found == [3, 4]


def test_a_record_that_is_damaged_is_in_nobodys_way(train: Train) -> None:
    folder = Path("outputs/mnist", claims.BATCHES)
    folder.mkdir(parents=True)
    (folder / "abc-0000.json").write_text('{"checksum": "0", "owner": {}, "runs": []}')
    (folder / "abc-0001.json").write_text("")
    (folder / "abc-0001.log").write_text("begun")
    outcomes = train(Inline(), some_jobs())
    assert [each.error for each in outcomes] == [None] * 4
    assert not folder.exists()


@pytest.mark.parametrize("ticket", [7, None, "/tmp/7", "study/.batches/abc/*", "abc/7"])
def test_a_ticket_names_a_job_and_a_folder_of_batches(ticket: object, tmp_path: Path) -> None:
    folder = tmp_path / "study" / ".batches" / "abc"
    folder.mkdir(parents=True)
    assert not slurm.is_ticket(ticket)
    assert slurm.is_ticket(str(folder / "7_0"))


def test_answers_call_no_code(tmp_path: Path) -> None:
    class Called:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "called",)

    with pytest.raises(pickle.UnpicklingError, match="is no part of an answer"):
        slurm.Answers(io.BytesIO(pickle.dumps(("success", Called())))).load()
    assert not (tmp_path / "called").exists()
    with pytest.raises(pickle.UnpicklingError, match="is no part of an answer"):
        slurm.unsealed(slurm.sealed([Called()]))  # type: ignore[list-item]
    assert not (tmp_path / "called").exists()


def test_a_damaged_answer_is_none() -> None:
    """Also where another can be read."""
    answers = [worker.Answer(result=Compact.of({"status": "finished"}), trained=True), None]
    content = slurm.sealed(answers)
    assert slurm.unsealed(content) == answers
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        for each in (bytes(damaged), content[:place]):
            with pytest.raises(ValueError, match="digest differs"):
                slurm.unsealed(each)


@pytest.mark.parametrize("content", ["", '{"seed=0": "finished"}', '{"checksum": "0", "runs": {}}'])
def test_what_a_worker_told_is_believed_whole_only(content: str, train: Train) -> None:
    (job,) = some_jobs(count=1)
    batch = worker.Batch("abc-0000", [job], Path.cwd())
    batch.ended.parent.mkdir(parents=True)
    batch.ended.write_text(content)
    assert worker.ended_in(batch) == {}
    batch.ended.write_bytes(records.sealed({"runs": {"seed=0": "finished"}}))
    assert worker.ended_in(batch) == {"seed=0": "finished"}
