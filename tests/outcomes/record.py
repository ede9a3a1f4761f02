"""Runs each of scripts/ on this machine and writes down how it ended: python tests/outcomes/record.py [NAME…]

What it records is what the diagnosis is tested with (tests/unit/test_outcomes.py), so run it again for a new TensorFlow.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def outcome(script: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfspawner", "run", str(script), "-w", "2", "--out", folder, "--name", "outcome",
                   "--workdir", str(script.parent), "--stall-timeout", "60s"]  # fmt: skip
        if script.read_text().startswith("# on: kubernetes"):
            command += ["--on", "kubernetes"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cause = json.loads((Path(folder) / "outcome/report.json").read_text())["cause"]
        tail = [
            re.sub(r"/\S*/(site-packages|scripts|code|lib/python3[.]\d+)/", r"/\1/", line) for line in cause["tail"]
        ]
        return {"message": cause["message"].split(": ")[0], "exit_code": cause["exit_code"], "tail": tail}


def main() -> None:
    for script in sorted((HERE / "scripts").glob("*.py")):
        if len(sys.argv) == 1 or script.stem in sys.argv[1:]:
            found = outcome(script)
            (HERE / "recorded" / f"{script.stem}.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{script.stem}: {found['message']}: {found['tail'][-1:]}", flush=True)


if __name__ == "__main__":
    main()
