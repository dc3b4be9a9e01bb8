"""What pyproject.toml cannot say: the optional C library, and conf/ inside a wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Ship ``conf/`` as ``nnlab/conf``; an editable installation uses the repository's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "nnlab", "conf")
            shutil.copytree("conf", target, dirs_exist_ok=True)


# Not a Python module: nnlab/engines/native.py opens it with ctypes. Without a compiler the
# installation goes on (optional) and nnlab trains with torch.
native = Extension(
    "nnlab.engines._native",
    sources=["nnlab/engines/native.c"],
    depends=["nnlab/engines/native.c"],
    extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=fast"],
    libraries=["m"],
    optional=True,
)

setup(
    cmdclass={"build_py": BuildWithConf},
    # The C file is written in the dialect of gcc and clang, which Windows' Python does not use.
    ext_modules=[] if sys.platform == "win32" else [native],
)
