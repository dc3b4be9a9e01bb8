"""Which setting of a study is best, what cannot be told from it, and what each factor does.

Settings are ranked by a result of the validation set and compared paired by seed, so that nothing
is chosen by the test set. The statistics are scipy's, but for Holm's correction.
"""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlab.identity import NOT_IDENTITY
from nnlab.losses import METRICS
from nnlab.records import RESULT
from nnlab.report.columns import RESULTS, TESTED, Column, learned
from nnlab.report.comparisons import FEWEST, SURE, compare_networks
from nnlab.report.effects import (
    COMPUTED,
    estimates,
    is_result,
    main_effects,
    mean_over,
    results,
    shares,
)
from nnlab.report.run_folders import distinct, name_data, read, studies_below
from nnlab.report.runs import RunRecord, Setting, Value, factors, is_seed, repeats, spell
from nnlab.report.selection import grouped
from nnlab.report.statistics import Array, holm
from nnlab.text import decimal, nearest

if TYPE_CHECKING:
    import pandas as pd

BEST, ALIKE, WORSE, UNTESTED = "best", "cannot tell", "worse", "too few"
BETTER = "better, paired"  # than the best, whose mean is of other seeds
CHOICES = ("valid_accuracy", "valid_r2", "valid_loss")  # the first there is ranks settings
# Words in the names of results of which less is better.
SMALLER_IS_BETTER = (
    *("loss", "seconds", "gap", "brier", "ece"),
    *(metric.name for metric in METRICS.values() if not metric.higher),
)
MENTIONED = 6  # settings in a sentence


@dataclass(frozen=True)
class Comparison:
    """What the runs of one or more studies say about their settings.

    metric: by which they are ranked. by: the factors that make a setting. ranking: a row for each
    setting, the best first: its factors, ``runs``, ``missing`` (how many have no result), ``mean``,
    ``sd``, ``n``, ``ci95_low`` and ``ci95_high`` (Student's, over seeds), the ``difference`` from
    the best, paired by seed, with ``difference_low``, ``difference_high``, ``pairs``, ``p`` and
    ``p_holm``, and a ``verdict``. Where each setting has one run, p is McNemar's of two
    networks on the same examples. With a baseline the same of the difference from that, under
    ``baseline_difference`` and so on; where all test results are asked for, those too:
    ``test_accuracy``, or ``test_r2``, and so on, and where each setting has one run ``test_p`` and
    ``test_p_holm``, by the test examples. effects: a row for each value of each factor, over
    all else. shares: a row for each factor, and for the seeds: which share of the variance of the
    results lies between its values. balanced: whether every combination was run equally often;
    otherwise shares overlap.
    over: in what the runs of a setting differ, seeds, folds, or, as "runs", both. notes: all that
    in words.
    """

    metric: str
    by: list[str]
    ranking: pd.DataFrame
    effects: pd.DataFrame
    shares: pd.DataFrame
    balanced: bool
    over: str
    notes: list[str]

    @property
    def title(self) -> str:
        """The metric in words."""
        split, _, name = self.metric.partition("_")
        if name in METRICS:
            return f"{'validation' if split == 'valid' else split} {METRICS[name].title}"
        return self.metric.replace("_", " ").replace("valid ", "validation ")

    @property
    def of_networks(self) -> bool:
        """Whether single runs were compared, by their examples."""
        return int(self.ranking["pairs"].max()) < FEWEST and bool(self.ranking["p"].notna().any())

    @property
    def how(self) -> str:
        """How settings are compared, in words."""
        if self.of_networks:
            return "by the examples that one network alone has right (McNemar)"
        return f"paired by {self.over[:-1]}"

    @property
    def percent(self) -> bool:
        return is_percent(self.metric)

    def __str__(self) -> str:
        return "\n".join(self.notes)


