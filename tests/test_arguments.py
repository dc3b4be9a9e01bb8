from __future__ import annotations

import re

import pytest

from nnlab import arguments

SWEEP = "values of a sweep are joined by commas, without spaces: "
MEANT = {
    "train_size=500 1000": SWEEP + "train_size=500,1000",
    "train_size=500, 1000": SWEEP + "train_size=500,1000",
    "train_size=500 ,1000": SWEEP + "train_size=500,1000",
    "train_size=500 1000 2000 seed=1": SWEEP + "train_size=500,1000,2000",
    "seed=1 optimizer.lr=0.1 0.2": SWEEP + "optimizer.lr=0.1,0.2",
    "train_size=[500,1000]": SWEEP + "train_size=500,1000",
    "train_size=[500, 1000]": SWEEP + "train_size=500,1000",
    "optimizer=[sgd,adam]": SWEEP + "optimizer=sgd,adam",
    "train_size=500, seed=1": SWEEP + "train_size=500",
    "train_size=500,,1000": SWEEP + "train_size=500,1000",
    "optimizer=sgd, adam": SWEEP + "optimizer=sgd,adam",
    "train_size = 500": "an option is written without spaces: train_size=500",
    "train_size= 500": "an option is written without spaces: train_size=500",
    "train_size =500": "an option is written without spaces: train_size=500",
    "dataset.folder=my data": "what holds a space stands in quotes: 'dataset.folder=my data'",
    "model.hidden=[128, 64]": "items of a list are joined by commas, without spaces: "
    "model.hidden=[128,64]",
    "model.hidden=128 64": "model.hidden=[128,64]",
    "optimizer.lr=0,01": "01 is no number; did you mean 0.01?",
    "optimizer.lr=0,001,0,1": "001 is no number; did you mean 0.001?",
    "optimizer.lr=01": "01 is no number; did you mean 0.01?",
    "+optimizer.lr=0,05": "05 is no number; did you mean 0.05?",
    "fgsm.eps=[0,05]": "05 is no number; did you mean 0.05?",
    "optimizer.lr=0,5": "two runs, with optimizer.lr=0 and optimizer.lr=5; did you mean "
    "optimizer.lr=0.5? If both are meant: optimizer.lr=0.0,5",
    "optimizer.momentum=0,9": "did you mean optimizer.momentum=0.9?",
    "stopping.valid_accuracy=0,95": "did you mean stopping.valid_accuracy=0.95?",
    "stopping=target,0.9": "0.9 is none of epochs, plateau, patience, budget, target; the options "
    "of target have names: stopping.max_epochs, stopping.valid_accuracy",
    "seed=007": "007 is no number; did you mean 7?",
    "train_size=0500,1000": "0500 is no number; did you mean 500?",
    "report outputs/mnist": "did you mean python -m nnlab.report outputs/mnist?",
    "runs outputs/mnist": "did you mean python -m nnlab.runs outputs/mnist?",
    "describe dataset=dogset": "did you mean python -m nnlab.describe dataset=dogset?",
    "predict outputs/mnist/default a.png": "did you mean python -m nnlab.predict outputs/",
    "import-images photos data/dogset": "did you mean python -m nnlab.import_images photos",
    "import_images photos": "did you mean python -m nnlab.import_images photos?",
    "run train_size=500": "did you mean python -m nnlab.run train_size=500?",
    "test_size=100 train_size 500": "train_size 500: an option is written without spaces: "
    "train_size=500",
    "test_size=100 train_size = 500": "an option is written without spaces: train_size=500",
    "test_size=100 train_size =500": "train_size =500: an option is",
    "test_size=100 train_size:500": "train_size:500: an option is written NAME=VALUE: "
    "train_size=500",
    "test_size=100 train_size: 500 1000": SWEEP + "train_size=500,1000",
    "train_size 500 test_size 100": "train_size 500: an option is written",
    "test_size=100 optimizer adam": "optimizer=adam",
    "evaluation=fgsm hardest": "evaluation=[fgsm,hardest]",
    "test_size=100 mnist": "mnist is neither NAME=VALUE nor a flag",
    "reports outputs": "reports is none of nnlab's commands: did you mean python -m nnlab.report "
    "outputs?",
    "model.hidden=[128, 64": "model.hidden=[128,64]",
    "model.hidden=[128,64": "a bracket has no other half; did you mean model.hidden=[128,64]?",
    "fgsm.eps=0.1,0.2]": "a bracket has no other half; did you mean fgsm.eps=[0.1,0.2]?",
    "optimizer.lr=0.01;0.02": SWEEP + "optimizer.lr=0.01,0.02",
    "model.hidden=[128;64]": "model.hidden=[128,64]",
    "optimizer=sgd;adam": "optimizer=sgd;adam: sgd;adam cannot be read; brackets and quotes come "
    "in pairs, and a text with signs other than letters, digits and /-:._+% stands in quotes of "
    """its own, as in 'optimizer="sgd;adam"'""",
    "study='a": "study='a: 'a cannot be read; brackets and quotes come in pairs",
    "dataset.folder=Fotos/Hündin": """'dataset.folder="Fotos/Hündin"'""",
    "mnist": "mnist is neither NAME=VALUE nor a flag",
    "500": "500 is neither NAME=VALUE nor a flag",
    "optimizer": "optimizer is neither NAME=VALUE nor a flag",
}


