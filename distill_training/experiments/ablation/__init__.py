"""`mote-distill ablate`: trains students with different settings and compares them."""
