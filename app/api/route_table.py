"""RouteTable: what is known of a path before it is routed, for the middleware and the error handlers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import BaseRoute, Mount, Route

UNMATCHED = "unmatched"
"""The route of every path without one, so that no client can add metrics labels."""


@dataclass(frozen=True)
class RouteInfo:
    """A route: its path as declared, whether it is a probe, and whether its errors are ``{"error": message}``.

    Probes are requested every few seconds by orchestrators and Prometheus.
    """

    name: str
    is_probe: bool = False
    plain_errors: bool = False


class RouteTable:
    """The routes of one application by path."""

    def __init__(self) -> None:
        self._static: dict[str, RouteInfo] = {}
        self._patterns: list[tuple[re.Pattern[str], RouteInfo]] = []
        self._prefixes: dict[str, RouteInfo] = {}

    def add(
        self,
        routes: Iterable[BaseRoute],
        *,
        is_probe: bool = False,
        plain_errors: bool = False,
        slash_at_end: bool = False,
    ) -> None:
        """Adds routes of one kind; with ``slash_at_end``, their paths may end with one."""
        for route in routes:
            if isinstance(route, Mount):
                self._prefixes[f"{route.path}/"] = RouteInfo(route.path)
            elif isinstance(route, Route):
                info = RouteInfo(route.path, is_probe, plain_errors)
                if "{" in route.path:
                    self._patterns.append((route.path_regex, info))
                elif route.path not in self._static or plain_errors:
                    self._static[route.path] = info
                if slash_at_end:
                    self._static[f"{route.path}/"] = info

    def add_prefix(self, prefix: str) -> None:
        """Makes errors of unknown paths plain at and below ``prefix``, too."""
        self._prefixes[f"{prefix}/"] = RouteInfo(UNMATCHED, plain_errors=True)

    def find(self, path: str) -> RouteInfo:
        """The route of ``path``, whatever the method."""
        if (info := self._static.get(path)) is not None:
            return info
        for pattern, info in self._patterns:
            if pattern.match(path):
                return info
        below = f"{path}/"
        return next((info for prefix, info in self._prefixes.items() if below.startswith(prefix)), RouteInfo(UNMATCHED))
