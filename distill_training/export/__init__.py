"""Stage 6: writes a calibrated student as a map file."""
