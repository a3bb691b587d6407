#!/usr/bin/env python3
"""A small ackring client, standard library only: python3 ackring_minimal.py HOST PORT [QUEUE]"""
import os
import socket
import struct
import sys

HELLO, QUEUE_OPEN, ENQUEUE, RESERVE, SETTLE = 1, 3, 16, 17, 18
REPLY, ERROR, ACK, NOTE = 0x8000, 0x80, 1, 1


class AckringError(Exception):
    """The server said no. `code` is stable; `error_class` says what to do (PROTOCOL.md, section 7)."""

    def __init__(self, code, error_class, retry_ms, text):
        super().__init__(f"code {code}: {text}")
        self.code, self.error_class, self.retry_ms = code, error_class, retry_ms


def pad(data):
    return data + bytes(-len(data) % 8)


def blob(data):
    return pad(struct.pack("<I", len(data)) + data)


class Client:
    def __init__(self, host, port, timeout=10):
        self.socket = socket.create_connection((host, port), timeout)
        self.correlation = self.number = 0
        body = struct.pack("<HHIII", 1, 1, 0, 0, 0) + os.urandom(16) + blob(b"ackring_minimal.py")
        self.call(HELLO, body)

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return data

    def call(self, op, body, aux=0):
        self.correlation += 1
        body = pad(body)
        self.socket.sendall(struct.pack("<IHBBII", 16 + len(body), op, 0, 2, self.correlation, aux) + body)
        length, reply, flags, _, correlation, _ = struct.unpack("<IHBBII", self.read(16))
        answer = self.read(length - 16)
        if flags & ERROR:
            code, error_class, _, retry_ms, size = struct.unpack_from("<HBBII", answer)
            raise AckringError(code, error_class, retry_ms, answer[12:12 + size].decode())
        assert (reply, correlation) == (op | REPLY, self.correlation), "one call at a time, so it is the next answer"
        return answer

    def numbered(self):
        self.number += 1
        return struct.pack("<Q", self.number)

    def outcome(self, answer):
        level, _, _, count, ids, errors = struct.unpack_from("<BBHIII", answer)
        lines = [struct.unpack_from("<IHH", answer, 16 + 8 * ids + 8 * n)[:2] for n in range(errors)]
        return level, count, struct.unpack_from(f"<{ids}Q", answer, 16), lines

    def open(self, name):
        return struct.unpack_from("<I", self.call(QUEUE_OPEN, blob(name.encode())))[0]

    def enqueue(self, handle, payloads):
        entries = b"".join(struct.pack("<QQIIHHBBH", 0, 0, len(p), 0, 0, 0, 0, 0, 0) for p in payloads)
        body = self.numbered() + struct.pack("<II", len(payloads), 0) + entries + b"".join(map(pad, payloads))
        return self.outcome(self.call(ENQUEUE, body, handle))

    def reserve(self, handle, max_jobs=1, wait_ms=1000):
        answer = self.call(RESERVE, self.numbered() + struct.pack("<IIIIIII", max_jobs, wait_ms, 0, 0, 1, 0, handle))
        jobs, at = [], 8
        for _ in range(struct.unpack_from("<I", answer)[0]):
            job, _, _, size, _, meta, attempt = struct.unpack_from("<QQIIIHH", answer, at)
            jobs.append((job, attempt, answer[at + 40 + meta:at + 40 + meta + size]))
            at += 40 + meta + size + -(meta + size) % 8
        return jobs

    def ack(self, job, attempt, result=None):
        entry = struct.pack("<QIHBB", job, 0, attempt, ACK, NOTE if result is not None else 0)
        note = blob(result) if result is not None else b""
        return self.outcome(self.call(SETTLE, self.numbered() + struct.pack("<II", 1, 0) + entry + note))


if __name__ == "__main__":
    client = Client(sys.argv[1], int(sys.argv[2]))
    queue = client.open(sys.argv[3] if len(sys.argv) > 3 else "minimal")
    level, count, ids, errors = client.enqueue(queue, [b"hello from python"])
    print(f"enqueued {ids[0]:016x} at level {level}")
    for job, attempt, payload in client.reserve(queue):
        print(f"reserved {job:016x} attempt {attempt}: {payload.decode()}")
        level, count, _, errors = client.ack(job, attempt, b"done")
        print(f"acked {count}, errors {errors}")
