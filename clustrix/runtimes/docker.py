"""Docker and Podman: commands inside a container, driven by the engine's own command line, whose client may go away.

The container sees the declared mounts and nothing else of the host, runs as the account that owns the job, and has a
read-only root. https://docs.docker.com/reference/cli/docker/container/run/, podman-run(1)
"""

from __future__ import annotations

import shlex
from string import Template
from typing import TYPE_CHECKING

from clustrix.errors import ImageUnavailable, RuntimeUnavailable, UnsupportedResource
from clustrix.model.job import Placed
from clustrix.runtimes.base import Need, bind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.image import BuiltImage
    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.runtimes.base import Artifact
    from clustrix.transports.base import Completed, Transport

_DEFAULT_SHM = 1 << 30
_SCRATCH = "/tmp"  # noqa: S108 - inside the container

_LOOK = Template("""
command -v $command >/dev/null 2>&1 || exit 127
echo "user $$(id -u):$$(id -g)"
echo "host $host"
$command info --format '$facts' || exit
$command image inspect --format 'image {{.Id}}' $image || echo absent
""")

# The container lives no longer than this script, also when it is killed: a process outside of the job's family sees to
# that, and removes the container, which is kept until it was asked whether memory ran out.
_RUN = Template("""
job=$${CLUSTRIX_NOTE%/ends/*}
task=$${CLUSTRIX_NOTE##*/}
name=clustrix-$${job##*/}-$${task%.note}
keep='while kill -0 "$$1" 2>/dev/null; do sleep 1; done; exec $command rm -f "$$2"'
start=setsid
command -v setsid >/dev/null 2>&1 || start=nohup
(env -u CLUSTRIX_NATIVE_ID -u CLUSTRIX_NOTE $$start sh -c "$$keep" keep $$$$ "$$name" </dev/null >/dev/null 2>&1 &)
$command run --name "$$name" --label clustrix --env CLUSTRIX_NATIVE_ID "$$@" &
client=$$!
kill_soon() {
  trap '' TERM
  round=0
  while kill -0 $$client 2>/dev/null && [ $$round -lt 15 ]; do sleep 0.2; round=$$((round + 1)); done
  [ $$round -lt 15 ] || $command kill "$$name"
}
end() {
  kill -TERM $$client 2>/dev/null
  [ ! -e "$$job"/cancelled ] || kill_soon >/dev/null 2>&1 &
}
trap end TERM INT HUP
for signal in USR1 USR2; do trap "kill -$$signal $$client 2>/dev/null" $$signal; done
while :; do
  wait $$client
  code=$$?
  kill -0 $$client 2>/dev/null || break
done
if $out_of_memory; then echo out-of-memory >"$$CLUSTRIX_NOTE"; fi
exit $$code
""")

_MEMORY_CODE = 247
_INIT = f"""\
import os, signal, sys
def kills():
    for place in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            return int(dict(line.split() for line in open(place))["oom_kill"])
        except (OSError, KeyError):
            pass
    return 0
before = kills()
child = os.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.kill(child, number))
while True:
    process, status = os.wait()
    if process == child:
        code = os.waitstatus_to_exitcode(status)
        sys.exit({_MEMORY_CODE} if kills() > before else code if code >= 0 else 128 - code)
"""


