"""Tables, against pandas by hand."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from nnlab import compose, datasets, memory, predict, run
from nnlab.config import Config, fingerprint
from nnlab.datasets import Data, Split, table
from nnlab.network import load

pytestmark = pytest.mark.usefixtures("empty_folder")

ROWS = 60


def frame(rows: int = ROWS) -> pd.DataFrame:
    """Numbers, texts, truth values and codes, and of three classes 1/2, 1/3 and 1/6 of the rows."""
    random = np.random.default_rng(0)
    made: pd.DataFrame = pd.DataFrame(
        {
            "age": random.integers(20, 70, rows),
            "weight": random.normal(70, 10, rows).round(2),
            "sex": random.choice(["male", "female"], rows),
            "member": random.random(rows) < 0.5,
            "code": random.choice([10, 2, 7], rows),
            "kind": np.resize(["b", "a", "b", "c", "b", "a"], rows),
        }
    )
    return made


def config(*overrides: str, file: str = "t.csv", label: str = "kind") -> Config:
    return compose.load(
        ["dataset=table", f"dataset.file={file}", f"dataset.label={label}", *overrides]
    )


def data(*overrides: str, **options: str) -> Data:
    return config(*overrides, **options).load_data()


def rows_of(split: Split | None) -> list[int]:
    assert split is not None
    assert split.rows is not None
    rows: list[int] = split.rows.tolist()
    return rows


def own(split: Split | None) -> torch.Tensor:
    assert split is not None
    return torch.from_numpy(split.examples[0])


def one_hot(whole: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return the inputs that the columns of frame() make, in the order in which they stand."""
    columns = []
    for name in ("age", "weight", "sex", "member", "code"):
        if name in names:
            for value in sorted(whole[name].unique()):
                columns.append((whole[name] == value).rename(f"{name}={value}"))
        else:
            columns.append(whole[name])
    made: pd.DataFrame = pd.concat(columns, axis=1).astype(float)
    return made


def test_every_input_is_standardised_by_the_training_rows() -> None:
    whole = frame()
    whole.to_csv("t.csv", index=False)
    found = data("dataset.categorical=[code]", "seed=3")
    expected = one_hot(whole, "sex", "member", "code")
    train = expected.loc[rows_of(found.train)]
    expected = (expected - train.mean()) / train.std(ddof=0)
    for split in (found.train, found.test):
        assert split is not None
        rows = rows_of(split)
        right = torch.from_numpy(expected.loc[rows].to_numpy()).float()
        # Numbers of about 1, computed from float32 means and deviations.
        assert_close(own(split), right, rtol=1e-5, atol=1e-5)
        classes = [found.classes[label] for label in split.labels[split.index].tolist()]
        assert classes == whole.kind[rows].tolist()
    assert found.classes == ["a", "b", "c"]
    known = found.provenance["columns"]
    assert known["code"] == ["2", "7", "10"]
    assert known["member"] == ["False", "True"]
    assert known["age"] is None


def test_without_normalize_the_inputs_are_those_of_the_file() -> None:
    whole = frame()
    whole.to_csv("t.csv", index=False)
    found = data("dataset.normalize=false")
    expected = one_hot(whole, "sex", "member").loc[rows_of(found.train)]
    assert_close(own(found.train), torch.from_numpy(expected.to_numpy(np.float32)), rtol=0, atol=0)


def test_columns_of_any_size_are_standardised_and_constant_ones_are_not() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(ROWS, 3)) * [1e-9, 1e9, 0.5] + [0, 3e9, 2000]
    whole = pd.DataFrame(values, columns=["tiny", "huge", "year"]).assign(constant=0.1)
    whole.assign(kind=frame().kind).to_csv("t.csv", index=False)
    found = own(data("test_size=0", "dataset.test_fraction=0").train)
    expected = np.float32(whole).astype(float)
    deviation = expected.std(axis=0)
    deviation[3] = 1
    expected = (expected - expected.mean(axis=0)) / deviation
    # The mean is a float32 too: of 2000 with a step of 1e-4, of which the deviation is 0.5.
    assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-3)


