"""Run a function after another module is imported. The library wrapt does this too, and takes 0.05 s to import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_FUNCTIONS: dict[str, Callable[[ModuleType], None]] = {}


def after_import(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module after each of its imports, or now if it is imported; one function per module."""
    if name in sys.modules:
        function(sys.modules[name])
    _FUNCTIONS[name] = function


class _Finder:
    """Finds the modules of `_FUNCTIONS` as usual, with a loader that then calls the function."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _FUNCTIONS else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_call(module: ModuleType) -> None:
                execute(module)
                _FUNCTIONS[name](module)

            spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)
