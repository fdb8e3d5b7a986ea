"""A process in namespaces of its own, of users, mounts and network, on an empty root without /proc, that seccomp keeps from
opening sockets and files. Linux on x86-64 and arm64; everything is loaded before.
"""

import ctypes
import errno
import os
import platform
import struct
import tempfile

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x00020000, 0x10000000, 0x40000000, 0x08000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 2, 0x7FFF0000, 0x00050000
BPF_LOAD_WORD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06

# The architecture, pivot_root, and what is denied: socket, connect, open where there is one, openat, openat2, io_uring_setup.
NUMBERS = {
    "x86_64": (0xC000003E, 155, (41, 42, 2, 257, 437, 425)),
    "aarch64": (0xC00000B7, 41, (198, 203, 56, 437, 425)),
}
ARCHITECTURE, PIVOT_ROOT, DENIED = NUMBERS[platform.machine()]

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def write(path, text):
    # Bytes: a codec may have to be loaded, and by another user.
    with open(path, "wb") as file:
        file.write(text.encode())


def enter_namespaces():
    """As oneself, on an empty root: what there was is out of reach."""
    uid, gid = os.geteuid(), os.getegid()
    # Who has changed its user without exec may not write its own uid_map otherwise.
    call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{uid} {uid} 1")
    write("/proc/self/gid_map", f"{gid} {gid} 1")
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    root = tempfile.gettempdir().encode()
    call("mount", b"tmpfs", root, b"tmpfs", 0, None)
    os.chdir(root)
    call("syscall", PIVOT_ROOT, b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)


def deny_files_and_sockets():
    """EPERM for each of them, from now on and for ever."""
    denied = len(DENIED)
    program = instruction(BPF_LOAD_WORD, 4)
    program += instruction(BPF_JUMP_EQUAL, ARCHITECTURE, 0, denied + 2)
    program += instruction(BPF_LOAD_WORD, 0)
    for index, number in enumerate(DENIED):
        program += instruction(BPF_JUMP_EQUAL, number, denied - index, 0)
    program += instruction(BPF_RETURN, SECCOMP_RET_ALLOW)
    program += instruction(BPF_RETURN, SECCOMP_RET_ERRNO | errno.EPERM)
    kept = ctypes.create_string_buffer(program, len(program))
    filter = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(kept)))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0)
