"""Settings compared in words: whether more data still helps, which of them can be told apart.

Settings are compared on the same test examples, paired by seed (Student's t), or where each has
one seed by the examples that one network alone has right (McNemar), several comparisons by Holm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnlab.losses import REGRESSION
from nnlab.report.runs import (
    RunRecord,
    Setting,
    assignments,
    brief,
    factors,
    is_seed,
    repeats,
    said_of,
)
from nnlab.report.selection import Runs, digests, grouped, numbers, where
from nnlab.report.statistics import Difference, Disagreement, disagreement, holm, paired
from nnlab.text import decimal

FEWEST = 5  # seeds that settings are compared by
MOST = 20  # settings that are compared in words
SHOWN = 6  # settings or comparisons that get a line
ONE_SEED = (
    f"One seed of each setting: to compare them takes {FEWEST}, as in seed=0,1,2,3,4 (or which "
    f"examples each network has right, for McNemar's test, which earlier versions did not keep)."
)
ONE_EACH = (  # where predictions are kept
    f"One seed of each setting: to compare settings takes {FEWEST}, as in seed=0,1,2,3,4. Networks "
    f"are compared by McNemar's test, of up to {MOST} settings with the same test examples."
)
NO_CLASSES = (
    f"One seed of each setting: to compare them takes {FEWEST}, as in seed=0,1,2,3,4 (McNemar's "
    f"test is of classes, which a regression does not have)."
)
NETWORKS = (
    f"One seed each: McNemar's test tells two networks apart, not others of their settings, which "
    f"takes {FEWEST} seeds."
)
ALONE = "one seed each"  # of what networks, not settings, are compared
SURE = 0.05  # below it a p-value tells settings apart


@dataclass(frozen=True)
class BySeeds:
    """The runs of a setting, one of each seed, and digests of their seeds [N]."""

    runs: Runs
    seeds: NDArray[np.int64]


@dataclass(frozen=True)
class Measure:
    """What settings are compared by: its name in a run, its sign, 1 where more is better; how it is
    written. over: in what the runs of a setting differ, seeds or folds."""

    name: str
    sign: int
    scale: float
    style: str
    unit: str
    over: str = "seeds"

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    def of(self, run: RunRecord) -> float | None:
        value: float | None = getattr(run, self.name)
        return None if value is None or not math.isfinite(value) else value

    def write(self, found: Difference | Disagreement, names: Sequence[str]) -> str:
        """Write a difference and its interval, or what it is of. names: of the two settings."""
        mean = f"difference {decimal(self.scale * found.mean, self.style)}{self.unit}"
        if isinstance(found, Disagreement):
            return f"{mean}, {right_alone(found, names)}"
        ends = sorted(self.scale * end for end in (found.low, found.high))
        low, high = (decimal(end, self.style) for end in ends)
        return f"{mean}, 95 % {low} to {high}"

    def basis(self, found: Difference | Disagreement) -> str:
        """Say by how many seeds, or folds, two settings were compared."""
        return ALONE if isinstance(found, Disagreement) else f"{found.count} {self.over}"


ACCURACY = Measure("test_accuracy", 1, 100, ".1f", " points")
LOSS = Measure("test_loss", -1, 1, ".3f", "")


def compared(runs: Sequence[RunRecord]) -> list[str]:
    """Compare the settings of a study, each dataset and test set by itself, as sentences.

    Nothing is said of networks that were tested on all there is.
    """
    runs = where(runs, lambda run: run.complete and not run.tested_whole)
    measure = ACCURACY if any(ACCURACY.of(run) is not None for run in runs) else LOSS
    runs = where(runs, lambda run: measure.of(run) is not None)
    measure = replace(measure, over=repeats(runs))
    keys = [key for key in factors(runs) if not is_seed(key)] if runs else []
    apart = [key for key in keys if key.partition(".")[0] in ("dataset", "data", "test_size")]
    apart += [key for key in keys if key == "seeds.test"]
    keys = [key for key in keys if key not in apart]
    if not keys:
        return []
    said = []
    for values, group in itertools.islice(grouped(runs, apart).items(), SHOWN):
        place = f"{assignments(apart, values)}: " if apart else ""
        lines = more_data(group, keys, measure) + ranked(group, keys, measure)
        said += [place + line for line in lines]
    if any(ALONE in line for line in said):
        said.append(NETWORKS)
    return said or too_few(runs, [*apart, *keys], measure.over)


def by_setting(
    runs: Sequence[RunRecord], keys: Sequence[str], measure: Measure
) -> dict[Setting, BySeeds]:
    """Return the runs of each setting that have a result, by their seeds."""
    names = [key for key in runs[0].settings if is_seed(key)]
    found: dict[Setting, BySeeds] = {}
    measured = where(runs, lambda run: measure.of(run) is not None)
    for setting, group in grouped(measured, keys).items():
        seeds = digests(group, lambda run: tuple(map(run.settings.get, names)))
        _, last = np.unique(seeds[::-1], return_index=True)  # where several have a seed
        places = np.sort(len(seeds) - 1 - last)
        found[setting] = BySeeds(group.at(places), seeds[places])
    return found


def compare(ones: BySeeds, others: BySeeds, measure: Measure) -> Difference | Disagreement | None:
    """Compare two settings by the seeds that both have, or the one network that each has by the
    test examples; None where neither can be."""
    if len(ones.runs) == len(others.runs) == 1:
        return compare_networks(ones.runs[0], others.runs[0], "test")
    _, mine, theirs = np.intersect1d(ones.seeds, others.seeds, return_indices=True)
    if len(mine) < FEWEST:
        return None
    order = np.argsort(mine)  # as the runs come, for digests are others in each process
    return paired(
        numbers(ones.runs.at(mine[order]), measure.of),
        numbers(others.runs.at(theirs[order]), measure.of),
    )


def compare_networks(one: RunRecord, other: RunRecord, split: str) -> Disagreement | None:
    """Compare two networks by which examples of a split, valid or test, they have right; None
    where these are not the same, or that was not kept."""
    mine, theirs = one.right_of(split), other.right_of(split)
    if mine is None or theirs is None or not one.same_examples(other, split):
        return None
    return disagreement(mine, theirs)


def more_data(runs: Sequence[RunRecord], keys: Sequence[str], measure: Measure) -> list[str]:
    """Say of each other setting whether the largest training set is better than the next."""
    if "train_size" not in keys:
        return []
    others = [key for key in keys if key != "train_size"]
    steps = []
    for values, group in itertools.islice(grouped(runs, others).items(), SHOWN):
        sizes = two_largest(group)
        less, more = sizes
        if less:
            settings = by_setting(of_sizes(group, sizes), ["train_size"], measure)
            found = compare(settings[more,], settings[less,], measure)
            if found is not None:
                steps.append((values, sizes, found))
    adjusted = holm([found.p for *_, found in steps])
    said = []
    for (values, sizes, found), p in zip(steps, adjusted):
        line = whether_it_helps(sizes, found, p < SURE, measure)
        said.append(said_of(others, values, line))
    return said


def two_largest(runs: Sequence[RunRecord]) -> tuple[int, int]:
    """Return the two largest training-set sizes, the larger one last, 0 for one that is not."""
    less = more = 0
    for run in runs:
        size = run.settings["train_size"]
        if isinstance(size, int) and size > less and size != more:
            less, more = sorted((size, more))
    return less, more


def of_sizes(runs: Sequence[RunRecord], sizes: Collection[int]) -> Runs:
    return where(runs, lambda run: run.settings["train_size"] in sizes)


def whether_it_helps(
    sizes: Sequence[int], found: Difference | Disagreement, sure: bool, measure: Measure
) -> str:
    """Say whether the larger of two training sets is better, or with one seed each its network."""
    less, more = names = [f"{size:,}" for size in sizes]
    by = f"{measure.scale * abs(found.mean):{measure.style}}{measure.unit}"
    written = f"({measure.write(found, names[::-1])}, {measure.basis(found)})"
    if isinstance(found, Disagreement):
        networks = f"the network of {more} examples", f"that of {less}"
        if not sure:
            return f"cannot tell {' from '.join(networks)} {written}"
        better, higher = ("better", "higher") if found.mean > 0 else ("worse", "lower")
        alone = f"({right_alone(found, names[::-1])}, {ALONE})"
        return f"{f' is {better} than '.join(networks)}: {measure.title} {by} {higher} {alone}"
    step = f"from {less} to {more} examples"
    if not sure:
        return f"cannot tell whether more data still helps {step} {written}"
    sign = 1 if found.mean > 0 else -1
    low, high = sorted(sign * measure.scale * end for end in (found.low, found.high))
    ends = f"{decimal(low, measure.style)} to {decimal(high, measure.style)}"
    interval = f"(95 % {ends}, {measure.basis(found)})"
    verdict = "still helps" if sign == measure.sign else "does harm"
    verb = "rises" if sign > 0 else "falls"
    return f"more data {verdict}: {step} {measure.title} {verb} by {by} {interval}"


def ranked(runs: Sequence[RunRecord], keys: Sequence[str], measure: Measure) -> list[str]:
    """Say which settings can be told from the best one, at the largest training-set size."""
    keys, sized = [key for key in keys if key != "train_size"], "train_size" in keys
    _, largest = two_largest(runs)
    if sized:
        runs = of_sizes(runs, [largest])
    if not keys or not 2 <= len(grouped(runs, keys)) <= MOST:
        return []
    settings = by_setting(runs, keys, measure)

    def mean(setting: Setting) -> float:
        return measure.sign * float(numbers(settings[setting].runs, measure.of).mean())

    best, *others = sorted(settings, key=mean, reverse=True)
    found = {}
    for one, two in itertools.combinations([best, *others], 2):
        difference = compare(settings[one], settings[two], measure)
        if difference is not None and measure.sign * difference.mean < 0:
            one, two = two, one  # by the seeds that both have
            difference = compare(settings[one], settings[two], measure)
        if difference is not None:
            found[one, two] = difference
    adjusted = dict(zip(found, holm([each.p for each in found.values()])))
    said = []
    for pair in [pair for pair in found if best in pair]:
        top, other = names = [named(keys, setting) for setting in pair]
        by = "" if isinstance(found[pair], Disagreement) else "paired by "
        written = f"({measure.write(found[pair], names)}, {by}{measure.basis(found[pair])})"
        sure = adjusted[pair] < SURE
        said.append(f"{top} is better than {other}" if sure else f"cannot tell {other} from {top}")
        said[-1] += f" {written}"
    if not said:
        return []
    at = f" at train_size={largest}" if sized else ""
    many = f", {len(found)} comparisons by Holm" if len(found) > 1 else ""
    more = [f"and {len(said) - SHOWN} more"] if len(said) > SHOWN else []
    head = f"{', '.join(keys)} by {measure.title}{at} (the same test examples{many})"
    return [f"{head}: {'; '.join([*said[:SHOWN], *more])}"]


def named(keys: Sequence[str], setting: Setting) -> str:
    return brief(setting[0]) if len(keys) == 1 else assignments(keys, setting)


def right_alone(found: Disagreement, names: Sequence[str]) -> str:
    """Say how many test examples each of two networks, by their settings, alone has right."""
    first, second = names
    return f"{found.first} test examples right by {first} alone, {found.second} by {second} alone"


def too_few(runs: Sequence[RunRecord], keys: Sequence[str], over: str) -> list[str]:
    """Say what a comparison would take where it cannot be made."""
    most = max(map(len, grouped(runs, keys)))
    if most >= FEWEST:
        return []
    if most > 1:
        return [f"Settings are compared from {FEWEST} {over} of each on."]
    if all(run.task is REGRESSION for run in runs):
        return [NO_CLASSES]
    return [ONE_EACH if any(run.knows_right for run in runs) else ONE_SEED]
