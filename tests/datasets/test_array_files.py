"""Arrays of one's own, against the arrays that were written."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from nnlab import compose, datasets, predict, run
from nnlab.datasets import Data
from nnlab.datasets.array_files import named_parts
from nnlab.network import load

pytestmark = pytest.mark.usefixtures("empty_folder")

random = np.random.default_rng(0)
X = random.normal(5, 3, (40, 6)).astype(np.float32)
PIXELS = random.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
Y = np.resize([7, 3], 40)


def data(file: str, *overrides: str) -> Data:
    return compose.load(["dataset=arrays", f"dataset.file={file}", *overrides]).load_data()


def write(kind: str, **arrays: NDArray[Any]) -> str:
    """Write arrays as one of the kinds of files; return what dataset.file is for them."""
    if kind == "npz":
        np.savez("a.npz", **arrays)  # type: ignore[arg-type]
    elif kind == "compressed":
        np.savez_compressed("a.npz", **arrays)  # type: ignore[arg-type]
    elif kind == "safetensors":
        save_file(arrays, "a.safetensors")
    else:
        Path("a").mkdir(exist_ok=True)
        for name, array in arrays.items():
            np.save(f"a/{name}.npy", array)
    return {"safetensors": "a.safetensors", "folder": "a"}.get(kind, "a.npz")


KINDS = ["npz", "compressed", "safetensors", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_named_parts_are_the_splits(kind: str) -> None:
    parts = {"train": slice(0, 20), "valid": slice(20, 30), "test": slice(30, 40)}
    arrays = {f"x_{name}": X[part] for name, part in parts.items()}
    arrays |= {f"y_{name}": Y[part] for name, part in parts.items()}
    found = data(write(kind, **arrays), "valid_size=null")
    for split, part in zip((found.train, found.valid, found.test), parts.values()):
        assert split is not None
        assert np.array_equal(split.inputs[split.index], X[part])
        assert [int(found.classes[label]) for label in split.labels] == Y[part].tolist()
    assert found.classes == ["3", "7"]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_keep_their_shape_and_count_as_fractions_of_255(kind: str) -> None:
    found = data(write(kind, x=PIXELS, y=Y[:, None]), "train_size=10")
    for split in (found.train, found.test):
        assert split is not None
        assert split.rows is not None
        rows = split.rows
        expected = PIXELS[rows].reshape(len(rows), -1) / np.float32(255)
        assert np.array_equal(split.inputs[split.index], expected)
    assert found.provenance["shape"] == [4, 4, 3]
    assert found.provenance["mean_pixel"] == pytest.approx(PIXELS.mean() / 255)


def test_each_input_of_a_row_and_each_channel_of_an_image_is_standardised_by_itself() -> None:
    for x, axes in ((X, 0), (PIXELS, (0, 1, 2))):
        found = data(write("npz", x=x, y=Y), "dataset.normalize=true")
        datasets.forget()
        assert found.train.rows is not None
        train = x[found.train.rows].astype(float) / (255 if x is PIXELS else 1)
        expected = (train - train.mean(axis=axes)) / train.std(axis=axes)
        flat = expected.reshape(len(train), -1)
        # Numbers of about 1, computed from float32 means and deviations.
        np.testing.assert_allclose(found.train.inputs, flat, rtol=1e-5, atol=1e-5)


def test_content_is_the_same_wherever_the_file_lies() -> None:
    digests = []
    for folder in ("one", "two"):
        Path(folder).mkdir()
        np.savez(f"{folder}/{folder}.npz", x=X, y=Y)
        digests.append(data(f"{folder}/{folder}.npz").provenance["content"])
    assert digests[0] == digests[1]
    np.savez("one/one.npz", x=X + 1, y=Y)
    datasets.forget()
    assert data("one/one.npz").provenance["content"] != digests[0]


class Touch:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("called"),)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_nothing_is_unpickled(kind: str) -> None:
    file = write(kind, x=np.array([Touch()] * 40, object), y=Y)
    with pytest.raises(ValueError, match="it is pickled, which could run code"):
        data(file)
    assert not Path("called").exists()


HOLED = X.copy()
HOLED[3, 1] = HOLED[5, 1] = np.nan
HOLED[7, 4] = -np.inf


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "holds the arrays x: y is missing; the names are x_train"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "y_test is missing"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y}, "x_train, y_train is missing"),
        ({"x_train": X, "y_train": Y, "x": X, "y": Y}, "x or y is one too many"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "x_val is not known"),
        ({"x": X, "y": Y[:30]}, "train has 40 examples but 30 labels"),
        ({"x": X, "y": np.eye(2)[Y % 2]}, r"labels of shape \[40, 2\].*y.argmax\(1\)"),
        ({"x": HOLED, "y": Y}, r"missing \(NaN\): 2 in input 1, and infinite: 1 in input 4"),
        ({"x": X.astype(str), "y": Y}, "examples are of type <U"),
        ({"x": X, "y": Y / 8}, "labels such as 0.375"),
        ({"x": X, "y": Y * 1j}, "labels such as 3j"),
        ({"x": X[:0], "y": Y[:0]}, "has no training examples"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :5], "y_test": Y},
            r"examples of test have shape \[5\], those of train \[6\]",
        ),
        (
            {"x_train": PIXELS, "y_train": Y, "x_test": PIXELS / 255, "y_test": Y},
            "some parts are uint8",
        ),
    ],
)
def test_what_is_wrong_with_arrays_is_said(arrays: dict[str, NDArray[Any]], said: str) -> None:
    np.savez("a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        data("a.npz")


def test_a_header_that_lies_is_refused() -> None:
    """Its array has 40 TB by its header, or a shape of 100,000 brackets."""
    content = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)}
    np.lib.format.write_array_header_1_0(content, header)
    with zipfile.ZipFile("a.npz", "w") as packed:
        packed.writestr("x.npy", content.getvalue() + bytes(400))
    with pytest.raises(ValueError, match=r"^unpacking a\.npz needs more than .* is damaged$"):
        data("a.npz")
    datasets.forget()
    text = f"{{'descr': '<f4', 'shape': {'(' * 10**5}{')' * 10**5}}}\n".encode()
    long = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    with zipfile.ZipFile("a.npz", "w") as packed:
        packed.writestr("x.npy", long)
    with pytest.raises(ValueError, match=r"^a\.npz cannot be read: Header info length") as raised:
        data("a.npz")
    assert "allow_pickle" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.txt", "a/x.npy"])
def test_a_file_that_is_none_is_named(name: str) -> None:
    Path("a").mkdir()
    Path(name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        data(name.partition("/")[0])


def test_any_pair_of_names_may_be_left_out_but_that_of_training() -> None:
    parts = named_parts("a", {"x_train": X, "y_train": Y, "x_valid": X[:9], "y_valid": Y[:9]})
    assert {name: len(part.inputs) for name, part in parts.items()} == {"train": 40, "valid": 9}


def test_a_run_on_arrays_predicts_an_npy_file(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("a.npz", x=X, y=Y)
    np.save("more.npy", X[:5] - 1)
    with run.alone():
        arguments = ["dataset=arrays", "dataset.file=a.npz", "evaluation=[weights]"]
        assert run.run([*arguments, "stopping.max_epochs=2"]) == 1  # they are no images
        assert run.run([*arguments[:2], "stopping.max_epochs=2"]) == 0
    assert "evaluation=[weights] needs images" in capsys.readouterr().err
    assert predict.main(["outputs/arrays/default", "more.npy"]) == 0
    lines = Path("more.predicted.csv").read_text().splitlines()
    assert lines[0] == "row,predicted,p(3),p(7)"
    logits = load("outputs/arrays/default").model(torch.from_numpy(X[:5] - 1))
    written = np.array([line.split(",")[2:] for line in lines[1:]], float)
    # Written with 6 digits.
    np.testing.assert_allclose(written, logits.softmax(1).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["sub/more.npy", "more.npy"], "more than one of these files leads to more.predicted.csv"),
        (["none.npy"], "there is no file none.npy"),
        (["text.npy"], "text.npy holds no numbers, but <U1"),
        (["pickled.npy"], "pickled.npy cannot be read: it is pickled"),
        (["wide.npy"], "this network takes 6"),
        (["holed.npy"], "2 numbers of the examples are NaN or infinite"),
    ],
)
def test_files_that_cannot_be_predicted_are_named(
    files: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("a.npz", x=X, y=Y)
    Path("sub").mkdir()
    for name, array in {
        "more": X,
        "sub/more": X,
        "text": np.array([["a"]]),
        "pickled": np.array([[Touch()]], object),
        "wide": np.zeros((2, 7)),
        "holed": np.where(np.isin(X, X[0, :2]), np.nan, X),
    }.items():
        np.save(f"{name}.npy", array)
    with run.alone():
        assert run.run(["dataset=arrays", "dataset.file=a.npz", "stopping.max_epochs=1"]) == 0
    assert predict.main(["outputs/arrays/default", *files]) == 1
    assert said in capsys.readouterr().err
    assert not list(Path().glob("*.csv"))
