"""The run folder: metrics, log, result and weights. The only code that writes there.

``result.json`` is there from a run's first instant, with status "running", and says whose
folder it is; the final one replaces it in one step after everything else is on disk.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnlab import storage
from nnlab.analysis import EVALUATION_FILES
from nnlab.identity import NOT_IDENTITY
from nnlab.losses import task_of
from nnlab.options import flat
from nnlab.seeds import RANDOM_NUMBERS
from nnlab.text import visible_lines

RESULT = "result.json"
METRICS = "metrics.csv"
WEIGHTS = "model.safetensors"
LOG = "run.log"
CHECKPOINT = ".checkpoint.safetensors"
SAME = ("fingerprint", "content", "random_numbers")  # of the run that may go on from it
OTHER_CHECKPOINT = "{} is damaged, or another nnlab's ({})"
LARGEST = 2**30  # bytes of a checkpoint of a small network on many examples
BYTES = 64  # at most, per parameter: its value, the best one, what the optimizer knows of it
EPOCHS = "epochs"  # the array in it of what was measured, [epochs, columns] float64
NEW = ".new"  # the run that is to take the place of the folder's
LEFT = (CHECKPOINT, NEW)  # what a kill in the last moment may leave of a run that has ended
CURVES = "curves.png"
ROWS = 0.1  # seconds between two writings of metrics: of the shortest epochs each took 4 %
DONE = ("finished", "stopped", "diverged")
DEEPEST = 100  # objects and lists in one another
TOO_DEEP = "it is nested too deeply"

HydraFiles: TypeAlias = "Mapping[str, Sequence[str]]"


class DamagedError(ValueError):
    """A file of a run is not as nnlab has written it."""


class RunFolder:
    """One run's folder while it is being trained."""

    def __init__(
        self, path: Path, identity: dict[str, Any], owner: dict[str, Any] | None = None
    ) -> None:
        """Make the folder, or take over that of an earlier attempt, and say there whose it is.

        To be called with the study's lock held, and ``begin``, which waits longer for the disk,
        without.

        identity: what result.json says of the run before it has results. owner: the process that
        trains it, see ``claims``.
        """
        self.path = path
        self.identity = identity
        self.identity_text = json.dumps(identity, indent=2, allow_nan=False)
        self.owner = {} if owner is None else {"owner": owner}
        self.ended = False
        storage.make_own_folder(path)
        began = self.as_result({"status": "running", **self.owner})
        storage.put(path / RESULT, began)  # ``begin`` syncs the folder

    def begin(
        self,
        hydra_files: HydraFiles,
        rows: Sequence[Sequence[float | None]] = (),
        more: Sequence[str] = (),
    ) -> RunFolder:
        """Write what stands there before the first epoch; an earlier attempt's checkpoint stays.

        hydra_files: content of Hydra's own record (``.hydra/``), by path in the folder, each in
        parts. rows: of the epochs that the run goes on after. more: columns of its metrics, beside
        those of its task.
        """
        for folder in {(self.path / name).parent for name in hydra_files}:
            storage.make_own_folder(folder)
            storage.clear_left_overs(folder)
        storage.sync_folder(self.path)
        storage.write_each(
            {self.path / name: "".join(parts).encode() for name, parts in hydra_files.items()}
        )
        # The log goes on.
        for name in {METRICS, WEIGHTS, CURVES, *EVALUATION_FILES}.intersection(
            os.listdir(self.path)
        ):
            (self.path / name).unlink()
        storage.clear_left_overs(self.path)
        header = ",".join((*task_of(self.identity.get("dataset", {})).columns, *more))
        content = "".join(f"{line}\n" for line in [header, *map(as_row, rows)]).encode()
        storage.write_atomic(self.path / METRICS, content, durable=False)
        self.metrics = hashlib.sha256(content)
        self.rows, self.written = b"", time.monotonic()
        return self

    def append(self, row: Sequence[float | None]) -> None:
        """Add an epoch's row; it is in the file at once, or after ROWS seconds."""
        self.rows += f"{as_row(row)}\n".encode()
        if time.monotonic() - self.written >= ROWS:
            self.write_rows()

    def write_rows(self) -> None:
        """Write the rows that wait; once, for a full disk may have taken a part of them."""
        rows, self.rows, self.written = self.rows, b"", time.monotonic()
        storage.append(self.path / METRICS, rows)
        self.metrics.update(rows)

    def log(self, *texts: str) -> None:
        """Add to run.log. Not by ``logging``: runs train side by side, and it is global."""
        now = datetime.now().isoformat(" ", "milliseconds")
        lines = "".join(f"[{now}] {visible_lines(text)}\n" for text in texts)
        storage.append(self.path / LOG, lines.encode())

    def finish(self, outcome: dict[str, Any], weights: dict[str, Any] | None) -> dict[str, Any]:
        """Write the trained weights, if any are to be kept, then the result; return it."""
        self.write_rows()
        files = {METRICS: self.metrics.hexdigest()}
        if weights is not None:
            content = serialised(weights)
            storage.write_atomic(self.path / WEIGHTS, content)
            files[WEIGHTS] = hashlib.sha256(content).hexdigest()
        storage.sync(self.path / METRICS)
        if hashlib.sha256(storage.read(self.path / METRICS)).hexdigest() != files[METRICS]:
            raise DamagedError(
                f"{self.path / METRICS} was changed by something else while its run trained; the "
                f"same command mends it"
            )
        result = self.write_result(**outcome, sha256=files)
        self.ended = True
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        if self.path.name == NEW:
            replace_run(self.path.parent)
        return result

    def interrupt(self, epochs: int) -> None:
        """Record that the run was stopped, and will go on from its checkpoint."""
        self.write_rows()
        self.write_result(status="interrupted", epochs=epochs)

    def fail(self, error: BaseException) -> None:
        """Record that the run broke off: the traceback in its log, the error in its result.

        One whose result is written, though it is not in its place, stays as it is.
        """
        with contextlib.suppress(OSError):  # they may be why
            self.write_rows()
        self.log("".join(traceback.format_exception(error)).rstrip())
        if not self.ended:
            self.write_result(status="failed", error=f"{type(error).__name__}: {error}")

    def write_result(self, **outcome: Any) -> dict[str, Any]:
        storage.write_atomic(self.path / RESULT, self.as_result(outcome))
        return {**outcome, **self.identity}

    def as_result(self, outcome: dict[str, Any]) -> bytes:
        """Return the content of result.json."""
        # The identity is the longer part by far: put into JSON once, and joined here.
        told = checksum({**outcome, **self.identity})
        text = json.dumps({"checksum": told, **outcome}, indent=2, allow_nan=False)
        return f"{text[:-2]},{self.identity_text[1:]}\n".encode()


