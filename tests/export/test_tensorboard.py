"""Event files, read by TensorBoard itself."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnlab.export import __main__ as command
from nnlab.export import finished
from tests.export import studies
from tests.report.studies import lay

pytest.importorskip("tensorboardX")
pytest.importorskip("tensorboard")
# Of these packages, not of nnlab.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    studies.study(tmp_path / "rates")
    return tmp_path / "rates"


def export(*arguments: object) -> int:
    return command.main([*map(str, arguments), "--to", "tensorboard"])


def loaded(module: str) -> Any:
    """Import a part of TensorBoard, which has no types."""
    return importlib.import_module(f"tensorboard.{module}")


def accumulated(folder: Path) -> Any:
    events = loaded("backend.event_processing.event_accumulator")
    return events.EventAccumulator(str(folder)).Reload()


def session_groups(folder: Path) -> tuple[Any, list[Any]]:
    """Return what TensorBoard's HParams page asks for: the experiment, and its table."""
    events, hparams = "backend.event_processing", "plugins.hparams"
    api_pb2 = loaded(f"{hparams}.api_pb2")
    multiplexer = loaded(f"{events}.plugin_event_multiplexer").EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder)).Reload()
    provider = loaded(f"{events}.data_provider").MultiplexerDataProvider(multiplexer, str(folder))
    plugin = loaded("plugins.base_plugin").TBContext(data_provider=provider)
    context = loaded(f"{hparams}.backend_context").Context(plugin)
    request = loaded("context").RequestContext()
    asked = api_pb2.GetExperimentRequest(experiment_name="")
    experiment = loaded(f"{hparams}.get_experiment").Handler(request, context, "", asked).run()
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[
            getattr(api_pb2, f"STATUS_{name}")
            for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")
        ],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    table = loaded(f"{hparams}.list_session_groups").Handler(request, context, "", wanted).run()
    return experiment, list(table.session_groups)


def test_curves_are_those_of_metrics_with_their_times(study: Path) -> None:
    assert export(study) == 0
    for run in (path for path in study.iterdir() if "lr" in path.name):
        found, oracle = accumulated(study / "tensorboard" / run.name), studies.metrics(run)
        curves = {f"epoch/{name}" for name in oracle}
        results = {tag for tag in found.Tags()["scalars"] if tag.startswith("result/")}
        assert set(found.Tags()["scalars"]) == curves | results
        for name, column in oracle.items():
            known, events = column.dropna(), found.Scalars(f"epoch/{name}")
            assert [event.step for event in events] == list(known.index)
            # They are float32 in the file.
            assert [event.value for event in events] == pytest.approx(list(known), rel=1e-7)
            times = studies.began() + oracle["seconds"][known.index]
            assert [event.wall_time for event in events] == list(times)


def test_results_pictures_and_weights(study: Path) -> None:
    assert export(study) == 0
    for run in (path for path in study.iterdir() if "lr" in path.name):
        found, result = accumulated(study / "tensorboard" / run.name), studies.result(run)
        if result["test_accuracy"] is not None:
            (event,) = found.Scalars("result/test_accuracy")
            assert event.value == pytest.approx(result["test_accuracy"], rel=1e-7)
            assert (event.step, event.wall_time) == (3, studies.began() + studies.SECONDS)
        (image,) = found.Images("curves")
        assert image.encoded_image_string == (run / "curves.png").read_bytes()
        assert (image.width, image.height) == (8, 6)
        (histogram,) = (event.histogram_value for event in found.Histograms("weights/0.weight"))
        weights = studies.WEIGHTS["0.weight"]
        assert histogram.num == weights.size
        assert (histogram.min, histogram.max) == (weights.min(), weights.max())
        assert histogram.sum == pytest.approx(weights.sum())
        (text,) = found.Tensors("options/text_summary")
        assert "    optimizer.lr=" in text.tensor_proto.string_val[0].decode()


def test_hparams_are_what_varied(study: Path) -> None:
    assert export(study) == 0
    experiment, groups = session_groups(study / "tensorboard")
    options = {info.name: info for info in experiment.hparam_infos}
    assert options.keys() == {"optimizer.lr", "seed", "model.hidden"}
    rate = options["optimizer.lr"].domain_interval
    assert (rate.min_value, rate.max_value) == (0.01, 10)
    assert list(options["model.hidden"].domain_discrete) == ["[]", "[128,64]"]
    assert len(groups) == 5
    for group in groups:
        (session,) = group.sessions
        result = studies.result(study / session.name)
        config = result["config"]
        assert group.hparams["optimizer.lr"].number_value == config["optimizer"]["lr"]
        assert group.hparams["seed"].number_value == config["seed"]
        times = (studies.began(), studies.began() + studies.SECONDS)
        assert (session.start_time_secs, session.end_time_secs) == times
        assert (session.status == 2) == (result["status"] == "diverged")  # STATUS_FAILURE
        found = {value.name.tag: value.value for value in group.metric_values}
        if result["test_accuracy"] is not None:
            expected = pytest.approx(result["test_accuracy"], rel=1e-7)
            assert found["result/test_accuracy"] == expected


