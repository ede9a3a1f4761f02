"""The shared library that TensorFlow loads a file system from, made without a compiler."""

from __future__ import annotations

import struct

PAGE = 0x1000
STUBS_AT, STUB_BYTES, SLOT_BYTES = 0x400, 16, 8
SHIFTED = 1  # the function that passes its second argument on as the first: translate_name, by C's strdup


def native_library(slots: int, machine: str) -> bytes:
    """An ELF shared object with that many functions, each of which jumps to the address in its slot.

    It exports TF_InitPlugin, the first of them, and `slots`, where the addresses lie: the second page. Behind the
    last function is one that returns 0. See the System V ABI, "Object Files" and "Dynamic Linking".
    """
    names = b"\0TF_InitPlugin\0slots\0"
    code, end = _stubs(slots, machine), {"x86_64": 62, "aarch64": 183}
    symbols = b"".join(
        struct.pack("<IBBHQQ", *symbol)
        for symbol in (
            (0, 0, 0, 0, 0, 0),
            (1, 0x12, 0, 1, STUBS_AT, 8),
            (15, 0x11, 0, 1, PAGE + 0x100, slots * SLOT_BYTES),
        )
    )
    hashes = struct.pack("<6I", 1, 3, 1, 0, 2, 0)  # one bucket, with symbol 1 and then symbol 2
    symbols_at, names_at, hashes_at = 0x200, 0x300, 0x380
    dynamic = b"".join(
        struct.pack("<QQ", tag, value)
        for tag, value in ((4, hashes_at), (5, names_at), (6, symbols_at), (10, len(names)), (11, 24), (0, 0))
    )
    size = 0x100 + slots * SLOT_BYTES
    segments = (
        (1, 5, 0, PAGE, PAGE),  # PT_LOAD, read and execute
        (1, 6, PAGE, size, PAGE),  # PT_LOAD, read and write
        (2, 6, PAGE, len(dynamic), 8),  # PT_DYNAMIC
        (0x6474E551, 6, 0, 0, 16),  # PT_GNU_STACK: the stack need not be executable
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, end[machine], 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0
    )
    for kind, flags, at, length, align in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, at, at, at, length, length, align)
    first = bytearray(PAGE)
    for at, part in ((0, header), (symbols_at, symbols), (names_at, names), (hashes_at, hashes), (STUBS_AT, code)):
        first[at : at + len(part)] = part
    return bytes(first) + dynamic.ljust(size, b"\0")


def _stubs(slots: int, machine: str) -> bytes:
    """A jump through each slot, and a function that returns 0."""
    code = b""
    for slot in range(slots):
        ahead = PAGE + 0x100 + slot * SLOT_BYTES - (STUBS_AT + slot * STUB_BYTES)
        if machine == "x86_64":  # mov rdi, rsi; jmp [rip + ahead]
            shift = b"\x48\x89\xf7" if slot == SHIFTED else b""
            stub = shift + b"\xff\x25" + struct.pack("<i", ahead - 6 - len(shift))
        else:  # mov x0, x1; ldr x16, [pc + ahead]; br x16
            shift = struct.pack("<I", 0xAA0103E0) if slot == SHIFTED else b""
            stub = shift + struct.pack("<II", 0x58000010 | (ahead - len(shift)) // 4 << 5, 0xD61F0200)
        code += stub.ljust(STUB_BYTES, b"\0")
    return code + (b"\x31\xc0\xc3" if machine == "x86_64" else struct.pack("<II", 0xD2800000, 0xD65F03C0))
