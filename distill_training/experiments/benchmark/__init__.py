"""`mote-distill benchmark`: makes and evaluates a map of each scene of a folder."""
