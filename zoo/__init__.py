"""Classic deep-learning models, each written once: the same numbers on PyTorch, TensorFlow and JAX.

    import zoo
    zoo.use("jax")
    run = zoo.train("lenet5", task="digits")
    zoo.compare("lenet5")

Importing this package imports no framework: Keras is imported when the first model is built. The public
names are listed in `__init__.pyi`, and each is imported when it is first used.
"""

from pathlib import Path

import lazy_loader

from zoo._registration import follow_keras
from zoo._version import __version__ as __version__

# In the source tree zoo.backends is the folder backends/ beside this one. A Python that starts there imports
# this zoo, whichever one is installed, and must find it as well.
if not (_here := Path(__file__).parent).joinpath("backends").is_dir():
    __path__.append(str(_here.parent))

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

follow_keras()  # keras.models.load_model finds the classes of the zoo's files
