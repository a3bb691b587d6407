#!/usr/bin/env python3
"""Holds the client to the golden bytes in tests/vectors: python3 test_vectors.py [DIRECTORY]"""
import os
import sys

from ackring_minimal import AckringError, Client

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../../tests/vectors")
JOB = 0x0000_0001_0000_002A


def vector(name):
    with open(os.path.join(VECTORS, name + ".hex"), encoding="utf-8") as file:
        return bytes(int(byte, 16) for line in file for byte in line.split("#")[0].split())


class Wire:
    """A socket that gives one answer and keeps what was sent."""

    def __init__(self, answer):
        self.answer, self.sent = answer, b""

    def sendall(self, data):
        self.sent += data

    def recv(self, count):
        part, self.answer = self.answer[:count], self.answer[count:]
        return part


def call(request, reply, correlation, number, method, *arguments):
    """What the client makes of the golden reply; what it sent must be the golden request, if there is one."""
    client = Client.__new__(Client)
    client.socket = Wire(vector(reply))
    client.correlation, client.number = correlation - 1, number - 1
    try:
        return method(client, *arguments)
    finally:
        assert request is None or client.socket.sent == vector(request), f"{request}: {client.socket.sent.hex(' ')}"
        assert client.socket.answer == b"", f"{reply} was not read to its end"


def main():
    assert call("queue_open_request", "queue_open_reply", 3, 1, Client.open, "mail") == 1
    enqueue = ("enqueue_request", Client.enqueue, 1, [b"hello"])
    request, method, *arguments = enqueue
    assert call(request, "enqueue_reply", 11, 1, method, *arguments) == (2, 1, (JOB,), [])
    full = call(None, "enqueue_full_reply", 12, 6, method, *arguments)
    assert full == (3, 2, (JOB, 0x1_0000_0007, 0), [(1, 2), (2, 18)]), full
    assert call("reserve_request", "reserve_reply", 13, 2, Client.reserve, 1) == [(JOB, 1, b"hello")]
    assert call("reserve_request", "reserve_empty_reply", 13, 2, Client.reserve, 1) == []
    assert call("settle_request", "settle_reply", 14, 3, Client.ack, JOB, 1) == (2, 1, (), [])
    lost = call(None, "settle_full_reply", 15, 7, Client.ack, JOB, 1)
    assert lost == (2, 5, (), [(3, 16)]), lost
    try:
        call(request, "error_reply", 11, 1, method, *arguments)
    except AckringError as error:
        assert (error.code, error.error_class, error.retry_ms) == (34, 2, 100), error
    else:
        raise AssertionError("a refusal is an exception")
    # As HELLO, whose session is random, the name is the client's own: the rest is as the golden one.
    client = Client.__new__(Client)
    client.socket, client.correlation, client.number = Wire(vector("hello_reply")), 0, 0
    assert client.call(1, vector("hello_request")[16:]) == vector("hello_reply")[16:]
    assert client.socket.sent == vector("hello_request")
    print("5 requests and 9 answers as in the golden bytes")


if __name__ == "__main__":
    main()
