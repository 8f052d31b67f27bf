"""Redirect (RFC 5685): in IKE_SA_INIT, in IKE_AUTH, and from an established IKE_SA; loops,
forgeries and identities that mean nothing."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair import CONNECTION, connection, gateway_config

from ipseclab.errors import InvalidSyntax
from ipseclab.gateway import Gateway
from ipseclab.ike.config import Retransmission
from ipseclab.ike.redirect.notifies import read_redirect, redirect_data
from ipseclab.ike.redirect.settings import Redirect, RedirectWhen
from ipseclab.outputs import Notice, SendDatagram, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NotifyPayload

CLIENT, FIRST, SECOND = "192.0.2.1", "198.51.100.1", "198.51.100.9"
FOLLOWS = Redirect(follow=True)
QUICK = Retransmission(timeout=0.5, base=1.2, tries=4)


class Net:
    """A client and two gateways of one identity, in virtual time; by address."""

    def __init__(
        self,
        client: Redirect | None = FOLLOWS,
        first: Redirect | None = None,
        second: Redirect | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.fate: Callable[[SendDatagram], int] = lambda sent: 1
        self.notices: list[tuple[str, Notice]] = []
        self.sent: list[SendDatagram] = []
        self._queue: list[tuple[float, int, SendDatagram]] = []
        self._count = 0
        settings = {CLIENT: client, FIRST: first, SECOND: second}
        self.gateways: dict[str, Gateway] = {}
        for address, redirect in settings.items():
            side = 0 if address == CLIENT else 1
            changes: dict[str, object] = {"redirect": redirect, "retransmission": QUICK}
            if side:
                changes["own_address"] = address
            config = gateway_config(connection(side, **changes), name=address)
            self.gateways[address] = Gateway(config, rng=random.Random(f"{seed}/{address}"))

    def do(self, address: str, method: str, *arguments: object) -> None:
        """Call a method of a gateway now."""
        self._take(address, getattr(self.gateways[address], method)(*arguments, self.now))

    def _take(self, address: str, outputs: list[object]) -> None:
        for output in outputs:
            if isinstance(output, Notice):
                self.notices.append((address, output))
            elif isinstance(output, SendDatagram):
                self.sent.append(output)
                for _ in range(self.fate(output)):
                    self._count += 1
                    heapq.heappush(self._queue, (self.now + 0.01, self._count, output))

    def run(self, seconds: float) -> None:
        """Go on for a while."""
        end = self.now + seconds
        while True:
            events = [(self._queue[0][0], "")] if self._queue else []
            for address, gateway in self.gateways.items():
                deadline = gateway.next_deadline()
                if deadline is not None:
                    events.append((max(self.now, deadline.at), address))
            if not events or min(events)[0] > end:
                break
            self.now, address = min(events)
            if address:
                self.do(address, "handle_timeout")
                continue
            sent = heapq.heappop(self._queue)[2]
            path = UdpPath(sent.path.remote, sent.path.local)
            self.do(path.local.address, "receive_datagram", path, sent.data)
        self.now = end

    def connect(self) -> None:
        """The client sets its connection up."""
        self.do(CLIENT, "initiate", CONNECTION)
        self.run(2.0)

    def where(self) -> list[str]:
        """The peers of the client's IKE_SAs that have a CHILD_SA."""
        sas = self.gateways[CLIENT].ike.ike_sas
        return [sa.path.remote.address for sa in sas if sa.children]

    def said(self, event: str, address: str = CLIENT) -> list[Notice]:
        """The notices of that name."""
        return [notice for who, notice in self.notices if (who, notice.event) == (address, event)]

    def messages(self, exchange: ExchangeType) -> list[tuple[SendDatagram, Message]]:
        """What was sent in that exchange."""
        found = [(sent, decode_message(sent.data)) for sent in self.sent]
        return [(sent, message) for sent, message in found if message.exchange == exchange]


def away(when: RedirectWhen, to: str = SECOND, above: int = 0) -> Redirect:
    return Redirect(to=to, when=when, above=above)


def test_in_ike_sa_init_without_state_and_with_the_nonce():
    net = Net(first=away(RedirectWhen.INIT))
    net.connect()
    assert net.where() == [SECOND]
    assert net.gateways[FIRST].ike.table_sizes["ike_sas"] == 0
    assert net.gateways[FIRST].counters["ike.redirected"] == 1
    (_, asked), (_, sent_away), (again, request), *_ = net.messages(ExchangeType.IKE_SA_INIT)
    assert asked.notify(NotifyType.REDIRECT_SUPPORTED).data == b""
    nonce = next(p.data for p in asked.payloads if p.payload_type.name == "NONCE")
    assert sent_away.notify(NotifyType.REDIRECT).data == redirect_data(SECOND, nonce)
    assert again.path.remote.address == SECOND
    assert request.notify(NotifyType.REDIRECTED_FROM).data == redirect_data(FIRST)


def test_in_ike_auth_and_the_first_ike_sa_is_closed():
    net = Net(first=away(RedirectWhen.AUTH))
    net.connect()
    assert net.where() == [SECOND]
    assert [sa.path.remote.address for sa in net.gateways[CLIENT].ike.ike_sas] == [SECOND]
    assert net.gateways[FIRST].ike.ike_sas == ()


