"""Reading the errors of others, and those of our own that a command treats apart.

Imports nothing heavy, so that the command line can use it.
"""

import errno

#: A full disk, a quota, a limit on the size of a file, a file system that is only to be read.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class UsageError(ValueError):
    """A wrong argument, found before anything was done; a command ends with exit code 2."""


class DiskError(OSError):
    """No room for a file; names it and says what to do."""


def deepest(error: BaseException) -> BaseException:
    """The cause that speaks: MONAI wraps every error of a transform or expression in a RuntimeError of its own."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def disk_error(error: BaseException, where: str) -> DiskError | None:
    """What to tell of a disk without room; None where that is not the cause of ``error``.

    PyTorch raises an error about positions in a file in its place, and that of the system names no file.

    Args:
        where: the file that was being written.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskError):
            return cause
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            remedy = "make room, or choose another folder; finished work is kept, and the same command goes on from it"
            return DiskError(cause.errno, f"{cause.filename or where} cannot be written ({cause.strerror}); {remedy}")
        cause = cause.__cause__ or cause.__context__
    return None