def packed(right: NDArray[np.bool_]) -> str:
    """Return which examples were classified rightly, [n], as text for JSON: eight in a byte.

    >>> packed(np.array([True, False, True])), unpacked("oA==", 3).tolist()
    ('oA==', [True, False, True])
    """
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """Return what ``packed`` took, of so many examples. Raises ValueError where it is not."""
    content = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(content) != -(-count // 8):
        raise ValueError(f"{len(content)} bytes do not tell which of {count:,} examples were right")
    return np.unpackbits(content, count=count).astype(np.bool_)


def as_row(row: Sequence[float | None]) -> str:
    return ",".join("" if v is None else f"{v:.9g}" for v in row)


def checksum(content: Any) -> str:
    """Return a digest of JSON values: what a file says of itself, so that damage to it shows."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def checksum_of_run(result: Mapping[str, Any], cells: Mapping[str, str]) -> str:
    """Return a digest of what a table says of a run's network, which is another for another run."""
    weights = (result.get("sha256") or {}).get(WEIGHTS)
    return checksum([result.get("fingerprint"), weights, dict(cells)])


def sealed(content: dict[str, Any]) -> bytes:
    """Return a JSON file with its checksum, for ``undamaged``."""
    return json.dumps({"checksum": checksum(content), **content}).encode()


def undamaged(text: bytes) -> dict[str, Any]:
    """Return the content of a JSON file, without its checksum.

    Raises ValueError where it does not have the one that it tells, or is no JSON object. Files
    of earlier versions tell none.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        told = content.pop("checksum", None)
        if told is not None and told != checksum(content):
            raise ValueError("its checksum differs")
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count(b"{") + text.count(b"[") > DEEPEST and is_deep(content):
        raise ValueError(TOO_DEEP)
    return content


def is_deep(content: Any) -> bool:
    """Tell whether JSON is nested so deeply that who reads it could run out of Python's stack."""
    level = [content]
    for _ in range(DEEPEST):
        mappings = (each.values() for each in level if isinstance(each, dict))
        lists = (each for each in level if isinstance(each, list))
        level = list(itertools.chain(*mappings, *lists))
    return bool(level)


def replace_run(folder: Path) -> None:
    """Put a finished run in the place of the one that it was trained to replace.

    Whoever finds that this was broken off does it again: only the last step ends it.
    """
    new = folder / NEW
    result = read_result(new) or {}
    gone = [CURVES, CHECKPOINT, *EVALUATION_FILES]
    if WEIGHTS not in (result.get("sha256") or {}):
        gone.append(WEIGHTS)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    for path in sorted(new.rglob("*")):
        target = folder / path.relative_to(new)
        if path.is_dir():
            storage.make_own_folder(target)
        elif path.name != RESULT:
            path.replace(target)
            storage.sync_folder(target.parent)
    (new / RESULT).replace(folder / RESULT)
    storage.sync_folder(folder)
    shutil.rmtree(new)


def install(folder: Path, files: Mapping[str, bytes], hydra_files: HydraFiles, force: bool) -> None:
    """Put a run that was trained elsewhere in its place, whole or not at all.

    files: by their paths in the folder. To be called with the study's lock held.
    Raises ValueError where the folder holds what is not nnlab's, or, without force, another run.
    """
    settle(folder)
    result, there = undamaged(files[RESULT]), holds_run(folder, hydra_files)
    if there and not force:
        finished_result(folder, result["fingerprint"], result["config"])
    new = folder / NEW
    storage.make_folder(folder)
    shutil.rmtree(new, ignore_errors=True)
    storage.make_own_folder(new)
    for name in files:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"a worker sent a file {name} for {folder}, which would leave it")
        (new / name).parent.mkdir(parents=True, exist_ok=True)
    storage.write_each({new / name: files[name] for name in sorted(files, key=RESULT.__eq__)})
    if result["status"] in DONE or not there:
        replace_run(folder)


