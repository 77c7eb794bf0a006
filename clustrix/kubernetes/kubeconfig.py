"""Who we are and where the server is: kubeconfigs, as kubectl reads them.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import AuthenticationFailed, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Document = dict[str, Any]

_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def load(settings: Any, kubeconfig: str | None, context: str | None) -> str | None:  # noqa: ANN401 - Configuration
    """Fill the client's settings, as kubectl does, and give the namespace of the context.

    Raises:
        ConfigError: there is no kubeconfig, it cannot be read, or it has no such context.
        AuthenticationFailed: the program that it names for the login failed.

    """
    from kubernetes import config
    from yaml import YAMLError

    files = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    places = [os.path.expanduser(place) for place in files.split(os.pathsep)]  # noqa: PTH111 - a user without home
    there = os.pathsep.join(place for place in places if os.path.isfile(place))  # noqa: PTH113
    inside = not there and not context and not kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST")
    if not there and not inside:
        raise ConfigError(
            f"there is no kubeconfig {files}",
            remedy="Get one from whoever runs the cluster, and set `kubeconfig` or $KUBECONFIG.",
        )
    try:
        if inside:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            return (_TOKEN_FILE / "namespace").read_text().strip()
        known, current = _contexts(there)
        name = context or current
        if name in known:
            with plugins() as said:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    there, name, client_configuration=settings, persist_config=False
                )
    except (config.ConfigException, YAMLError, OSError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"the kubeconfig {files} cannot be used: {error}") from error
    if name not in known:
        wanted = f"context {name!r}" if name else "current context"
        choice = f"Known: {', '.join(sorted(known)) or 'none'}."
        raise ConfigError(f"{files} has no {wanted}", remedy=f"Set `context` for the target. {choice}")
    complain(said, name)
    return known[name].get("namespace")


def _contexts(files: str) -> tuple[dict[str, Document], str]:
    """Read the contexts of kubeconfigs and the name of the current one: the first file that says a thing counts.

    The official client reads none where none is current, and of several files takes the last one's.
    https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/#merging-kubeconfig-files
    """
    import yaml

    known: dict[str, Document] = {}
    current = ""
    for place in files.split(os.pathsep):
        document = yaml.safe_load(Path(place).read_text(encoding="utf-8"))
        if document is None:  # an empty file
            continue
        current = current or document.get("current-context") or ""
        for row in document.get("contexts") or ():
            known.setdefault(row["name"], row.get("context") or {})
    return known, current


@contextlib.contextmanager
def plugins() -> Iterator[list[str]]:
    """Collect what credential plug-ins say that fail: the official client logs it, and goes on as nobody."""
    said: list[str] = []

    def keep(row: logging.LogRecord) -> bool:
        ours = row.module == "kube_config"
        if ours:
            said.append(row.getMessage().removeprefix("exec: "))
        return not ours

    logging.root.addFilter(keep)
    try:
        yield said
    finally:
        logging.root.removeFilter(keep)


def complain(said: Sequence[str], context: str | None) -> None:
    """Raise AuthenticationFailed where a plug-in said anything."""
    if said:
        raise AuthenticationFailed(
            f"the program that logs in to context {context or 'in use'} failed: {said[-1].strip()}",
            remedy="Let `kubectl` succeed with this context first: install that program, or log in again.",
        )
