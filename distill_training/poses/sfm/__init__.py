"""Structure from motion by pycolmap, whose result is checked before it is used.

A database holds features and matches; mappers make models of it; checks keep the parts of the
models on which two solutions agree. Measured depth joins parts; given poses can be adjusted without
mapping.
"""

import cv2  # noqa: F401  # before pycolmap: otherwise OpenCV calls pycolmap's zlib, and crashes
import pycolmap

pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
