"""The one exception that a user is meant to read."""


class InputError(Exception):
    """Bad input from outside: its message is one plain sentence.

    It names the file, the record and the position where there is one, and what was expected.
    The command line prints it without a traceback and exits with code 2.
    """
