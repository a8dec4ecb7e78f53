"""Imports of packages that only training needs; a missing one is a clear error."""

from collections.abc import Iterator
from contextlib import contextmanager

from mote_localization.errors import MoteError


@contextmanager
def training_packages() -> Iterator[None]:
    """Return a context for imports that need torch.

    Raises:
        MoteError: A package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MoteError(
            f"training needs a package that is not installed ({str(error)[:80]}); install it with "
            "`pip install . ./packaging/mote_distill` in the repository"
        ) from error
