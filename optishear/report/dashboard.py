"""optuna-dashboard on this machine alone, while somebody looks at it."""

import re
from collections.abc import Callable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import BaseStorage

from optishear.errors import ConfigError


HOST = "127.0.0.1"


class Dashboard:
    """A web server that holds its port from the start, and answers once it is told of a study."""

    def __init__(self, server: WSGIServer, make_application: Callable[[BaseStorage], Any]):
        self.study_id = self._shown = -1  # set the first when the study was written anew
        self._server, self._make = server, make_application
        self._application: Any = None
        self._thread: Thread | None = None

    def show(self, storage: BaseStorage, study_id: int) -> str:
        """Serves the storage from now on; where to look at this study."""
        self.study_id = self._shown = study_id
        self._application = self._make(storage)
        self._server.set_app(self._answer)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return f"http://{HOST}:{self._server.server_port}/dashboard/studies/{study_id}"

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Pages that are open ask for the study under the number that it had at first."""
        shown = rf"(?<=^/api/studies/){self._shown}(?=/|$)"
        environ["PATH_INFO"] = re.sub(shown, str(self.study_id), environ["PATH_INFO"])
        return self._application(environ, start_response)

    def close(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def open_dashboard(port: int) -> Dashboard:
    """Raises `ConfigError` where the package is missing or the port is taken; 0 is any free one."""
    try:
        from optuna_dashboard import wsgi  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            'The dashboard needs the package optuna-dashboard: `pip install "optishear[dashboard]"`'
            ", or give --no-serve and open the study elsewhere."
        ) from None
    try:
        server = make_server(HOST, port, None, _Threaded, _Quiet)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot be listened on ({error.strerror}). Choose another one."
        ) from None
    return Dashboard(server, wsgi)


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...
