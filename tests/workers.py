"""Workers of pytest-xdist as forked processes, which have imported the libraries already.

pytest-xdist starts a worker as ``python -c`` with a line that reads from its standard input what to
do. That takes five seconds of imports. Here that line runs in a process forked from one that the
run of pytest has started before anything else, when it had no threads.
"""

import os
import signal
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle


def fork_workers() -> None:
    """Have execnet ask a process that is forked here for workers, instead of starting them."""
    import execnet.gateway_io
    from execnet.gateway_base import Popen2IO

    here, there = Pipe()
    server = os.fork()
    if not server:
        here.close()
        _serve(there)
        os._exit(0)
    there.close()

    class ForkedWorkerIO(Popen2IO):
        def __init__(self, args, execmodel):
            assert args[0] == sys.executable
            (own_in, own_out), (its_in, its_out) = os.pipe(), os.pipe()
            here.send(dict(os.environ))
            for descriptor in (its_in, own_out):
                send_handle(here, descriptor, server)
                os.close(descriptor)
            self.pid = here.recv()
            super().__init__(os.fdopen(its_out, "wb"), os.fdopen(own_in, "rb"), execmodel)

        def wait(self):
            while _is_alive(self.pid):
                time.sleep(0.01)

        def kill(self):
            if _is_alive(self.pid):
                os.kill(self.pid, signal.SIGKILL)

    execnet.gateway_io.Popen2IOMaster = ForkedWorkerIO


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _serve(requests: Connection) -> None:
    """Fork a worker for each request, until nobody is left who asks."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a worker that ends leaves nothing
    while True:
        try:
            environment = requests.recv()
        except EOFError:
            return
        descriptors = [recv_handle(requests) for _ in range(2)]
        worker = os.fork()
        if not worker:
            requests.close()
            _work(environment, descriptors)
            os._exit(0)
        requests.send(worker)
        for descriptor in descriptors:
            os.close(descriptor)


def _work(environment: dict[str, str], descriptors: list[int]) -> None:
    """Do what is written to the first of two descriptors, and write to the second."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.argv = ["-c"]
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
