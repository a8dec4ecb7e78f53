"""`mote-distill ablate`: many trainings, alike but for what is asked, told apart in one table."""