def compare(
    *studies: str | Path,
    by: Sequence[str] = (),
    metric: str | None = None,
    baseline: Mapping[str, Any] | None = None,
    test: bool = False,
    merge: Sequence[str | Path] = (),
    label: str = "study",
) -> Comparison:
    """Compare the settings of one or more studies.

    by: the factors that make a setting; (): all that varied, but seeds. What varied beside them is
    averaged over in each seed. metric: a column of summary.csv; None: valid_accuracy, of
    regressions valid_r2, or else valid_loss. baseline: the setting that all are compared with
    beside the best, as in ``{"optimizer.lr": 0.01}``. test: give the test results of all
    settings, not only of the best. merge: folders of studies, one for each person or machine, or
    patterns such as "class/*"; label: what the factor is called that tells them apart.

    Raises FileNotFoundError where there are no runs, ValueError for what they do not have.
    """
    import pandas as pd

    runs = gather(studies, merge, label)
    by = list(dict.fromkeys(by)) or default_factors(runs)
    known = [*factors(runs), *sorted({key for run in runs for key in run.settings})]
    known = list(dict.fromkeys(known))  # what varied is named first
    for key in by:
        if key not in known:
            raise ValueError(f"by={key}: no run has it; {nearest(key, known)}")
        if is_seed(key):
            kind = "folds" if key == "fold" else "seeds"
            raise ValueError(
                f"by={key}: settings are compared over {kind}, which are no settings; leave it out"
            )
    column, over = chosen_metric(runs, metric), repeats(runs)
    found = results(runs, by, column)
    columns: dict[str, Any] = dict(zip(by, zip(*found.settings)))
    columns |= {"runs": found.runs, "missing": found.missing, **estimates(found.by_seed)}
    means = columns["mean"]
    order = np.argsort(-means if larger_is_better(column) else means, kind="stable")
    best = int(order[0])
    networks = only_runs(runs, by, found.settings)
    columns |= differences(found.values, best) | by_examples(networks, best, split_of(column))
    columns["verdict"] = verdicts(columns, best, over, larger_is_better(column))
    if baseline is not None:
        reference = place_of(baseline, found.settings, by)
        against = differences(found.values, reference)
        against |= by_examples(networks, reference, split_of(column))
        columns |= {f"baseline_{name}": values for name, values in against.items()}
    if test:
        for name in tests(runs):
            tested = results(runs, by, column_named(name))
            columns[name] = mean_over(tested.by_seed, 1)
        tested_best = by_examples(networks, best, "test")
        columns |= {f"test_{name}": values for name, values in tested_best.items()}
    ranking, effects = frame(columns), main_effects(found, by)
    made = Comparison(
        metric=column.csv,
        by=by,
        ranking=ranking.iloc[order].reset_index(drop=True),
        effects=frame({name: [row[name] for row in effects] for name in effects[0]}),
        shares=pd.DataFrame(shares(found, by, over)),
        balanced=bool(np.isfinite(found.values).all()),
        over=over,
        notes=[],
    )
    return dataclasses.replace(made, notes=in_words(made, runs))


def frame(columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Make a frame in which None stays None, which pandas would make NaN among numbers, and True
    True, which would be numpy's."""
    import pandas as pd

    series = {}
    for name, values in columns.items():
        listed = list(values)
        kept = any(value is None or isinstance(value, bool) for value in listed)
        series[name] = pd.Series(listed, dtype=object if kept else None)
    made: pd.DataFrame = pd.DataFrame(series)
    return made


# Reading


def gather(
    studies: Sequence[str | Path], merge: Sequence[str | Path], label: str
) -> list[RunRecord]:
    """Read the runs of studies and, below each folder of ``merge``, of all studies there; of runs
    that computed the same in one place only the first."""
    kept = list(distinct([run for study in studies for run in read(Path(study))]))
    for folder in (folder for pattern in merge for folder in matching(str(pattern))):
        places = sorted({result.parent.parent for result in folder.rglob(f"*/{RESULT}")})
        if not places:
            raise FileNotFoundError(f"{folder} holds no runs{studies_below(folder)}")
        theirs = list(distinct([run for place in places for run in read(place)]))
        for run in theirs:
            if label in {*NOT_IDENTITY, *run.settings} - {"study"}:
                raise ValueError(f"label={label} is an option already; give another name")
            run.settings[label] = folder.name
        kept += theirs
    name_data(kept)
    if not kept:
        raise FileNotFoundError("give one or more studies, say outputs/mnist")
    if not any(run.complete for run in kept):
        raise ValueError(
            f"none of the {len(kept):,} runs has come to its end, and no others are compared; "
            f"train them first"
        )
    return kept


def matching(pattern: str) -> list[Path]:
    """Return the folders that a pattern fits, or itself as the name of one."""
    found = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_dir())
    return found or [Path(pattern)]


def chosen_metric(runs: Sequence[RunRecord], metric: str | None) -> Column:
    """Return the column of ``summary.csv`` that ranks settings."""
    whole = [run for run in runs if run.complete]
    names = [c.csv for c in RESULTS if c.csv and any(is_result(c.of(run)) for run in whole)]
    for name in [metric] if metric else CHOICES:
        if name in names:
            return column_named(name)
    if metric:
        raise ValueError(f"metric={metric}: no run has it; {nearest(metric, names)}")
    raise ValueError(
        f"nothing was validated, and settings are not to be chosen by the test set; train with "
        f"valid_size=500, say, or give metric={tests(runs)[0]}, which then is no measure of how "
        f"good the best one is"
    )


