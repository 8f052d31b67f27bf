"""The post office between two gateways: every IKE message waits until a test has it delivered."""

from __future__ import annotations

from pair import Fate, Pair, Sent


class Post:
    """Holds IKE messages of a Pair, lets ESP pass. A message is named by its sender, exchange and
    kind: "a CREATE_CHILD_SA request"; of several of a name the one sent first is meant."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.held: list[Sent] = []
        pair.fate = self._hold

    def _hold(self, sent: Sent) -> Fate:
        if sent.header is None:
            return (0.0,)
        self.held.append(sent)
        return ()

    @property
    def names(self) -> list[str]:
        """What is held, in the order of sending."""
        return [name_of(sent) for sent in self.held]

    def take(self, name: str) -> Sent:
        """Take a message out of the post: it is lost unless the test does something with it."""
        assert name in self.names, f"{name} is not among {self.names}"
        return self.held.pop(self.names.index(name))

    def deliver(self, *names: str) -> None:
        """Let those messages arrive now, one after the other."""
        for name in names:
            self.deliver_sent(self.take(name))

    def deliver_sent(self, sent: Sent) -> None:
        """Let that message arrive now; it may be no longer held."""
        if sent in self.held:
            self.held.remove(sent)
        self.pair.release(sent)
        self.pair.run(0.0)

    def open(self, rest: float = 0.0) -> None:
        """Deliver all that is held and hold nothing from now on; then go on for `rest` seconds."""
        self.pair.fate = lambda sent: (0.0,)
        held, self.held = self.held, []
        for sent in held:
            self.pair.release(sent)
        self.pair.run(rest)


def name_of(sent: Sent) -> str:
    """Sender, exchange, kind."""
    header = sent.header
    assert header is not None
    kind = "response" if header.response else "request"
    return f"{'ab'[sent.sender]} {header.exchange.name} {kind}"
