"""What launcher and agents share: names, states, exit codes and header names."""

from __future__ import annotations

PORT = 7117  # where an agent listens that is given no socket

PROOF_HEADER = "X-Tfspawner-Proof"

NOT_KNOWN = "the request does not prove that it knows the job's token"

TOKEN = "TFSPAWNER_TOKEN"  # the variable in which a pod's agent gets the job's token, and out of which it takes it

STOP_GRACE_S = 3.0  # between SIGTERM and SIGKILL: TensorFlow swallows SIGTERM, so this is a wait for nothing mostly

LOST_AFTER_S = 15.0  # a replica that is silent for so long is lost

SHORT_HOLD_S = 600.0  # how long a gang holds its files at most if it failed, or if they are in a bucket

CHUNK = 1 << 20

LOG_ANSWER = 4 * CHUNK  # bytes of a log in one piece

SMALL = 1 << 16

AGENT_MARK = b"[tf-spawner]"

MASK = b"***"

MASKED_BYTES = 8  # a shorter value or line is no secret worth a log full of stars

LOST = "was lost: its agent is not heard of any more"

EXIT_PEER_LOST = 75

EXIT_CONFIGURATION = 2

EXIT_TERMINATED = 143

EXITS_OF_LOST = (137, 143)  # after these, Kubernetes gives a job with restarts another pod

EXIT_PREEMPTED = 42  # TensorFlow's PreemptionCheckpointHandler saved and left

PEER_LOST_MESSAGE = (
    "lost a peer in a collective operation: a replica died, or had fewer batches and ended before the others"
)
TERMINATED = "was told to end (SIGTERM)"

INTERRUPTED = "was interrupted"

FINISHED = ("succeeded", "failed", "stopped")

TRAINERS = ("chief", "worker")

STARTING = ("forming", "meeting")

STATES = ("starting", "getting the code", "meeting", "ready", "running", *FINISHED)  # of a replica

PHASES = (*STARTING, "running", "stopping", "ended")  # of the gang

RESULTS = (None, "succeeded", "failed", "timeout", "interrupted")

KINDS = ("failed", "lost", "stalled", "configuration", "interrupted")  # of a failure


def is_trainer(replica: str) -> bool:
    """Whether a replica of this name trains: a chief or a worker."""
    return replica.rsplit("-", 1)[0] in TRAINERS


def address(host: str, port: int) -> str:
    """host:port, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of host:port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
