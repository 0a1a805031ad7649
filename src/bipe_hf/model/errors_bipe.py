"""What is raised for bad input, so that a command can tell it from a defect."""


class InputError(ValueError):
    """Something that was given cannot be used. The message is one line: what it is, what was given, what is accepted.

    The command line prints the line alone. Every other exception is a defect, here or in a library, and keeps its
    traceback.
    """


class InputNotFoundError(InputError, FileNotFoundError):
    """A file or folder that was named is not there."""


class InputExistsError(InputError, FileExistsError):
    """A file or folder is there already, and nothing says that it may be replaced."""


class InputOSError(InputError, OSError):
    """The machine or the network does not let happen what was asked for."""
