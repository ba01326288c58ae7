"""`zoo.training.runs`, by its public name."""

import sys

from zoo.training import runs

sys.modules[__name__] = runs
