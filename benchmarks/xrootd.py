"""Reading root:// over a link that is slow: tfspawner.data against XRootD's library as it is, one file after another.

Serves 8 files of 24 MB by Debian's xrootd, in a network namespace that has a loopback alone, through slowlink
(+10 ms, 36 MB/s a connection, 250 MB/s in all). Each measurement is a process of its own: a pass, and two that are
timed. Needs root, ip, xrootd-server, the package xrootd, and Go.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import compare

HERE = Path(__file__).parent
ROUNDS = 3
FILES, FILE_BYTES = 8, 24_000_000
URI = "root://localhost:1095//eos/data"

TIMED = """
import sys, time
passed()
began = time.monotonic()
size = passed() + passed()
print(size // 2, (time.monotonic() - began) / 2, flush=True)
import os
os._exit(0)
"""
OURS = f"""
from tfspawner.data import list_files
from tfspawner.data.reading import CHUNK_BYTES, WINDOW_BYTES, read_chunks
from tfspawner.data.sharding import divide
parts = divide(list_files("{URI}/*"), 1)[0]
def passed():
    return sum(len(data) for _, _, data in read_chunks(parts, window_bytes=WINDOW_BYTES, chunk_bytes=CHUNK_BYTES))
{TIMED}"""
DEFAULT = f"""
from XRootD.client import File
def passed():
    size = 0
    for number in range({FILES}):
        with File() as file:
            file.open(f"{URI}/part-{{number}}")
            for offset in range(0, {FILE_BYTES}, 4 << 20):
                size += len(file.read(offset, 4 << 20)[1])
    return size
{TIMED}"""


def main() -> None:
    name = f"tfs-bench-{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        subprocess.run(["go", "build", "-o", folder / "slowlink", "."], cwd=HERE / "slowlink", check=True)
        (folder / "root/eos/data").mkdir(parents=True)
        (folder / "admin").mkdir()
        for number in range(FILES):
            (folder / f"root/eos/data/part-{number}").write_bytes(os.urandom(FILE_BYTES))
        subprocess.run(["chown", "-R", "nobody", folder / "root", folder / "admin"], check=True)
        (folder / "xrd.cfg").write_text(
            f"all.export /eos\noss.localroot {folder}/root\nall.adminpath {folder}/admin\nall.pidpath {folder}/admin\n"
            "xrd.port 1094\n"
        )
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        servers = [
            subprocess.Popen([*inside, "xrootd", "-R", "nobody", "-c", folder / "xrd.cfg", "-n", name], **quiet),
            subprocess.Popen(
                [*inside, folder / "slowlink", "-listen", "127.0.0.1:1095", "-to", "127.0.0.1:1094"], **quiet
            ),
        ]
        try:
            listing = [*inside, sys.executable, "-m", "tfspawner", "data", "ls", f"{URI}/*"]
            deadline = time.monotonic() + 30
            while subprocess.run(listing, capture_output=True).returncode:
                assert time.monotonic() < deadline
            seconds: dict[str, list[float]] = {"tfspawner.data": [], "one file after another": []}
            for _ in range(ROUNDS):
                for title, code in zip(seconds, (OURS, DEFAULT), strict=True):
                    done = subprocess.run(
                        [*inside, sys.executable, "-c", code], capture_output=True, text=True, check=True
                    )
                    size, took = done.stdout.split()
                    assert int(size) == FILES * FILE_BYTES, done.stdout
                    seconds[title].append(float(took))
        finally:
            for server in servers:
                server.kill()
                server.wait()
            subprocess.run(["ip", "netns", "delete", name], check=True)
    sys.exit(not compare(f"{FILES} files of 24 MB by root://", seconds, 1 / 3))


if __name__ == "__main__":
    main()
