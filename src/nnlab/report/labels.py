"""What options and their values are called in figures and captions."""

from __future__ import annotations

from nnlab.datasets import DATASETS
from nnlab.report.runs import OWN_OPTIONS
from nnlab.stopping import RULES

OVER = "_over_"  # in the names of figures, before the option that lies across
LABELS = {
    "train_size": "Training-set size (examples)",
    "valid_size": "Validation-set size (examples)",
    "test_size": "Test-set size (examples)",
    "batch_size": "Batch size (examples)",
    "folds": "Folds",
    "fold": "Fold",
    "dataset": "Dataset",
    "dataset.balanced": "Classes of equal size",
    "dataset.categorical": "Columns of words",
    "dataset.drop": "Columns left out",
    "dataset.features": "Columns",
    "dataset.function": "Boolean function",
    "dataset.inputs": "Inputs",
    "dataset.label": "Column to predict",
    "dataset.missing": "Missing values",
    "dataset.mode": "Colours of images",
    "dataset.normalize": "Normalised inputs",
    "dataset.num_classes": "Classes",
    "dataset.resize": "Resized images",
    "dataset.size": "Size of images (pixels)",
    "dataset.split": "Column of the split",
    "dataset.task": "Task",
    "dataset.test_fraction": "Fraction for tests",
    "loss.class_weights": "Class weights",
    "loss.label_smoothing": "Label smoothing",
    "model": "Model",
    "model.activation": "Activation",
    "model.batch_norm": "Batch norm",
    "model.bias": "Biases",
    "model.channels": "Convolutions (channels)",
    "model.classic": "XOR of OR, NAND and AND",
    "model.dropout": "Dropout (fraction)",
    "model.function": "Network of",
    "model.hidden": "Hidden layers (units)",
    "model.init": "Initial weights",
    "model.kernel": "Kernel (pixels)",
    "optimizer": "Optimizer",
    "optimizer.amsgrad": "AMSGrad",
    "optimizer.betas": "Betas",
    "optimizer.clip_norm": "Longest gradient",
    "optimizer.dampening": "Dampening",
    "optimizer.eps": "Epsilon of Adam",
    "optimizer.gamma": "Factor of the schedule",
    "optimizer.l1": "L1 penalty",
    "optimizer.l2": "L2 penalty",
    "optimizer.lr": "Learning rate",
    "optimizer.min_lr": "Least learning rate",
    "optimizer.momentum": "Momentum",
    "optimizer.nesterov": "Nesterov momentum",
    "optimizer.patience": "Patience of the schedule (epochs)",
    "optimizer.schedule": "Learning-rate schedule",
    "optimizer.step_size": "Step of the schedule (epochs)",
    "optimizer.warmup": "Warm-up (epochs)",
    "optimizer.weight_decay": "Weight decay",
    "stopping": "Stopping rule",
    "stopping.max_epochs": "Epochs at most",
    "stopping.min_delta": "Least decrease",
    "stopping.monitor": "Watched",
    "stopping.patience": "Patience (epochs)",
    "stopping.restore_best": "Weights of the best epoch",
    "stopping.seconds": "Training time at most (s)",
    "stopping.valid_accuracy": "Validation accuracy to reach",
    "seed": "Seed",
    "seeds.data": "Seed of the data",
    "seeds.order": "Seed of the order",
    "seeds.test": "Seed of the test images",
    "seeds.weights": "Seed of the weights",
    "device": "Device",
    "engine": "Engine",
    "random_numbers": "Random numbers",
    "native_level": "Instruction set",
    "threads": "Threads",
    "full_train_metrics": "Training metrics after each epoch",
    "data": "Data",
}
NAMES = {name: dataset.title for name, dataset in DATASETS.items()}
NAMES["images"] = "Images"  # unless the user calls them otherwise
NAMES |= {name: rule.title for name, rule in RULES.items() if rule.title}
NAMES |= {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "he": "He", "glorot": "Glorot"}
NAMES |= {"mlp": "MLP", "deep_linear": "deep linear", "perceptron": "perceptrons", "cnn": "CNN"}


def label(key: str) -> str:
    """Return what an axis or a legend calls an option; one of the user's own by its name.

    >>> label("optimizer.lr"), label("model.options.width")
    ('Learning rate', 'width')
    """
    return LABELS.get(key) or key.removeprefix(OWN_OPTIONS)


def phrase(key: str) -> str:
    """Return the same within a sentence, without its unit.

    >>> phrase("batch_size"), phrase("optimizer.l1"), phrase("dataset.folder")
    ('batch size', 'L1 penalty', 'dataset.folder')
    """
    name = label(key).partition(" (")[0]
    first = name.partition(" ")[0]
    return (
        name if any(c.isupper() or c.isdigit() for c in first[1:]) else name[0].lower() + name[1:]
    )
