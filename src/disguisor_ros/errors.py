"""How people are told what they can mend: one exception, and the exit code of a stage."""

#: A stage ends with this code when its parameters or models are wrong: no restart mends that.
MISCONFIGURED = 2


class UserError(Exception):
    """Something the user can mend: the message names the file or topic and what to do."""
