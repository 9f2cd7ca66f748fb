"""The TVM that kernels are written for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TVM = (0, 27)
FFI = (0, 1, 14)
INSTALL = "pip install 'deep-tensor-network[tvm]'"


def check_toolchain() -> None:
    """Refuse a missing Apache TVM, and one whose interfaces are others.

    Raises
    ------
    ImportError
        Says what is installed and how to install what is needed.
    """
    for package, wanted in (("apache-tvm", TVM), ("apache-tvm-ffi", FFI)):
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ImportError(f"kernels need {package}: {INSTALL}") from None
        numbers = tuple(int(part) for part in found.split(".")[: len(wanted)])
        if numbers != wanted:
            needed = ".".join(map(str, wanted))
            raise ImportError(f"kernels need {package} {needed}, got {found}: {INSTALL}")
