"""Runs a Python program in a process that the system refuses AMX tiles, for which few programs have a switch of their own.

usage: without_tiles.py PROGRAM.py ARGUMENTS...

A process has to ask for tiles: `arch_prctl(ARCH_REQ_XCOMP_PERM, ..)` (Linux, Documentation/arch/x86/xstate.rst). A filter
(seccomp) makes that one call fail, as on a processor without tiles.
"""

import ctypes
import errno
import runpy
import struct
import sys

ARCH_PRCTL = 158
REQUEST_PERMISSION = 0x1023
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
FILTER_MODE = 2

LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("HBBI", code, if_true, if_false, value)


# The number of the system call is at 0, its first argument at 16.
program = b"".join(
    [
        instruction(LOAD_WORD, 0),
        instruction(JUMP_IF_EQUAL, ARCH_PRCTL, 0, 3),
        instruction(LOAD_WORD, 16),
        instruction(JUMP_IF_EQUAL, REQUEST_PERMISSION, 0, 1),
        instruction(RETURN, FAIL | errno.EPERM),
        instruction(RETURN, ALLOW),
    ]
)
code = ctypes.create_string_buffer(program, len(program))


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("first", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
described = Filter(len(program) // 8, ctypes.addressof(code))
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(described), 0, 0) == 0
assert libc.syscall(ARCH_PRCTL, REQUEST_PERMISSION, 18) == -1, "tiles are still granted"

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
