"""What holds for the tests of all packages."""

import os

# Set before torch is imported anywhere: at the tests' small shapes its threads only wait for each other, and on a busy machine a minute's work takes an hour.
os.environ.setdefault("OMP_NUM_THREADS", "1")
