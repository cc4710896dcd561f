"""What can go wrong before a verdict, in one line that says what to do."""


class EvalError(Exception):
    """A checkpoint, a data set or two measurements that cannot be judged as asked."""


def first_line(error: Exception) -> str:
    """What an error of a library says first."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
