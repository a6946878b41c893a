"""Become a server: give up root, die with the parent, exec.  Run by path; the standard library only.

usage: child.py PARENT-PID USER COMMAND [ARGUMENT ...]      (an empty USER keeps the present one)
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, user: str, *command: str) -> None:
    if user:
        become(user)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("the parent is gone already")
    os.execvp(command[0], command)


def become(user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    main(*sys.argv[1:])
