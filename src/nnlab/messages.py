"""Errors in one clear message, with what helps."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nnlab import memory
from nnlab.refusals import GO_ON, OF_FOLDERS, refused

NO_MEMORY = (
    "use smaller layers, a smaller batch_size, fewer examples or runs, or end other programs"
)


def explain(error: Exception, study: Path | None = None) -> str | None:
    """Return what to tell a person about an error, or None where it is not theirs to mend.

    study: the folder in which it was, that of other runs with the same error too.
    """
    if "omegaconf" in sys.modules:  # otherwise none of these was raised; Hydra takes 0.1 s
        from nnlab import config_errors

        said = config_errors.explain(error)
        if said is not None:
            return said
    if isinstance(error, OSError) and (error.filename is not None or error.errno in OF_FOLDERS):
        return refused(error, study)
    if type(error).__name__ == "OutOfMemoryError":  # torch's own, which is not imported here
        return (
            f"{str(error).splitlines()[0]} "
            f"Bound how many runs train together with hydra.sweeper.max_batch_size=N"
        )
    if "can't start new thread" in str(error):
        return (
            f"the system starts no more threads for this process: raise ulimit -u or -v, or end "
            f"other programs, {GO_ON}"
        )
    if memory.is_short(error):
        found = re.search(r"allocate (\d+ bytes|[\d.]+ \w?i?B)", str(error))
        return f"there is no memory left to {found[0] if found else 'go on'}; {NO_MEMORY}"
    return str(error) if isinstance(error, (ValueError, OSError)) else None
