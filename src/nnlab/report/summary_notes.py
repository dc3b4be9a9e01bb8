"""What the table of a study cannot show, in sentences."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from operator import attrgetter

from nnlab.boolean import separable, truth_table
from nnlab.datasets import DATASETS
from nnlab.losses import CLASSIFICATION, REGRESSION
from nnlab.report.comparisons import compared
from nnlab.report.curves import GAIN, RULES, epochs, extent, in_words, rules
from nnlab.report.learning_curves import laws
from nnlab.report.runs import (
    RunRecord,
    Value,
    assignments,
    factors,
    is_number,
    is_seed,
    repeats,
    said_of,
    spell,
)
from nnlab.report.selection import Derived, Groups, grouped, where
from nnlab.report.summary import ACCURACY, LOSS, function, outcome
from nnlab.report.times import busy, most_concurrent, timings

SETTINGS = 6  # that are put into words
MORE = "and {:,} more settings, all of them in summary.csv"
SCATTERED = "times per example differ too much to tell that of the full training set"
IMPOSSIBLE = (
    "a network without activations parts inputs by one line (of more than two by a hyperplane), "
    "and none has all ones on one side and all zeros on the other: {}"
)
FALLING = (
    "training loss still fell when training ended, so more epochs may do (stopping.max_epochs): {}"
)


def notes(runs: Sequence[RunRecord], predict: Sequence[int] = ()) -> list[str]:
    """Say what the table cannot: the time of the full training set, which settings differ, why
    rules stopped the runs, what the curves show, what failed and why.

    predict: training-set sizes of which the accuracy is to be predicted.
    """
    said = []
    keys, length, fits = timings(runs)
    what = "an epoch" if length is None else f"{length:,} epoch" + "s" * (length > 1)
    for fit in fits[:5]:
        setting = assignments(keys, fit.values)
        if (answer := fit.answer()) is not None:
            answer = answer.replace(")", "; 95 % interval)")
            time = f"{what} on all {fit.full_size:,} examples would take {answer}"
            said.append(f"{setting}: {time}" if setting else f"By the fitted line {time}.")
        elif fit.scattered:
            said.append(said_of(keys, fit.values, SCATTERED) + "." * (not setting))
    if fits and any(run.form for run in runs) and all(fit.line is None for fit in fits):
        form = "the dual form (docs/engines.md)"
        said.append(f"no line through training times of {form}, which grow faster")
    if fits and (most := most_concurrent(runs)) > 1:
        said.append(f"Times are of runs that trained side by side, up to {most:,} at once.")
    said += busy(runs) if fits else []
    said += compared(runs) + laws(runs, predict) + tested(runs) + scores_of(runs)
    said += stopped(runs) + readings(runs) + computed(runs)
    for name in sorted({spell(run.settings.get("dataset")) for run in runs if run.synthetic}):
        said.append(f"dataset={name}: synthetic data, made by a program")
    lost = where(runs, lambda run: run.status in ("failed", "diverged"))
    for run in lost[:5]:
        said.append(f"{run.name} {run.status}: {run.error or run.stop_reason}")
    if len(lost) > 5:
        said.append(f"and {len(lost) - 5:,} more failed or diverged")
    return said


def tested(runs: Sequence[RunRecord]) -> list[str]:
    """Say on which part of a test split the runs were tested, and which saw other data."""
    said = []
    tests: dict[tuple[int, int], set[Value]] = {}
    for run in runs:
        size, full = run.settings.get("test_size"), run.full_test_size
        if run.complete and isinstance(size, int) and full and 0 < size < full:
            drawn = tests.setdefault((size, full), set())
            if len(drawn) < 2:
                drawn.add(run.settings.get("seeds.test"))
    for (size, full), drawn in sorted(tests.items()):
        which = "the same for every seed" if len(drawn) == 1 else "others for each seeds.test"
        said.append(f"Tested on {size:,} of the {full:,} test examples, {which}.")
    for (name,), same in grouped(runs, ["dataset"]).items():
        dataset = DATASETS.get(spell(name))
        data = grouped(where(same, lambda run: run.settings.get("data")), ["data"])
        if len(data) > 1 and not (dataset and dataset.generated):
            shown = itertools.islice(data.items(), SETTINGS)
            parts = [f"{len(each)} {spell(source)}" for (source,), each in shown]
            parts += [f"and {len(data) - SETTINGS:,} others"] * (len(data) > SETTINGS)
            said.append(f"Not all runs saw the same data: {', '.join(parts)}.")
    return said


def scores_of(runs: Sequence[RunRecord]) -> list[str]:
    """Say of which examples the scores are that evaluation=[metrics] gave, unless of the test's."""
    splits = {split for run in runs if (split := run.results.get("scored_split"))}
    named = " or ".join(sorted(map(str, splits)))
    said = f"F1, AUC and the other scores are of the {named} examples."
    return [said] if splits - {"test"} else []


def stopped(runs: Sequence[RunRecord]) -> list[str]:
    """Say why a rule stopped runs, and where it may have by chance."""
    ended = where(runs, lambda run: run.status == "stopped")
    return reasons(ended) + by_chance(ended)


