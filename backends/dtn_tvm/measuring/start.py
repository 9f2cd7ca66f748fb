"""What ``python bundle.zip`` runs first: says what is wrong with the bundle or this Python, before it needs either.

Python of any version reads this file.
"""

import importlib
import os
import sys
import zipfile

OLDEST = (3, 11)
INTERRUPTED = 130


def damaged(archive):
    # type: (zipfile.ZipFile) -> str
    """The name of a file in a zip file that is not what it was when it was written; empty if all are.

    Parameters
    ----------
    archive : zipfile.ZipFile

    Returns
    -------
    str
    """
    for name in archive.namelist():
        try:
            with archive.open(name) as file:
                while file.read(1 << 20):
                    pass
        except Exception:  # noqa: BLE001  # damage is met as an error of zlib, of struct, of memory
            return name
    return ""


def start():
    # type: () -> int | str
    """Measure the bundle that is running, if it is whole and Python new enough.

    Returns
    -------
    int or str
        What ``SystemExit`` takes.
    """
    bundle = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info < OLDEST:
        needed, found = (".".join(map(str, version[:2])) for version in (OLDEST, sys.version_info))
        return "a bundle needs Python {} or newer, this is Python {}".format(needed, found)  # noqa: UP032
    try:
        with zipfile.ZipFile(bundle) as archive:
            broken = damaged(archive)
    except zipfile.BadZipFile as error:
        broken = "the table of contents ({})".format(error)  # noqa: UP032
    except KeyboardInterrupt:
        return INTERRUPTED
    if broken:
        return "{}: {} in it is damaged; copy the bundle again".format(bundle, broken)  # noqa: UP032
    return int(importlib.import_module("measuring.command").main())


if __name__ == "__main__":
    raise SystemExit(start())
