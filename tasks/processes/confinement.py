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
from pathlib import Path

NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Landlock's system call numbers, the same on every architecture."""
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights in each version of Landlock."""
NETWORK_OF_ABI, SCOPES_OF_ABI = 4, 6
BENEATH = 1
SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf"),
    *("/etc/passwd", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/sys/devices/system", "/sys/fs/cgroup"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/driver/nvidia"),
)
DEVICES = ("/dev/null", "/dev/nvidia*", "/dev/dri/*")
"""Device files that may also be written, if they exist: a GPU is controlled through them."""
CACHES = ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")
SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""The audit architecture, and the number of socket(2)."""
SECCOMP = {"x86_64": 317, "aarch64": 277}
OTHER_CALLS, IO_URING = 0x40000000, 425
"""First system call of x32, and io_uring_setup(2), which can create sockets too."""
OPEN_FILES = 1024


def confine(readable: Iterable[str] = (), scratch: str = "") -> list[str]:
    """Confines this thread and the threads it starts. Returns the protections that the system does not support.

    `readable`: further readable files and folders, such as models; `scratch`: the writable folder.
    """
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("core files", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))),
        ("open files", _limit_files),
        ("new privileges", lambda: _prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)),
        ("files of others (Landlock)", lambda: _landlock([*_own(), *readable], scratch)),
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
    with suppress(OSError, ValueError):
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = mapped + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def hide() -> None:
    """Prevents other processes of the user from reading this one, whose environment has keys (PR_SET_DUMPABLE)."""
    with suppress(OSError, AttributeError):
        _prctl(4, 0, 0, 0, 0)


def _own() -> list[str]:
    """Lists the folders of Python, of its packages, including linked ones (uv), and of model caches."""
    paths = [sys.prefix, sys.base_prefix, *(path or "." for path in sys.path)]
    for folder in sys.path:
        with suppress(OSError), os.scandir(folder or ".") as entries:
            paths += [entry.path for entry in entries if entry.is_symlink()]
    return [*paths, *SYSTEM, *(os.environ[name] for name in CACHES if os.environ.get(name))]


def _limit_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def _prctl(*arguments: int) -> None:
    _checked(ctypes.CDLL(None, use_errno=True).prctl(*(ctypes.c_ulong(value) for value in arguments)))


def _landlock(readable: Iterable[str], scratch: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    abi = _checked(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    files = (1 << RIGHTS_OF_ABI.get(abi, 16)) - 1
    network, scopes = (3 if abi >= NETWORK_OF_ABI else 0), (3 if abi >= SCOPES_OF_ABI else 0)
    attributes = struct.pack("=QQQ", files, network, scopes)
    attributes = attributes[: 24 if abi >= SCOPES_OF_ABI else 16 if abi >= NETWORK_OF_ABI else 8]
    rules = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in dict.fromkeys(readable):
            _allow(libc, rules, Path(path), READ_FILE | READ_DIR | EXECUTE)
        if scratch:
            _allow(libc, rules, Path(scratch), files)
        for pattern in DEVICES:
            for device in Path("/").glob(pattern.removeprefix("/")):
                _allow(libc, rules, device, (READ_FILE | WRITE_FILE | 1 << 15) & files)  # with ioctl, since ABI 5
        _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            return
        raise
    try:
        if not path.is_dir():
            rights &= ~READ_DIR
        _checked(libc.syscall(ADD_RULE, rules, BENEATH, struct.pack("=Qi", rights, descriptor), 0))
    finally:
        os.close(descriptor)


def _without_sockets() -> None:
    """Makes socket(2) fail with EACCES in every thread from now on."""
    if platform.machine() not in SOCKET_CALLS:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    architecture, call = SOCKET_CALLS[platform.machine()]
    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06  # of linux/bpf_common.h
    allowed, refused = 0x7FFF0000, 0x00050000 | errno.EACCES
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (load, 0, 0, 4),
            (equal, 0, 5, architecture),
            (load, 0, 0, 0),
            (at_least, 3, 0, OTHER_CALLS),
            (equal, 2, 0, call),
            (equal, 1, 0, IO_URING),
            (leave, 0, 0, allowed),
            (leave, 0, 0, refused),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.syscall(SECCOMP[platform.machine()], 1, 1, head))  # SECCOMP_SET_MODE_FILTER, for all threads


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
