"""What an agent answers, path by path, to whoever proves to know the job's token; each answer proves the same.

    GET  /status?brief=1         what this replica does; at the coordinator, what the gang and all replicas do; in brief
    GET  /cluster                at the coordinator, once all have reported: where TensorFlow and the agents listen
    GET  /log?offset=N&wait=S    bytes of the script's output from N on; waits S seconds for more. X-Offset: where they
                                 begin; X-Size: where the output ends so far; X-End: 1 if they are its last
    POST /stream {offsets}       at the coordinator: frames with all replicas' output and status, until the end;
                                 offsets null: status alone
    GET  /order?version=N&wait=S at the coordinator: the gang's phase, as soon as it is not N's; waits S seconds
    GET  /files                  what the replica wrote: paths, sizes, SHA-256
    GET  /files?named=PATTERN    the same of files with such names, which may be growing, without SHA-256
    POST /files [[path, offset, size]] those files' bytes from offset up to size, as frames
    GET  /checkpoints, POST /checkpoints  the same of the newest checkpoint: the coordinator's, or the copy of it
    PUT  /code, GET /code        the script's folder, as a gzipped tar archive
    GET  /code?wanted=SHA256     whether that archive is still to be sent: {"wanted": true}
    POST /release                at the coordinator: all is collected, the replicas may end
    POST /stop                   at the coordinator: the gang ends, and holds what it has; says what it did until then
    POST /keep                   at the coordinator: files are missed, so even a failed gang holds them --hold long

A frame is a line of JSON; where it has a "size", that many raw bytes follow it. The last is {"end": true}.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket

from .base import Replica
from .checks import text, whole_number
from .files import Files
from .gang import Gang
from .protocol import CHUNK, LOG_ANSWER, SMALL
from .reports import LONGEST_REPORT, LONGEST_WANTED, MARKS_OF_REPORT, MARKS_OF_WANTED, report_of
from .server import Handler, Listener
from .stream import Stream


class Answers(Handler):
    """The handler of an agent's requests: one method for each method and path."""

    def gang(self) -> Gang:
        """The gang. Raises ValueError if this replica does not coordinate."""
        gang = self.server.agent.gang
        if gang is None:
            raise ValueError("this replica is not the coordinator, which is " + self.server.agent.job.coordinator)
        return gang

    def get_status(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """The state of all replicas, or only of this one if it does not coordinate."""
        if not agent.gang:
            return self.reply_json({"replicas": {agent.replica: agent.report}})
        self.reply_json(agent.gang.brief() if "brief" in query else agent.gang.snapshot())

    def get_log(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """A piece of the log from an offset on; waits if there is none yet."""
        offset, wait = whole_number(int(query.get("offset", 0))), min(30.0, float(query.get("wait", 0)))
        offset = max(offset, agent.log.base)
        ended = agent.log.wait_for(offset, wait, self.alive)
        data = agent.log.read(offset, max(1, min(LOG_ANSWER, int(query.get("most", LOG_ANSWER)))))
        last = ended and offset + len(data) >= agent.log.size
        self.reply(data, headers={"X-Offset": str(offset), "X-End": str(int(last)), "X-Size": str(agent.log.size)})

    def post_report(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Takes a replica's report."""
        report = report_of(self.body(LONGEST_REPORT, MARKS_OF_REPORT), agent.job.replicas, agent.job.restarts)
        self.gang().report(report["replica"], report)
        self.reply_json({})

    def get_order(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """The order, once it differs from the one that the client has."""
        wait_s = min(10.0, float(query.get("wait", 10.0)))
        self.reply_json(self.gang().wait(int(query["version"]), wait_s, self.alive, query.get("replica")))

    def get_cluster(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """The addresses of all replicas, once all have reported."""
        if self.gang().phase == "forming":
            return self.refuse(503, "not all replicas have reported yet")
        self.reply_json(self.gang().cluster())

    def post_release(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Lets all replicas end."""
        self.gang().release()
        self.reply_json({})

    def post_keep(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Lets all replicas wait longer."""
        self.gang().keep()
        self.reply_json({})

    def post_stop(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Ends the job as interrupted."""
        self.reply_json(self.gang().interrupt())

    def put_code(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Takes the code; takes the same code a second time, too."""
        if agent.code.arrived.is_set():  # for example by a request whose answer was lost
            digest = hashlib.sha256()
            for data in iter(lambda: self.read(CHUNK), b""):
                digest.update(data)
            if digest.hexdigest() != agent.job.code_sha256:
                raise ValueError("the code is here already, and this is another")
            return self.reply_json({})
        if self.unread > shutil.disk_usage(agent.root).free:
            raise ValueError(f"there is no room for {self.unread} bytes")
        agent.code.receive(self, self.unread)
        self.reply_json({})

    def get_code(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Sends the code, or says whether it is still needed here."""
        if "wanted" in query:
            is_wanted = query["wanted"] == agent.job.code_sha256 and not agent.code.arrived.is_set()
            return self.reply_json({"wanted": is_wanted})
        if not agent.code.arrived.wait(min(10.0, float(query.get("wait", 10)))):
            return self.refuse(503, "the code is not here yet")
        with open(agent.code.archive, "rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.connection.sendfile(file)

    def get_files(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Lists the files that are to come back."""
        self.reply_json(agent.files.manifest(query.get("named"), self.alive))

    def get_checkpoints(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Lists the newest checkpoint's files."""
        self.reply_json(agent.checkpoints.newest.manifest(alive=self.alive))

    def post_files(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Sends the requested files."""
        self.send_files(agent.files)

    def post_checkpoints(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """The same for the newest checkpoint's files."""
        self.send_files(agent.checkpoints.newest)

    def send_files(self, files: Files) -> None:
        """Sends each file's bytes from its offset on, after a line that describes them."""
        body = self.body(LONGEST_WANTED, MARKS_OF_WANTED)
        ranges = [(text(name), whole_number(offset), whole_number(size)) for name, offset, size in body]
        self.begin_stream()
        small = bytearray()  # so that many small files take few packets
        for name, offset, size in ranges:
            source = files.open(name, size)
            if source is None or offset > size:
                small += json.dumps({"path": name, "missing": True}).encode() + b"\n"
                continue
            left = size - offset
            with source:
                small += json.dumps({"path": name, "offset": offset, "size": left}).encode() + b"\n"
                if left <= SMALL:
                    source.seek(offset)
                    small += source.read(left)
                else:
                    self.wfile.write(small)
                    small.clear()
                    if self.connection.sendfile(source, offset, left) != left:
                        return  # the file shrank: the stream ends without its end
            if len(small) > CHUNK:
                self.wfile.write(small)
                small.clear()
        self.wfile.write(small)
        self.frame({"end": True})

    def post_stream(self, agent: Replica, path: str, query: dict[str, str]) -> None:
        """Sends all replicas' states and logs as they come, until the client hangs up."""
        count = len(agent.job.replicas)
        requested = self.body(1024 + 512 * count, 16 + 4 * count)["offsets"]
        offsets = {} if requested is None else {r: whole_number(requested.get(r, 0)) for r in agent.job.replicas}
        self.gang()
        with self.server.streaming(Stream.most_bytes(len(offsets))) as others:
            if others:
                return self.refuse(
                    503,
                    f"{others} streams are open here, and there is no memory for one more: "
                    "end one, such as a tf-spawner logs -f",
                )
            self.begin_stream()
            stream = Stream(agent, offsets, lambda: self.alive() and not self.connection.is_dead())
            try:
                for head, data in stream.frames():
                    self.frame(head, data)
            finally:
                stream.close()


class Server(Listener):
    """Listens for an agent, and answers."""

    def __init__(self, agent: Replica, listener: socket.socket) -> None:
        super().__init__(agent, listener, Answers)
