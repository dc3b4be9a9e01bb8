"""Comparisons of settings, against pandas and scipy by hand."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from nnlab.losses import REGRESSION
from nnlab.report import effects, ranking_files
from nnlab.report.plotting import STYLES, Style
from nnlab.report.ranking import (
    ALIKE,
    BEST,
    BETTER,
    UNTESTED,
    WORSE,
    column_named,
    compare,
    larger_is_better,
)
from nnlab.terminal import least_width
from tests.report.studies import lay

RATES, WIDTHS, SEEDS = (0.01, 0.03, 0.1), ([32], [128, 64]), range(6)


def accuracies(seed: int = 0) -> pd.DataFrame:
    """Draw a validation accuracy for each rate, width and seed: effects of both and noise."""
    random = np.random.default_rng(seed)
    rows = []
    for (place, lr), hidden, run in itertools.product(enumerate(RATES), WIDTHS, SEEDS):
        value = 0.8 + 0.03 * place + 0.005 * run + random.normal(0, 0.004)
        row = {"optimizer.lr": lr, "model.hidden": hidden, "seed": run, "value": round(value, 6)}
        rows.append(row | {"test": round(value - 0.01, 6)})
    made: pd.DataFrame = pd.DataFrame(rows)
    return made


def lay_all(study: Path, frame: pd.DataFrame) -> pd.DataFrame:
    for row in frame.to_dict("records"):
        options: dict[str, Any] = {k: row[k] for k in ("optimizer.lr", "model.hidden", "seed")}
        line = f"1,{1 - row['value']},0.8,0.4,{row['value']},0.1\n"
        size = {"valid_size": 500}
        lay(study, options | size, epochs=1, rows=line, test_accuracy=row["test"], test_loss=1.0)
    frame["model.hidden"] = frame["model.hidden"].map(tuple)
    return frame


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    return tmp_path / "rates", lay_all(tmp_path / "rates", accuracies())


def test_ranking_is_that_of_pandas_and_scipy(study: tuple[Path, pd.DataFrame]) -> None:
    folder, frame = study
    found = compare(folder, by=["optimizer.lr", "model.hidden"])
    wide = frame.pivot_table("value", ["optimizer.lr", "model.hidden"], "seed")
    order = wide.mean(axis=1).sort_values(ascending=False).index
    mine = found.ranking.set_index(["optimizer.lr", "model.hidden"])
    assert list(mine.index) == list(order)
    best = wide.loc[order[0], :]
    p_values = {}
    for setting in order:
        values, row = wide.loc[setting, :], mine.loc[setting, :]
        interval = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
        expected = [values.mean(), values.std(), 6, *interval]
        names = ["mean", "sd", "n", "ci95_low", "ci95_high"]
        np.testing.assert_allclose(row[names].astype(float), expected, rtol=1e-9)
        if setting != order[0]:
            test = stats.ttest_rel(values, best)
            p_values[setting] = test.pvalue
            ends = test.confidence_interval(0.95)
            expected = [(values - best).mean(), ends.low, ends.high, 6, test.pvalue]
            names = ["difference", "difference_low", "difference_high", "pairs", "p"]
            np.testing.assert_allclose(row[names].astype(float), expected, rtol=1e-7)
    ordered, corrected, most = sorted(p_values, key=p_values.__getitem__), {}, 0.0
    for place, setting in enumerate(ordered):  # Holm's correction by its definition
        most = max(most, (len(ordered) - place) * p_values[setting])
        corrected[setting] = min(1.0, most)
    for setting, p in corrected.items():
        assert mine["p_holm"][setting] == pytest.approx(p, rel=1e-9)
        assert mine["verdict"][setting] == (WORSE if p < 0.05 else ALIKE)
    assert mine["verdict"][order[0]] == BEST


def test_shares_of_variance_are_sums_of_squares(study: tuple[Path, pd.DataFrame]) -> None:
    folder, frame = study
    found = compare(folder)
    total = ((frame["value"] - frame["value"].mean()) ** 2).sum()
    shares = dict(zip(found.shares["factor"], found.shares["share"]))
    assert set(shares) == {"optimizer.lr", "model.hidden", "seeds"}
    for factor, share in shares.items():
        key = "seed" if factor == "seeds" else factor
        means = frame.groupby(key)["value"].transform("mean")
        expected = ((means - frame["value"].mean()) ** 2).sum() / total
        assert share == pytest.approx(expected, rel=1e-9)
    assert found.balanced
    effects = found.effects[found.effects["factor"] == "optimizer.lr"]
    means = frame.groupby("optimizer.lr")["value"].mean()
    np.testing.assert_allclose(effects["mean"], means, rtol=1e-9)


def test_what_varied_beside_the_factors_is_averaged_in_each_seed(
    study: tuple[Path, pd.DataFrame],
) -> None:
    folder, frame = study
    found = compare(folder, by=["optimizer.lr"], baseline={"optimizer.lr": 0.01})
    wide = frame.pivot_table("value", "optimizer.lr", "seed")
    assert list(found.ranking["n"]) == [6, 6, 6]
    for _, row in found.ranking.iterrows():
        lr = row["optimizer.lr"]
        assert row["sd"] == pytest.approx(wide.loc[lr].std(), rel=1e-9)
        if lr != 0.01:
            expected = stats.ttest_rel(wide.loc[lr], wide.loc[0.01]).pvalue
            assert row["baseline_p"] == pytest.approx(expected, rel=1e-7)


def test_a_factor_that_is_named_twice_counts_once(study: tuple[Path, pd.DataFrame]) -> None:
    assert compare(study[0], by=["optimizer.lr", "optimizer.lr"]).by == ["optimizer.lr"]


def test_an_option_that_some_runs_do_not_have_is_null(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 0})
    lay(tmp_path, {"seed": 0, "folds": 3, "fold": 0})
    found = compare(tmp_path, by=["folds"], metric="train_loss")
    assert list(found.ranking["folds"]) == [3, None]
    assert set(found.effects["value"]) == {3, None}
    assert list(ranking_files.table(found).columns[0].cells) == ["3", "null"]


def test_truth_values_are_settings(tmp_path: Path) -> None:
    for balanced, seed in itertools.product((True, False), range(2)):
        lay(tmp_path, {"dataset.balanced": balanced, "seed": seed}, epochs=1 + seed + 2 * balanced)
    found = compare(tmp_path, metric="train_loss")
    assert found.notes[0].startswith("best by train loss: dataset.balanced=true (")
    assert list(ranking_files.table(found).columns[0].cells) == ["true", "false"]
    ranking_files.write(found, tmp_path)
    assert (tmp_path / "comparison.csv").read_text().splitlines()[1].startswith("true,")


@pytest.mark.parametrize(("metric", "sign"), [("valid_accuracy", 1), ("valid_loss", -1)])
def test_a_mean_over_other_seeds_does_not_make_a_setting_better(
    tmp_path: Path, metric: str, sign: int
) -> None:
    """By the seeds that both have it is worse."""
    results = {0.1: [*np.linspace(0.5, 0.51, 5), *[0.5 + 0.3 * sign] * 5]}
    results[0.2] = [value + sign * (0.02 + 0.001 * (value % 2)) for value in results[0.1][:5]]
    for rate, values in results.items():
        for seed, value in enumerate(values):
            options = {"optimizer.lr": rate, "seed": seed, "valid_size": 500}
            lay(tmp_path, options, epochs=1, rows=f"1,0.5,0.8,{value},{value},0.1\n")
    found = compare(tmp_path, metric=metric)
    assert list(found.ranking["optimizer.lr"]) == [0.1, 0.2]
    assert list(found.ranking["verdict"]) == [BEST, BETTER]
    assert "by the seeds that both have: optimizer.lr=0.2" in found.notes[1]
    assert "worse" not in " ".join(found.notes)


def test_of_which_results_more_is_better() -> None:
    names = {"ece": False, "brier": False, "valid_mae": False, "valid_r2": True, "auc": True}
    assert {name: larger_is_better(column_named(name)) for name in names} == names


def test_results_that_do_not_vary_have_no_shares(tmp_path: Path) -> None:
    lay(tmp_path)
    found = compare(tmp_path, metric="train_loss")
    assert "variance" not in " ".join(found.notes)


def test_losses_are_better_when_smaller(study: tuple[Path, pd.DataFrame]) -> None:
    found = compare(study[0], metric="train_loss")
    assert found.metric == "train_loss"
    assert (found.ranking["mean"].diff().dropna() >= 0).all()


def test_few_seeds_are_not_tested_and_missing_results_are_told(tmp_path: Path) -> None:
    frame = accuracies()
    lay_all(tmp_path, frame[frame["seed"] < 3].copy())
    diverged = {"optimizer.lr": 0.01, "model.hidden": [32], "seed": 9, "valid_size": 500}
    lay(tmp_path, diverged, status="diverged")
    found = compare(tmp_path)
    assert set(found.ranking["verdict"]) == {BEST, f"{UNTESTED} seeds"}
    assert found.ranking["p"].isna().all()
    assert not found.balanced
    said = " ".join(found.notes)
    assert "share fewer than 5 seeds with the best" in said
    assert "1 run is left out, which has no valid_accuracy" in said


def test_folds_are_called_folds(tmp_path: Path) -> None:
    for rate, fold in itertools.product((0.01, 0.1), range(3)):
        line = f"1,{rate + fold / 10},0.8,{rate + fold / 10},0.8,0.1\n"
        options = {"optimizer.lr": rate, "folds": 3, "fold": fold}
        lay(tmp_path, options, epochs=1, rows=line)
    found = compare(tmp_path, metric="valid_loss")
    assert list(found.ranking["verdict"]) == [BEST, f"{UNTESTED} folds"]
    assert list(found.shares["factor"]) == ["optimizer.lr", "folds"]
    said = " ".join([*found.notes, str(ranking_files.table(found).caption)])
    assert "seed" not in said
    assert "share fewer than 5 folds with the best" in said
    assert "train more, as in folds=5" in said
    assert "the mean over folds" in said


def lay_regression(study: Path, rate: float, seed: int, valid_r2: float | None) -> None:
    r2 = valid_r2 or 0.7
    tested: dict[str, Any] = {"test_r2": r2 - 0.1, "test_mae": 2.0 - r2, "test_rmse": 3.0 - r2}
    data = {"name": "table", "task": "regression", "classes": [], "sizes": {"train": 40}}
    options = {"optimizer.lr": rate, "seed": seed}
    folder = lay(study, options, epochs=1, dataset=data, test_accuracy=None, **tested)
    valid = f"{1 - valid_r2},{valid_r2},1,1" if valid_r2 else ",,,"
    head = [f"{part}_{name}" for part in ("train", "valid") for name in REGRESSION.measures]
    lines = [",".join(("epoch", *head, "seconds")), f"1,0.2,0.8,1,1,{valid},0.1"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_the_test_results_of_regressions_are_theirs(tmp_path: Path) -> None:
    for rate, seed in itertools.product((0.01, 0.1), range(2)):
        lay_regression(tmp_path, rate, seed, 0.5 + rate + seed / 10)
    found = compare(tmp_path, test=True)
    means = [0.55, 0.46]  # of 0.1 and 0.01, by hand: 0.5 + rate + 0.05 - 0.1
    np.testing.assert_allclose(found.ranking["test_r2"], means, rtol=1e-9)
    np.testing.assert_allclose(found.ranking["test_mae"], 1.9 - np.array(means), rtol=1e-9)
    assert "test_accuracy" not in found.ranking
    assert found.title == "validation R²"
    assert "test R² of the best: 0.55, 95 %" in " ".join(found.notes)
    heads = [str(column.header) for column in ranking_files.table(found).columns]
    assert heads[-5:-1] == ["test\nr2", "test\nmae", "test\nrmse", "test\nloss"]


def test_a_regression_that_was_not_validated_has_no_accuracy_either(tmp_path: Path) -> None:
    lay_regression(tmp_path, 0.01, 0, None)
    with pytest.raises(ValueError, match="or give metric=test_r2, which"):
        compare(tmp_path)


def test_studies_of_many_people_are_told_apart(tmp_path: Path) -> None:
    for number, student in enumerate(("ada", "bob")):
        lay_all(tmp_path / "class" / student / "outputs" / "mnist", accuracies(number))
    found = compare(merge=[str(tmp_path / "class" / "*")], label="student")
    assert found.by == ["model.hidden", "optimizer.lr", "student"]
    assert len(found.ranking) == 12
    assert set(found.ranking["student"]) == {"ada", "bob"}
    everyone = compare(
        merge=[tmp_path / "class" / "ada", tmp_path / "class" / "bob"], by=["model.hidden"]
    )
    assert list(everyone.ranking["n"]) == [6, 6]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": ["optimizer.l"]}, "by=optimizer.l: no run has it; did you mean optimizer.lr?"),
        ({"by": ["x"]}, "by=x: .* choose one of model.hidden, optimizer.lr, seed, batch_size,"),
        ({"by": ["seed"]}, "by=seed: settings are compared over seeds, which are no settings"),
        ({"by": ["optimizer.lr", "fold"]}, "by=fold: settings are compared over folds"),
        ({"metric": "accuracy"}, "metric=accuracy: no run has it; did you mean"),
        ({"baseline": {"optimizer.lr": 0.5}}, "baseline optimizer.lr=0.5 fits 0 settings"),
        ({"baseline": {"optimizer.lr": 0.1}}, "fits 2 settings; give values of"),
        ({"baseline": {"seed": 0}}, "settings differ in model.hidden, optimizer.lr"),
    ],
)
def test_what_is_not_there_is_refused(
    options: dict[str, Any], said: str, study: tuple[Path, pd.DataFrame]
) -> None:
    with pytest.raises(ValueError, match=said):
        compare(study[0], **options)


def test_nothing_is_chosen_by_the_test_set_unasked(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 0}, test_accuracy=0.9)
    with pytest.raises(ValueError, match="nothing was validated"):
        compare(tmp_path)
    assert list(compare(tmp_path, metric="test_accuracy").ranking["mean"]) == [0.9]


def test_nothing_is_best_before_a_run_has_ended(tmp_path: Path) -> None:
    rows = "1,0.2,0.8,0.4,0.9,0.1\n"
    for seed in (0, 1):
        options = {"seed": seed, "valid_size": 500}
        lay(tmp_path, options, status="running", rows=rows, weights_of_epoch=None)
    with pytest.raises(ValueError, match="none of the 2 runs has come to its end"):
        compare(tmp_path)
    lay(tmp_path, {"seed": 2})  # was not validated, so that accuracy is known of no whole run
    with pytest.raises(ValueError, match="nothing was validated"):
        compare(tmp_path)


def test_the_command_writes_tables_figures_and_a_page(study: tuple[Path, pd.DataFrame]) -> None:
    folder, _ = study
    command = [sys.executable, "-m", "nnlab.compare", str(folder), "--test"]
    command += ["--baseline", "optimizer.lr=0.01", "--baseline", "model.hidden=[32]"]
    command += ["--formats", "svg", "--style", "paper"]
    environment = {**os.environ, "COLUMNS": "140"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "best by validation accuracy: model.hidden=" in done.stdout
    written = pd.read_csv(folder / "comparison.csv")
    expected = compare(folder, test=True, baseline={"optimizer.lr": 0.01, "model.hidden": [32]})
    pd.testing.assert_frame_equal(
        written.drop(columns="model.hidden"), expected.ranking.drop(columns="model.hidden")
    )
    for name in ("effects.csv", "comparison.png", "effects.png", "comparison.html"):
        assert (folder / name).stat().st_size > 100
    drawn = (folder / "effects.svg").read_text()
    assert "Learning rate" in drawn
    assert f'width="{72 * STYLES["paper"].wide:.1f}pt"' in drawn
    ranking_files.write(expected, folder)
    assert not (folder / "effects.svg").exists()
    page = (folder / "comparison.html").read_text()
    assert "cannot tell" in page
    (folder / "taken").write_text("a file")
    into = [*command, "--into", str(folder / "taken" / "x")]
    unwritten = subprocess.run(into, capture_output=True, text=True, env=environment, check=False)
    assert unwritten.returncode == 1
    assert done.stdout.startswith(unwritten.stdout)  # all but the files
    assert "best by validation accuracy" in unwritten.stdout
    assert unwritten.stderr.endswith("); choose another --into\n")
    refused = subprocess.run([*command, "--by", "x"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "--by=x: no run has it" in refused.stderr
    assert "Traceback" not in refused.stderr


def lay_settings(study: Path, seeds: int, **options: list[Any]) -> None:
    """Lay a run for each combination of options and seeds."""
    for number, values in enumerate(itertools.product(*options.values(), range(seeds))):
        named = {key.replace("__", "."): v for key, v in zip((*options, "seed"), values)}
        value = 0.5 + number % 7 / 100
        line = f"1,{1 - value},0.8,0.4,{value},0.1\n"
        lay(study, named | {"valid_size": 500}, epochs=1, rows=line, name=f"{number}")


def test_the_figures_call_options_as_those_of_a_report_do(study: tuple[Path, pd.DataFrame]) -> None:
    folder, frame = study
    found = compare(folder)
    figures = ranking_files.ranking(found), ranking_files.effects(found)
    (axes,) = figures[0].axes
    assert axes.get_ylabel().replace("\n", " ") == "Hidden layers (units), Learning rate"
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "128-64, 0.1"
    assert figures[1] is not None
    hidden, rate = figures[1].axes
    assert (hidden.get_xlabel(), rate.get_xlabel()) == ("Hidden layers (units)", "Learning rate")
    assert rate.get_xscale() == "log"
    means = frame.groupby("optimizer.lr")["value"].mean()
    x, y = (np.asarray(each, float) for each in rate.lines[0].get_data())
    np.testing.assert_allclose(x, np.array(RATES))
    np.testing.assert_allclose(y, 100 * means.to_numpy(), rtol=1e-9)


def test_no_figure_of_effects_where_no_factor_has_two_values(tmp_path: Path) -> None:
    lay_settings(tmp_path, 3, optimizer__lr=[0.1])
    (tmp_path / "effects.png").touch()
    files = ranking_files.write(compare(tmp_path), tmp_path)
    assert "effects.png" not in [path.name for path in files]
    assert not (tmp_path / "effects.png").exists()
    assert "effects.png" not in (tmp_path / "comparison.html").read_text()


LONG = [f"data/measurements_of_{'many_' * 9}years_{year}.csv" for year in range(2024, 2027)]


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer__lr": [0.001 * 3**power for power in range(8)]},
        {"dataset__variant": LONG, "model__hidden": [[1024, 512, 256, 128, 64, 32], []]},
        {"model__hidden": [[2**power] for power in range(12)], "optimizer": ["sgd", "adam"]},
    ],
)
def test_all_text_of_the_figures_can_be_read(
    tmp_path: Path, style: Style, options: dict[str, list[Any]]
) -> None:
    lay_settings(tmp_path, 2, **options)
    found = compare(tmp_path)
    for figure in (ranking_files.ranking(found, style), ranking_files.effects(found, style)):
        assert figure is not None
        figure.canvas.draw()
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box is not None
            assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
            assert 0 <= box.y0 <= box.y1 <= figure.bbox.y1
            for row in (axes.get_xticklabels(), axes.get_yticklabels()):
                upright = [text for text in row if text.get_rotation() in (0, 90)]
                for one, other in itertools.pairwise(upright):
                    assert not one.get_window_extent().overlaps(other.get_window_extent())


def test_the_table_shows_the_best(study: tuple[Path, pd.DataFrame]) -> None:
    made = ranking_files.table(compare(study[0]))
    cells = [list(column.cells) for column in made.columns]
    assert cells[1][0] == "0.1"
    assert cells[-1][0] == BEST
    assert len(cells[0]) == 6


def test_a_narrow_table_names_what_it_leaves_out(study: tuple[Path, pd.DataFrame]) -> None:
    baseline = {"optimizer.lr": 0.01, "model.hidden": [32]}
    found = compare(study[0], test=True, baseline=baseline)
    whole = ranking_files.table(found, 200)
    assert "Left out" not in str(whole.caption)
    for width in (80, 70, 60, 50):
        made = ranking_files.table(found, width)
        assert least_width(made) <= width
        heads = [" ".join(str(column.header).split()) for column in made.columns]
        left_out = str(made.caption).partition("Left out: ")[2].partition(", on the page")[0]
        known = [" ".join(str(column.header).split()) for column in whole.columns]
        missing = [head for head in known if head not in heads]
        assert sorted(left_out.replace("_", " ").split(", ")) == sorted(missing or [""])
        assert heads[-1] == ""  # the verdict stays


def test_a_test_result_that_ranks_has_one_column(study: tuple[Path, pd.DataFrame]) -> None:
    found = compare(study[0], test=True, metric="test_accuracy")
    heads = [str(column.header) for column in ranking_files.table(found, 200).columns]
    assert heads.count("test\naccuracy") == 1


def test_settings_that_share_nothing_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a random search over two options, of which one is asked for."""
    for number, lr in enumerate((0.1, 0.1, 0.2, 0.3)):
        options = {"optimizer.lr": lr, "model.dropout": number / 10, "seed": number % 2}
        lay(tmp_path, options | {"valid_size": 500}, epochs=1, rows="1,0.4,0.8,0.4,0.9,0.1\n")
    assert len(compare(tmp_path, by=["optimizer.lr"]).ranking) == 3
    monkeypatch.setattr(effects, "MOST_CELLS", 23)
    expected = "by=optimizer.lr: 3 settings with 8 combinations of all else; add model.dropout to"
    with pytest.raises(ValueError, match=expected):
        compare(tmp_path, by=["optimizer.lr"])