def tests(runs: Sequence[RunRecord]) -> list[str]:
    """Return the columns of test results, those of what the runs learn, the main one first."""
    metrics = [metric for metric in METRICS.values() if learned(metric)(runs)]
    return [f"test_{metric.name}" for metric in metrics] + ["test_loss"]


def column_named(name: str) -> Column:
    return next(column for column in RESULTS if column.csv == name)


def larger_is_better(column: Column) -> bool:
    return not any(word in column.csv for word in SMALLER_IS_BETTER)


def is_percent(name: str) -> bool:
    """Return whether a result is a fraction, which is shown in per cent."""
    return "accuracy" in name


def default_factors(runs: Sequence[RunRecord]) -> list[str]:
    """Return what was varied by hand, but seeds; how it was computed only where it is all."""
    keys = [key for key in factors(runs) if not is_seed(key)]
    return [key for key in keys if key not in COMPUTED] or keys or ["dataset"]


# Comparing


def differences(values: Array, reference: int) -> dict[str, Array]:
    """Return by how much each setting of values [S, K, C] exceeds a reference, paired by seed and
    circumstances: mean over the seeds, interval and, from ``FEWEST`` seeds on, the p-values of
    Student's paired test, also after Holm's correction for all of them."""
    from scipy import stats  # type: ignore[import-untyped]

    found = estimates(mean_over(values - values[reference], 2))
    mean, deviation, count = found["mean"], found["sd"], found["n"]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / (deviation / np.sqrt(count)), count - 1)
    p[(deviation == 0) & (mean == 0)] = 1.0  # equal in all seeds
    p[count < FEWEST] = p[reference] = math.nan
    low, high = found["ci95_low"], found["ci95_high"]
    interval = {"difference": mean, "difference_low": low, "difference_high": high}
    return {**interval, "pairs": count, "p": p, "p_holm": corrected(p)}


def only_runs(
    runs: Sequence[RunRecord], by: Sequence[str], settings: Sequence[Setting]
) -> list[RunRecord]:
    """Return the run of each setting, if none has another one; nothing otherwise."""
    of_setting = dict(grouped(runs, by).items())
    if any(len(of_setting[setting]) > 1 for setting in settings):
        return []
    return [of_setting[setting][0] for setting in settings]


def split_of(column: Column) -> str | None:
    """Return on which examples a share of right answers was measured; None of other results."""
    return {"valid_accuracy": "valid", "test_accuracy": "test"}.get(column.csv)


def by_examples(
    networks: Sequence[RunRecord], reference: int, split: str | None
) -> dict[str, Array]:
    """Return the p-values of McNemar's test of each network against a reference, also after
    Holm's correction, NaN where it cannot be made; nothing where it can be for none."""
    found = [
        compare_networks(network, networks[reference], split)
        if split and place != reference and not network.tested_whole
        else None
        for place, network in enumerate(networks)
    ]
    if not any(found):
        return {}
    p = np.array([math.nan if each is None else each.p for each in found])
    return {"p": p, "p_holm": corrected(p)}


def corrected(p: Array) -> Array:
    """Return p-values after Holm's correction, NaN where there is none."""
    tested, adjusted = np.isfinite(p), np.array(p)
    adjusted[tested] = holm(list(p[tested]))
    return adjusted


def verdicts(columns: Mapping[str, Any], best: int, over: str, larger: bool) -> list[str]:
    """Say of each setting how it stands beside the best. larger: whether larger results are
    better."""
    untested = f"{UNTESTED} {over}"
    differ = [BETTER if (each > 0) == larger else WORSE for each in columns["difference"]]
    said = [
        untested if math.isnan(p) else ALIKE if p >= SURE else clearly
        for p, clearly in zip(columns["p_holm"], differ)
    ]
    said[best] = BEST
    return said


def place_of(baseline: Mapping[str, Any], settings: Sequence[Setting], by: Sequence[str]) -> int:
    """Return which setting has the values of the baseline; it is to be one."""
    for key in baseline:
        if key not in by:
            raise ValueError(f"baseline={key}: settings differ in {', '.join(by)}")
    asked = {key: spell(as_value(value)) for key, value in baseline.items()}
    fitting = [
        place
        for place, setting in enumerate(settings)
        if all(asked.get(key, spell(value)) == spell(value) for key, value in zip(by, setting))
    ]
    if len(fitting) != 1:
        said = ",".join(f"{key}={value}" for key, value in asked.items())
        raise ValueError(
            f"baseline {said} fits {len(fitting)} settings; give values of {', '.join(by)} that "
            f"one of them has"
        )
    return fitting[0]


