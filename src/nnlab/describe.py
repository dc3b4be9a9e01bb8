"""``python -m nnlab.describe dataset=dogset``: what is in a dataset, and in the network for it."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from nnlab import build, compose, datasets, messages, perceptron, storage, targets, terminal
from nnlab.arguments import check
from nnlab.config import Config
from nnlab.datasets.arrays import Arrays, Partition
from nnlab.datasets.splits import channels, count, partitions, statistics, target_scale
from nnlab.datasets.table import input_names
from nnlab.perceptron import MLP
from nnlab.text import as_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

EXAMPLES = 8  # images of each class in the sheet
ROWS = 20  # classes in the sheet and in the table
SPLITS = ("train", "valid", "test")
LONGEST_NAME = 40  # letters of a folder's name in the names of files
CHANNELS = 3  # means that the table of splits has room for


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(overrides):
        terminal.say(f"{__doc__}\n\nOptions are those of python -m nnlab.run; see its --help.")
        return 0
    if "--version" in overrides:
        terminal.say(terminal.version())
        return 0
    try:
        check(overrides)
        config = compose.load(overrides)
        targets.refuse_unnamed(config, targets.functions_named(overrides))
        describe(config)
    except Exception as error:
        message = messages.explain(error)
        if message is None:
            raise
        terminal.complain(message)
        return 1
    return 0


def describe(config: Config) -> None:
    """Print tables of a dataset and of the network for it; write describe.json and examples.png.

    The dataset is all of the source that serves the configured sizes. Where these files are of
    another source, the names of the new ones say which folder they are of.
    """
    source, arrays = datasets.read(config.dataset, config.sizes)
    network = build.build_model(config, arrays.shape, arrays.outputs)
    content = contents(config, source, arrays) | {"model": layers(network)}
    data = config.dataset.data_folder
    content["folder"] = None if data is None else str(Path(data).expanduser().resolve())
    terminal.show(
        title(content),
        splits_table(content),
        targets_table(content) if arrays.targets else classes_table(content),
        *([columns_table(content)] if content["columns"] else []),
        model_table(content["model"], config.model.name),
    )

    folder = Path(config.output_dir, config.study)
    folder.mkdir(parents=True, exist_ok=True)
    ending = own_ending(folder, content)
    written = [folder / f"describe{ending}.json"]
    storage.write_atomic(written[0], (json.dumps(content, indent=2) + "\n").encode())
    if arrays.pictures and arrays.classes:
        from nnlab.report import plotting

        written.append(plotting.save(sheet(content, arrays), folder / f"examples{ending}.png"))
    terminal.say(*written)


def own_ending(folder: Path, content: dict[str, Any]) -> str:
    """Return what the names of the files end with, so that they replace no other source's.

    The first source's files have plain names, those of others the name of the data's folder.
    """
    name = Path(content["folder"] or "").name or content["name"]
    name = re.sub(r"[^\w.-]+", "-", name)[:LONGEST_NAME]
    numbered = (f"_{name}_{number}" for number in itertools.count(2))
    endings = itertools.chain(["", f"_{name}"], numbered)
    return next(each for each in endings if may_replace(folder / f"describe{each}.json", content))


def may_replace(path: Path, content: dict[str, Any]) -> bool:
    """Say whether there is no description of that name yet, or one of the same source."""
    try:
        earlier = json.loads(storage.read(path))
        return all(earlier.get(key, content[key]) == content[key] for key in ("source", "folder"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, AttributeError, RecursionError):  # it is none of nnlab's
        return False


def title(content: dict[str, Any]) -> str:
    made = ", made by a program" if content["synthetic"] else ""
    targets = content.get("targets", [])
    what = f"{len(content['classes'])} classes"
    if targets:
        what = f"{len(targets)} {'number' if len(targets) == 1 else 'numbers'} to predict"
    return f"{content['source']}: {what}{made}"


def contents(config: Config, source: str, arrays: Arrays) -> dict[str, Any]:
    """Return what describe.json says of a dataset (JSON values).

    mean and deviation are those of each channel, pixels in 0 to 1, or of each input of a table.
    """
    splits: dict[str, dict[str, Any]] = {}
    parts = partitions(arrays, config.dataset.held_out, config.seed_of("test"))
    for name, (part, index) in sorted(parts.items(), key=lambda item: SPLITS.index(item[0])):
        if len(index) > 0:
            mean, deviation = statistics(part, index, channels(arrays.shape), arrays.missing)
            splits[name] = {
                "size": len(index),
                "mean": mean.tolist(),
                "deviation": deviation.tolist(),
                "counts": list(count(arrays, part, index)),
            }
            if arrays.targets:
                scale, values = target_scale(part, index), part.labels[index]
                splits[name]["targets"] = {
                    "mean": list(scale.mean),
                    "deviation": list(scale.deviation),
                    "least": values.min(axis=0).tolist(),
                    "greatest": values.max(axis=0).tolist(),
                }
    return {
        "name": config.dataset.name,
        "source": source,
        "synthetic": arrays.synthetic,
        "shape": list(arrays.shape),
        "dtype": str(arrays.train.inputs.dtype),
        "palette": palette(arrays),
        "classes": list(arrays.classes),
        "columns": arrays.columns,
        "splits": splits,
        **({"targets": list(arrays.targets)} if arrays.targets else {}),
    }


def palette(arrays: Arrays) -> str | None:
    """Say whether images are grey or RGB, by their pixels; None where there are no images."""
    if not arrays.pictures:
        return None
    if channels(arrays.shape) == 1:
        return "grey"
    parts = [part for part in (arrays.train, arrays.valid, arrays.test) if part is not None]
    equal = all(
        bool((pixels[..., :1] == pixels).all())
        for part in parts
        for pixels in (part.inputs.reshape(-1, arrays.shape[2]),)
    )
    return "grey, stored as RGB" if equal else "RGB"


def layers(network: MLP | nn.Module) -> dict[str, Any]:
    """Return the sizes of a network's linear layers and convolutions (of these the channels), its
    weights (without biases) and parameters."""
    if isinstance(network, MLP):
        found = [(each.inputs, each.outputs, each) for each in network.layers]
    else:
        found = [*of_modules(network)]
    return {
        "layers": [
            {
                "inputs": inputs,
                "outputs": outputs,
                "weights": math.prod(each.weight.shape),
                "biases": 0 if each.bias is None else math.prod(each.bias.shape),
            }
            for inputs, outputs, each in found
        ],
        "weights": perceptron.weights(network),
        "parameters": perceptron.parameters(network),
    }


def of_modules(network: nn.Module) -> Iterator[tuple[int, int, Any]]:
    """Yield how many inputs and outputs a linear layer or convolution has, and itself."""
    from torch import nn

    for each in network.modules():
        if isinstance(each, nn.Linear):
            yield each.in_features, each.out_features, each
        elif isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            yield each.in_channels, each.out_channels, each


def splits_table(content: dict[str, Any]) -> Table:
    table = plain_table("split", "size", "shape", "dtype", "palette", "mean", "deviation")
    shape = "x".join(map(str, content["shape"]))
    kind = content["palette"] or "-"
    for split, part in content["splits"].items():
        few = len(part["mean"]) <= CHANNELS
        values = [
            " ".join(f"{v:.3f}" for v in part[key]) if few else "…" for key in ("mean", "deviation")
        ]
        table.add_row(split, f"{part['size']:,}", shape, content["dtype"], kind, *values)
    return table


def classes_table(content: dict[str, Any]) -> Table:
    table = plain_table("label", "class", *content["splits"])
    for number, name in enumerate(content["classes"][:ROWS]):
        counts = [f"{part['counts'][number]:,}" for part in content["splits"].values()]
        table.add_row(str(number), Text(as_label(name, 40)), *counts)
    if len(content["classes"]) > ROWS:
        table.add_row("…", f"and {len(content['classes']) - ROWS} more, in describe.json")
    return table


def targets_table(content: dict[str, Any]) -> Table:
    """List the numbers to predict, in their own units, of each split."""
    table = plain_table("target", "split", "mean", "deviation", "least", "greatest")
    for number, name in enumerate(content["targets"][:ROWS]):
        for split, part in content["splits"].items():
            values = [f"{found[number]:.4g}" for found in part["targets"].values()]
            table.add_row(Text(as_label(name, 40)), split, *values)
    if len(content["targets"]) > ROWS:
        table.add_row(f"and {len(content['targets']) - ROWS} more, in describe.json")
    return table


def columns_table(content: dict[str, Any]) -> Table:
    """List the inputs that the columns of a table make, in their own units."""
    table = plain_table("column", "mean", "deviation")
    train = content["splits"]["train"]
    names = input_names(content["columns"])
    for name, *values in list(zip(names, train["mean"], train["deviation"]))[:ROWS]:
        table.add_row(Text(as_label(name, 40)), *(f"{value:.4g}" for value in values))
    if len(names) > ROWS:
        table.add_row(f"and {len(names) - ROWS} more, in describe.json")
    return table


def model_table(described: dict[str, Any], name: str) -> Table:
    table = plain_table("layer", "inputs", "outputs", "weights", "biases")
    for number, each in enumerate(described["layers"], 1):
        table.add_row(str(number), *(f"{each[key]:,}" for key in each))
    biases = described["parameters"] - described["weights"]
    table.add_row(Text(as_label(name)), "", "", f"{described['weights']:,}", f"{biases:,}")
    return table


def plain_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        words = column in ("split", "target", "class", "column", "dtype", "palette", "layer")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def sheet(content: dict[str, Any], arrays: Arrays) -> Figure:
    """Draw the first training images of each class, a row each."""
    from matplotlib.figure import Figure

    from nnlab.report.plotting import plain

    shown = list(range(min(ROWS, len(arrays.classes))))
    names = [plain(arrays.classes[label], 24) for label in shown]
    edge, top, size = 0.62, 0.34, 8
    left = max(1.15, 0.2 + 0.075 * max(map(len, names)))
    figure = Figure((left + EXAMPLES * edge + 0.1, top + len(shown) * edge + 0.1), dpi=200)
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.1 / height, plain(title(content), 90), size=size, va="top")
    for row, label in enumerate(shown):
        bottom = 1 - (top + (row + 1) * edge) / height
        middle = bottom + 0.5 * edge / height
        figure.text((left - 0.1) / width, middle, names[row], size=size, ha="right", va="center")
        places = np.flatnonzero(arrays.train.labels == label)[:EXAMPLES].tolist()
        for column, place in enumerate(places):
            box_of = (
                (left + column * edge) / width,
                bottom,
                0.94 * edge / width,
                0.94 * edge / height,
            )
            axes = figure.add_axes(box_of)
            axes.imshow(picture(arrays.train, place, arrays.shape), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
    return figure


def picture(part: Partition, place: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an image as matplotlib takes it: [H, W] or [H, W, 3] in 0 to 1."""
    pixels = part.inputs[place]
    scale = np.float32(255 if pixels.dtype == np.uint8 else 1)
    image: NDArray[np.float32] = (pixels / scale).reshape(shape)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


if __name__ == "__main__":
    sys.exit(main())
