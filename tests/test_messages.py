from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nnlab import messages, storage


def test_memory_that_runs_out_names_the_remedy() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nDetails follow")
    assert messages.explain(error) == (
        "CUDA out of memory. Tried to allocate 2 GiB. "
        "Bound how many runs train together with hydra.sweeper.max_batch_size=N"
    )


def test_what_is_not_theirs_to_mend_is_not_explained() -> None:
    assert messages.explain(RuntimeError("a bug")) is None


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    """Not the temporary file that was to take its name."""
    place = tmp_path / "result.json"
    place.mkdir()
    with pytest.raises(OSError, match="tmp") as caught:
        storage.write_atomic(place, b"")
    said = f"{place}: Is a directory; move away this folder, which is in the place of a file"
    assert messages.explain(caught.value) == said


def test_an_error_of_the_system_without_a_file_says_its_words() -> None:
    assert messages.explain(OSError("no mirror answered")) == "no mirror answered"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "study: No space left on device; free some space, and the same command"),
        (errno.EDQUOT, "study: Disk quota exceeded; remove files of yours there, and the same"),
        (errno.EROFS, "study: Read-only file system; results go to output_dir/study, choose a"),
        (errno.EMFILE, "study: Too many open files; raise the limit with ulimit -n, and the same"),
        (errno.ENFILE, "study: Too many open files in system; end other programs, which have"),
        (errno.EIO, "study: Input/output error; its disk or file server does not answer: see"),
        (errno.ESTALE, "study: Stale file handle; its disk or file server does not answer: see"),
        (errno.ENOTCONN, "study: Transport endpoint is not connected; its disk or file server"),
        (
            errno.EACCES,
            "study/a/x: Permission denied; see that you may read and write it (ls -l), or choose",
        ),
        (
            errno.EPERM,
            "study/a/x: Operation not permitted; see that you may read and write it (ls -l), or",
        ),
        (errno.ENAMETOOLONG, "study/a/x: File name too long; choose a shorter study=, output_dir="),
        (errno.ENOTDIR, "study/a/x: Not a directory; move away what is in the place of this"),
        (errno.EISDIR, "study/a/x: Is a directory; move away this folder, which is in the place"),
    ],
)
def test_what_the_system_refuses_names_what_helps(number: int, said: str) -> None:
    error = OSError(number, os.strerror(number), "study/a/x")
    assert str(messages.explain(error, Path("study"))).startswith(said)
    if said.startswith("study:"):  # of one that is told alone, the folder of the file
        alone = str(messages.explain(error))
        assert alone.startswith(said.replace("study:", f"{Path('study/a')}:"))


def test_memory_that_ran_out_says_so() -> None:
    helps = (
        "use smaller layers, a smaller batch_size, fewer examples or runs, or end other programs"
    )
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60)
    assert messages.explain(torchs.value) == (
        f"there is no memory left to allocate {2**62} bytes; {helps}"
    )
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**58, np.uint8)
    assert messages.explain(numpys.value) == (
        f"there is no memory left to allocate 256. PiB; {helps}"
    )
    linkers = ImportError("libXau.so.6: failed to map segment from shared object")
    for error in (MemoryError(), linkers):
        assert messages.explain(error) == f"there is no memory left to go on; {helps}"


def test_yaml_that_cannot_be_read_is_named() -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: b: c")
    said = messages.explain(caught.value) or ""
    assert said.startswith("a configuration cannot be read: mapping values are not allowed here in")
    assert "\n" not in said
