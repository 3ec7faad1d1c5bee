"""Writing files so that they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the errors that say so."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` at the end, unless the block raises: then it vanishes.

    So `path` is at any time either as it was or complete, also after a crash or on a full disk. The file yielded is
    empty, lies in the same folder, and has the same ending.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # a crash of the machine must not leave the new name on no content
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: Path, text: str, *, errors: str = "backslashreplace") -> None:
    """Write a text file, whole or not at all.

    Args:
        path: the file.
        text: what it is to hold, in UTF-8.
        errors: what becomes of characters that stand for bytes in names of files which are no UTF-8; as they are
            written by default, JSON reads them.
    """
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8", errors=errors)


def is_utf8(path: Path) -> bool:
    """Whether a path's name, from the root on, is UTF-8: libraries that write for themselves take no other."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
