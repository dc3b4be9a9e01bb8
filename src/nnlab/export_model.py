"""``python -m nnlab.export_model RUN --to onnx``: a trained network for programs without nnlab."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nnlab import memory, refusals, terminal
from nnlab.extras import needed
from nnlab.network import Network, load
from nnlab.storage import write_atomic

INPUT, PROBABILITIES, TARGETS = "examples", "probabilities", "targets"


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnlab.export_model",
        description=__doc__,
        epilog="What is written takes examples as they are and gives the probability of each "
        "class, as nnlab.load(RUN).predict does.",
    )
    terminal.add_version(parser)
    parser.add_argument(
        "run", type=terminal.path, help="the folder of a run, say outputs/mnist/default"
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="onnx (needs the extra nnlab[onnx]); torchscript, for torch.jit.load; torch, for "
        "torch.export.load",
    )
    parser.add_argument(
        "--output",
        type=terminal.path,
        metavar="FILE",
        help="what to write (STUDY-RUN with a suffix)",
    )
    terminal.add_function(parser)
    options = parser.parse_args(arguments)
    suffix, convert = FORMATS[options.to]
    run = options.run.absolute()
    path = options.output or Path(f"{run.parent.name}-{run.name}{suffix}")
    try:
        network = load(options.run, options.function)
        if network.result["status"] == "diverged":
            raise ValueError(f"the run in {options.run} diverged: its network is of no use")
        whole = Whole(network)
        whole.eval()
        content = convert(whole, examples(network))
    except (ValueError, OSError) as error:
        terminal.complain(error)
        return 1
    try:
        write_atomic(path, content)
    except OSError as error:
        remedy = refusals.remedy(error, "choose another --output")
        terminal.complain(f"{path} cannot be written ({error.strerror}); {remedy}")
        return 1
    shape = ", ".join(map(str, network.shape))
    pixels = ", pixels from 0 to 1" if len(network.shape) > 1 else ""
    terminal.say(
        path,
        f"{INPUT}: [N, {shape}] float32{pixels}",
        f"{output_of(network)}: [N, {len(network.targets or network.classes)}] float32",
    )
    return 0


class Whole(nn.Module):
    """A trained network with what comes before and after it.

    Takes examples as they are, [N, ...], and gives the probability of each class, [N, K]; of a
    regression the targets in their own units.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.model = network.model

    def forward(self, examples: Tensor) -> Tensor:
        return self.network.answer(self.model(self.network.standardised(examples)))


def examples(network: Network) -> Tensor:
    """Return two examples, [2, ...]; by one alone a converter would take their number as fixed."""
    return torch.zeros(2, *network.shape)


def output_of(network: Network) -> str:
    return TARGETS if network.targets else PROBABILITIES


def as_onnx(model: Whole, some: Tensor) -> bytes:
    """Convert by torch's exporter. Raises ValueError where the packages that it takes lack."""
    with quiet():
        needed("onnxscript", "onnx")
        program = torch.onnx.export(
            model,
            (some,),
            input_names=[INPUT],
            output_names=[output_of(model.network)],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def as_torchscript(model: Whole, some: Tensor) -> bytes:
    content = io.BytesIO()
    with quiet():
        torch.jit.save(torch.jit.trace(model, some), content)
    return content.getvalue()


def as_torch(model: Whole, some: Tensor) -> bytes:
    content = io.BytesIO()
    with quiet():
        memory.check_room("torch's exporter")
        shapes = ({0: torch.export.Dim("N")},)
        torch.export.save(torch.export.export(model, (some,), dynamic_shapes=shapes), content)
    return content.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Whole, Tensor], bytes]]] = {
    "onnx": (".onnx", as_onnx),
    "torchscript": (".pt", as_torchscript),
    "torch": (".pt2", as_torch),
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what torch says of its own parts: that TorchScript is old, that others are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


if __name__ == "__main__":
    sys.exit(main())