def write_all(whole: pd.DataFrame) -> list[str]:
    whole.to_csv("t.csv", index=False)
    whole.to_csv("t.csv.gz", index=False)
    whole.to_csv("t.tsv", index=False, sep="\t")
    whole.to_csv("index.csv")
    whole.to_csv("semicolons.csv", index=False, sep=";")
    whole.to_csv("commas.csv", index=False, sep=";", decimal=",")
    whole.to_csv("wide.csv", index=False, sep=";", encoding="utf-16")
    whole.to_csv("marked.csv", index=False, encoding="utf-8-sig")
    whole.to_json("t.jsonl", orient="records", lines=True)
    whole.to_stata("t.dta", write_index=False)
    names = ["t.csv.gz", "t.tsv", "index.csv", "semicolons.csv", "commas.csv", "wide.csv"]
    return [*names, "marked.csv", "t.jsonl"]


def test_every_kind_of_file_gives_the_same_examples() -> None:
    names = write_all(frame())
    expected = data()
    for name in names:
        found = data(file=name)
        assert_close(own(found.train), own(expected.train), rtol=0, atol=0, msg=name)
        assert found.provenance["columns"] == expected.provenance["columns"], name


def test_parquet_gives_the_same_examples() -> None:
    pytest.importorskip("pyarrow")
    frame().to_csv("t.csv", index=False)
    frame().to_parquet("t.parquet")
    assert_close(own(data(file="t.parquet").train), own(data().train), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["feather", "orc"])
def test_other_tables_of_arrow_give_the_same_examples(kind: str) -> None:
    pytest.importorskip("pyarrow")
    frame().to_parquet("t.parquet")
    getattr(frame(), f"to_{kind}")(f"t.{kind}")
    expected = own(data(file="t.parquet").train)
    assert_close(own(data(file=f"t.{kind}").train), expected, rtol=0, atol=0)


def test_places_of_texts_that_a_damaged_file_has_are_not_believed() -> None:
    """What is read there is outside of the file: the process would end."""
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_feather(
        "t.feather", compression="uncompressed"
    )
    content = Path("t.feather").read_bytes()
    for kind in (np.int32, np.int64):
        places, others = (np.array([0, 1, end], kind).tobytes() for end in (2, 2**30))
        content = content.replace(places, others)
    assert content != Path("t.feather").read_bytes()
    with pytest.raises(ValueError, match=r"t\.feather cannot be read as a table"):
        table.read_table(Path("t.feather"), content)


def test_a_list_in_a_list_is_told() -> None:
    frame().to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=r"dataset.drop=.* has a list in it; give values"):
        data("dataset.drop=[[sex],[code]]")


def test_features_are_those_that_are_named_or_not_dropped() -> None:
    frame().to_csv("t.csv", index=False)
    named = data("dataset.features=[weight,age]", "dataset.normalize=false")
    rows = rows_of(named.train)
    expected = frame()[["weight", "age"]].to_numpy(np.float32)[rows]
    assert_close(own(named.train), torch.from_numpy(expected), rtol=0, atol=0)
    left = data("dataset.drop=[sex,member,code]", "dataset.normalize=false")
    assert_close(own(left.train), own(named.train).flip(1), rtol=0, atol=0)


# Splits


def test_the_test_rows_are_stratified_and_the_same_for_every_seed() -> None:
    frame().to_csv("t.csv", index=False)
    found = data("seed=0", "valid_size=12")
    parts = [rows_of(split) for split in (found.train, found.valid, found.test)]
    assert sorted(row for part in parts for row in part) == list(range(ROWS))
    assert found.test is not None
    for split, counts in ((found.train, [12, 18, 6]), (found.valid, [4, 6, 2])):
        assert split is not None
        assert np.bincount(split.examples[1]).tolist() == counts
    assert np.bincount(found.test.examples[1]).tolist() == [4, 6, 2]
    again = data("seed=1", "valid_size=12")
    assert rows_of(again.test) == parts[2]
    assert sorted(rows_of(again.valid)) != sorted(parts[1])
    assert rows_of(data("seeds.test=1").test) != parts[2]
    half = data("dataset.test_fraction=0.5").test
    assert set(parts[2]) < set(rows_of(half))
    assert found.provenance["full_size"] == 48
    assert found.provenance["full_test_size"] == 12


@pytest.mark.parametrize("balanced", ["true", "false"])
def test_smaller_training_sets_are_part_of_larger_ones(balanced: str) -> None:
    frame().to_csv("t.csv", index=False)
    sizes = [6, 9, 18] if balanced == "true" else [6, 12, 24]
    drawn = [
        data(f"train_size={size}", "valid_size=6", f"dataset.balanced={balanced}") for size in sizes
    ]
    for smaller, larger in itertools.pairwise(drawn):
        assert set(rows_of(smaller.train)) < set(rows_of(larger.train))
        assert rows_of(smaller.valid) == rows_of(larger.valid)
        assert not set(rows_of(larger.train)) & set(rows_of(larger.valid))
    for size, found in zip(sizes, drawn):
        shares = [1 / 3] * 3 if balanced == "true" else [1 / 3, 1 / 2, 1 / 6]
        counts = np.bincount(found.train.examples[1]).tolist()
        assert counts == [round(share * size) for share in shares]


