"""Print every output in README.md and in the pages here anew, and draw their figures again.

    python docs/print_again.py

A block that begins with ``$ command`` holds what that command prints. All of them are carried out
one after another, in a new folder and in the order of the pages, which takes a few minutes.
``git diff`` then shows what changed; read the text around it again, which speaks of the numbers.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
BLOCK = re.compile(r"^```\n\$ (?P<command>.+)\n(?P<short>\.\.\.\n)?[^`]*^```$", re.MULTILINE)
MINUTES = 10.0  # that a command may take
PROGRESS = re.compile(r".*^\[\d+/\d+\] [^\n]*\n", re.MULTILINE | re.DOTALL)
LEARNING_RATE = "dogset_synthetic_learning_rate"
FIGURES = {
    "train_time.png": "mnist/train_time.png",
    **{f"{name}.png": f"sizes/{name}.png" for name in ("accuracy", "loss")},
    "rates.png": "rates/accuracy.png",
    "dogset_examples.jpg": "dogset_synthetic/examples.png",
    "loss_curves.png": f"{LEARNING_RATE}/loss_curves.png",
    "accuracy_curves.png": f"{LEARNING_RATE}/accuracy_curves.png",
    "dogset_hardest.jpg": f"{LEARNING_RATE}/optimizer.lr=0.0001/hardest.png",
    **{
        f"{name}.png": f"questions/default/{name}.png"
        for name in ("hardest", "confusion", "weights", "fgsm", "fgsm_examples")
    },
    "boolean.png": "boolean/loss.png",
    **{f"square_{name}.png": f"square/model={name}/boundary.png" for name in ("linear", "mlp")},
    **{f"classic_{name}.png": f"classic/default/{name}.png" for name in ("weights", "boundary")},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            made = BLOCK.sub(lambda block: printed(block, folder), text)
            page.write_text(made, encoding="utf-8")
        for name, source in FIGURES.items():
            draw(Path(folder, "outputs", source), DOCS / name)


def printed(block: re.Match[str], folder: str) -> str:
    """Carry out the command of a block, and return the block with what it prints now."""
    command, short = block["command"], block["short"] or ""
    print(f"$ {command}", flush=True)
    said = output_of(command, folder)
    output = PROGRESS.sub("", said) if short else said
    lines = [line.rstrip() for line in output.splitlines()]  # tables are padded
    return "\n".join([f"```\n$ {command}", *short.split(), *lines, "```"])


def output_of(command: str, folder: str) -> str:
    """Return what a command prints; end this script where it does not end in time."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as shell:
        try:
            return shell.communicate(timeout=60 * MINUTES)[0]
        except subprocess.TimeoutExpired:
            sys.exit(
                f"$ {command}\nhas not ended after {MINUTES:g} minutes; a block that begins with $ "
                f"is carried out: show a command that goes on, as a server does, without the $"
            )
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and all that it started
                os.killpg(shell.pid, signal.SIGKILL)


def draw(source: Path, target: Path) -> None:
    """Keep a figure in few bytes: of 256 colours, and one of photographs in half the size."""
    with Image.open(source) as image:
        figure = image.convert("RGB")
    if target.suffix == ".jpg":
        figure.reduce(2).save(target, quality=85)
    else:
        # Of Pillow's ways the one whose greatest error is least: scales of colours stay smooth.
        figure.quantize(256, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    main()
