"""The two ways a command can end badly. Both are one clear line on the terminal, never a
traceback."""

import errno

# errors of a path that a person gave, whoever opens it
PATH_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EDQUOT,
)


class InputError(Exception):
    """The input is wrong (exit code 2). The message says what, where, and what to do about it."""


class WorkError(Exception):
    """The input was fine but the work failed (exit code 1): a check did not hold, training
    diverged."""
