"""What a dataset declares: its options, its name in figures, and where its examples come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nnlab.datasets.arrays import DataSource, Sizes
from nnlab.identity import WHERE
from nnlab.losses import CLASSIFICATION, LearningTask
from nnlab.options import MISSING, plain


@dataclass
class DatasetConfig:
    """The options that every dataset has; the class of each adds its own, without defaults,
    which are in its YAML.

    title: the dataset's name in figures. generated: whether its options alone decide what its
    examples are, so that there is nothing to tell of where they come from. stratified: whether
    draws that are not balanced have the classes in the proportions that there are.
    """

    name: str = MISSING
    balanced: bool = MISSING
    normalize: bool = MISSING
    title: ClassVar[str]
    generated: ClassVar[bool] = False
    stratified: ClassVar[bool] = False

    @property
    def learned(self) -> LearningTask:
        """What is learned from it."""
        return CLASSIFICATION

    @property
    def images(self) -> bool:
        """Whether its examples are images, or may be."""
        return True

    @property
    def rows(self) -> bool:
        """Whether its examples are rows of numbers, as of a table, or may be."""
        return not self.images

    def check(self) -> None:
        """Raise ValueError for the first option outside its limits, before anything is read."""

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source that serves these sizes.

        Raises ValueError if none has as many examples, OSError where files can't be looked at.
        """
        raise NotImplementedError

    @property
    def data_folder(self) -> str | None:
        """The folder of its files, or its one file; None where it has none."""
        return None

    @property
    def held_out(self) -> float:
        """The fraction of the training partition that is kept for tests, where its data have no
        test partition."""
        return 0.0

    @property
    def truth_table(self) -> str | None:
        """The truth table that its examples are all of; None where they are other data."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return the options that decide which examples there are (JSON values).

        Those that say where files are (``WHERE``) do not: their content is compared instead.
        """
        return {name: value for name, value in plain(self).items() if name not in WHERE}