def as_value(value: Any) -> Value:
    made: Value = tuple(value) if isinstance(value, list) else value
    return made


# In words


def in_words(made: Comparison, runs: Sequence[RunRecord]) -> list[str]:
    """Say what is best, what cannot be told from it, what the factors do, what is missing."""
    ranking, by, over = made.ranking, made.by, made.over
    best = ranking.iloc[0]
    count = f"{best['n']} {over[:-1] if best['n'] == 1 else over}"
    known = interval(dict(best), made.metric)
    said = [f"best by {made.title}: {named(best, by)} ({known}, {count})"]
    alike = ranking[ranking["verdict"] == ALIKE]
    untested = int(ranking["verdict"].str.startswith(UNTESTED).sum())
    if len(alike):
        said.append(
            f"cannot be told from the best, {made.how} at the level of 5 % (Holm): "
            f"{several(alike, by)}"
        )
    elif len(ranking) > 1 and set(ranking["verdict"]) == {BEST, WORSE}:
        said.append(f"all other settings are worse, {made.how} at the level of 5 % (Holm)")
    if len(better := ranking[ranking["verdict"] == BETTER]):
        said.append(
            f"better than that, {made.how}, by the {over} that both have: {several(better, by)}"
        )
    if made.of_networks:
        said.append(
            f"McNemar's test tells these networks apart, not others of their settings: that takes "
            f"{FEWEST} {over}, as in {as_in(over)}"
        )
    if untested and made.of_networks:
        said.append(
            f"{untested:,} of {len(ranking):,} settings were validated on other examples than the "
            f"best, or did not keep which they had right: nothing is said of them"
        )
    elif untested:
        said.append(
            f"{untested:,} of {len(ranking):,} settings share fewer than {FEWEST} {over} with "
            f"the best: nothing is said of them; train more, as in {as_in(over)}"
        )
    own = [
        run
        for run in runs
        if [spell(run.settings.get(k)) for k in by] == list(map(spell, best[by]))
    ]
    metric = own[0].task.metrics[0]
    tested = TESTED[metric.name]
    if made.metric.startswith("valid") and any(is_result(tested.of(run)) for run in own):
        found = estimates(results(own, by, tested).by_seed)
        test = {name: values[0] for name, values in found.items()}
        said.append(f"test {metric.title} of the best: {interval(test, tested.csv)}")
    if "test_p_holm" in ranking:
        differ = int((ranking["test_p_holm"] < SURE).sum())
        said.append(
            f"{differ:,} of {len(ranking) - 1:,} other networks differ from the best on the test "
            f"examples (McNemar, Holm)"
        )
    rest = 1 - float(made.shares["share"].sum())
    if rest < 1:  # results vary
        parts = ", ".join(f"{row.factor} {row.share:.0%}" for row in made.shares.itertuples())
        said.append(
            f"shares of the variance: {parts}"
            + (f"; all else {max(0.0, rest):.0%}" if made.balanced else "")
        )
    if not made.balanced:
        said.append(f"not every combination has a result of every {over[:-1]}: shares overlap")
    if missing := int(ranking["missing"].sum()):
        were = "run is left out, which has" if missing == 1 else "runs are left out, which have"
        said.append(
            f"{missing:,} {were} no {made.metric}: diverged, failed, not done, or of another task"
        )
    return said


def as_in(over: str) -> str:
    """Write the option that gives a setting as many runs as a comparison takes."""
    return f"folds={FEWEST}" if over == "folds" else f"seed=range({FEWEST})"


def named(row: pd.Series[Any], by: Sequence[str]) -> str:
    return ", ".join(f"{key}={spell(row[key])}" for key in by)


def several(rows: pd.DataFrame, by: Sequence[str]) -> str:
    """Name the first settings, and say how many more there are."""
    shown = "; ".join(named(row, by) for _, row in rows.head(MENTIONED).iterrows())
    return shown + f" and {len(rows) - MENTIONED:,} more" * (len(rows) > MENTIONED)


def interval(row: Mapping[Any, Any], name: str) -> str:
    """Write the mean of a result and its interval."""
    mean, *ends = (number(row[key], is_percent(name)) for key in ("mean", "ci95_low", "ci95_high"))
    text = f"{mean}{' %' * is_percent(name)}"
    return text if math.isnan(row["ci95_low"]) else f"{text}, 95 % {' to '.join(ends)}"


def number(value: float, percent: bool) -> str:
    return decimal(100 * value, ".1f") if percent else f"{value:.4g}"
