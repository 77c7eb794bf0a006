"""What functions in a pod do to their process."""

import os
import signal
import time
from pathlib import Path


def dies_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def saves(directory):
    from clustrix import on_preempt

    @on_preempt
    def save():
        return "saved"

    Path(directory, "begun").touch()
    time.sleep(60)


def sleeps(directory, *signals):
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    Path(directory, "begun").touch()
    time.sleep(60)


def first_then_sleep(directory, number):
    if number:
        sleeps(directory)
    return number


def leaves_a_child(directory):
    import subprocess

    child = subprocess.Popen(["sleep", "60"])
    Path(directory, "child").write_text(str(child.pid))
    os._exit(3)


def large(size):
    return os.urandom(size)


def names():
    import getpass

    return getpass.getuser(), str(Path.home()), os.getuid()


def large_then_wait(directory, number):
    while number == 2 and not Path(directory, "go").exists():
        time.sleep(0.01)
    return os.urandom(1 << 20)
