"""Networks that a Python function of the user's own makes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.random import Generator
from torch import Tensor, nn

from nnlab import seeds
from nnlab.functions import Function
from nnlab.model import Shaped, shape_given


def from_function(
    function: Function,
    options: Mapping[str, Any] | None,
    shape: Sequence[int],
    classes: int,
    generator: Generator,
) -> Shaped:
    """Have a function make a network, and try it out on two examples.

    The function is called with the shape of an example as the network is given it (see
    ``model.shape_given``), the number of classes, and the options by their names. What it draws
    from torch's, NumPy's or Python's global generators comes from ``generator``.
    Raises ValueError where it takes no such options, fails, or returns what is no network for
    these examples.
    """
    given = shape_given(shape)
    with seeds.drawing_from(generator):
        made = call(function, given, classes, options or {})
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"{function.option} returned a {type(made).__name__}; it has to return an nn.Module"
            )
        network = Shaped(made, shape)
        if not any(each.requires_grad for each in made.parameters()):
            raise ValueError(
                f"{function.option} returned a {type(made).__name__} without weights to train"
            )
        try:
            logits = network.try_out()
        except Exception as error:
            batch = ", ".join(map(str, (2, *given)))
            raise ValueError(
                f"{function.option}: its network does not take examples [{batch}]: "
                f"{function.told(error)}"
            ) from error
    check_output(function, logits, classes)
    if not all(isinstance(each, Tensor) for each in made.state_dict().values()):
        raise ValueError(
            f"{function.option}: the state of its network is more than tensors, which nnlab cannot "
            f"save; keep the rest out of get_extra_state"
        )
    return network


def call(
    function: Function, shape: tuple[int, ...], classes: int, options: Mapping[str, Any]
) -> object:
    """Call the function. Raises ValueError where it does not take what it is given."""
    with function.imported() as module:
        made = function.of(module)
        try:
            inspect.signature(made).bind(shape, classes, **options)
        except TypeError as error:
            raise ValueError(
                f"{function.option} is called with (shape, classes) and model.options="
                f"{dict(options)}, which it does not take: {error}"
            ) from None
        except ValueError:  # a built-in's signature is not known
            pass
        return function.result(made, shape, classes, **options)


def check_output(function: Function, logits: object, classes: int) -> None:
    wanted = f"it has to give logits [2, {classes}] of two examples, a number for each class"
    if not isinstance(logits, Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.shape != (2, classes) or not logits.is_floating_point():
        found = f"{list(logits.shape)} {logits.dtype}".replace("torch.", "of ")
    else:
        return
    raise ValueError(f"{function.option}: its network gives {found}; {wanted}")
