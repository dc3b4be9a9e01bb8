"""What the system refuses, in one message: where, and what helps."""

from __future__ import annotations

import errno
import os
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
    errno.ENOENT: "something has moved or removed it, and the same command begins it anew; or "
    "nothing can be made there, then choose another output_dir=",
    errno.ENAMETOOLONG: "choose a shorter study=, output_dir= or hydra.sweep.subdir=",
    errno.ENOTDIR: "move away what is in the place of this folder, or choose another output_dir=",
    errno.EISDIR: "move away this folder, which is in the place of a file",
    errno.ELOOP: f"remove this link, which is in the place of a file, {GO_ON}",
    errno.EEXIST: "move away what is in the place of this folder, or choose another output_dir=",
}
# The same where it is SQLite that says so.
DATABASE_REMEDIES = {
    "database or disk is full": REMEDIES[errno.ENOSPC],
    "disk I/O error": REMEDIES[errno.EIO],
    "database is locked": f"another program is at it: see that it ends, {GO_ON}",
    "readonly database": f"see that you may write it and its folder (ls -l), {GO_ON}",
}
ELSEWHERE = "results go to output_dir/study, choose a folder that can be written with output_dir="
# These are of all that lies in a folder: of many runs, they are told once.
OF_FOLDERS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
)


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


def of_database(error: BaseException, otherwise: str | None = None) -> str:
    """Return the first line of what a database says, and what helps; otherwise: what does where
    the system has refused it nothing."""
    said = str(error).partition("\n")[0]
    known = (helps for words, helps in DATABASE_REMEDIES.items() if words in said)
    helps = next(known, otherwise)
    return f"{said}; {helps}" if helps else said


def no_more_files(folder: Path) -> bool:
    """Return whether a full disk lacks inodes; a few, of files just removed, may be there again."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; or it is gone
        return False
    return found.f_favail < 10 and found.f_files > 0  # the latter is 0 where there is no limit
