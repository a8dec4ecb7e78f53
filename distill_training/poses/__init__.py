"""Stage 1: where each camera was: given poses, refined poses, the drift between the two."""