def test_a_second_export_adds_what_is_new(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = study / "tensorboard"
    assert export(study) == 0
    assert (
        capsys.readouterr().out == f"{into}: 5 runs written, 2 left out, not finished or damaged\n"
    )
    before = {path: path.stat().st_mtime_ns for path in into.glob("*/*")}
    lay(study, {"optimizer.momentum": 0.5, "seed": 7})
    assert export(study) == 0
    assert capsys.readouterr().out == (
        f"{into}: 1 run written, 5 there before, 2 left out, not finished or damaged\n"
    )
    after = {path: path.stat().st_mtime_ns for path in into.glob("*/*")}
    assert {path: after.get(path) for path in before} == before
    assert len(after) == len(before) + 1
    experiment, groups = session_groups(into)
    assert "optimizer.momentum" in {info.name for info in experiment.hparam_infos}
    assert len(groups) == 6
    # Options that vary only now were written with the first runs, too.
    assert all(group.hparams["optimizer.momentum"].HasField("number_value") for group in groups)


def test_a_run_trained_anew_takes_the_place_of_the_former(tmp_path: Path) -> None:
    lay(tmp_path / "s", {"seed": 1}, name="run", test_accuracy=0.5)
    assert export(tmp_path / "s") == 0
    (tmp_path / "s" / "run").rename(tmp_path / "before")
    lay(tmp_path / "s", {"seed": 2}, name="run", test_accuracy=0.25)
    assert export(tmp_path / "s") == 0
    (event,) = accumulated(tmp_path / "s" / "tensorboard" / "run").Scalars("result/test_accuracy")
    assert event.value == 0.25


def test_weights_that_are_not_finite_have_no_histogram(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    run = lay(tmp_path)
    save_file(
        {"a": np.array([np.nan, 1]), "b": np.ones(2), "c": np.ones(0)}, run / "model.safetensors"
    )
    assert export(tmp_path) == 0
    found = accumulated(tmp_path / "tensorboard" / "default")
    assert found.Tags()["histograms"] == ["weights/b"]


def test_bad_folders_are_one_message(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    lay(tmp_path / "other")
    assert export(study, "--into", tmp_path / "events") == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (
            (study, "--into", tmp_path / "file"),
            f"{tmp_path}/file cannot be written (File exists); choose another --into",
        ),
        (
            (tmp_path / "other", "--into", tmp_path / "events"),
            "the runs of the study rates; choose",
        ),
    ):
        assert export(*arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_where_a_link_leads(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (study / "tensorboard").symlink_to(elsewhere)
    assert export(study) == 1
    assert "tensorboard is a link" in capsys.readouterr().err
    (study / "tensorboard").unlink()
    (study / "tensorboard").mkdir()
    run = finished(study).runs[0].run.folder
    (study / "tensorboard" / run.name).symlink_to(elsewhere)
    assert export(study) == 0
    assert not list(elsewhere.iterdir())
    assert list((study / "tensorboard" / run.name).iterdir())
    for events in (study / "tensorboard").rglob("events.*"):
        events.unlink()
        (events.parent / ".unfinished").symlink_to(elsewhere / "mine")
    assert export(study) == 0
    assert not list(elsewhere.iterdir())


def test_weights_that_no_result_names_are_not_the_runs(tmp_path: Path) -> None:
    run = lay(tmp_path)
    (run / "model.safetensors").write_bytes(b"another's")
    file = run / "result.json"
    told = {
        "sha256": {"metrics.csv": hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest()}
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    assert export(tmp_path) == 0
    assert accumulated(tmp_path / "tensorboard" / "default").Tags()["histograms"] == []


def test_a_damaged_picture_is_left_out(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = finished(study).runs[0].run.folder
    (run / "curves.png").write_text("hi")
    assert export(study) == 0
    assert f"left out {run / 'curves.png'}: its format" in caplog.text
    assert list((study / "tensorboard" / run.name).iterdir())