def test_an_established_client_is_sent_away_and_leaves_when_the_new_tunnel_stands():
    net = Net(first=away(RedirectWhen.ASKED))
    net.connect()
    assert net.where() == [FIRST]
    net.do(FIRST, "redirect", CONNECTION)
    net.run(2.0)
    assert net.where() == [SECOND]
    assert net.gateways[FIRST].ike.ike_sas == ()
    events = [notice.event for who, notice in net.notices if who == CLIENT]
    assert events.index("ike_gone") > len(events) - events[::-1].index("ike_established") - 1


def test_a_new_gateway_that_is_not_there_leaves_the_client_where_it_is():
    net = Net(first=away(RedirectWhen.ASKED, to="198.51.100.77"))
    net.gateways["198.51.100.77"] = net.gateways[SECOND]
    net.connect()
    net.fate = lambda sent: "198.51.100.77" not in str(sent.path)
    net.do(FIRST, "redirect", CONNECTION)
    net.run(30.0)
    assert net.where() == [FIRST]


@pytest.mark.parametrize("when", [RedirectWhen.INIT, RedirectWhen.AUTH, RedirectWhen.ASKED])
def test_a_client_that_does_not_follow_is_served(when):
    net = Net(client=None, first=away(when))
    net.connect()
    net.do(FIRST, "redirect", CONNECTION)
    net.run(1.0)
    assert net.where() == [FIRST]


def test_only_clients_above_a_number_are_sent_away():
    net = Net(first=away(RedirectWhen.INIT, above=1))
    net.connect()
    assert net.where() == [FIRST]
    net.do(CLIENT, "delete_ike", CONNECTION)
    net.run(1.0)
    net.connect()
    assert net.where() == [FIRST]


def test_a_gateway_does_not_send_back_who_was_sent_by_the_other():
    net = Net(first=away(RedirectWhen.INIT), second=away(RedirectWhen.INIT, to=FIRST))
    net.connect()
    assert net.where() == [SECOND]


def test_a_loop_ends_after_five_redirections_and_is_forgotten_after_five_minutes():
    net = Net(first=away(RedirectWhen.AUTH), second=away(RedirectWhen.AUTH, to=FIRST))
    net.connect()
    net.run(20.0)
    assert len(net.said("redirected")) == 5
    assert [n.details["reason"] for n in net.said("redirect_ignored")] == ["loop"]
    assert net.gateways[CLIENT].ike.ike_sas == ()
    net.run(300.0)
    net.connect()
    assert len(net.said("redirected")) > 5


def test_a_gateway_by_name_is_known_from_the_configuration_alone():
    known = Redirect(follow=True, names=(("b.example.org", SECOND),))
    for client, place in ((known, [SECOND]), (FOLLOWS, [])):
        net = Net(client=client, first=away(RedirectWhen.INIT, to="b.example.org"))
        net.connect()
        assert net.where() == place


@pytest.mark.parametrize("to", [FIRST, "2001:db8::1", "nowhere.example"])
def test_where_nobody_can_go_nobody_goes(to):
    net = Net(first=away(RedirectWhen.ASKED, to=to))
    net.connect()
    net.do(FIRST, "redirect", CONNECTION)
    net.run(2.0)
    assert net.where() == [FIRST]
    assert len(net.said("redirect_ignored")) == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x01\x04\xc6", redirect_data(SECOND), redirect_data(SECOND, bytes(32)),
     b"\x09\x01x" , b"\x03\x00"],
)  # fmt: skip
def test_a_forged_redirection_is_dropped_and_the_true_answer_taken(data):
    net = Net()
    net.fate = lambda sent: sent.path.local.address != FIRST
    net.do(CLIENT, "initiate", CONNECTION)
    net.run(0.1)
    request = decode_message(net.sent[0].data)
    forged = Message(
        request.spi_i, bytes(8), request.exchange, False, True, 0,
        (NotifyPayload(NotifyType.REDIRECT, data),),
    )  # fmt: skip
    path = net.sent[0].path
    net.do(CLIENT, "receive_datagram", path, forged.encode())
    assert net.gateways[CLIENT].counters["ike.init_refused"] == 1
    net.fate = lambda sent: 1
    net.run(5.0)
    assert net.where() == [FIRST]


@pytest.mark.parametrize("when", list(RedirectWhen))
@pytest.mark.parametrize("seed", range(4))
def test_messages_lost_and_repeated(when, seed):
    net = Net(first=away(when), seed=seed)
    rng = random.Random(seed)
    net.fate = lambda sent: rng.choice((0, 1, 1, 1, 1, 2))
    net.connect()
    net.run(10.0)
    net.fate = lambda sent: 1
    if when is RedirectWhen.ASKED:
        net.do(FIRST, "redirect", CONNECTION)
    net.run(20.0)
    net.connect()
    assert net.where() == [SECOND]


@given(st.binary(max_size=80))
def test_any_octets_are_read_or_refused(data):
    try:
        gateway, rest = read_redirect(data)
    except InvalidSyntax:
        return
    assert redirect_data(gateway, rest)[1:] == data[1:]


def test_same_seed_same_octets():
    def octets():
        net = Net(first=away(RedirectWhen.INIT), seed=3)
        net.connect()
        return net.sent

    assert octets() == octets()
