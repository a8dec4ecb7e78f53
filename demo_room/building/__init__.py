"""A synthetic building of rooms and corridors, some of which look the same."""