def test_a_column_can_say_which_rows_are_for_what() -> None:
    words = np.resize(["train", "Train", "val", "test", "training", "train", "testing"], ROWS)
    whole = frame().assign(part=words)
    whole.to_csv("t.csv", index=False)
    found = data("dataset.split=part", "valid_size=null")
    for split, said in (
        (found.train, ["train", "Train", "training"]),
        (found.valid, ["val"]),
        (found.test, ["test", "testing"]),
    ):
        assert rows_of(split) == np.flatnonzero(np.isin(words, said)).tolist()
    assert "part" not in found.provenance["columns"]


def test_what_no_row_says_is_drawn() -> None:
    whole = frame().assign(part=np.resize(["train", "train", "valid"], ROWS))
    whole.to_csv("t.csv", index=False)
    found = data("dataset.split=part", "valid_size=null", "dataset.test_fraction=0.25")
    assert (len(found.train), len(rows_of(found.valid)), len(rows_of(found.test))) == (30, 20, 10)
    assert set(whole.part[rows_of(found.test)]) == {"train"}


# Missing values


def with_gaps() -> pd.DataFrame:
    whole = frame()
    whole.loc[[1, 5, 30], "weight"] = np.nan
    whole.loc[[7], "sex"] = None
    return whole


def test_the_mean_is_that_of_the_training_rows() -> None:
    whole = with_gaps()
    whole.to_csv("t.csv", index=False)
    found = data("dataset.missing=mean")
    train = whole.loc[rows_of(found.train)]
    filled = (whole.weight - train.weight.mean()) / train.weight.std(ddof=0)
    male = (whole.sex == "male").astype(float).where(whole.sex.notna())
    known = male[rows_of(found.train)]
    filled_male = ((male - known.mean()) / known.std(ddof=0)).fillna(0)
    for split in (found.train, found.test):
        rows = rows_of(split)
        expected = np.stack([filled.fillna(0)[rows], filled_male[rows]], axis=1)
        expected_tensor = torch.from_numpy(expected).float()
        assert_close(own(split)[:, [1, 3]], expected_tensor, rtol=1e-5, atol=1e-5)


def test_rows_with_missing_values_can_be_left_out() -> None:
    with_gaps().to_csv("t.csv", index=False)
    found = data("dataset.missing=drop")
    kept = sorted(rows_of(found.train) + rows_of(found.test))
    assert kept == [row for row in range(ROWS) if row not in (1, 5, 7, 30)]
    assert data("dataset.missing=drop", "dataset.drop=[weight,sex]").provenance["full_size"] == 48


# Labels


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 2, 2, 30, 10, 30], ["2", "10", "30"]),
        ([1.0, 0.0, 0.0, -3.0, 1.0, -3.0], ["-3", "0", "1"]),
        ([True, False, False, True, True, True], ["False", "True"]),
        (["z", "é", "é", "=a", "z", "=a"], ["=a", "z", "é"]),
    ],
)
def test_labels_are_numbered_in_order_and_their_names_kept(
    labels: list[Any], classes: list[str]
) -> None:
    names = [
        "-3" if each == -3.0 else f"{each:g}" if type(each) is float else str(each)
        for each in labels
    ]
    frame().assign(kind=np.resize(labels, ROWS)).to_csv("t.csv", index=False)
    found = data()
    assert found.classes == classes
    numbers = found.train.labels[found.train.index].tolist()
    assert [found.classes[number] for number in numbers] == [
        names[row % 6] for row in rows_of(found.train)
    ]


# Bad input


def altered(**columns: Any) -> pd.DataFrame:
    made: pd.DataFrame = frame().assign(**columns)
    return made


def cells(value: str, *places: int, column: str = "age") -> pd.DataFrame:
    whole: pd.DataFrame = frame().astype({column: object})
    whole.loc[list(places), column] = value
    return whole


