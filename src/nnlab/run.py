"""The command line: ``python -m nnlab.run dataset=mnist train_size=500,1000 -m``."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from nnlab import config, hydra_jobs, messages, sweep

OPTIONS = [field.name for field in dataclasses.fields(config.Config)]
FIXED = "hydra.job.config.override_dirname.exclude_keys"


def main() -> None:
    gc.set_threshold(100_000, 20)  # the default looks for garbage 100 times per job
    config.register()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra words an error and ends the process itself unless told to raise it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = arrange(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(
            hydra_jobs.run_alone
        )()
        status = sweep.conclude()
    except KeyboardInterrupt:
        said = "\ninterrupted; finished runs are kept, and the same command does the rest"
        print(said, file=sys.stderr)
        sys.exit(130)  # as shells have it
    except Exception as error:
        message = messages.explain(error)
        if wants_traceback or message is None:
            raise
        sys.exit(message)
    gc.freeze()  # else Python's last search for garbage goes through all of torch: 0.3 s
    sys.exit(status)


def arrange(arguments: list[str]) -> list[str]:
    """Put overrides before flags, so that -m may stand anywhere, and name folders by what varies.

    Options that are fixed for the whole sweep are kept out of the names of its folders.

    >>> arrange(["seed=1", "-m", "train_size=500,1000"])[:2]
    ['seed=1', 'train_size=500,1000']
    >>> arrange(["seed=1", "-m", "train_size=500,1000"])[2:]
    ['hydra.job.config.override_dirname.exclude_keys=[seed]', '-m']

    Raises ValueError for an option that is written as a flag.
    """
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("--") and name.partition(".")[0] in OPTIONS:
            raise ValueError(f"{argument} is no flag; options have no dashes: {name}=VALUE")
    given: list[str] = get_args_parser().parse_intermixed_args(arguments).overrides
    flags = [argument for argument in arguments if argument not in given]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
    except OverrideParseException:
        return given + flags  # Hydra says what is wrong
    fixed = [each.key_or_group for each in overrides if not each.is_sweep_override()]
    naming = [f"{FIXED}=[{','.join(fixed)}]"] if fixed and FIXED not in fixed else []
    return given + naming + flags


if __name__ == "__main__":
    main()
