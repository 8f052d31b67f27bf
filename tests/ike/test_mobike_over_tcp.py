"""MOBIKE between UDP and TCP (RFC 9329 section 7.1): networks that let UDP through, and some that
do not."""

from __future__ import annotations

from pair import CONNECTION
from roaming import CAFE, HOME, OFFICE, addresses_of
from streams import StreamPair, make_stream_pair

from ipseclab.ike.config import TcpUse
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.outputs import TcpPath

HOTEL = CAFE
"""An address from which nothing but TCP passes."""


class Travelling:
    """A pair whose end a moves; in the hotel UDP is blocked, and what comes from or goes to an
    address that a has not is lost."""

    def __init__(self, tcp: TcpUse) -> None:
        both = {"tcp": tcp, "mobike": Mobike()}
        self.pair: StreamPair = make_stream_pair(both=both)
        self.here = HOME
        self.blocked = {HOTEL}
        self.pair.fate = self.fate
        self.pair.refuse = lambda path: path.local.address != self.here
        self.pair.connect()

    def fate(self, sent):
        mine = addresses_of(sent)[sent.sender]
        return () if mine != self.here or mine in self.blocked else (0.0,)

    def move(self, address: str) -> None:
        """End a has that address, and no other; what it had in TCP is dead."""
        self.here = address
        for pipe in self.pair.standing:
            pipe.closed = [True, True]
        self.pair.do(0, "change_addresses", (address,))

    @property
    def paths(self) -> list[object]:
        return [gateway.ike.ike_sas[0].path for gateway in self.pair.gateways]

    def works(self, *, in_tcp: bool) -> None:
        """Both ends use the same way, and packets pass."""
        own, peer = self.paths
        assert isinstance(own, TcpPath) is isinstance(peer, TcpPath) is in_tcp
        assert own.local.address == peer.remote.address == self.here
        assert len(self.pair.standing) == int(in_tcp)
        for side in (0, 1):
            packet = self.pair.send(side, 77)
            self.pair.run(0.2)
            assert self.pair.delivered[1 - side][-1:] == [packet]
        assert len(self.pair.events("ike_established")) == 2  # one handshake in all


def test_udp_is_tried_first_in_a_new_network_and_tcp_after_it():
    lab = Travelling(TcpUse.FALLBACK)
    lab.works(in_tcp=False)
    lab.move(HOTEL)
    lab.pair.run(5.0)
    assert not lab.pair.pipes  # UDP has its chance
    lab.pair.run(60.0)
    lab.works(in_tcp=True)
    assert lab.pair.events("addresses_updated", 0)
    assert lab.pair.events("fell_back", 0)


def test_back_in_a_network_with_udp_it_is_udp_again():
    lab = Travelling(TcpUse.FALLBACK)
    lab.move(HOTEL)
    lab.pair.run(60.0)
    lab.works(in_tcp=True)
    lab.move(HOME)
    lab.pair.run(10.0)
    lab.works(in_tcp=False)
    assert all(any(pipe.closed) for pipe in lab.pair.pipes)


def test_always_tcp_opens_a_connection_from_the_new_address():
    lab = Travelling(TcpUse.ALWAYS)
    lab.works(in_tcp=True)
    sent = len(lab.pair.sent)
    lab.move(HOTEL)
    lab.pair.run(5.0)
    lab.works(in_tcp=True)
    assert len(lab.pair.sent) == sent  # nothing in UDP


def test_udp_that_is_blocked_in_mid_session_is_left():
    lab = Travelling(TcpUse.FALLBACK)
    lab.works(in_tcp=False)
    lab.blocked.add(HOME)
    lab.pair.do(0, "check_liveness", CONNECTION)
    lab.pair.run(60.0)
    lab.works(in_tcp=True)


def test_rekey_under_way_goes_on_in_tcp():
    lab = Travelling(TcpUse.FALLBACK)
    lab.blocked.add(HOME)
    lab.pair.do(0, "rekey_child", CONNECTION)
    lab.pair.run(60.0)
    assert lab.pair.events("rekey_done", 0)
    lab.works(in_tcp=True)


def test_the_one_who_decides_falls_back_after_the_others_rekey_too():
    lab = Travelling(TcpUse.FALLBACK)
    lab.pair.do(1, "rekey_ike", CONNECTION)
    lab.pair.run(1.0)
    lab.move(HOTEL)
    lab.pair.run(60.0)
    lab.works(in_tcp=True)
    assert {pipe.opener for pipe in lab.pair.pipes} == {0}
    assert lab.paths[0].remote.address == OFFICE


def test_broken_connection_in_the_hotel_is_opened_again_with_an_update():
    lab = Travelling(TcpUse.FALLBACK)
    lab.move(HOTEL)
    lab.pair.run(60.0)
    before = len(lab.pair.events("addresses_updated", 0))
    lab.pair.break_all()
    lab.pair.run(5.0)
    lab.works(in_tcp=True)
    assert len(lab.pair.events("addresses_updated", 0)) == before + 1