def test_data_of_several_studies_are_told_apart_by_content(tmp_path: Path) -> None:
    """Whatever the files were called from which each study had them."""
    contents = {"ada": ("a.csv", "1" * 16), "bob": ("b.csv", "1" * 16), "cy": ("a.csv", "2" * 16)}
    for person, (source, content) in contents.items():
        folder = lay(tmp_path / person, {"seed": 0})
        result = json.loads((folder / "result.json").read_text())
        result["dataset"] |= {"source": source, "content": content}
        (folder / "result.json").write_text(json.dumps(result))
    same = compare(merge=[tmp_path / "ada", tmp_path / "bob"], metric="test_loss")
    other = compare(merge=[tmp_path / "ada", tmp_path / "cy"], metric="test_loss", by=["data"])
    assert same.by == ["study"]
    assert set(other.ranking["data"]) == {f"a.csv ({digit * 16})" for digit in "12"}


def test_people_are_not_told_apart_by_what_is_an_option(tmp_path: Path) -> None:
    """Which would lose the option."""
    lay_all(tmp_path / "class" / "ada" / "mnist", accuracies())
    with pytest.raises(ValueError, match="label=seed is an option already"):
        compare(merge=[tmp_path / "class" / "*"], label="seed")


def lay_networks(study: Path, count: int = 400) -> dict[float, dict[str, NDArray[np.bool_]]]:
    """Lay one run of each rate; return which examples it has right."""
    random = np.random.default_rng(0)
    found = {}
    for rate, share in ((0.01, 0.6), (0.03, 0.8), (0.1, 0.82)):
        ease = {name: random.random(count) for name in ("valid", "test")}
        found[rate] = {name: each < share for name, each in ease.items()}
        accuracy = {name: float(each.mean()) for name, each in found[rate].items()}
        lay(
            study,
            {"optimizer.lr": rate, "valid_size": count},
            epochs=1,
            rows=f"1,0.5,0.8,0.4,{accuracy['valid']},0.1\n",
            right=found[rate],
            test_accuracy=accuracy["test"],
        )
    return found


