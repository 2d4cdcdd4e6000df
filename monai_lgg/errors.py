"""Reading the errors of others. Imports nothing heavy, so that the command line can use it."""


def deepest(error: BaseException) -> BaseException:
    """The cause that speaks: MONAI wraps every error of a transform or expression in a RuntimeError of its own."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error