BAD = [
    (frame(), ["dataset.label=Kint"], "dataset.label=Kint: .* did you mean kind?"),
    (frame(), ["dataset.label=target"], "choose one of age, weight, sex, member, code, kind"),
    (frame(), ["dataset.drop=[agee]"], "dataset.drop=agee: .* did you mean age?"),
    (frame(), ["dataset.features=[age,hight]"], "dataset.features=hight: .*did you mean weight?"),
    (frame(), ["dataset.features=[kind]"], "dataset.features and dataset.label both name kind"),
    (frame(), ["dataset.categorical=[kind]"], "dataset.categorical=kind is no feature"),
    (frame(), ["dataset.split=sex"], r"column sex says .*male \(\d+ rows\).*train, valid, test"),
    (
        frame(),
        ["dataset.label=weight"],
        "such as .*, [0-9]+ different ones; a class is a text or a wh",
    ),
    (frame(), ["dataset.test_fraction=1"], "dataset.test_fraction=1.0 is not possible"),
    (
        frame(),
        ["dataset.missing=mean", "dataset.normalize=false"],
        "dataset.missing=mean is not possible: .* set dataset.normalize=true",
    ),
    (
        cells("d", 3, 4, column="kind"),
        ["dataset.test_fraction=0.9"],
        "dataset.test_fraction=0.9 leaves no training example of class d; lower it",
    ),
    (cells("d", 3, column="kind"), [], "has only one example of class d; add"),
    (cells("a", *range(ROWS), column="kind"), [], "has one class only, a"),
    (cells("", 1, 2), [], "missing values: 2 in age, of 60 rows; dataset.missing=mean takes"),
    (
        cells("", 4, column="kind"),
        ["dataset.missing=mean"],
        "missing values: 1 in kind, of 60 rows; dataset.missing=drop leaves such rows out, for "
        "without its label a row teaches nothing$",
    ),
    (
        cells("", *range(ROWS)),
        ["dataset.missing=mean"],
        r"missing values: 60 in age, of 60 rows; dataset.drop=\[…\] leaves out such columns$",
    ),
    (
        cells("", *range(ROWS), column="kind"),
        [],
        "missing values: 60 in kind, of 60 rows; .* choose another dataset.label$",
    ),
    (cells("inf", 1, 2), [], "infinite: 2 in age"),
    (cells("1e39", 1), [], "infinite: 1 in age"),
    (cells("?", 6), [], r"column age holds numbers, but '\?' in row 6"),
    (altered(name=[f"n{i}" for i in range(ROWS)]), [], "column name has another text in every row"),
    (frame().head(0), [], "has no rows below its header"),
    (altered(part=["test"] * ROWS), ["dataset.split=part"], "no row of column part says train"),
    (
        altered(part=["train", "test"] * 30, kind=["a", "c"] * 29 + ["b", "b"]),
        ["dataset.split=part"],
        "no training example of class c",
    ),
]


