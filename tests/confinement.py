"""A script that tries to look into its agent, a process of the same user, and what it has to be told."""

LOOKS = """
import ctypes, os
agent = os.getppid()
def attempt(name, look):
    try:
        look()
        print(name, "open", flush=True)
    except OSError as error:
        print(name, error.strerror, flush=True)
attempt("environ", lambda: open(f"/proc/{agent}/environ").read())
attempt("memory", lambda: open(f"/proc/{agent}/mem", "rb+"))
attempt("files", lambda: os.listdir(f"/proc/{agent}/fd"))
attempt("maps", lambda: open(f"/proc/{agent}/maps").read())
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    if libc[name](*words) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt("ptrace", lambda: call("ptrace", 16, agent, 0, 0))
class Part(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
own = ctypes.create_string_buffer(8)
here, there = Part(ctypes.addressof(own), 8), Part(ctypes.addressof(own), 8)
attempt("read", lambda: call("process_vm_readv", agent, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
print("token" in "".join(os.environ).lower())
"""
CLOSED = {"environ": "Permission denied", "memory": "Permission denied", "files": "Permission denied",
          "maps": "Permission denied", "ptrace": "Operation not permitted", "read": "Operation not permitted"}  # fmt: skip
