"""Confines processes that decode untrusted pictures before they read the first one.

Such a process may read the files of Python, its packages, its models and the system. It may write only to its own
folder and cannot open sockets (Linux: Landlock since 5.13, seccomp since 3.5; landlock(7), seccomp(2)). Missing
protections are reported.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

# <linux/prctl.h>
SET_DUMPABLE = 4
NO_NEW_PRIVILEGES = 38

# Landlock: its system call numbers, which are the same on every architecture, and <linux/landlock.h>
CREATE_RULESET = 444
ADD_RULE = 445
RESTRICT_SELF = 446
ASK_VERSION = 1  # flag of CREATE_RULESET
BENEATH = 1  # kind of rule: a path and all below it
EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
DEVICE_CONTROL = 1 << 15  # ioctl, since ABI 5
RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights in each version of Landlock."""
NETWORK_OF_ABI = 4
"""First version that restricts TCP: bind and connect."""
SCOPES_OF_ABI = 6
"""First version that restricts abstract Unix sockets and signals to other processes."""

SYSTEM = (
    # programs and shared libraries
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/localtime",
    # the C library looks up the user's name and home here
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
    # number of processors, their quota, free memory
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/driver/nvidia",
)
"""Files and folders of the system that a decoder may read."""
DEVICES = ("/dev/null", "/dev/nvidia*", "/dev/dri/*")
"""Device files that may also be written, if they exist: a GPU is controlled through them."""
CACHES = ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")
SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""The audit architecture, and the number of socket(2)."""
SECCOMP = {"x86_64": 317, "aarch64": 277}
"""The number of seccomp(2)."""
OTHER_CALLS = 0x40000000
"""First system call of x32, a second set of numbers for the same calls."""
IO_URING = 425
"""io_uring_setup(2), which can create sockets too."""
OPEN_FILES = 1024


def confine(readable: Iterable[str] = (), scratch: str = "") -> list[str]:
    """Confines this thread and the threads it starts. Returns the protections that the system does not support.

    `readable`: further readable files and folders, such as models; `scratch`: the writable folder.
    """
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("core files", _without_core_files),
        ("open files", _limit_files),
        # before the next two, which the kernel grants an ordinary user only after it
        ("new privileges", partial(_prctl, NO_NEW_PRIVILEGES, 1, 0, 0, 0)),
        ("files of others (Landlock)", partial(_landlock, readable, scratch)),
        ("sockets (seccomp)", _without_sockets),
    )
    missing = []
    for name, step in steps:
        try:
            step()
        except (OSError, ValueError, AttributeError) as error:
            missing.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    return missing


def limit_address_space(memory: int) -> None:
    """Limits the address space of this process to its current size plus this many bytes."""
    with suppress(OSError, ValueError):  # not Linux; the parent watches the memory too
        mapped_pages = Path("/proc/self/statm").read_text().split()[0]  # proc(5)
        mapped = int(mapped_pages) * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = _within(hard, mapped + memory)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def hide() -> None:
    """Prevents other processes of the user from reading this one, whose environment has keys (PR_SET_DUMPABLE)."""
    with suppress(OSError, AttributeError):
        _prctl(SET_DUMPABLE, 0, 0, 0, 0)


def _own() -> list[str]:
    """Lists the folders of Python, of its packages, including linked ones (uv), and of model caches."""
    folders = [folder or "." for folder in sys.path]  # an empty entry is the current folder
    paths = [sys.prefix, sys.base_prefix, *folders]
    for folder in folders:
        # Landlock's rules are about what a link leads to, so a linked package needs one of its own
        with suppress(OSError), os.scandir(folder) as entries:
            paths += [entry.path for entry in entries if entry.is_symlink()]
    paths += SYSTEM
    for name in CACHES:
        cache = os.environ.get(name)
        if cache:
            paths.append(cache)
    return paths


def _without_core_files() -> None:
    """Forbids core files, which would leave a picture's pixels and the process's memory on disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _within(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _within(hard: int, wanted: int) -> int:
    """Returns the wanted limit, lowered to the hard one: setrlimit refuses more."""
    if hard == resource.RLIM_INFINITY:  # -1
        return wanted
    return min(wanted, hard)


def _prctl(*arguments: int) -> None:
    longs = [ctypes.c_ulong(value) for value in arguments]  # as int, the upper halves would be undefined
    _checked(ctypes.CDLL(None, use_errno=True).prctl(*longs))


def _landlock(readable: Iterable[str], scratch: str) -> None:
    """Denies all file access but reading Python's files and `readable`, writing to `scratch`, and using devices."""
    libc = ctypes.CDLL(None, use_errno=True)
    abi = _checked(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION))
    files = (1 << RIGHTS_OF_ABI.get(abi, 16)) - 1
    # struct landlock_ruleset_attr: what is named here and allowed by no rule is denied. Rights that the kernel does not
    # know, and bytes beyond its own structure, are refused.
    attributes = struct.pack("=Q", files)
    if abi >= NETWORK_OF_ABI:
        attributes += struct.pack("=Q", 0b11)
    if abi >= SCOPES_OF_ABI:
        attributes += struct.pack("=Q", 0b11)
    rules = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in dict.fromkeys([*_own(), *readable]):
            _allow(libc, rules, Path(path), READ_FILE | READ_DIR | EXECUTE)
        if scratch:
            _allow(libc, rules, Path(scratch), files)
        for pattern in DEVICES:
            for device in Path("/").glob(pattern.removeprefix("/")):
                _allow(libc, rules, device, (READ_FILE | WRITE_FILE | DEVICE_CONTROL) & files)
        _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            return  # nothing to allow
        raise
    try:
        if not path.is_dir():  # the kernel refuses rights of folders for a file
            rights &= ~READ_DIR
        _checked(libc.syscall(ADD_RULE, rules, BENEATH, struct.pack("=Qi", rights, descriptor), 0))
    finally:
        os.close(descriptor)


def _without_sockets() -> None:
    """Makes socket(2) fail with EACCES in every thread from now on."""
    if platform.machine() not in SOCKET_CALLS:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    architecture, call = SOCKET_CALLS[platform.machine()]
    # operations of <linux/bpf_common.h>
    load = 0x20
    equal = 0x15
    at_least = 0x35
    leave = 0x06
    # results of <linux/seccomp.h>: SECCOMP_RET_ALLOW, and SECCOMP_RET_ERRNO with its number
    allowed = 0x7FFF0000
    refused = 0x00050000 | errno.EACCES
    # struct sock_filter: operation, steps to skip if true, steps to skip if false, operand
    steps = (
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 5, architecture),  # another architecture has other numbers: refuse all
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, 3, 0, OTHER_CALLS),
        (equal, 2, 0, call),
        (equal, 1, 0, IO_URING),
        (leave, 0, 0, allowed),
        (leave, 0, 0, refused),
    )
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.syscall(SECCOMP[platform.machine()], 1, 1, head))  # SECCOMP_SET_MODE_FILTER, for all threads


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
