"""One request to stop may arrive several times."""

import os
import signal
import threading

from ofq.training.signals import Stop


def test_a_repeat_of_the_request_does_not_interrupt_what_tells_of_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = Stop(saved=3)
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        # From a caller that passes it on, when the step is saved already.
        repeat = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        repeat.start()
    assert not repeat.is_alive() and stop.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