@pytest.mark.parametrize(("whole", "overrides", "said"), BAD)
def test_what_is_wrong_with_a_table_is_said(
    whole: pd.DataFrame, overrides: list[str], said: str
) -> None:
    whole.to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=said):
        data(*overrides)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.pkl", b"cos\nsystem\n(S'touch called'\ntR.", "no table that can be read by its suffix"),
        ("t.parquet", b"PAR1 but for that nothing", "t.parquet"),
        ("t.xlsx", b"nothing", "t.xlsx|openpyxl"),
        ("t.csv", b"", "cannot be read as a table"),
        ("t.csv", b"a,kind\n\xff,1\n", "it is not UTF-8 text"),
        ("t.csv", b"a,kind\n1,a\n1,2,3,4\n", "cannot be read as a table"),
        ("t.csv", b"a,kind,a\n1,a,2\n3,b,4\n", None),
        ("t.csv.gz", b"nothing", "cannot be read as a table"),
        ("t.jsonl", b"{", "cannot be read as a table"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, said: str | None) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        data(file=name)
    assert not Path("called").exists()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file t\.csv"):
        data()


# Identity


def test_content_is_that_of_the_file_wherever_it_lies() -> None:
    frame().to_csv("t.csv", index=False)
    Path("sub").mkdir()
    frame().to_csv("sub/other.csv", index=False)
    here, there = config(), config(file="sub/other.csv")
    assert fingerprint(here) == fingerprint(there)
    contents = {datasets.content(each.dataset, each.sizes) for each in (here, there)}
    contents |= {datasets.content(here.dataset, here.sizes), here.load_data().provenance["content"]}
    assert len(contents) == 1
    assert fingerprint(config("dataset.drop=[age]")) != fingerprint(here)
    frame().assign(age=1).to_csv("t.csv", index=False)
    datasets.forget()
    assert datasets.content(here.dataset, here.sizes) not in contents


def test_a_table_read_in_two_ways_is_two_sources() -> None:
    frame().to_csv("t.csv", index=False)
    widths = [data(f"dataset.drop={names}").train.inputs.shape[1] for names in ("[]", "[age]")]
    assert widths == [7, 6]


# The command line


def command(*arguments: str) -> int:
    with run.alone():
        return run.run([*arguments, "stopping.max_epochs=3"])


TABLE = ["dataset=table", "dataset.file=t.csv", "dataset.label=kind"]


def test_a_sweep_reads_its_table_once_and_trains_on_the_native_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame().to_csv("t.csv", index=False)
    read, calls = table.read_table, []

    def counted(path: Path, content: bytes) -> pd.DataFrame:
        calls.append(path)
        return read(path, content)

    monkeypatch.setattr(table, "read_table", counted)
    swept = [*TABLE, "seed=0,1", "train_size=12,24"]
    assert command(*swept, "-m") == 0
    assert len(calls) == 1
    results = [json.loads(path.read_text()) for path in Path("outputs/table").glob("*/result.json")]
    assert len(results) == 4
    assert {result["engine"] for result in results} == {"native"}
    assert command(*swept, "-m") == 0
    assert len(calls) == 1
    frame().assign(age=1).to_csv("t.csv", index=False)
    assert command(*swept, "-m") == 1
    assert "saw other data than there are now (table t.csv)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["weights", "fgsm"])
def test_pictures_are_refused_before_anything_is_trained(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame().to_csv("t.csv", index=False)
    assert command(*TABLE, f"evaluation=[{name}]") == 1
    assert f"{name} needs images; dataset=table has none" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_hardest_lists_the_rows_of_the_file() -> None:
    with_gaps().to_csv("t.csv", index=False)
    assert command(*TABLE, "dataset.missing=mean", "evaluation=[hardest]") == 0
    found = pd.read_csv("outputs/table/default/hardest.csv")
    assert len(found) > 0
    assert list(found.columns)[-6:] == ["row", *frame().columns[:-1]]
    expected = with_gaps().loc[found.row].reset_index(drop=True)
    assert found.true.tolist() == expected.kind.tolist()
    assert found.sex.tolist() == expected.sex.tolist()
    np.testing.assert_allclose(found.age, expected.age, rtol=1e-5)
    known = expected.weight.notna()
    np.testing.assert_allclose(found.weight[known], expected.weight[known], rtol=1e-5)
    assert not Path("outputs/table/default/hardest.png").exists()


def test_predict_writes_a_csv_of_other_rows(capsys: pytest.CaptureFixture[str]) -> None:
    frame().to_csv("t.csv", index=False)
    assert command(*TABLE, "dataset.missing=mean") == 0
    folder = Path("outputs/table/default")
    others = with_gaps().iloc[::-1].drop(columns="kind").assign(more="x")
    others.to_csv("others.csv", index=False)
    assert predict.main([str(folder), "others.csv"]) == 0
    found = pd.read_csv("others.predicted.csv")
    network = load(folder)
    raw = pd.concat(
        [
            others[["age", "weight"]],
            *((others.sex == sex).where(others.sex.notna()) for sex in ("female", "male")),
            *(others.member == member for member in (False, True)),
            others.code,
        ],
        axis=1,
    ).astype(float)
    assert network.mean is not None
    assert network.deviation is not None
    scaled = (raw - network.mean.numpy()) / network.deviation.numpy()
    logits = network.model(torch.from_numpy(scaled.fillna(0).to_numpy(np.float32)))
    expected = logits.softmax(1).detach().numpy()
    # Written with 6 digits.
    np.testing.assert_allclose(found[["p(a)", "p(b)", "p(c)"]], expected, rtol=1e-5, atol=1e-6)
    assert found.predicted.tolist() == [network.classes[best] for best in expected.argmax(1)]
    assert found.row.tolist() == list(range(ROWS))
    assert "others.predicted.csv: 60 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (frame().drop(columns="age"), "has no column age"),
        (frame().assign(sex="mle"), "column sex holds 'mle', which no training data had; did you"),
        (frame().assign(age="old"), "column age has to hold numbers, but holds texts, say 'old'"),
        (with_gaps(), r"missing \(NaN\): 3 in weight, 1 in sex=female, 1 in sex=male"),
        (None, r"there is no file others\.csv"),
    ],
)
def test_predict_refuses_rows_that_do_not_fit(
    others: pd.DataFrame | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame().to_csv("t.csv", index=False)
    assert command(*TABLE) == 0
    if others is not None:
        others.to_csv("others.csv", index=False)
    assert predict.main(["outputs/table/default", "others.csv"]) == 1
    errors = capsys.readouterr().err
    assert pd.Series([errors]).str.contains(said).all(), errors
    assert not Path("others.predicted.csv").exists()


def test_a_table_that_cannot_be_read_is_tried_once_for_all_runs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def broken(path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise ValueError("no table")

    monkeypatch.setattr(pd, "read_csv", broken)
    Path("bad.csv").write_text("x,y\n1,a\n")
    with run.alone():
        sweep = ["dataset=table", "dataset.file=bad.csv", "dataset.label=y", "seed=range(9)", "-m"]
        assert run.run(sweep) == 1
    assert len(tried) == 1
    assert "and 6 more: bad.csv cannot be read as a table: no table" in capfd.readouterr().err


@pytest.mark.parametrize("header", ["x,kind,kind", "x, x ,kind", "kind;x;kind", "x\tx\tkind"])
def test_a_column_that_is_there_twice_is_refused(header: str) -> None:
    """Else pandas calls the second x.1, and a label is its own feature."""
    separator = next(sign for sign in "\t;," if sign in header)
    Path("t.csv").write_text("\n".join([header, *[separator.join("1ab")] * 9]))
    with pytest.raises(ValueError, match=r"t\.csv .* more than one column (x|kind); rename one"):
        data()


@pytest.mark.parametrize("suffix", [".gz", pytest.param(".bz2", marks=pytest.mark.slow), ".xz"])
def test_what_a_file_unpacks_to_has_to_fit(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack: Any = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    Path(f"t.csv{suffix}").write_bytes(pack(b"x,kind\n" + b"1,a\n2,b\n" * 2**21))
    monkeypatch.setattr(memory, "free", lambda: 45_000_000)
    with pytest.raises(ValueError, match=rf"unpacking t\.csv{suffix} needs 50 MB of memory"):
        data(file=f"t.csv{suffix}")


@pytest.mark.parametrize("nested", [[1, 2], {"a": 1}])
@pytest.mark.parametrize("column", ["x", "kind"])
def test_a_column_of_lists_is_refused(column: str, nested: object) -> None:
    rows = [{"x": n % 7, "kind": "ab"[n % 2]} | {column: nested} for n in range(40)]
    Path("t.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"t\.json.* holds lists or the like"):
        data(file="t.json")


def sheet(*rows: str) -> bytes:
    """Return a spreadsheet of rows of XML, with as little as it may have."""
    schemas = "http://schemas.openxmlformats.org"
    main, types = f"{schemas}/spreadsheetml/2006/main", "officedocument.spreadsheetml"
    links, package = f"{schemas}/officeDocument/2006/relationships", f"{schemas}/package/2006"
    office = f"application/vnd.openxmlformats-{types}"
    parts = {
        "[Content_Types].xml": (
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            f'"application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{office}.sheet.main+xml"/>'
            f'<Override PartName="/xl/s.xml" ContentType="{office}.worksheet+xml"/></Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
            f'Type="{links}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
        ),
        "xl/workbook.xml": (
            f'<workbook xmlns="{main}" xmlns:r="{links}"><sheets>'
            f'<sheet name="s" sheetId="1" r:id="r"/></sheets></workbook>'
        ),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
            f'Type="{links}/worksheet" Target="s.xml"/></Relationships>'
        ),
        "xl/s.xml": f'<worksheet xmlns="{main}"><sheetData>{"".join(rows)}</sheetData></worksheet>',
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name, text in parts.items():
            packed.writestr(name, text)
    return content.getvalue()


def test_a_cell_far_away_does_not_take_all_memory() -> None:
    """Of the last row and column, with 17 billion before it."""
    pytest.importorskip("openpyxl")
    named = '<row r="1"><c r="A1" t="str"><v>x</v></c><c r="B1" t="str"><v>kind</v></c></row>'
    rows = [
        f'<row><c><v>{n % 7}</v></c><c t="str"><v>{"ab"[n % 2]}</v></c></row>' for n in range(40)
    ]
    Path("t.xlsx").write_bytes(sheet(named, *rows))
    assert len(data(file="t.xlsx").train) + len(data(file="t.xlsx").test or ()) == 40
    Path("far.xlsx").write_bytes(
        sheet(named, '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')
    )
    with pytest.raises(ValueError, match=r"reading far\.xlsx needs more than \d+ MB of memory"):
        data(file="far.xlsx")
