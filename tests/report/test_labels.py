from __future__ import annotations

import dataclasses

from nnlab import config
from nnlab.config import Config
from nnlab.identity import NOT_IDENTITY, WHERE
from nnlab.losses import LossConfig
from nnlab.report.labels import LABELS, NAMES, phrase

ELSEWHERE = {f"dataset.{key}" for key in (*WHERE, "title")} | {"model.options", "cores"}


def options(schema: type, prefix: str = "") -> set[str]:
    """List the options of a schema by their dotted keys; a group's name is its choice."""
    found = set()
    for field in dataclasses.fields(schema):
        key = prefix + field.name
        found.add(prefix.rstrip(".") if field.name == "name" and prefix else key)
    return found


def test_every_option_that_can_vary_has_plain_words() -> None:
    known = options(Config) - set(NOT_IDENTITY) - {"seeds", "loss"}
    for group, choices in config.GROUPS.items():
        for schema in choices.values():
            known |= options(schema, f"{group}.")
    known |= options(LossConfig, "loss.") | options(config.SeedsConfig, "seeds.")
    assert sorted(known - ELSEWHERE - set(LABELS)) == []
    recorded = {"data", "random_numbers"}  # no options, but columns where they vary
    assert sorted(set(LABELS) - known - recorded) == []


def test_words_within_a_sentence() -> None:
    expected = {
        "optimizer.schedule": "learning-rate schedule",
        "model.dropout": "dropout",
        "optimizer.l1": "L1 penalty",
        "model.classic": "XOR of OR, NAND and AND",
        "model.options.Width": "width",
    }
    assert {key: phrase(key) for key in expected} == expected
    assert NAMES["sgd"] == "SGD"
