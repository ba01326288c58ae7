"""Known vulnerabilities of the packages installed here, by pip-audit: `tox -e audit` runs this."""

import subprocess
import sys

COMMAND = "-m pip_audit --local --strict --progress-spinner off"  # strict: what cannot be looked up fails


def main() -> None:
    """Exits with 1, and where no advisories can be had with one line that says so."""
    done = subprocess.run([sys.executable, *COMMAND.split()], capture_output=True, text=True, check=False)
    if "Traceback" in done.stderr or (done.returncode and not done.stdout.strip()):
        reason = done.stderr.strip().rpartition("\n")[2].removeprefix("ERROR:pip_audit._cli:")
        sys.exit(f"audit: nothing was audited, as PyPI's advisories cannot be read here: {reason[:200]}")
    print(done.stdout, done.stderr, sep="", end="")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
