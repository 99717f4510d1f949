"""Where the cells of a sweep are played: in this process, on the cores of this machine, or on a SLURM cluster."""
