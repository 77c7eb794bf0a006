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


def large_and_forged(size):
    """Change one's own outcome once it is there, as user code can in whatever it leaves behind."""
    import atexit

    def forge():
        place = Path("../outcomes/0.json")
        place.write_text(place.read_text().replace("large_and", "small_and"))

    atexit.register(forge)
    return os.urandom(size)


def secrets_in_sight(wanted):
    """Look for secrets in the environment, in all files that are there, and in other processes."""
    root = Path.cwd().parents[2]
    places = [path for path in (*root.rglob("*"), *Path(f"{root}-job").rglob("*")) if path.is_file()]
    places += [
        path for path in Path("/proc").glob("[0-9]*/environ") if int(path.parent.name) in {1, os.getppid(), os.getpid()}
    ]
    found = []
    for path in places:
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if path.name != "payload" and any(secret in data for secret in wanted):
            found.append(str(path))
    return found + [name for name, value in os.environ.items() if any(secret.decode() in value for secret in wanted)]
