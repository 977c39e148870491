"""A thread for each connection; the host makes as many as the function's concurrency asks for."""

import socket
from threading import Thread, current_thread

from . import report, server
from .wire import BadResponse


class Server(server.Server):
    """Handlers of events in threads."""

    def run(self):
        """Serves until SIGTERM. Requests in hand are finished first."""
        self._threads = {}
        super().run()
        for thread, connection in list(self._threads.items()):
            if connection.resting:
                try:
                    connection.sock.shutdown(socket.SHUT_RD)
                except OSError:
                    pass  # it has ended by itself
            thread.join()

    def _meet(self, connection):
        thread = Thread(target=self._work, args=(connection,))
        self._threads[thread] = connection
        try:
            thread.start()
        except RuntimeError as error:
            del self._threads[thread]
            self._starve(connection, error)

    def _starve(self, connection, error):
        answer = report.failure("handler_error", "RuntimeError", "%s: raise pids in its settings" % error, [])
        try:
            connection.head()
            connection.write(*answer, True)
        except Exception:
            pass  # the host learns by the end of the connection
        connection.sock.close()

    def _work(self, connection):
        try:
            # Rest is announced before the look at the flag, and the flag set before the look for who rests.
            while not self._stopping and self._serve(connection):
                connection.resting = True
        finally:
            connection.sock.close()
            self._threads.pop(current_thread(), None)

    def _await(self, result):
        raise BadResponse("the handler runs in a thread and gave a %s to await; make it async" % type(result).__name__)
