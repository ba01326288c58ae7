"""`python -m zoo.pretrained MODEL WEIGHTS [FOLDER]`: train them anew and write them there, or here."""

import json
import sys
from pathlib import Path

from zoo.pretrained import HERE, TRAINED
from zoo.pretrained.making import make

if __name__ == "__main__":
    asked = sys.argv[1:3]
    chosen = [trained for trained in TRAINED if [trained.model, trained.name] == asked]
    if not chosen:
        known = ", ".join(f"{trained.model} {trained.name}" for trained in TRAINED)
        sys.exit(f"expected one of: {known}")
    print(json.dumps(make(chosen[0], Path(sys.argv[3]) if len(sys.argv) > 3 else HERE), indent=1))