def by_chance(ended: Sequence[RunRecord]) -> list[str]:
    """Warn where plateau waits for less than the noise of an epoch's loss."""
    noise = array(
        "d",
        (
            run.reading.loss_noise
            for run in ended
            if run.settings.get("stopping") == "plateau" and run.reading
            if is_number(least := run.settings.get("stopping.min_delta"))
            if run.reading.loss_noise > least
        ),
    )
    if not noise:
        return []
    return [
        f"plateau may have stopped {len(noise)} of {len(ended)} runs by chance: validation loss "
        f"changes by {extent(noise, '.2g')} from epoch to epoch, more than stopping.min_delta; "
        f"stopping=patience waits for several epochs"
    ]


def reasons(ended: Sequence[RunRecord]) -> list[str]:
    """Say why a rule stopped them: once where it says the same of all, else run by run."""
    if len(Groups(ended, attrgetter("stop_reason"))) == 1:
        return [f"{spell(ended[0].settings.get('stopping'))}: {ended[0].stop_reason}"]
    said = [f"{run.name} stopped: {run.stop_reason}" for run in ended[:SETTINGS]]
    more = len(ended) - SETTINGS
    return said + [f"and {more:,} more stopped, their reasons are in summary.csv"] * (more > 0)


def readings(runs: Sequence[RunRecord]) -> list[str]:
    """Put the curves of each setting into words, and say once how they were read."""
    keys = [key for key in factors(runs) if not is_seed(key)]
    read = where(runs, lambda run: run.reading and run.status != "running")
    groups = grouped(read, keys)
    said = []
    for values, group in itertools.islice(groups.items(), SETTINGS):
        line = in_words(Derived(group, attrgetter("reading")))
        if any(run.weights_of_epoch not in (None, 0, run.epochs) for run in group):
            restored = array("q", (run.weights_of_epoch or run.epochs for run in group))
            line += f"; tested with the weights of {epochs(restored)}"
        said.append(said_of(keys, values, line))
    if len(groups) > SETTINGS:
        said.append(MORE.format(len(groups) - SETTINGS))
    tasks = {run.task for run in read}
    how = [RULES] if CLASSIFICATION in tasks else []
    how += [rules("R²", f"{GAIN:g}")] if REGRESSION in tasks else []
    return [*said, *how] if said else []


def computed(runs: Sequence[RunRecord]) -> list[str]:
    """Say of each network which Boolean functions it computes, in every row of their tables, and
    of those that it does not, why, where that can be told."""
    tables = where(runs, lambda run: run.test_accuracy is not None and run.tested_whole)
    known = ("dataset.function", "dataset.inputs")
    keys = [key for key in factors(runs) if key not in known and not is_seed(key)]
    settings = grouped(tables, keys)
    said, why = [], []
    for values, group in itertools.islice(settings.items(), SETTINGS):
        functions = grouped(group, list(known))
        wrong = sum(map(is_missed, functions))
        missed = list(itertools.islice(filter(is_missed, functions), SETTINGS))
        few = [f"{function(same[0])} ({score(same)})" for same in missed]
        few += [f"{wrong - SETTINGS} more"] * (wrong > SETTINGS)
        why += [(reason(same), function(same[0])) for same in missed]
        if len(functions) > 1:
            line = f"computes {len(functions) - wrong} of {len(functions)} functions"
            line += f", not {', '.join(few)}" * bool(few)
        elif few:
            cannot = reason(missed[0]) == IMPOSSIBLE
            line = f"{'cannot compute' if cannot else 'has not learned'} {few[0]}"
        else:
            line = f"computes {function(group[0])}"
        said.append(said_of(keys, values, line))
    if len(settings) > SETTINGS:
        said.append(MORE.format(len(settings) - SETTINGS))
    for text in (IMPOSSIBLE, FALLING):
        names = dict.fromkeys(name for given, name in why if given == text)
        said += [text.format(", ".join(names))] * bool(names)
    if any(map(at_chance, tables)):
        said.append(
            f"a loss of ln 2 = {math.log(2):.3f} is chance: 0 and 1 are equally probable in every "
            f"row, and rounding decides which rows come out right"
        )
    return said


def is_missed(same: Sequence[RunRecord]) -> bool:
    """Return whether not all runs compute their Boolean function."""
    return any(run.test_accuracy != 1 for run in same)


def score(same: Sequence[RunRecord]) -> str:
    """Write how near runs have come to a Boolean function that not all of them compute."""
    found = outcome(same, [ACCURACY, LOSS])
    right = sum(run.test_accuracy == 1 for run in same)
    some = f"right with {right} of {len(same)} {repeats(same)}, " if right else ""
    return f"{some}{found[ACCURACY]}, loss {found[LOSS]}"


def reason(same: Sequence[RunRecord]) -> str | None:
    """Tell why runs do not compute a Boolean function; None where nothing tells."""
    settings = same[0].settings
    name, inputs = settings["dataset.function"], settings["dataset.inputs"]
    assert isinstance(name, str)
    assert isinstance(inputs, int)
    linear = settings.get("model.activation") == "identity" or settings.get("model.hidden") == ()
    if linear and not separable(truth_table(name, inputs)):
        return IMPOSSIBLE
    missed = where(same, lambda run: run.test_accuracy != 1)
    fall = all(run.still_falls and not at_chance(run) for run in missed)
    return FALLING if fall else None


def at_chance(run: RunRecord) -> bool:
    """Tell whether a network holds 0 and 1 for equally probable in every row of a truth table."""
    return run.test_loss is not None and abs(run.test_loss - math.log(2)) < 1e-4
