"""What a notebook asks for: the examples of a dataset as arrays, and a sweep's results."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from nnlab.datasets import Split
    from nnlab.tally import Tally

Pair: TypeAlias = "tuple[NDArray[np.float32], NDArray[Any]]"

ONE_AT_A_TIME = threading.RLock()  # Hydra has one command in a process
SIZES = ("train_size", "valid_size", "test_size", "folds", "fold")


class Splits(NamedTuple):
    """A run's examples: of each split the inputs [n, ...] and the labels [n], or None.

    classes: the names of the labels. In a regression there are none; targets are the names of the
    numbers that the labels are, [n, k] float32 in their own units.
    """

    train: Pair
    valid: Pair | None
    test: Pair | None
    classes: list[str]
    targets: list[str] = []  # noqa: RUF012  # never changed


def load_data(dataset: str, *, seed: int = 0, **options: Any) -> Splits:
    """Return the examples that the run of a seed trains, validates and tests on.

    options: train_size, valid_size and test_size (None: the whole split), folds and fold, and those
    of the dataset, such as ``normalize=True``; the others are as on the command line. Examples have
    their own shape, an image's channels last; pixels lie in [0, 1] unless they are normalized.
    Raises ValueError where options are not possible or a file is not as it should be, OSError
    where the files are neither here nor to be downloaded.

    >>> x, labels = load_data("mnist", train_size=500).train
    >>> x.shape, labels.shape
    ((500, 28, 28), (500,))
    """
    from nnlab import compose, run

    named = {key if key in SIZES else f"dataset.{key}": value for key, value in options.items()}
    with run.alone(), explained():
        config = compose.load(overrides({"dataset": dataset, "seed": seed} | named))
        data = config.load_data()

    def arrays(split: Split) -> Pair:
        inputs, labels = split.examples
        if data.targets:
            mean, deviation = (
                np.array(data.provenance[f"target_{name}"]) for name in ("mean", "deviation")
            )
            labels = (labels * deviation + mean).astype(np.float32)
        return inputs.reshape(len(inputs), *data.provenance["shape"]), labels

    valid, test = (None if part is None else arrays(part) for part in (data.valid, data.test))
    return Splits(arrays(data.train), valid, test, data.classes, data.targets)


def sweep(
    options: Mapping[str, Any],
    *,
    study: str | None = None,
    output_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Train a run for every combination of values; what ``nnlab.run`` does, in this process.

    options: by their names on the command line. A list, range or array holds the values of a
    sweep; for an option that is a list itself, as model.hidden is, a list of lists does; a text
    may be one of Hydra's, as "interval(0.001,0.1)" is for a sweeper that searches.
    study, output_dir: where the runs go. Those that have been trained before are not again.

    Returns a row for each run: the columns of summary.csv, and whatever has several values.
    Raises ValueError for options that are not possible and, after all others were trained,
    ValueError or RuntimeError where a run could not be. When it is interrupted, the same call
    goes on from there.
    """
    from nnlab import hydra_jobs, run, sweeps, terminal
    from nnlab.report import frames

    places = {"study": study, "output_dir": None if output_dir is None else str(output_dir)}
    given = dict(options) | {key: value for key, value in places.items() if value is not None}
    with ONE_AT_A_TIME, run.alone(), explained():
        command = hydra_jobs.Command()
        tally = command.tally
        tally.folders = []
        run.train(command, overrides(given))
        _, problems = sweeps.write_reports(tally)
        for line in command.last_lines:
            terminal.say(line)
        raise_errors(tally, tally.errors(problems))
    swept = [key for key, value in given.items() if several(key, value) is not None]
    return frames.of_runs(tally.folders, swept)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of Hydra, which say much beside, into a ValueError with a clear message, and
    what others have made of an interrupt into that."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from nnlab import messages

    try:
        yield
    except Exception as error:
        if any(isinstance(each, KeyboardInterrupt) for each in causes(error)):
            raise KeyboardInterrupt from error
        if isinstance(error, (HydraException, OmegaConfBaseException)):
            raise ValueError(messages.explain(error)) from error
        raise


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those in whose handling it was raised, or from which."""
    seen = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def raise_errors(tally: Tally, lines: Sequence[str]) -> None:
    """Raise what kept runs from their end, if anything did."""
    if not lines:
        return
    kind = ValueError if tally.refused else RuntimeError
    if 0 < tally.failed < tally.runs:
        kept = f"{tally.failed} of {tally.runs} runs could not be trained; the others are kept"
        lines = [kept, *lines]
    raise kind("\n".join(lines)) from tally.first


# Values as on the command line


def overrides(options: Mapping[str, Any]) -> list[str]:
    """Write options as on the command line. Raises ValueError for a sweep over no values.

    >>> overrides({"train_size": [500, 1000], "optimizer.lr": 0.1, "model.hidden": [128, 64]})
    ['train_size=500,1000', 'optimizer.lr=0.1', 'model.hidden=[128,64]']
    >>> overrides({"seed": range(3), "model.hidden": [[64], []], "valid_size": None})
    ['seed=0,1,2', 'model.hidden=[64],[]', 'valid_size=null']
    """
    words = []
    for key, value in options.items():
        values = several(key, value)
        if values == []:
            raise ValueError(f"{key} has no values; give at least one")
        words.append(f"{key}={','.join(map(spell, [value] if values is None else values))}")
    return words


def several(key: str, value: Any) -> list[Any] | None:
    """Return the values of a sweep over an option; None where the value is a single one."""
    if not listed(value):
        return None
    from nnlab import arguments

    values, kinds = list(value), [kind for name, kind in arguments.option_types() if name == key]
    if "Any" in kinds:  # a list of numbers is one value, as of loss.class_weights
        single = all(isinstance(each, (int, float)) for each in values)
    else:
        takes_lists = any("list" in kind for kind in kinds)
        single = takes_lists and not (values and all(map(listed, values)))
    return None if single else values


def listed(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, Mapping))


def spell(value: Any) -> str:
    r"""Write one value as on the command line, a text in quotes where it needs them.

    >>> [spell(value) for value in (None, True, 1e-05, np.float64(0.1), (128, 64), "range(3)")]
    ['null', 'true', '1e-05', '0.1', '[128,64]', 'range(3)']
    >>> print(spell("it's"), spell({"width": 32}))
    'it\'s' {width:32}
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{spell(each)}' for key, each in value.items())}}}"
    if isinstance(value, np.generic):
        value = value.item()
    if listed(value):
        return f"[{','.join(map(spell, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    plain = re.fullmatch(r"[\w/:.+%-]+|(choice|interval|range)\(.*\)", text, flags=re.ASCII)
    return text if plain else QuotedString(text, Quote.single).with_quotes()