class Docker:
    """Run in the Docker engine of the target."""

    needs = Need.OCI
    enforces_memory = True
    name = "docker"
    commands: tuple[str, ...] = ("docker",)
    _host = "${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null)}"
    _facts = "cpus {{.NCPU}} swap {{.SwapLimit}} {{.SecurityOptions}}"
    # Whichever process inside it was.
    _out_of_memory = """[ "$(docker inspect --format '{{.State.OOMKilled}}' "$name" 2>/dev/null)" = true ]"""

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """See that the engine has the image, by its config digest; pull it if a registry serves it.

        Raises:
            RuntimeUnavailable: no engine answers, or it is one of another machine.
            ImageUnavailable: it does not have the image and cannot pull it.

        """
        del site
        image = artifact.image
        if image is None:
            raise ImageUnavailable(f"the runtime {self.name} needs an image, and was given a lock or a SIF")
        facts = self._look(transport, image)
        if "absent" in facts:
            self._pull(transport, image, progress)
        rootless = "yes" if "rootless" in facts["security"] else "no"
        options = tuple({**{name: facts[name] for name in ("user", "cpus", "swap")}, "rootless": rootless}.items())
        return Placed(
            runtime=self.name,
            location=image.config_digest,
            interpreter=image.interpreter or "python3",
            options=options,
        )

    def wrap(
        self,
        placed: Placed,
        argv: Sequence[str],
        *,
        mounts: Sequence[Mount],
        variables: Mapping[str, str],
        gpus: int,
        memory_bytes: int | None,
        cores: int,
    ) -> tuple[str, ...]:
        """Run the command in a container that is removed with the task; UnsupportedResource beyond the machine's."""
        options = dict(placed.options)
        if cores > int(options["cpus"]):
            raise UnsupportedResource(
                f"cores={cores}: the machine of the {self.name} engine has {options['cpus']}",
                remedy=f"Ask for at most cores={options['cpus']}.",
            )
        command = ["--read-only", "--tmpfs", f"{_SCRATCH}:exec,mode=1777", "--pull", "never"]
        command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--log-driver", "none"]
        command += self._identity(options["user"], rootless=options.get("rootless") == "yes")
        command += ["--cpus", str(cores), "--shm-size", str((memory_bytes or 2 * _DEFAULT_SHM) // 2)]
        if memory_bytes is not None:
            # Without the kernel's swap accounting a limit on swap is refused or warned about, into the job's output.
            swap = str(memory_bytes) if options["swap"] == "true" else "-1"
            command += ["--memory", str(memory_bytes), "--memory-swap", swap]
        command += self._devices(gpus)
        for mount in mounts:
            command += ["--mount", bind(mount, target="target", read_only="readonly")]
        for name, value in {"HOME": _SCRATCH, **variables}.items():
            command += ["--env", f"{name}={value}"]
        init, (program, *arguments) = self._init(placed, argv)
        script = _RUN.substitute(command=self.name, out_of_memory=self._out_of_memory)
        return ("sh", "-c", script, self.name, *command, *init, "--entrypoint", program, placed.location, *arguments)

    def _init(self, placed: Placed, argv: Sequence[str]) -> tuple[list[str], Sequence[str]]:
        """Give what makes a first process that passes signals on and reaps orphans: options, and the command."""
        del placed
        return ["--init"], argv

    def _identity(self, user: str, *, rootless: bool) -> list[str]:
        # Without root, the engine's root is the account itself.
        return ["--user", "0:0" if rootless else user]

    def _devices(self, gpus: int) -> list[str]:
        return ["--gpus", str(gpus)] if gpus else []

    def _look(self, transport: Transport, image: BuiltImage) -> dict[str, str]:
        """Ask in one round trip whether there is an engine, whose it is, what it can, and whether it has the image."""
        done = transport.run(
            _LOOK.substitute(
                command=self.name, host=self._host, facts=self._facts, image=shlex.quote(image.config_digest)
            )
        )
        facts: dict[str, str] = {}
        for line in done.stdout_text.splitlines():
            key, _, value = line.partition(" ")
            facts[key] = value
        if "cpus" in facts:
            cpus, _, swap, *security = facts["cpus"].split(" ", 3)
            facts |= {"cpus": cpus, "swap": swap, "security": " ".join(security)}
        self._refuse(facts, done, transport)
        return facts

    def _refuse(self, facts: Mapping[str, str], done: Completed, transport: Transport) -> None:
        if "user" not in facts:
            raise RuntimeUnavailable(
                f"{transport.address} has no command {self.name}",
                remedy=f"Install {self.name.capitalize()} there, or use runtime venv.",
            )
        host = facts.get("host", "")
        if host and not host.startswith(("unix://", "fd://", "npipe://")):
            raise RuntimeUnavailable(
                f"the {self.name} engine is another machine's ({host}): it does not see the job's directory here",
                remedy="Unset DOCKER_HOST or choose another docker context; to run over there, make a target of type "
                "ssh with runtime docker.",
            )
        if facts.get("cpus", "0") == "0":  # newer clients describe an engine that is not there with noughts
            raise RuntimeUnavailable(
                f"no {self.name} engine answers at {transport.address}: {done.stderr_text}",
                remedy="Start it, and see that the account may use it (group docker); or use runtime venv.",
            )

    def _pull(self, transport: Transport, image: BuiltImage, progress: Progress) -> None:
        if image.reference is None:
            raise ImageUnavailable(
                f"the {self.name} engine at {transport.address} has no image {image.config_digest}",
                remedy=f"Load it (clustrix build -o {self.name}:NAME), or push it to a registry that it reaches.",
            )
        bar = progress.start(f"pull {image.reference}", None)
        try:
            pulled = transport.run(f"{self.name} pull --quiet {shlex.quote(image.reference)}")
        finally:
            bar.close()
        look = f"{self.name} image inspect --format x {shlex.quote(image.config_digest)}"
        if pulled.returncode != 0 or transport.run(look).returncode != 0:
            said = pulled.stderr_text or "it is another image than the one that was asked for"
            raise ImageUnavailable(f"the {self.name} engine cannot pull {image.reference}: {said}")


class Podman(Docker):
    """Run with Podman, which needs no daemon."""

    name = "podman"
    commands = ("podman",)
    _host = "${CONTAINER_HOST:-}"
    _facts = "cpus {{.Host.CPUs}} swap true {{if .Host.Security.Rootless}}rootless{{end}}"
    # Podman does not always notice; the first process inside does.
    _out_of_memory = f"[ $code = {_MEMORY_CODE} ]"

    def _init(self, placed: Placed, argv: Sequence[str]) -> tuple[list[str], Sequence[str]]:
        # Its own --init is a program of another package, which is often not there.
        return [], [placed.interpreter, "-I", "-S", "-c", _INIT, *argv]

    def _identity(self, user: str, *, rootless: bool) -> list[str]:
        return ["--userns", "keep-id", "--user", user] if rootless else ["--user", user]

    def _devices(self, gpus: int) -> list[str]:
        return ["--device", "nvidia.com/gpu=all"] if gpus else []
