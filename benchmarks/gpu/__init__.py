"""`make bench-gpu`: tests on a GPU, and what a converted network costs on it, within a given time."""
