"""That the benchmarks run and count correctly; speed itself is never asserted."""

from __future__ import annotations

from benchmarks import floor, results, training
from benchmarks.problem import Problem, Spec
from benchmarks.results import Options


def test_floor_counts_the_matrix_products_of_a_step() -> None:
    forward = 2 * 10 * (784 * 128 + 128 * 64 + 64 * 10)
    weight_gradients = forward
    input_gradients = 2 * 10 * (128 * 64 + 64 * 10)  # none for the images themselves
    assert floor.step_flops([784, 128, 64, 10], batch=10) == (
        forward + weight_gradients + input_gradients
    )


def test_quick_training_compares_the_engines() -> None:
    result = training.measure(Options(quick=True))
    (table,) = result.tables
    labels = [row[0] for row in table.rows]
    assert labels == ["plain DataLoader loop", "nnlab torch", "nnlab native"]
    for row in table.rows[:2]:
        assert float(row[1].replace(",", "")) > 0
    assert training.PLAIN in results.markdown(result, results.machine())


def test_contenders_begin_with_the_same_weights_on_the_same_images() -> None:
    spec = Spec(train_size=20, seeds=(0, 1), rates=(0.01, 0.02))
    one, other = Problem.of(spec), Problem.of(spec)
    assert one.inputs.equal(other.inputs)
    assert one.labels.bincount().tolist() == [2] * 10
    for mine, theirs in zip(one.networks(), other.networks()):
        assert all(a.equal(b) for a, b in zip(mine.parameters(), theirs.parameters()))
