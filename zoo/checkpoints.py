"""`zoo.training.checkpoints`, by its public name."""

import sys

from zoo.training import checkpoints

sys.modules[__name__] = checkpoints
