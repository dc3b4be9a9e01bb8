"""What pyproject.toml cannot say: the optional C library of the native engine."""

import sys
from glob import glob

from setuptools import Extension, setup

# Not a Python module: src/nnlab/engines/library.py opens it with ctypes. Without a compiler the
# installation goes on (optional) and nnlab trains with torch.
folder = "src/nnlab/engines"
native = Extension(
    "nnlab.engines._native",
    sources=sorted(glob(f"{folder}/*.c")),
    depends=sorted(glob(f"{folder}/*.h")),
    extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=fast"],
    libraries=["m", "pthread"],
    optional=True,
)

# The C files are written in the dialect of gcc and clang, which Windows' Python does not use.
setup(ext_modules=[] if sys.platform == "win32" else [native])
