"""What only the trainer needs is imported when it is used, and missed with a clear word."""

from collections.abc import Iterator
from contextlib import contextmanager

from mote_localization.errors import MoteError


@contextmanager
def training_packages() -> Iterator[None]:
    """Import what needs torch in such a block.

    Raises:
        MoteError: A package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MoteError(
            f"training needs a package that is not installed ({error}); install it with "
            "`pip install . ./packaging/mote_distill` in the repository"
        ) from error
