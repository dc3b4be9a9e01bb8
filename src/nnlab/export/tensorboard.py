"""Runs as TensorBoard's event files, in a folder each.

Written as tensorboardX's own writers do, but with the times at which things happened.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nnlab import records, storage
from nnlab.export import Finished, FinishedRun
from nnlab.extras import needed
from nnlab.report.runs import Value, rank, spell

EVENTS = "events.out.tfevents."  # by which TensorBoard knows a file
RESULT = "result/"  # a group of its own among the curves
BINS = 64  # of a histogram of weights


def write(study: Finished, into: str) -> Iterator[bool]:
    """Write the runs that are not in a folder yet, telling of each whether it was one; before
    them what TensorBoard's HParams show of all.

    Raises OSError where it cannot be written, ValueError where it has another study's runs.
    """
    needed("tensorboardX", "tensorboard")
    folder = Path(into)
    own = folder / f"{EVENTS}0.{study.study}"
    others = [path for path in folder.glob(f"{EVENTS}0.*") if path != own]
    if others:
        name = others[0].name.removeprefix(f"{EVENTS}0.")
        raise ValueError(f"{folder} has the runs of the study {name}; choose another --into")
    storage.make_folder(folder)
    write_events(own, [experiment(study)])
    for run in study.runs:
        place = folder / run.run.folder.name
        new = place.is_symlink() or not any(place.glob(f"{EVENTS}*.{run.key}"))
        if new:
            storage.make_own_folder(place)
            write_events(place / f"{EVENTS}{run.started:.0f}.{run.key}", events(run))
        yield new


def write_events(path: Path, content: Iterable[Any]) -> None:
    """Write an event file, whole or not at all, in the place of any other in its folder."""
    before = list(path.parent.glob(f"{EVENTS}*"))
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "events")
        writer = needed("tensorboardX.record_writer", "tensorboard").RecordWriter(str(made))
        with contextlib.closing(writer):
            for event in content:
                writer.write(event.SerializeToString())
            writer.flush()
        storage.write_atomic(path, made.read_bytes())
    for other in before:
        if other != path:
            other.unlink(missing_ok=True)


def proto(name: str) -> Any:
    """Return the messages of one of TensorBoard's protocols."""
    return needed(f"tensorboardX.proto.{name}_pb2", "tensorboard")


# A run


def events(run: FinishedRun) -> Iterator[Any]:
    """Yield what TensorBoard is told of a run, in the order in which it happened."""
    event = proto("event").Event
    yield event(wall_time=run.started, file_version="brain.Event:2")
    start = proto("plugin_hparams").SessionStartInfo(start_time_secs=run.started)
    for name, value in run.options.items():
        setattr(start.hparams[name], *as_value(value))
    yield event(wall_time=run.started, summary=hparams("session_start_info", start))
    for epoch, ended, measured in run.epochs():
        yield event(wall_time=ended, step=epoch, summary=scalars(measured))
    last = {"wall_time": run.ended, "step": run.run.epochs}
    for summary in ending(run):
        yield event(**last, summary=summary)
    status = proto("api").Status.Value(f"STATUS_{'FAILURE' if run.failed else 'SUCCESS'}")
    end = proto("plugin_hparams").SessionEndInfo(end_time_secs=run.ended, status=status)
    yield event(**last, summary=hparams("session_end_info", end))


def ending(run: FinishedRun) -> Iterator[Any]:
    """Yield the results of a run, its options as a text, its weights and its pictures."""
    summary = needed("tensorboardX.summary", "tensorboard")
    yield scalars({f"{RESULT}{name}": value for name, value in run.results.items()})
    lines = [f"    {name}={spell(value)}" for name, value in run.options.items()]
    yield summary.text("options", "\n".join(lines))
    yield summary.text("result", "\n".join(f"    {k}: {v}" for k, v in run.texts.items()))
    for name, weights in weights_of(run).items():
        if weights.size and np.isfinite(weights).all():
            yield summary.histogram(f"weights/{name}", weights, BINS)
    for path in run.pictures:
        yield picture(path)


def weights_of(run: FinishedRun) -> dict[str, Any]:
    """Load the weights that a run has kept, by their names; none where they were not saved."""
    from safetensors.numpy import load

    result = records.read_result(run.run.folder) or {}
    hashes = result.get("sha256")  # none in those of earlier versions
    there = (run.run.folder / records.WEIGHTS).is_file()
    if not there or (hashes is not None and records.WEIGHTS not in hashes):
        return {}
    return load(records.read_file(run.run.folder, records.WEIGHTS, result))


def scalars(values: dict[str, float]) -> Any:
    summary = proto("summary").Summary
    return summary(value=[summary.Value(tag=k, simple_value=v) for k, v in values.items()])


def picture(path: Path) -> Any:
    summary = proto("summary").Summary
    with Image.open(path, formats=["PNG"]) as opened:
        width, height = opened.size
        channels = len(opened.getbands())
    image = summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=path.read_bytes()
    )
    return summary(value=[summary.Value(tag=path.stem, image=image)])


# HParams


def experiment(study: Finished) -> Any:
    """Return what HParams show: the options that varied, and the results."""
    api, event = proto("api"), proto("event").Event
    names = dict.fromkeys(name for run in study.runs for name in run.results)
    metrics = [
        api.MetricInfo(name=api.MetricName(tag=f"{RESULT}{name}"), display_name=name)
        for name in names
    ]
    known = {
        key: [run.options[key] for run in study.runs if key in run.options] for key in study.varied
    }
    options = [option(key, values) for key, values in known.items()]
    content = api.Experiment(name=study.study, hparam_infos=options, metric_infos=metrics)
    return event(summary=hparams("experiment", content))


def option(name: str, values: Sequence[Value]) -> Any:
    """Return what HParams are told of an option: the type of its values, and their range."""
    api = proto("api")
    info = api.HParamInfo(name=name)
    fields = {as_value(value)[0] for value in values}
    if fields == {"number_value"}:
        numbers = [as_value(value)[1] for value in values]
        info.type = api.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(numbers), max(numbers)
    else:
        info.type = api.DATA_TYPE_BOOL if fields == {"bool_value"} else api.DATA_TYPE_STRING
        info.domain_discrete.extend([as_value(value)[1] for value in sorted(set(values), key=rank)])
    return info


def as_value(value: Value) -> tuple[str, Any]:
    """Return a value as HParams have it: its field, and what stands in it."""
    if isinstance(value, bool):
        return "bool_value", value
    if isinstance(value, (int, float)):
        return "number_value", float(value)
    return "string_value", spell(value)


def hparams(kind: str, content: Any) -> Any:
    """Return one of the messages of TensorBoard's HParams plugin."""
    protocol = proto("summary")
    data = proto("plugin_hparams").HParamsPluginData(**{kind: content})
    plugin = protocol.SummaryMetadata.PluginData(
        plugin_name="hparams", content=data.SerializeToString()
    )
    metadata = protocol.SummaryMetadata(plugin_data=plugin)
    value = protocol.Summary.Value(tag=f"_hparams_/{kind}", metadata=metadata)
    return protocol.Summary(value=[value])
