"""`ipseclab calibrate`: what this machine needs for each operation that the simulator charges for.

Most figures are the least of several repetitions: what disturbs a measurement only ever adds to it.
"""

from __future__ import annotations

import multiprocessing
import platform
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from multiprocessing import cpu_count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

from ipseclab.crypto.kex import KE_METHODS, KeyExchange, MlKem
from ipseclab.crypto.protection import AeadProtection, Suite
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.handshakes_in_lab import processing_seconds
from ipseclab.measure.worker import RunFailed
from ipseclab.measure.workload import (
    datapath_pair,
    esp_suites,
    gateway_pair,
    handshake,
    inner_packet,
    open_packets,
    seal_packets,
)
from ipseclab.outputs import Output
from ipseclab.registry import KeMethod
from ipseclab.sim.costs import ENCAPSULATE, CostTable, PacketCost

SMALL, LARGE = 64, 1400
"""Octets of the inner packets between which an octet's price is found."""

ESP_BATCH = 200
ECHO_BATCH = 200
ECHO_TIMEOUT = 10.0
SLEEPY_ECHOES = 50
LARGEST_ANSWER = 16
PING, STEP = b"ping", b"step"
MESSAGES_OF_HANDSHAKE = 4
"""IKE_SA_INIT and IKE_AUTH, a request and a response each; each is made once and taken in once."""
STEPS_OF_HANDSHAKE = MESSAGES_OF_HANDSHAKE + 1

IKE_PROPOSAL = "aes128gcm16-prfsha256-x25519"
ESP_PROPOSAL = "aes128gcm16"

Progress = Callable[[float, str], None]
"""Told the share that is done (0 to 1) and what comes next."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one figure is measured (s), and how often at least; how many handshakes are made,
    and how long is waited before each of their steps (s)."""

    seconds: float = 0.1
    repetitions: int = 3
    handshakes: int = 15
    pause: float = 0.02
    in_lab: int = 15
    """Handshakes of two gateways in namespaces, where the machine has them; 0: none."""

    def least(self, measure: Callable[[], float]) -> float:
        """The least that `measure` returned, after a first time that fills caches."""
        measure()
        found, count, end = inf, 0, perf_counter() + self.seconds
        while count < self.repetitions or perf_counter() < end:
            found = min(found, measure())
            count += 1
        return found


def calibrate(
    progress: Progress | None = None, effort: Effort | None = None, *, folder: Path | None = None
) -> CostTable:
    """Measure this machine; some seconds with the usual effort. `folder` is for a run of gateways
    in namespaces, and gone afterwards; without one there is none."""
    effort = effort if effort is not None else Effort()
    suites = esp_suites()
    steps = len(KE_METHODS) + len(suites) + 3
    done = 0

    def begin(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / steps, what)
        done += 1

    ke_generate, ke_agree = {}, {}
    for method, exchange in KE_METHODS.items():
        begin(method.name)
        ke_generate[method.name] = generate_seconds(exchange, effort)
        ke_agree[method.name] = agree_seconds(exchange, effort)
        if isinstance(exchange, MlKem):
            ke_agree[f"{method.name} {ENCAPSULATE}"] = respond_seconds(exchange, effort)
    esp_seal, esp_open = {}, {}
    for text, suite in suites.items():
        begin(text)
        esp_seal[text], esp_open[text] = esp_costs(suite, effort)
    with _peer() as own:
        begin("UDP between two processes")
        forward, asleep = echo_seconds(own, effort)
        begin("IKE messages")
        x25519 = KeMethod.CURVE25519.name
        generate, agree = ke_generate[x25519], ke_agree[x25519]
        message = message_seconds(own, 2 * (generate + agree), asleep, effort)
    begin("handshakes in namespaces")
    # Whoever begins has generated before the first message leaves.
    message = lab_message_seconds(generate + 2 * agree, asleep, effort, message, folder)
    if progress is not None:
        progress(1.0, "done")
    return CostTable(
        machine=f"{platform.machine()}, {cpu_count()} CPUs, Python {platform.python_version()}",
        ike_message=message,
        ke_generate=ke_generate,
        ke_agree=ke_agree,
        esp_seal=esp_seal,
        esp_open=esp_open,
        forward=forward,
        wake=max(0.0, asleep - forward),
    )