def test_networks_of_one_seed_are_compared_by_their_examples(tmp_path: Path) -> None:
    """Against scipy's binomial test, and Holm's steps by hand for two comparisons."""
    right = lay_networks(tmp_path)
    found = compare(tmp_path, test=True, baseline={"optimizer.lr": 0.01})
    ranking = found.ranking.set_index("optimizer.lr")
    assert list(ranking.index) == [0.1, 0.03, 0.01]

    def p(one: float, other: float, split: str) -> float:
        ones, others = right[one][split], right[other][split]
        counts = int((ones & ~others).sum()), int((others & ~ones).sum())
        return float(stats.binomtest(counts[0], sum(counts)).pvalue)

    for prefix, split, reference in (
        ("", "valid", 0.1),
        ("test_", "test", 0.1),
        ("baseline_", "valid", 0.01),
    ):
        others = [rate for rate in right if rate != reference]
        expected = {rate: p(rate, reference, split) for rate in others}
        low, high = sorted(expected.values())
        holm = {low: 2 * low, high: max(2 * low, high)}
        for rate in others:
            assert ranking.loc[rate, f"{prefix}p"] == pytest.approx(expected[rate], rel=1e-8)
            adjusted = min(1, holm[expected[rate]])
            assert ranking.loc[rate, f"{prefix}p_holm"] == pytest.approx(adjusted, rel=1e-8)
        assert math.isnan(ranking.loc[reference, f"{prefix}p"])
    assert list(ranking["verdict"]) == [BEST, ALIKE, WORSE]
    said = " ".join(found.notes)
    assert "by the examples that one network alone has right (McNemar) at the level of 5 %" in said
    assert "not others of their settings: that takes 5 seeds, as in seed=range(5)" in said
    assert "of 2 other networks differ from the best on the test examples (McNemar, Holm)" in said


def test_networks_validated_on_other_examples_are_not_compared(tmp_path: Path) -> None:
    lay_networks(tmp_path)
    path = tmp_path / "optimizer.lr=0.01,valid_size=400" / "result.json"
    path.write_text(path.read_text().replace("1" * 16, "2" * 16))
    found = compare(tmp_path)
    assert list(found.ranking["verdict"]) == [BEST, ALIKE, f"{UNTESTED} seeds"]
    assert "1 of 3 settings were validated on other examples than the best" in " ".join(found.notes)
    assert set(compare(tmp_path, metric="valid_loss").ranking["verdict"]) == {
        BEST,
        f"{UNTESTED} seeds",
    }
