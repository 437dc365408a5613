"""A proxy before a server that delays answers, and drops connections, as a bad network does."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """drops: whether the connection with this number is cut after a part of the answer; seconds: delay before each answer."""

    def __init__(self, host: str, port: int) -> None:
        self.target, self.seconds, self.count = (host, port), 0.0, 0
        self.drops: Callable[[int], bool] = lambda number: False
        self.url = ""

    def carry(self, client: socket.socket) -> None:
        """Both directions, until either side ends."""
        self.count += 1
        dropped = self.drops(self.count)
        with suppress(OSError), socket.create_connection(self.target) as server:
            forward = threading.Thread(target=_copy, args=(client, server), daemon=True)
            forward.start()
            time.sleep(self.seconds)
            left = 60 if dropped else None
            with suppress(OSError):
                while (left is None or left > 0) and (data := server.recv(65536 if left is None else left)):
                    client.sendall(data)
                    left = None if left is None else left - len(data)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _copy(origin: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := origin.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def before(url: str) -> Iterator[Proxy]:
    """A proxy before http://HOST:PORT; its `url` is used instead."""
    host, _, port = url.rpartition("//")[2].partition(":")
    proxy = Proxy(host, int(port))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            proxy.carry(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield proxy
        server.shutdown()