def seconds_of(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    before = perf_counter()
    action()
    return perf_counter() - before


def generate_seconds(exchange: KeyExchange, effort: Effort) -> float:
    """Seconds to make a key pair."""
    rng = random.Random(1)
    return effort.least(lambda: seconds_of(lambda: exchange.generate(rng)))


def agree_seconds(exchange: KeyExchange, effort: Effort) -> float:
    """Seconds to compute a shared secret."""
    own = exchange.generate(random.Random(1))
    reply = exchange.respond(own.public, random.Random(2)).public
    return effort.least(lambda: seconds_of(lambda: own.agree(reply)))


def respond_seconds(exchange: KeyExchange, effort: Effort) -> float:
    """Seconds for all that a responder does."""
    public, rng = exchange.generate(random.Random(1)).public, random.Random(2)
    return effort.least(lambda: seconds_of(lambda: exchange.respond(public, rng)))


def message_seconds(
    own: socket.socket, key_exchange: float, asleep: float, effort: Effort
) -> float:
    """Seconds to make an IKE message, or to take one in: half of a handshake's share a message.

    `key_exchange`: what generating and agreeing take in a whole handshake, both ends together;
    `asleep`: what a datagram takes to a process that sleeps. The lower quartile of handshakes whose
    steps another process does, each when a datagram wakes it, as a gateway works: caches are cold
    then, while ESP packets come in trains.
    """

    def once(seed: int) -> float:
        _ask(own, b"%d" % seed)
        return sum(_asked_after(own, effort.pause) - 2 * asleep for _ in range(STEPS_OF_HANDSHAKE))

    whole = _lower_quartile(once(seed) for seed in range(effort.handshakes))
    return max(0.0, whole - key_exchange) / (2 * MESSAGES_OF_HANDSHAKE)


def lab_message_seconds(
    key_exchange: float, asleep: float, effort: Effort, otherwise: float, folder: Path | None
) -> float:
    """As `message_seconds`, of two gateways in namespaces with all that they do beside: sockets,
    devices, traces. `otherwise` where the machine has no namespaces, or there is no folder."""
    try:
        found = processing_seconds(effort.in_lab, folder) if effort.in_lab and folder else []
    except (EnvironmentLacks, RunFailed):
        found = []
    if not found:
        return otherwise
    # From the first sending on: the first message's making is over, each is taken in once.
    pieces = 2 * MESSAGES_OF_HANDSHAKE - 1
    return max(0.0, median(found) - key_exchange - MESSAGES_OF_HANDSHAKE * asleep) / pieces


def esp_costs(suite: Suite, effort: Effort) -> tuple[PacketCost, PacketCost]:
    """What sealing and opening cost under that suite: a straight line through two packet sizes."""
    small, large = (esp_seconds(suite, octets, effort) for octets in (SMALL, LARGE))
    return _line(small[0], large[0]), _line(small[1], large[1])


def _line(small: float, large: float) -> PacketCost:
    octet = max(0.0, (large - small) / (LARGE - SMALL))
    return PacketCost(packet=max(0.0, small - SMALL * octet), octet=octet)


def esp_seconds(suite: Suite, octets: int, effort: Effort) -> tuple[float, float]:
    """Seconds a packet of that many octets, through the whole datapath: sealed, and opened."""
    sender, receiver = datapath_pair(suite)
    packet = inner_packet(octets)
    opening = inf

    def once() -> float:
        nonlocal opening
        start = perf_counter()
        sealed = seal_packets(sender, packet, ESP_BATCH)
        middle = perf_counter()
        open_packets(receiver, sealed)
        opening = min(opening, perf_counter() - middle)
        return middle - start

    sealing = effort.least(once)
    return sealing / ESP_BATCH, opening / ESP_BATCH


def cipher_seconds(suite: Suite, octets: int, effort: Effort) -> float:
    """Seconds to seal so many octets under an AEAD that writes into a buffer, and nothing else."""
    protection = suite.keyed(bytes(suite.encr_key_size), bytes(suite.integ_key_size))
    assert isinstance(protection, AeadProtection)
    seal = protection.encrypt_into
    assert seal is not None
    nonce = protection.salt + bytes(suite.iv_size)
    plain, sealed = bytes(octets), memoryview(bytearray(octets + suite.icv_size))

    def batch() -> None:
        for _ in range(ESP_BATCH):
            seal(nonce, plain, b"", sealed)

    return effort.least(lambda: seconds_of(batch)) / ESP_BATCH


def echo_seconds(own: socket.socket, effort: Effort) -> tuple[float, float]:
    """Seconds for a datagram from one process to another: system calls, and waking the other up;
    in quick succession (the best batch's median), and after both have slept. Echoes, halved."""

    def batch() -> float:
        return median(seconds_of(lambda: _ask(own, PING)) for _ in range(ECHO_BATCH))

    asleep = _lower_quartile(_asked_after(own, effort.pause, PING) for _ in range(SLEEPY_ECHOES))
    return effort.least(batch) / 2, asleep / 2


def _lower_quartile(figures: Iterable[float]) -> float:
    """What a quarter of the figures undercut: what disturbs a measurement only ever adds to it."""
    return quantiles(figures, n=4)[0]


def _ask(own: socket.socket, what: bytes) -> None:
    own.send(what)
    own.recv(LARGEST_ANSWER)


def _asked_after(own: socket.socket, pause: float, what: bytes = STEP) -> float:
    sleep(pause)
    return seconds_of(lambda: _ask(own, what))


@contextmanager
def _peer() -> Iterator[socket.socket]:
    """A socket connected to another process that answers. Raises EnvironmentLacks."""
    # A fresh interpreter, not a fork: the caller may have threads (a progress bar has).
    context = multiprocessing.get_context("spawn")
    own_pipe, peer_pipe = context.Pipe()
    peer = context.Process(target=_answer, args=(peer_pipe,), daemon=True)
    peer.start()
    try:
        with _loopback_socket() as own:
            if not own_pipe.poll(ECHO_TIMEOUT):
                raise TimeoutError
            own.connect(own_pipe.recv())
            yield own
    except TimeoutError as error:
        raise EnvironmentLacks(
            "UDP over the loopback does not arrive", "ip link set lo up"
        ) from error
    finally:
        peer.terminate()
        peer.join()


def _answer(pipe: Connection) -> None:
    """The other process, until terminated: says where it is, sends a ping back, and for a number
    does the handshake of that seed, a step a datagram."""
    with _loopback_socket() as own:
        own.settimeout(None)
        pipe.send(own.getsockname())
        while True:
            data, remote = own.recvfrom(LARGEST_ANSWER)
            own.sendto(data, remote)
            if data != PING:
                _handshake_on_demand(own, seed=int(data))


def _handshake_on_demand(own: socket.socket, *, seed: int) -> None:
    def when_asked(_gateway: str, step: Callable[[], list[Output]]) -> list[Output]:
        data, remote = own.recvfrom(LARGEST_ANSWER)
        outputs = step()
        own.sendto(data, remote)
        return outputs

    initiator, responder = gateway_pair(IKE_PROPOSAL, ESP_PROPOSAL, seed=seed)
    handshake(initiator, responder, when_asked)


def _loopback_socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(ECHO_TIMEOUT)
    opened.bind(("127.0.0.1", 0))
    return opened
