"""One of several workers that train the run of a comparison: `python -m zoo.comparison.shared FOLDER`.

The folder's run.json holds the arguments of `zoo.comparison.worker`'s command train; each worker writes its
losses, and a fingerprint of its weights, as NUMBER.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from zoo import _lazy, backends, training
from zoo._lazy import ops
from zoo.backends.world import launched
from zoo.comparison.worker import prepare
from zoo.training.chain import fingerprint


def main() -> None:
    """Train, and write what was found."""
    folder, found = Path(sys.argv[1]), launched()
    _lazy.leave_out_extras()
    asked = json.loads((folder / "run.json").read_text())
    model, task = prepare(**asked["setup"], workers=1 if found is None else found.size)
    run = training.train(model, task, progress=False, **asked["options"])
    weights = fingerprint([ops.convert_to_numpy(variable) for variable in run.model.variables])
    answer = json.dumps({"losses": run.losses, "weights": weights})
    (folder / f"{backends.worker()}.json").write_text(answer)


if __name__ == "__main__":
    main()
