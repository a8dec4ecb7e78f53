"""Imports of packages that only training needs; a missing one is a clear error."""

from collections.abc import Iterator
from contextlib import contextmanager

from mote_localization.errors import MoteError
from mote_localization.progress import status


@contextmanager
def training_packages() -> Iterator[None]:
    """Return a context for imports that need torch.

    Raises:
        MoteError: A package is missing.
    """
    try:
        with status("loading PyTorch"):  # takes seconds
            yield
    except ImportError as error:
        raise MoteError(
            f"training needs a package that is not installed ({str(error)[:80]}); install it with "
            "`pip install . ./packaging/mote_distill` in the repository"
        ) from error


@contextmanager
def structure_from_motion_packages() -> Iterator[None]:
    """Return a context for imports that need pycolmap.

    Raises:
        MoteError: It is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MoteError(
            f"structure from motion needs pycolmap ({str(error)[:80]}); install the trainer with "
            "`pip install . ./packaging/mote_distill` on x86-64, or give the poses (--poses given)"
        ) from error
