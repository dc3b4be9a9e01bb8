"""Errors in one clear message, with what helps."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

GO_ON = "and the same command goes on"
NO_ANSWER = f"its disk or file server does not answer: see that it does, {GO_ON}"
NO_RIGHT = "see that you may read and write it (ls -l), or choose another folder with output_dir="
# What helps where the system refused something, by the number of its error.
REMEDIES = {
    errno.ENOSPC: f"free some space, {GO_ON}",
    errno.EDQUOT: f"remove files of yours there, {GO_ON}",
    errno.EFBIG: f"raise the limit of a file's size with ulimit -f, {GO_ON}",
    errno.EMFILE: f"raise the limit with ulimit -n, {GO_ON}",
    errno.ENFILE: f"end other programs, which have the rest, {GO_ON}",
    errno.EACCES: NO_RIGHT,
    errno.EPERM: NO_RIGHT,
    errno.EIO: NO_ANSWER,
    errno.ESTALE: NO_ANSWER,
    errno.ENOTCONN: NO_ANSWER,
    errno.ENOENT: "something has moved or removed it; the same command begins it anew",
    errno.ENAMETOOLONG: "choose a shorter study=, output_dir= or hydra.sweep.subdir=",
    errno.ENOTDIR: "move away what is in the place of this folder, or choose another output_dir=",
    errno.EISDIR: "move away this folder, which is in the place of a file",
    errno.ELOOP: f"remove this link, which is in the place of a file, {GO_ON}",
    errno.EEXIST: "move away what is in the place of this folder, or choose another output_dir=",
}
ELSEWHERE = "results go to output_dir/study, choose a folder that can be written with output_dir="
# These are of all that lies in a folder: of many runs, they are told once.
OF_FOLDERS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
)
NO_ROOM = ("can't allocate memory", "failed to map segment")  # torch's words, and the linker's
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
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_ROOM):
        found = re.search(r"allocate (\d+ bytes|[\d.]+ \w?i?B)", str(error))
        return f"there is no memory left to {found[0] if found else 'go on'}; {NO_MEMORY}"
    return str(error) if isinstance(error, (ValueError, OSError)) else None


def refused(error: OSError, study: Path | None) -> str:
    """Say what the system refused, where, and what helps."""
    named = error.filename2 or error.filename  # of a file that was to be renamed: what it was to be
    where = None if named is None else Path(os.fsdecode(named))
    if error.errno in OF_FOLDERS:
        where = study or (where and where.parent)
    remedy = REMEDIES.get(error.errno or 0, ELSEWHERE)
    if error.errno == errno.ENOSPC and where is not None and no_more_files(where):
        remedy = f"it can hold no more files (df -i): remove some, {GO_ON}"
    return f"{'' if where is None else f'{where}: '}{error.strerror}; {remedy}"


def remedy(error: OSError, otherwise: str) -> str:
    """Return what helps a command that does not train: with a full disk, say, the same as one that
    does; otherwise what that command says."""
    return REMEDIES.get(error.errno or 0, otherwise) if error.errno in OF_FOLDERS else otherwise


def no_more_files(folder: Path) -> bool:
    """Return whether a full disk lacks inodes; a few, of files just removed, may be there again."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; or it is gone
        return False
    return found.f_favail < 10 < found.f_files  # the latter is 0 where there is no limit
