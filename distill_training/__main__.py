"""`python -m distill_training` is `mote-distill`."""

from distill_training import main

main()
