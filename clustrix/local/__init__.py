"""Work on the cores of one machine: the pool, and the loops that are split over it."""
