"""Python functions of the user's own, by the names of their modules: found, imported, called.

They are called only where the command itself names them, see ``targets.refuse_unnamed``.
Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nnlab import storage
from nnlab.options import require
from nnlab.text import nearest


@dataclass(frozen=True)
class Function:
    """A function as an option names it, and the source of its module as it was read.

    option: its key and value, as in ``dataset.function=my_data:load``.
    """

    option: str
    module: str
    name: str
    path: Path
    source: bytes

    @property
    def sha256(self) -> str:
        """That of the module's source, in hex."""
        return hashlib.sha256(self.source).hexdigest()

    def call(self, *arguments: Any, **options: Any) -> Any:
        """Import the module anew and call the function.

        Raises ValueError where the module cannot be imported, has no such function, or the
        function raises an error.
        """
        with self.imported() as module:
            return self.result(self.of(module), *arguments, **options)

    def result(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what the function, of the module imported, returns. Raises ValueError where it
        raises an error."""
        try:
            return function(*arguments, **options)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{self.option} raised {self.told(error)}") from error

    def of(self, module: ModuleType) -> Callable[..., Any]:
        function: Callable[..., Any] | None = getattr(module, self.name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if callable(value)]
            hint = nearest(self.name, known) if known else f"define it there: def {self.name}():"
            raise ValueError(f"{self.option}: {self.path} has no function {self.name}; {hint}")
        return function

    @contextlib.contextmanager
    def imported(self) -> Iterator[ModuleType]:
        """Import the module from its source; it may import what lies in the working directory,
        anew likewise.

        Raises ValueError where it cannot be imported.
        """
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(
            self.module, self.path, submodule_search_locations=package
        )
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        before, places, known = sys.modules.get(self.module), sys.path[:], set(sys.modules)
        sys.modules[self.module] = module  # where its classes look for it
        sys.path.insert(0, str(Path.cwd()))
        try:
            try:
                exec(compile(self.source, self.path, "exec"), vars(module))
            except (Exception, SystemExit) as error:
                raise ValueError(
                    f"{self.option}: {self.path} cannot be imported: {self.told(error)}"
                ) from error
            yield module
        finally:
            sys.path[:] = places
            for name in {self.module, *filter(lies_here, set(sys.modules) - known)}:
                del sys.modules[name]
            if before is not None:
                sys.modules[self.module] = before

    def told(self, error: BaseException) -> str:
        """Say what an error is, and in which line of the module it came up."""
        lines = [
            each.lineno
            for each in traceback.extract_tb(error.__traceback__)
            if each.filename == str(self.path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = "" if line is None else f" (line {line} of {self.path})"
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{type(error).__name__}: {text}{place}"


def lies_here(module: str) -> bool:
    """Return whether an imported module, or its package, lies in the working directory itself."""
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and Path(file) in (
        Path.cwd() / f"{top}.py",
        Path.cwd() / top / "__init__.py",
    )


def find(option: str, name: str) -> Function:
    """Find a function, given as module:name, in the working directory; read its module's source.

    option: that names it. Raises ValueError where the name is none, or there is no such module.
    """
    limit = "name a module of the working directory and its function, as in my_module:function"
    fine = re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None
    require(fine, option, name, limit)
    module, _, function = name.partition(":")
    place = Path(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            try:
                source = storage.read(path)
            except OSError as error:
                raise ValueError(
                    f"{option}={name}: {path} cannot be read ({error.strerror})"
                ) from None
            return Function(f"{option}={name}", module, function, path, source)
    there = [each.stem for each in sorted(Path().glob("*.py"))]
    hint = nearest(str(place), there) if there else f"write {place}.py"
    raise ValueError(f"{option}={name}: there is no {place}.py in the working directory; {hint}")
