"""Stage 4: trains a student on a reconstruction; resumable."""
