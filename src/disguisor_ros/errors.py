"""The one exception that the command line shows to a person as a single line."""


class UserError(Exception):
    """Something the user can mend: the message names the file or topic and what to do."""