@pytest.mark.parametrize("line", MEANT)
def test_what_people_mistype_is_told_with_the_remedy(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(MEANT[line])):
        arguments.arrange(line.split(" "))


def test_spaces_inside_an_argument() -> None:
    with pytest.raises(ValueError, match="train_size=500,1000"):
        arguments.check(["train_size=500 1000"])
    arguments.check(["train_size=500, 1000", "dataset.folder=my data", "model.hidden=[128, 64]"])


def test_a_bracket_that_is_missing_inside_an_argument() -> None:
    with pytest.raises(ValueError, match=r"did you mean model.hidden=\[128,64\]\?"):
        arguments.check(["model.hidden=[128, 64"])


def test_what_a_function_of_hydra_refuses_is_told_by_hydra() -> None:
    assert "seed=range(a)" in arguments.arrange(["seed=range(a)"])


@pytest.mark.parametrize(
    "override",
    [
        *("optimizer.lr=1e-05", "optimizer.lr=0.0,5", "optimizer.lr=0.01,0", "seed=0"),
        *("seed=0,1", "optimizer.lr=0,1,2", "optimizer.lr=0,0.5", "optimizer.lr=1,0"),
        *("dataset.function=0110,01", "study=007", "study=a,b", "train_size=null", "~stopping"),
        *("seed=range(1,5)", "optimizer.lr=interval(0.01,0.3)", "evaluation=[hardest,fgsm]"),
        *("hydra.sweeper.max_batch_size=[01]", "+unknown=01", "study='01'", "model.hidden=[]"),
        *("model.hidden=[128,64],[32]", "optimizer.betas=[0.9,0.999]", "dataset.folder='[a]'"),
    ],
)
def test_what_is_meant_passes(override: str) -> None:
    arguments.check([override])
    assert override in arguments.arrange([override, "-m"])


def test_values_of_flags_are_no_words_of_their_own() -> None:
    assert arguments.arrange(["seed=1", "--cfg", "job"])[-2:] == ["--cfg", "job"]
    assert arguments.arrange(["--config-dir", "report", "seed=1"])[-2:] == [
        "--config-dir",
        "report",
    ]


def test_every_option_has_its_type() -> None:
    types = dict(arguments.option_types())
    assert (types["train_size"], types["optimizer.lr"]) == ("int | None", "float")
    assert (types["fgsm.eps"], types["model.hidden"]) == ("list[float]", "list[int]")
    assert types["optimizer"] == "OptimizerConfig"
