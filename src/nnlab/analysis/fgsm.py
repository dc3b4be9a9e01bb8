"""How small a change fools a network: the fast gradient sign method.

Goodfellow, Shlens & Szegedy, Explaining and harnessing adversarial examples, 2014.
"""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nnlab import seeds
from nnlab.analysis import pictures
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.network import Network
from nnlab.report import plotting
from nnlab.storage import write_csv
from nnlab.trained import Trained

log = logging.getLogger("nnlab")
SHOWN = 6  # images of the sheet


def evaluate(trained: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write fgsm.csv, fgsm.png and fgsm_examples.png about the test examples."""
    if not pictures.can_show(trained):
        name = data.provenance["name"]
        raise ValueError(f"evaluation=[fgsm] needs images, pixels from 0 to 1; {name} has none")
    network = Network(trained)
    inputs, labels = map(torch.from_numpy, data.split("test").examples)
    direction = gradient_sign(network, inputs, labels)
    still = unmoved(network, inputs, labels, direction)
    drawn = seeds.generator(config.seed, "noise").random(inputs.shape)
    noise = torch.from_numpy(np.where(drawn < 0.5, np.float32(-1), np.float32(1)))
    rows = []
    for eps in sorted(set(config.fgsm.eps)):
        fooled = accuracy(network, perturbed(network, inputs, direction, eps), labels)
        rows.append(
            (eps, fooled, accuracy(network, perturbed(network, inputs, noise, eps), labels))
        )
    about = f"{pictures.named(trained)}, {len(labels):,} test images"
    said = f"images classified rightly without any gradient, which FGSM cannot move: {still:,}"
    log.info("%s: %s", folder.name, said)
    header = ["eps", "accuracy", "accuracy_under_noise", "without_gradient"]
    cells = [[*(f"{value:.9g}" for value in row), still] for row in rows]
    return [
        write_csv([header, *cells], folder / "fgsm.csv"),
        plotting.save(draw(rows, about, said, len(network.classes)), folder / "fgsm.png"),
        plotting.save(
            examples(network, inputs, labels, direction, config.fgsm.shown, about),
            folder / "fgsm_examples.png",
        ),
    ]


def gradient_sign(network: Network, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the sign of the loss's gradient with respect to each pixel: [N, I].

    inputs: standardised, [N, I]. A pixel is an input times a positive deviation, plus a
    mean, so the signs for both are the same. Where the gradient is 0, so is its sign.
    """
    model = precise(network.model)
    parts = zip(inputs.split(1024), labels.split(1024))
    return torch.cat([gradient(model, *some).sign().to(inputs.dtype) for some in parts])


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the log odds of each example's being misclassified: [N, I] float64.

    model: in float64. With p the probability of the true class that is ``-log_odds``, and
    cross entropy is log(1 + exp(-log_odds)): its gradient is this one times 1 - p, a positive
    number, so signs are the same. But 1 - p rounds to 0 where a network is sure enough.
    """
    varied = inputs.double().requires_grad_()
    # The sum, because then the gradient of one example does not depend on how many there are.
    (found,) = torch.autograd.grad(-log_odds(model(varied), labels).sum(), varied)
    return found


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what ``trained.log_odds`` does, with its gradient."""
    own = labels[:, None]
    others = logits.scatter(1, own, -math.inf).logsumexp(1)
    return logits.gather(1, own)[:, 0] - others


def precise(model: nn.Module) -> nn.Module:
    """Return a copy in float64, its saturating activations in a form that keeps their slope.

    torch computes the slope of a sigmoid s as s (1 - s), which is 0 where s rounds to 1, at
    inputs above 37; that of tanh likewise, above 19.
    """
    made = copy.deepcopy(model).double()
    for parent in list(made.modules()):
        for name, layer in parent.named_children():
            if type(layer) in PRECISE:
                setattr(parent, name, PRECISE[type(layer)]())
    return made


class PreciseSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return logsigmoid(x).exp()


class PreciseTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * logsigmoid(2 * x).exp() - 1


PRECISE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Sigmoid: PreciseSigmoid,
    nn.Tanh: PreciseTanh,
}


def perturbed(network: Network, inputs: Tensor, direction: Tensor, eps: float) -> Tensor:
    """Move each pixel by eps in a direction, within [0, 1]: standardised inputs [N, I].

    Done on the standardised inputs, so that eps=0 returns them bit for bit.
    """
    size = len(inputs[0])
    black = network.standardised(torch.zeros(1, size))
    white = network.standardised(torch.ones(1, size))
    if network.deviation is not None:
        scale = network.deviation.repeat(size // len(network.deviation))
        direction = direction / scale
    return (inputs + eps * direction).clamp(black, white)


def accuracy(network: Network, inputs: Tensor, labels: Tensor) -> float:
    return (network.logits(inputs).argmax(1) == labels).sum().item() / len(labels)


def unmoved(network: Network, inputs: Tensor, labels: Tensor, direction: Tensor) -> int:
    """Count the examples that are classified rightly and whose gradient is 0 in every pixel."""
    right = network.logits(inputs).argmax(1) == labels
    return int((right & (direction == 0).all(1)).sum())


def draw(rows: list[tuple[float, float, float]], about: str, note: str, classes: int) -> Figure:
    """Draw accuracy over the size of the perturbation, adversarial and random."""
    figure, (axes,) = plotting.frame(f"Accuracy under perturbation: {about}", [note])
    eps = [row[0] for row in rows]
    for column, name, colour, mark in (
        (2, "random signs", plotting.COLOURS[0], "s"),
        (1, "sign of the gradient (FGSM)", plotting.COLOURS[1], "o"),
    ):
        values = [100 * row[column] for row in rows]
        axes.plot(eps, values, color=colour, marker=mark, ms=4, lw=1.3, label=name)
    axes.axhline(100 / classes, color="0.6", lw=0.8, ls=":", label="chance")
    axes.set_xlabel("Size of the perturbation, eps (a pixel is 0 to 1)", size=plotting.FONT)
    axes.set_ylabel("Test accuracy (%)", size=plotting.FONT)
    axes.xaxis.set_major_formatter(plotting.number)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=plotting.FONT - 1, frameon=False)
    return figure


def examples(
    network: Network, inputs: Tensor, labels: Tensor, direction: Tensor, eps: float, about: str
) -> Figure:
    """Draw images that were classified rightly, their perturbations and what came of them.

    The first of each class, of the classes that come first, at most SHOWN.
    """
    adversarial = perturbed(network, inputs, direction, eps)
    before, after = network.probabilities(inputs), network.probabilities(adversarial)
    right = before.argmax(1) == labels
    firsts = [((labels == label) & right).nonzero().flatten() for label in labels.unique().tolist()]
    places = [int(found[0]) for found in firsts if len(found) > 0][:SHOWN] or [0]
    original, moved = network.pixels(inputs[places]), network.pixels(adversarial[places])

    def said(probabilities: Tensor) -> str:
        label = int(probabilities.argmax())
        return f"{plotting.plain(network.classes[label], 20)} {probabilities[label]:.0%}"

    rows = {}
    for number, place in enumerate(places):
        change = (moved - original)[number]
        rows[network.classes[int(labels[place])]] = [
            (original[number].numpy(), said(before[place])),
            ((0.5 + change / (2 * eps) if eps > 0 else torch.full_like(change, 0.5)).numpy(), ""),
            (moved[number].numpy(), said(after[place])),
        ]
    heading = f"Adversarial images at eps={eps:g}: {about}. Left: true class; below: prediction"
    columns = ("original", "perturbation", "adversarial")
    return pictures.sheet(rows, network.shape, heading, columns)