def remove_run(folder: Path) -> None:
    """Remove what nnlab wrote of a run, and its folder unless that holds something else.

    Of a link it is the link that goes, not what it leads to. The result goes last: as long as it
    is there, the rest is known to be this run's. Raises OSError, mostly before anything is removed.
    """
    for part in (folder.parent, folder, folder / ".hydra", folder / NEW):
        if storage.is_folder(part) and not os.access(part, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(part))
    names = (METRICS, WEIGHTS, CHECKPOINT, CURVES, LOG, *EVALUATION_FILES)
    hydras = [f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")]
    for part in (folder / NEW, folder):
        for link in (part, part / ".hydra"):
            if link.is_symlink():
                link.unlink()
        if not part.is_dir():
            continue
        for each in (part, part / ".hydra"):
            storage.clear_left_overs(each)
        for name in (*names, *hydras, RESULT):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                (part / name).unlink()
        for emptied in (part / ".hydra", part):
            with contextlib.suppress(OSError):  # it holds what is not nnlab's
                emptied.rmdir()


def check_no_link(path: Path) -> None:
    """Raise ValueError where a link is in the place of a run: what it leads to may be anybody's."""
    if path.is_symlink():
        raise ValueError(
            f"{path} is a link, and nothing of a run is written where one leads: remove it, or "
            f"choose another study=NAME"
        )


def settle(folder: Path) -> None:
    """End the replacement of a folder's run that was broken off when all was trained.

    To be called before anything is written there; raises as ``check_no_link``.
    """
    check_no_link(folder)
    if is_replaced(folder):
        replace_run(folder)


def is_replaced(folder: Path) -> bool:
    """Return whether a run that has ended is to take the place of a folder's.

    Raises as ``read_result``.
    """
    result = read_result(folder / NEW) if storage.is_folder(folder / NEW) else None
    return result is not None and result["status"] in DONE


def check_replaced(folder: Path) -> None:
    """Raise DamagedError where one run was replacing another, so that the files are of both."""
    replaced = False
    with contextlib.suppress(OSError, ValueError):
        replaced = is_replaced(folder)
    if replaced:
        raise DamagedError(
            f"the run in {folder} was being replaced with force=true, which was cut off; "
            f"python -m nnlab.report {folder.parent} completes that"
        )


def clear_up(folder: Path) -> None:
    """Remove what is LEFT of a run that has ended, but for a new one on the way."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    with contextlib.suppress(ValueError):  # that is told to whoever trains it anew
        if storage.is_folder(folder / NEW) and read_result(folder / NEW) is None:
            shutil.rmtree(folder / NEW)


def read_result(path: Path) -> dict[str, Any] | None:
    """Return a run folder's result, or None where there is none.

    Raises ValueError naming the file where it is not a result of nnlab's, DamagedError where it
    is no more; OSError where it cannot be read.
    """
    file = path / RESULT
    try:
        content = storage.read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not content:  # what a power failure leaves of a run that had just begun
        return None
    try:
        result = undamaged(content)
    except ValueError as error:
        raise DamagedError(f"{file} is damaged ({error}); remove {path} to train it anew") from None
    texts = all(isinstance(result.get(key), str) for key in ("fingerprint", "status"))
    parts = [result.get(key) for key in ("config", "dataset", "device", "sha256")]
    whole = all(isinstance(part, (dict, type(None))) for part in parts)
    if not (texts and whole and isinstance(result.get("parameters"), (int, type(None)))):
        raise ValueError(f"{file} is no result of nnlab's; move it away or choose another study=")
    return result


def read_file(folder: Path, name: str, result: dict[str, Any]) -> bytes:
    """Return the metrics or the weights of a run, as they were when it ended.

    Raises DamagedError naming the file where they are not; OSError where it cannot be read.
    """
    largest = storage.LARGEST + 4 * (result.get("parameters") or 0)  # weights are float32
    try:
        content = storage.read(folder / name, largest)
    except FileNotFoundError:
        check_replaced(folder)
        raise
    told = (result.get("sha256") or {}).get(name)
    if told is not None and told != hashlib.sha256(content).hexdigest():
        check_replaced(folder)
        raise DamagedError(
            f"{folder / name} cannot be read: it is damaged, or another run's, for {RESULT} tells "
            f"another sha256; train the run anew with force=true"
        )
    return content


def read_checkpoint(
    path: Path, parameters: int = 0
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Return the state and the numbers of a checkpoint; None where there is none.

    parameters: of the network, which bound its size. Raises ValueError where it is damaged,
    OSError where it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = storage.read(path, LARGEST + BYTES * parameters)
    except FileNotFoundError:
        return None
    try:
        numbers = load(content)
        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])["__metadata__"]
        if told["sha256"] != digest_of(told["state"], numbers):
            raise ValueError("its checksum differs")
        return json.loads(told["state"]), numbers
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(OTHER_CHECKPOINT.format(path, error)) from None


def digest_of(text: str, numbers: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of a checkpoint's state, in JSON, and numbers."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(numbers):
        array = np.asarray(numbers[name], order="C")
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def check_files(folder: Path, result: dict[str, Any]) -> None:
    """Raise DamagedError naming the file where metrics or weights are not those of a run's end."""
    for name in result.get("sha256") or ():
        try:
            read_file(folder, name, result)
        except OSError as error:
            first = "move it away, and " if (folder / name).is_dir() else ""
            raise DamagedError(
                f"{folder / name} cannot be read ({error.strerror}); "
                f"{first}train the run anew with force=true"
            ) from None


def finished_result(path: Path, fingerprint: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of an earlier run of this very configuration, if it came to its end.

    Raises ValueError where the folder belongs to a run of another configuration, or is damaged,
    or was computed with another engine, say, than the configuration asks for: one that is still to
    end may go on with that.
    """
    result = read_result(path)
    if result is None:
        return None
    if result["fingerprint"] != fingerprint:
        theirs, ours = (dict(flat(_telling(each))) for each in (result.get("config") or {}, config))
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        holds = ", ".join(f"{key}={theirs.get(key)}" for key in differ) or "other code"
        asked = ", ".join(f"{key}={ours.get(key)}" for key in differ) or "the code that is there"
        raise ValueError(
            f"{path} holds a run with {holds}; this one has {asked}. "
            f"Give it another study=NAME, or replace that run with force=true"
        )
    if result["status"] not in DONE:
        return None
    if other := unserved(result, config):
        holds = ", ".join(f"{key}={value}" for key, value in other.items())
        asked = ", ".join(f"{key}={config[key]}" for key in other)
        raise ValueError(
            f"{path} holds this run, computed with {holds}; this one asks for {asked}. "
            f"Give it another study=NAME, or replace that run with force=true"
        )
    if not same_numbers(result):
        raise ValueError(told_numbers(path))
    check_files(path, result)
    return result


def serialised(weights: dict[str, Any]) -> bytes:
    """Return the content of a file of weights, which are arrays, or torch's tensors."""
    if all(isinstance(each, np.ndarray) for each in weights.values()):
        from safetensors.numpy import save

        return save({name: np.asarray(each, order="C") for name, each in weights.items()})
    from safetensors.torch import save as save_tensors

    return save_tensors(apart(weights))


def apart(weights: dict[str, Any]) -> dict[str, Any]:
    """Return tensors as files take them: in torch's usual memory format, none sharing memory."""
    found, seen = {}, set()
    for name, tensor in weights.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def check_free(path: Path, hydra_files: HydraFiles) -> None:
    """Raise ValueError where a folder without a result holds what may not be this run's."""
    try:
        names = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
    except FileNotFoundError:
        return
    file = next((name for name in hydra_files if name.endswith("/config.yaml")), None)
    with contextlib.suppress(OSError, ValueError):
        if file and options_of(storage.read(path / file)) == options_of("".join(hydra_files[file])):
            return  # this run's, whose result.json was removed or has lost its content
    # Logs are not in the way: Hydra's launchers have begun one, named after hydra.job.name.
    logs = [name for name in names if name.endswith(".log") and (path / name).is_file()]
    strange = [name for name in names if name not in logs and not empty(path / name)]
    if strange:
        raise ValueError(
            f"{path} holds {', '.join(strange[:3])}{', ...' * (len(strange) > 3)}, but no "
            f"{RESULT} that says whose: move it away, or choose another study=NAME"
        )


def options_of(config: str | bytes) -> dict[str, Any]:
    """Return the options in a configuration of Hydra's that are part of a run's identity.

    Raises ValueError where it is damaged.

    >>> options_of("seed: 1\\nforce: true\\nfgsm: {eps: [0.1]}\\n")
    {'seed': 1}
    """
    import yaml

    try:
        options: dict[str, Any] = yaml.safe_load(config)
        return {key: value for key, value in options.items() if key not in NOT_IDENTITY}
    except (yaml.YAMLError, AttributeError, RecursionError) as error:
        raise ValueError(f"this is no configuration: {error}") from None


def holds_run(path: Path, hydra_files: HydraFiles) -> bool:
    """Return whether a folder holds a run, which may be damaged.

    Raises ValueError where it holds anything else, see ``check_free``.
    """
    try:
        found = read_result(path) is not None
    except DamagedError:
        return True
    if not found:
        check_free(path, hydra_files)
    return found


def empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def same_numbers(result: Mapping[str, Any]) -> bool:
    """Return whether a run drew the random numbers that this nnlab draws from its seeds."""
    numbers: int = result.get("random_numbers", 1)
    return numbers == RANDOM_NUMBERS


def told_numbers(path: Path) -> str:
    """Say that a run drew others, and the remedy."""
    return (
        f"{path} is this run, but of an earlier nnlab, which drew other random numbers from its "
        f"seed; give it another study=NAME, or train it anew with force=true"
    )


def serves(result: Mapping[str, Any], config: dict[str, Any]) -> bool:
    """Return whether a run computed with what a configuration (JSON values) asks for."""
    return not unserved(result, config)


def unserved(result: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return what a run computed with where a configuration asks for something else, by options.

    These options are not part of the fingerprint: auto asks for nothing, which GPU of several
    computed changes no number, and only the torch engine's numbers depend on its threads.
    """
    engine, device = result.get("engine"), result.get("device") or {}
    if engine is None or result.get("epochs") == 0:  # nothing was trained
        return {}
    kind, level, threads = device.get("type"), result.get("engine_level"), device.get("threads")
    served = {
        "engine": (engine, config["engine"] in ("auto", engine)),
        "device": (kind, config["device"].partition(":")[0] in ("auto", kind)),
        "native_level": (level, config.get("native_level") in (None, level)),
        "threads": (threads, engine != "torch" or (config["threads"] or 1) == threads),
    }
    return {key: value for key, (value, fits) in served.items() if not fits}


def _telling(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options in which runs of a folder may differ."""
    return {key: value for key, value in config.items() if key not in NOT_IDENTITY}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("nnlab", "torch", "numpy", "hydra-core")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }


@functools.cache
def git_revisions() -> dict[str, str | None]:
    """Return the commits of nnlab's own source and of the working directory."""
    here = Path(__file__)
    return {
        # Where nnlab is installed, it may lie in somebody else's repository, untracked.
        "nnlab": git_revision(here.parent) if _git(here.parent, "ls-files", here.name) else None,
        "working_directory": git_revision(Path()),
    }


def git_revision(folder: Path) -> str | None:
    """Return the commit of a folder's repository, "-dirty" where it has changes, or None."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(folder: Path, *command: str) -> str:
    """Return what a git command prints; nothing where there is no git, or no repository."""
    try:
        return subprocess.check_output(
            ["git", "-C", str(folder), *command],
            text=True,
            stderr=subprocess.DEVNULL,
            timeout=10,
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return ""
