#!/usr/bin/env python3
"""The node's half of a DivBase job: claims the attempt, moves the files, runs the bcftools processes, reports the end.

It must run on the oldest Python of a compute node (3.6, standard library only) and knows only what `job.json` or
`manifest.json` beside it says: docs/node-protocol.md is the whole contract. Whether it deals with the gateway or with
S3 alone is known to one class, its desk. No token and no signed URL ever reaches the log.

    divbase_node.py claim | stage | run | index | repair PATH MB | sidecar PATH | push PATH | finish STATUS [REASON]
    divbase_node.py work

`work` does the steps that the scratch folder's `steps` has, one after the other, and then `finish 0`.

Exit status: 0 done, 3 the attempt is not ours (nothing was done), 74, 75 and 76 nobody could be told (claim and finish
only: S3 away, gateway away, URLs expired), 140 and 143 stopped by a signal, 1 anything else.
"""

import base64
import bisect
import collections
import email.utils
import errno
import fcntl
import functools
import hashlib
import http.client
import json
import os
import platform
import queue
import random
import re
import resource
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse
import zlib

VERSION = "1"

TIMEOUT_S = 60  # without a byte, on any connection
RETRY_FOR_S = 600  # until the manifest says otherwise
RANGE_BYTES = 16 << 20
RANGES_IN_FLIGHT = 16
PARTS_IN_FLIGHT = 4
BUFFER_BYTES = 1 << 18
COPY_BYTES = 1 << 20
PROGRESS_EVERY_S = 2.0
PROGRESS_TIMEOUT_S = 5
RENEWALS = 3  # fresh URLs that may be refused in a row
RESENDS = 3  # times that S3 may find the bytes of a part damaged
GRACE_S = 0.5  # for the other processes to end by themselves after one failed
LOG_TAIL_BYTES = 16 << 10
LOG_BYTES = 8 << 20
SINGLE_PUT_BYTES = 5 << 30  # the most that S3 takes in one request
WORDS_BYTES = 8 << 10  # of each process's own words that are kept
LOGGED_LINES = 500  # of each process's own words that are printed
ENDING_S = {"timed_out": 40, "cancelled": 8}  # how long the last acts may take before SLURM kills the job

# Of the cache that jobs share.
CACHE_DIGEST_BYTES = 32  # SHA-256 of the name and the bytes before it, at the end of an entry
CACHE_LEAST_BYTES = 1 << 16  # that an entry counts for: the block of a parallel file system; it bounds their number too
CACHE_STEP_BYTES = 64 << 20  # that a job reserves at a time
CACHE_LOCK_FOR_S = 2.0  # that a job waits for another one's counting
CACHE_TOUCH_EVERY_S = 600  # what was used since needs no newer time
CACHE_DAY_S = 86400  # that leftovers of killed jobs live, and a count of all entries is good for

# Releases of bcftools: docs/bcftools.md has the commands that show what is said here.
OLDEST_BCFTOOLS = (1, 16)  # that DivBase is tested with
BRACES_FROM = (1, 18)  # {contig}:1-100 is understood
PLACE_OPTIONS = (b"-r", b"--regions", b"-t", b"--targets")
MERGE_IS_WRONG = ((1, 19), (1, 21))  # from, and no more: values of samples are given to others

EXIT_NOT_OURS = 3
# Nobody could be told how it ended; the same again may well work.
EXIT_UNREPORTED = {"store_unavailable": 74, "gateway_unavailable": 75, "urls_expired": 76}
EXIT_STOPPED = {"timed_out": 140, "cancelled": 143}
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

# An empty BGZF block ends every whole BGZF file; SAM specification, section 4.1.2.
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
BGZF_MAGIC = b"\x1f\x8b\x08\x04"
BGZF_EXTRA = b"\x06\x00BC\x02\x00"  # what bytes 10 to 16 of a block are wherever htslib can read it
BGZF_HEAD_BYTES = 18
BGZF_TAIL_BYTES = 8  # CRC-32 and length of what is in the block
BLOCK_BYTES = 1 << 16  # the most that a block may have, packed or not
CONTENT_BYTES = 1 << 15  # of the blocks that are made here: no zlib makes them larger than a block may be


# --- how things end ----------------------------------------------------------------------------------------------


class Failed(Exception):
    """The job has failed: `reason` is a word of the protocol's list, `message` is for the researcher."""

    def __init__(self, reason, message):
        super(Failed, self).__init__(message)
        self.reason = reason
        self.message = message


class NotOurs(Exception):
    """Somebody else has the attempt, or it is over."""


class Stopped(Exception):
    """A signal asked for the end; the message is the protocol's reason."""


class Trouble(Exception):
    """Something that may be better in a moment."""


class GaveUp(Exception):
    """Trouble that lasted too long."""


class Refused(Exception):
    """An answer of the 4xx kind, `words` being the server's own."""

    def __init__(self, status, words):
        super(Refused, self).__init__("%d %s" % (status, words))
        self.status = status
        self.words = words


# --- the log -----------------------------------------------------------------------------------------------------

_hidden = []  # type: list[str]  # secrets that must not be printed, whoever put them into a message
_log_lock = threading.Lock()


def redact(text):
    """The text without secrets and without the query part of any URL."""
    for secret in _hidden:
        text = text.replace(secret, "[hidden]")
    text = re.sub(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", r"\1?[hidden]", text)
    return re.sub(r"(?i)X-Amz-[A-Za-z0-9-]+=[^\s&\"'<>]*", "[hidden]", text)


def say(text):
    """A line in job.log; as bytes, because old Pythons in the C locale can print ASCII only."""
    with _log_lock:
        sys.stdout.flush()
        os.write(1, (redact(text) + "\n").encode("utf-8", "backslashreplace"))


def readable(size):
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return "%d %s" % (size, unit) if unit == "bytes" else "%.1f %s" % (size, unit)
        size /= 1000.0
    return ""


# --- the state between two commands ------------------------------------------------------------------------------


class State(dict):  # type: ignore[type-arg]  # dict[...] came with Python 3.9
    """What one command leaves for the next: a JSON file, mode 0600, in the scratch folder."""

    def __init__(self, folder):
        super(State, self).__init__()
        self.path = os.path.join(folder, "state.json")
        if os.path.exists(self.path):
            self.update(read_json(self.path))

    def save(self):
        write_private(self.path + ".new", json.dumps(self).encode("utf-8"))
        os.replace(self.path + ".new", self.path)


class Job(object):
    """What every command works with: the scratch folder, the state and the desk that answers for the gateway."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.state = State(scratch)
        if os.path.exists("manifest.json"):
            self.desk = ManifestDesk(read_json("manifest.json"))  # type: ManifestDesk | GatewayDesk
        else:
            ticket = read_json("job.json")
            if ticket["token"] not in _hidden:
                _hidden.append(ticket["token"])
            retry_for_s = self.manifest.get("retry_for_s", ticket.get("retry_for_s", RETRY_FOR_S))
            self.desk = GatewayDesk(ticket, retry_for_s)
        self.retry_for_s = self.desk.retry_for_s

    @property
    def manifest(self):
        return self.state.get("manifest") or {}

    def path(self, *names):
        return os.path.join(self.scratch, *names)

    def folder(self, name):
        os.makedirs(self.path(name), mode=0o700, exist_ok=True)

    def record_time(self, name, started):
        self.state.setdefault("timings", {})[name] = round(time.monotonic() - started, 3)

    def record_failure(self, reason, message):
        """Keeps the first failure for `finish`, on a full disk too: then the data makes room."""
        if self.state.get("failure"):
            return
        self.state["failure"] = {"reason": reason, "message": redact(message)[:4000]}
        if reason == "input_corrupt":
            forget_entries(self)
        try:
            self.state.save()
        except OSError:
            for name in ("tmp", "out", "in"):
                shutil.rmtree(self.path(name), ignore_errors=True)
            self.state.save()


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_noted(path):
    """The word lists that the script's `node` or `pipe` noted down: a count and so many words, each ended by NUL."""
    with open(path, "rb") as file:
        words = file.read().split(b"\0")
    noted = []
    at = 0
    while at < len(words) - 1:
        count = int(words[at].decode("ascii"))
        noted.append(words[at + 1 : at + 1 + count])
        at += 1 + count
    return noted


def write_private(path, content):
    with open_private(path) as file:
        file.write(content)


def open_private(path):
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


# --- HTTP --------------------------------------------------------------------------------------------------------

_connections = threading.local()  # every thread keeps its connections open
_tls = []  # type: list[ssl.SSLContext]  # the one TLS context, once it is needed: it takes long to make


class Answer(object):
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body


def exchange(method, url, headers, body=None, timeout=TIMEOUT_S, consume=None):
    """One request. `consume` gets the response of a 200 or 206 and must read all of it; raises Trouble, Failed."""
    parts = urllib.parse.urlsplit(url)
    pool = _connections.__dict__.setdefault("pool", {})
    connection, prefix = pool.get(parts[:2]) or connect(parts, timeout)
    pool[parts[:2]] = (connection, prefix)
    target = prefix + (parts.path or "/") + ("?" + parts.query if parts.query else "")
    try:
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        if consume is not None and response.status in (200, 206):
            consume(response)
            return Answer(response.status, response.headers, b"")
        return Answer(response.status, response.headers, response.read())
    except (OSError, http.client.HTTPException) as exc:
        drop(pool, parts)
        if lacks_descriptors(exc):  # waiting does not help
            raise
        raise Trouble("%s: %s" % (parts.hostname, str(exc) or type(exc).__name__)) from exc
    except BaseException:
        drop(pool, parts)
        raise


def drop(pool, parts):
    connection, _ = pool.pop(parts[:2])
    connection.close()


def connect(parts, timeout):
    """A connection and what goes before the path: the whole origin when a proxy is asked, else nothing."""
    proxy = proxy_for(parts)
    host = proxy or (parts.hostname, parts.port)
    if parts.scheme != "https":
        prefix = "http://" + parts.netloc if proxy else ""
        return http.client.HTTPConnection(host[0], host[1], timeout=timeout), prefix
    connection = http.client.HTTPSConnection(host[0], host[1], timeout=timeout, context=tls())
    if proxy:
        connection.set_tunnel(parts.hostname, parts.port or 443)
    return connection, ""


def tls():
    """The system's certificates, or those that SSL_CERT_FILE names."""
    if not _tls:
        _tls.append(ssl.create_default_context())
    return _tls[0]


def proxy_for(parts):
    """(host, port) from http_proxy, https_proxy and no_proxy, which many clusters set on their nodes; or None."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request  # slow to import, and seldom needed

    proxy = urllib.request.getproxies_environment().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass_environment(parts.netloc):  # type: ignore[attr-defined]
        return None
    split = urllib.parse.urlsplit(proxy if "//" in proxy else "//" + proxy)
    return split.hostname, split.port or 80


class Patience(object):
    """Growing pauses with jitter, from the first trouble on, for so many seconds."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.until = None
        self.pause = 0.2

    def endure(self, trouble):
        now = time.monotonic()
        if self.until is None:
            self.until = now + self.seconds
        if now >= self.until:
            raise GaveUp("%s (tried for %d seconds)" % (trouble, self.seconds))
        time.sleep(min(self.pause * random.uniform(0.5, 1.0), self.until - now))  # noqa: S311 - no secret
        self.pause = min(self.pause * 2, 20.0)


def is_passing(status):
    """Whether an HTTP status is worth another try."""
    return status >= 500 or status in (408, 429)


# --- the desk: the gateway, or S3 alone --------------------------------------------------------------------------


class GatewayDesk(object):
    """The gateway over HTTP: the calls of the protocol, each repeated until it is answered."""

    tells_progress = True

    def __init__(self, ticket, retry_for_s):
        self.base = "%s/api/v1/attempts/%s/" % (
            ticket["gateway"].rstrip("/"),
            urllib.parse.quote(ticket["attempt"], safe=""),
        )
        self.headers = {"Authorization": "Bearer " + ticket["token"], "Content-Type": "application/json"}
        self.retry_for_s = retry_for_s

    def claim(self, claim):
        """Take the attempt and get its manifest. Raises NotOurs, GaveUp."""
        return self.call("claim", claim)

    def tell_progress(self, body):
        """How far a stage is; raises whatever happens."""
        self.call_once("progress", body, PROGRESS_TIMEOUT_S)

    def fresh_inputs(self, refusal):
        """(number, field) -> a new request, after S3 gave the `refusal`, an Expired."""
        answer = self.call("urls", {})
        return {
            (entry["number"], field): entry.get(field)
            for entry in answer["inputs"]
            for field in ("request", "index_request")
        }

    def part_size(self, manifest, role, size):
        """In what pieces an output of this size is to be sent, bytes."""
        return manifest["part_size"]

    def open_output(self, output, retry_for_s, refusal=None):
        """(upload id, part number -> request), new ones where S3 gave a `refusal` to the ones before."""
        try:
            answer = self.call("outputs", output, retry_for_s)
        except Refused as exc:
            raise Failed("upload_failed", "The gateway does not accept %s: %s" % (output["name"], exc.words)) from exc
        return answer["upload"], {entry["number"]: entry["request"] for entry in answer["requests"]}

    def close_output(self, output, upload, stored, retry_for_s):
        """What the report says of an output beside its name, size and checksum. `stored`: part number -> StoredPart.

        What was sent whole, S3 has checked by its MD5 and named the version of: there is nothing to ask. Raises Refused
        with status 409 where the store has not what was sent.
        """
        if upload is None and stored[1].etag and stored[1].version_id not in (None, "", "null"):
            return {"version_id": stored[1].version_id, "etag": stored[1].etag}
        parts = [{"number": number, "etag": stored[number].etag} for number in sorted(stored)]
        body = {"name": output["name"], "upload": upload, "parts": parts}
        answer = self.call("outputs/complete", body, retry_for_s)
        return {"version_id": answer["version_id"], "etag": answer["etag"]}

    def finish(self, report, retry_for_s):
        """Report the end. Raises NotOurs, GaveUp, Refused."""
        self.call("finish", report, retry_for_s)

    def call(self, name, body, retry_for_s=None):
        """The answer's JSON. Raises NotOurs, Refused (with the gateway's own words), GaveUp."""
        patience = Patience(self.retry_for_s if retry_for_s is None else retry_for_s)
        while True:
            try:
                return self.call_once(name, body)
            except Trouble as trouble:
                patience.endure("the gateway does not answer: %s" % trouble)

    def call_once(self, name, body, timeout=TIMEOUT_S):
        answer = exchange("POST", self.base + name, self.headers, json.dumps(body).encode("utf-8"), timeout)
        if answer.status == 401 or (answer.status == 409 and name != "outputs/complete"):
            raise NotOurs(problem_words(answer))
        if is_passing(answer.status):
            raise Trouble("%s answered %d" % (name, answer.status))
        if answer.status >= 300:
            raise Refused(answer.status, problem_words(answer))
        try:
            return json.loads(answer.body.decode("utf-8"))
        except ValueError as exc:
            raise Trouble("%s answered something that is not JSON" % name) from exc


class ManifestDesk(object):
    """S3 alone: every request was signed when the job was submitted, and the gateway reads what is left there."""

    tells_progress = False

    def __init__(self, manifest):
        self.manifest = manifest
        self.retry_for_s = manifest["retry_for_s"]

    def claim(self, claim):
        """The first who writes the claim's object has the attempt. Raises NotOurs, Failed."""
        answer = self.ask(self.manifest["claim"]["put"], "the claim", self.retry_for_s, claim)
        if answer.status == 412 and self.holder() != claim["claimant"]:
            raise NotOurs("another run of this job has claimed the attempt")
        if answer.status not in (200, 412):
            raise Failed("store_unavailable", "S3 does not accept the claim: %s" % store_words(answer))
        return self.manifest

    def holder(self):
        """Who wrote the claim: ourselves, where the answer to the first try was lost."""
        answer = self.ask(self.manifest["claim"]["get"], "the claim", self.retry_for_s)
        try:
            return json.loads(answer.body.decode("utf-8"))["claimant"]
        except (ValueError, KeyError, TypeError):
            return None

    def tell_progress(self, body):
        """Nobody listens."""

    def fresh_inputs(self, refusal):
        raise self.lapsed(refusal.answer, "the inputs")

    def part_size(self, manifest, role, size):
        """Pieces of the size that was signed for; all at once where it is small, or more than was signed for."""
        signed = manifest["outputs"][role]
        parts = signed.get("parts") or []
        room = signed.get("part_size", 0) * len(parts)
        in_one = "request" in signed and size <= SINGLE_PUT_BYTES
        if size <= room and (size > manifest["part_size"] or not in_one):
            return signed["part_size"]
        if not in_one:
            raise Failed(
                "result_too_large",
                "The output has %s, more than what was provided for at submission. Ask for fewer samples or a smaller "
                "region at a time." % readable(size),
            )
        return max(size, 1)

    def open_output(self, output, retry_for_s, refusal=None):
        if refusal is not None:
            raise self.lapsed(refusal.answer, output["name"])
        signed = self.manifest["outputs"][output["role"]]
        if len(output["md5s"]) == 1 and "request" in signed:
            return None, {1: signed["request"]}
        return "parts", dict(enumerate(signed["parts"], start=1))

    def close_output(self, output, upload, stored, retry_for_s):
        """The gateway joins the parts when it reads the report; here it is seen that S3 has each of them."""
        for number, sent in enumerate(output["md5s"], start=1):
            expected = base64.b64decode(sent).hex()
            if stored[number].etag != expected:
                raise Refused(409, "part %d has ETag %s and not %s" % (number, stored[number].etag, expected))
        return {
            "version_id": stored[1].version_id if upload is None else None,
            "multipart": upload is not None,
            "md5s": output["md5s"],
        }

    def finish(self, report, retry_for_s):
        """Leave the report where the gateway looks for it. Raises Failed."""
        answer = self.ask(self.manifest["report"], "the report", retry_for_s, report)
        if answer.status != 200:
            raise Failed("store_unavailable", "S3 does not accept the report: %s" % store_words(answer))

    def ask(self, request, label, retry_for_s, content=None):
        """S3's answer to a signed request, once it is one that lasts. Raises Failed where there is none, or 403."""
        patience = Patience(retry_for_s)
        headers, body = dict(request["headers"]), None
        if content is not None:
            body = json.dumps(content).encode("utf-8")
            digest = md5()
            digest.update(body)
            headers["Content-MD5"] = base64.b64encode(digest.digest()).decode("ascii")
        while True:
            try:
                answer = exchange(request["method"], request["url"], headers, body)
            except Trouble as trouble:
                endure_store(patience, label, trouble)
                continue
            if is_refusal(answer):
                raise self.lapsed(answer, label)
            # 409: S3 had two conditional requests at once and asks for one of them again; 400: damaged on the way
            if not is_passing(answer.status) and answer.status not in (400, 409):
                return answer
            endure_store(patience, label, store_words(answer))

    def lapsed(self, answer, label):
        """The Failed behind a refused signature: expired, by S3's own word or its own clock, or refused for good."""
        words = store_words(answer)
        said_at = email.utils.parsedate_tz(answer.headers.get("Date") or "")
        now = time.time() if said_at is None else email.utils.mktime_tz(said_at)
        if "expired" in words.lower() or now > self.manifest["expires_at"]:
            return Failed("urls_expired", "The signed URLs of this attempt have expired (%s: %s)." % (label, words))
        return Failed("store_unavailable", "S3 refuses the signed request for %s: %s" % (label, words))


def is_refusal(answer):
    """Whether S3 refuses the signature, as it does when that has expired."""
    return answer.status == 403 or (answer.status == 400 and "Expired" in store_words(answer))


def problem_words(answer):
    """What a problem details body (RFC 9457) says, or the start of whatever was answered."""
    text = answer.body.decode("utf-8", "replace")
    try:
        problem = json.loads(text)
        return "%d %s" % (answer.status, problem.get("detail") or problem.get("title") or "")
    except (ValueError, AttributeError):
        return "%d %s" % (answer.status, text[:200])


class Progress(object):
    """Tells the desk how far a stage is, from one thread of its own; failed calls are forgotten."""

    def __init__(self, desk, stage, total, measure=None):
        self.desk = desk
        self.stage = stage
        self.total = total
        self.done = 0
        self.measure = measure
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def __enter__(self):
        if self.desk.tells_progress:
            start_thread(self.report)
        return self

    def __exit__(self, *exc):
        self.ended.set()

    def add(self, count):
        with self.lock:
            self.done += count

    def report(self):
        while not self.ended.is_set():
            try:
                self.desk.tell_progress(self.body())
            except Exception:  # noqa: BLE001, S110 - progress is a courtesy; it never ends a job
                pass
            self.ended.wait(PROGRESS_EVERY_S)

    def body(self):
        """Total 0: it is not known how far the stage is. The end of the log is for people who watch the job."""
        total = self.total
        if self.measure is not None:
            total = total if os.path.isdir("/proc/self/fdinfo") else 0
            self.done = max(self.done, self.measure())
        tail = redact(read_tail("job.log", LOG_TAIL_BYTES).decode("utf-8", "replace"))
        return {"stage": self.stage, "done": min(self.done, total), "total": total, "log_tail": tail}


def start_thread(work):
    """A thread that does the work. Raises Failed where the system gives no more."""
    thread = threading.Thread(target=work)
    thread.daemon = True  # a signal must end the program at once, whatever the threads wait for
    try:
        thread.start()
    except RuntimeError as exc:  # which has no errno
        words = "The helper got no more threads on %s: there is no memory, or no room under the limit of processes."
        raise Failed("out_of_memory", words % socket.gethostname()) from exc
    return thread


def work_through(tasks, threads):
    """Calls every task, in order, that many at once; the first exception ends it and is raised here."""
    waiting = collections.deque(tasks)
    outcomes = queue.Queue()  # type: queue.Queue[BaseException | None]

    def work():
        try:
            while waiting:
                take_first(waiting)()
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            outcomes.put(exc)
        else:
            outcomes.put(None)

    count = min(threads, len(tasks))
    for _ in range(count):
        start_thread(work)
    for _ in range(count):
        failure = outcomes.get()
        if failure is not None:
            raise failure


def take_first(tasks):
    """The next task, or one that does nothing where another thread was faster."""
    try:
        return tasks.popleft()
    except IndexError:
        return lambda: None


# --- claim -------------------------------------------------------------------------------------------------------


def claim(job):
    """Trades the attempt for its manifest; a second copy of the job ends here."""
    job.state["tools"] = tool_versions()
    tools = job.state["tools"]
    body = {
        "claimant": secrets.token_hex(16),
        "host": socket.gethostname(),
        "slurm_job_id": slurm_job_id(),
        "python": tools["python"],
        "bcftools": tools["bcftools"],
    }
    job.state["manifest"] = job.desk.claim(body)
    job.state["claim"] = body
    job.state.save()
    say("claimed: %s job %s, attempt %s" % (job.manifest["kind"], job.manifest["job"], job.manifest["attempt"]))
    if not tools["bcftools"]:
        raise Failed(
            "bcftools_missing",
            "There is no working bcftools on the PATH of the compute node %s. The site's administrator sets "
            "how it is found (the script's prologue)." % socket.gethostname(),
        )
    say("bcftools %s, htslib %s, Python %s" % (tools["bcftools"], tools["htslib"], tools["python"]))
    if release_of(tools["bcftools"]) < OLDEST_BCFTOOLS:
        raise too_old(tools["bcftools"], "is older than any that DivBase is tested with", OLDEST_BCFTOOLS)


def slurm_job_id():
    """The id of this job as SLURM's commands show it: of a task, that of its array and its number."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return "%s_%s" % (array, os.environ.get("SLURM_ARRAY_TASK_ID"))
    return os.environ.get("SLURM_JOB_ID")


def release_of(version):
    """(1, 21) of 1.21 and of 1.21-3-gf00; what cannot be read is taken for a new one."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return tuple(int(number) for number in numbers.groups()) if numbers else (999,)


def too_old(version, words, enough):
    return Failed(
        "bcftools_missing",
        "bcftools %s on the compute node %s %s; this job needs %d.%d or later. The site's administrator sets how it is "
        "found (the script's prologue)." % (version, socket.gethostname(), words, enough[0], enough[1]),
    )


def tool_versions():
    try:
        status, output, _ = bcftools(["--version"])
    except Failed:
        status, output = 1, b""
    words = re.search(r"^bcftools (\S+).*?^Using htslib (\S+)", output.decode("utf-8", "replace"), re.M | re.S)
    found = words.groups() if words and status == 0 else (None, None)
    return {"bcftools": found[0], "htslib": found[1], "python": platform.python_version(), "helper": VERSION}


# --- stage -------------------------------------------------------------------------------------------------------


class Copy(object):
    """A file to be brought to the node: where from, what it must be, and where to.

    `field` is the name of its request in the answer of /urls.
    """

    def __init__(self, label, number, field, source, path):
        self.label = label
        self.key = (number, field)
        self.request = source["request"]
        self.size = source["size"]
        self.etag = source.get("etag")
        self.sha256 = source.get("sha256")
        self.path = path
        self.missing = 0  # spans that are still on their way
        self.begins = source.get("begins") or []
        self.answered = False  # by S3 in this run, which says whether it is encrypted with a key of its own
        self.md5_etag = re.match(r"^[0-9a-f]{32}$", self.etag or "") is not None

    def spans(self):
        return whole(self)

    def needed(self):
        """How much room it takes on the disk, bytes."""
        return self.size

    def conclude(self):
        """What is left to do when all spans are there. Raises Failed where they are not what they should be."""
        check_content(self)

    def require_positions(self):
        require_positions(self.path, self.label, self.begins)

    def clear(self):
        """Removes what is of no use any more."""


class Span(object):
    """Bytes [start, start + length) of the object, to be written at `at` of the copy."""

    def __init__(self, start, length, at):
        self.start = start
        self.length = length
        self.at = at


def stage(job):
    """Brings the inputs to `in/` and checks them; writes the sample lists to `samples/`."""
    started = time.monotonic()
    job.folder("in")
    job.folder("samples")
    for entry in job.manifest["inputs"]:
        if entry.get("samples") is not None:
            lines = "".join(name + "\n" for name in entry["samples"])
            write_private(job.path("samples", "%d.txt" % entry["number"]), lines.encode("utf-8"))
    copies = [copy for entry in job.manifest["inputs"] for copy in copies_of(job, entry)]
    require_space(job, sum(copy.needed() for copy in copies))
    total = sum(span.length for copy in copies for span in copy.spans())
    cache = open_cache(job)
    try:
        with Progress(job.desk, "staging", total) as progress:
            Download(job, copies, progress, cache).run()
    finally:
        job.state["entries"] = cache.close()
    if cache.asked:
        job.state["staged"] = {"bytes_fetched": total - cache.bytes, "bytes_from_cache": cache.bytes}
    for entry in job.manifest["inputs"]:
        if job.manifest["kind"] != "repair" or is_bgzf(staged_path(job, entry)):
            require_bgzf(staged_path(job, entry), label_of(entry))
    for copy in copies:
        copy.require_positions()
    job.record_time("staging_s", started)
    job.state.save()
    stored = readable(sum(copy.size for copy in copies))
    seconds = job.state["timings"]["staging_s"]
    found = ", %s of it from the cache (%d spans)" % (readable(cache.bytes), cache.hits) if cache.asked else ""
    say("staged: %d files, %s of %s in %.1f s%s" % (len(copies), readable(total), stored, seconds, found))


def label_of(entry):
    """What an input is called in messages: people know the file, not its BCF copy."""
    return entry["key"] if entry.get("copy_key") is None else "the BCF copy of " + entry["key"]


def staged_path(job, entry):
    return job.path("in", "%d.%s" % (entry["number"], entry["format"]))


def copies_of(job, entry):
    path = staged_path(job, entry)
    if entry.get("part") is not None:
        return [PartialCopy(entry, path)]
    copies = [Copy(label_of(entry), entry["number"], "request", entry, path)]
    index = entry.get("index")
    if index is not None:
        label = "the index of " + label_of(entry)
        copies.append(Copy(label, entry["number"], "index_request", index, path + "." + index["kind"]))
    return copies


def whole(copy):
    """The spans of a whole file."""
    return ranges(0, copy.size, 0)


def ranges(start, length, at):
    """Bytes [start, start + length) of an object, to be written at `at`, in requests of a good size."""
    offsets = range(0, length, RANGE_BYTES)
    return [Span(start + each, min(RANGE_BYTES, length - each), at + each) for each in offsets]


def require_space(job, needed):
    free = shutil.disk_usage(job.scratch).free
    if free < needed:
        raise Failed(
            "disk_full",
            "The folder %s on %s has %s free, and the input files need %s."
            % (job.scratch, socket.gethostname(), readable(free), readable(needed)),
        )


def require_bgzf(path, label):
    """A BGZF file with its end, or Failed in the user's words."""
    if not starts_with(path, BGZF_MAGIC):
        raise Failed("input_corrupt", "%s is not BGZF-compressed: compress it with bgzip or bcftools view -Oz." % label)
    if not ends_with(path, BGZF_END):
        raise Failed("input_corrupt", "%s is truncated: the block that ends a BGZF file is not there." % label)


def is_bgzf(path):
    """Whether a file begins with a BGZF block, and not with plain gzip or with no packing at all."""
    with open(path, "rb") as file:
        head = file.read(BGZF_HEAD_BYTES)
    return head[:4] == BGZF_MAGIC and head[10:16] == BGZF_EXTRA


def require_positions(path, label, begins):
    """Raises Failed where the first record of a contig has POS 0: shards would not find it."""
    with open(path, "rb") as file:
        blocks = Blocks(label, file, 0, os.path.getsize(path), 0)
        for offset in begins:
            if is_at_zero(blocks, offset, path.rpartition(".")[2]):
                raise Failed(
                    "bcftools_failed",
                    "%s has a record with POS 0, which cannot be found by its index, and this query is worked on by "
                    "regions. Name the contigs: view -r CONTIG,... gives all records but those." % label,
                )


def is_at_zero(blocks, offset, file_format):
    """Whether the record at a virtual offset has POS 0."""
    content, following = blocks.unpack(offset >> 16)
    content = content[offset & 0xFFFF :]
    wanted = 16 if file_format == "bcf" else 1 << 10  # in a VCF, the name of the contig and a few digits
    while len(content) < wanted and following < blocks.stop:
        more, following = blocks.unpack(following)
        content += more
    if file_format == "bcf":
        return content[12:16] == b"\xff\xff\xff\xff"  # POS - 1
    return content.split(b"\t", 2)[1:2] == [b"0"]


def starts_with(path, magic):
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def ends_with(path, end):
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - len(end)))
        return file.read() == end


class Download(object):
    """Parallel ranges into files, with retries, renewal of expired URLs and a check of every file."""

    def __init__(self, job, copies, progress, cache):
        self.job = job
        self.copies = copies
        self.progress = progress
        self.cache = cache
        self.lock = threading.Lock()
        self.generation = 0  # of the URLs

    def run(self):
        tasks = []
        for copy in self.copies:
            write_private(copy.path, b"")
            spans = copy.spans()
            copy.missing = len(spans)
            tasks += [self.task(copy, span) for span in spans]
        work_through(tasks, RANGES_IN_FLIGHT)

    def task(self, copy, span):
        def work():
            if not self.cache.take(copy, span, self.progress):
                self.fetch(copy, span)
            with self.lock:
                copy.missing -= 1
                complete = copy.missing == 0
            if complete:
                copy.conclude()
                self.cache.keep(copy)
                copy.clear()

        return work

    def fetch(self, copy, span):
        patience = Patience(self.job.retry_for_s)
        renewals = 0
        received = 0
        with open(copy.path, "r+b", buffering=0) as file:
            while received < span.length:
                with self.lock:
                    request, generation = copy.request, self.generation
                receipt = Receipt(copy, span, received, file, self.progress)
                try:
                    answer = receipt.take(request)
                    if answer is not None:
                        self.refuse(copy, answer)
                except Expired as expired:
                    renewals += 1
                    if renewals > RENEWALS:
                        words = "S3 refuses even fresh URLs for %s: %s" % (copy.label, expired)
                        raise Failed("store_unavailable", words) from expired
                    self.renew(generation, expired)
                except Trouble as trouble:
                    endure_store(patience, copy.label, trouble)
                received = receipt.received

    @staticmethod
    def refuse(copy, answer):
        """What an answer other than 200 and 206 means."""
        words = store_words(answer)
        if is_refusal(answer):
            raise Expired(answer)
        if is_passing(answer.status):
            raise Trouble(words)
        if answer.status == 404:
            raise Failed("input_missing", "%s is not in the store any more: %s" % (copy.label, words))
        if answer.status in (412, 416):
            raise Failed("input_corrupt", "%s is not the version that was planned with: %s" % (copy.label, words))
        raise Failed("internal_error", "S3 refuses to hand out %s: %s" % (copy.label, words))

    def renew(self, generation, refusal):
        """Asks for fresh URLs, once for all threads that hold old ones."""
        with self.lock:
            if self.generation != generation:
                return
            fresh = self.job.desk.fresh_inputs(refusal)
            for copy in self.copies:
                copy.request = fresh.get(copy.key) or copy.request
            self.generation += 1


class Expired(Exception):
    """S3 refuses the signature, with this answer."""

    def __init__(self, answer):
        super(Expired, self).__init__(store_words(answer))
        self.answer = answer


class Receipt(object):
    """One try to receive the rest of a span; `received` counts the bytes of the span that are in the file."""

    def __init__(self, copy, span, received, file, progress):
        self.copy = copy
        self.span = span
        self.received = received
        self.file = file
        self.progress = progress

    def take(self, request):
        """None when the body was received, else the answer that refused it."""
        first = self.span.start + self.received
        last = self.span.start + self.span.length - 1
        headers = dict(request["headers"])
        headers["Range"] = "bytes=%d-%d" % (first, last)
        if self.copy.etag:
            headers["If-Match"] = '"%s"' % self.copy.etag
        answer = exchange("GET", request["url"], headers, consume=self.consume)
        return None if answer.status in (200, 206) else answer

    def consume(self, response):
        self.check(response)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while self.received < self.span.length:
            count = response.readinto(buffer[: min(BUFFER_BYTES, self.span.length - self.received)])
            if not count:
                raise Trouble("the connection ended %d bytes early" % (self.span.length - self.received))
            self.write(buffer[:count])
            self.received += count
            self.progress.add(count)
        response.read()

    def check(self, response):
        """The answer must be exactly these bytes of exactly this version."""
        copy, first = self.copy, self.span.start + self.received
        expected = "bytes %d-%d/%d" % (first, self.span.start + self.span.length - 1, copy.size)
        if response.status == 200:  # a server that ignores Range; good enough for a whole file
            expected, found = str(self.span.length - self.received), response.headers.get("Content-Length")
            if (first, self.span.length) != (0, copy.size):
                raise Failed("internal_error", "The S3 server does not answer ranges, which DivBase needs.")
        else:
            found = response.headers.get("Content-Range")
        if found != expected:
            raise Failed(
                "input_corrupt",
                "%s has not the size that it had when it was planned with (%d bytes): S3 says %r instead of %r."
                % (copy.label, copy.size, found, expected),
            )
        etag = (response.headers.get("ETag") or "").strip('"')
        if copy.etag and etag and etag != copy.etag:
            raise Failed("input_corrupt", "%s was replaced by another object while the job ran." % copy.label)
        encryption = response.headers.get("x-amz-server-side-encryption", "")
        if encryption.startswith("aws:kms") or response.headers.get("x-amz-server-side-encryption-customer-algorithm"):
            copy.md5_etag = False  # the ETag of such an object is no MD5, whatever it looks like
        copy.answered = True

    def write(self, data):
        write_at(self.file, self.copy.path, data, self.span.at + self.received)


def write_at(file, path, data, at):
    """All of the data to that place of a file. Raises Failed where its disk is full."""
    try:
        while data:
            count = os.pwrite(file.fileno(), data, at)
            data, at = data[count:], at + count
    except OSError as exc:
        raise disk_trouble(exc, os.path.dirname(path)) or exc from exc


def disk_trouble(exc, folder):
    """The failure behind an OSError that says that a disk is full; None for any other."""
    if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return Failed("disk_full", "No space is left in %s on %s." % (folder, socket.gethostname()))


def endure_store(patience, label, trouble):
    try:
        patience.endure("%s: %s" % (label, trouble))
    except GaveUp as exc:
        raise Failed("store_unavailable", "S3 did not answer for %s" % exc) from exc


def store_words(answer):
    """The status with S3's own code and message out of its XML."""
    text = answer.body.decode("utf-8", "replace")
    found = [re.search(r"<%s>([^<]*)</%s>" % (tag, tag), text) for tag in ("Code", "Message")]
    return " ".join([str(answer.status)] + [match.group(1) for match in found if match])


def check_content(copy):
    """Compares the strongest checksum that is known: sha256, else an ETag that is an MD5.

    Of a copy that came from the cache alone nobody has said that it is one; its entries have checksums of their own,
    and were added only after this one was right.
    """
    if copy.sha256:
        found, expected, name = digest_of(copy.path, hashlib.sha256()), copy.sha256, "SHA-256"
    elif copy.answered and copy.md5_etag:
        found, expected, name = digest_of(copy.path, hashlib.md5()), copy.etag, "MD5"  # noqa: S324 - S3's checksum
    else:
        return
    if found != expected:
        raise Failed(
            "input_corrupt",
            "%s is damaged: its %s is %s and should be %s." % (copy.label, name, found, expected),
        )


def md5():
    """MD5 is what S3 checks bodies by; nodes in FIPS mode hand it out only for purposes other than security."""
    try:
        return hashlib.md5(usedforsecurity=False)
    except TypeError:  # an older Python does not ask what for
        return hashlib.md5()  # noqa: S324


def digest_of(path, digest):
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# --- the cache that jobs share -----------------------------------------------------------------------------------


def open_cache(job):
    """The site's cache for a query or a shard of one; one that is off where there is none, or it cannot be trusted."""
    place = job.manifest.get("cache")
    return Cache(place if job.manifest["kind"] in ("query", "shard") else None)


class Cache(object):
    """Spans that jobs fetched, in a folder that they share; docs/node-protocol.md has its files and rules.

    An entry is right in every byte, or it is none: its checksum covers which bytes of which object it is. Whatever goes
    wrong with the folder, the job goes on without it. Several threads use one Cache, several jobs one folder.
    """

    def __init__(self, place):
        self.asked = place is not None
        self.hits = 0
        self.bytes = 0  # that came from it
        self.names = set()  # type: set[str]  # of the entries that this job took or made
        self.lock = threading.Lock()
        self.folder = None  # its descriptor; None: the cache is off
        if place is None:
            return
        self.path = place["folder"]
        try:
            self.folder = open_shared(self.path)
            self.room = Room(self.folder, place["bytes"])
        except OSError as exc:
            say_not_used(self.path, exc)

    def give_up(self, exc):
        """No more of it in this job, which is said once. The descriptor stays open: another thread may be at it."""
        with self.lock:
            if self.folder is not None:
                self.folder = None
                say_not_used(self.path, exc)

    def take(self, copy, span, progress):
        """Whether the span was there; then it is in the copy. What is no whole entry is removed."""
        name, folder = entry_name(copy, span), self.folder
        if folder is None or name is None:
            return False
        try:
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb", 0) as entry:
                found = self.read(entry, name, copy, span)
                if found:
                    self.touch(entry)
            if not found:
                say("an entry of the cache is damaged, and removed: %s" % name)
                remove(name, folder)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ESTALE):  # gone, or removed by another node while it was read
                self.give_up(exc)
            return False
        if found:
            progress.add(span.length)
            with self.lock:
                self.names.add(name)
                self.hits += 1
                self.bytes += span.length
        return found

    @staticmethod
    def read(entry, name, copy, span):
        """Brings an entry into the copy; False where it is not what was written, byte for byte."""
        if os.fstat(entry.fileno()).st_size != span.length + CACHE_DIGEST_BYTES:
            return False
        digest = hashlib.sha256(name.encode("ascii"))
        with open(copy.path, "r+b", buffering=0) as file:
            for at in range(0, span.length, COPY_BYTES):
                data = os.pread(entry.fileno(), min(COPY_BYTES, span.length - at), at)
                digest.update(data)
                write_at(file, copy.path, data, span.at + at)
        return os.pread(entry.fileno(), CACHE_DIGEST_BYTES, span.length) == digest.digest()

    def touch(self, entry):
        """Notes that it was of use."""
        try:
            if os.fstat(entry.fileno()).st_mtime < time.time() - CACHE_TOUCH_EVERY_S:
                os.utime(entry.fileno())
        except OSError as exc:
            self.give_up(exc)

    def keep(self, copy):
        """Adds what was fetched of a copy that has been found to be right, as far as there is room for it."""
        for span in copy.spans():
            name, folder = entry_name(copy, span), self.folder
            if folder is None or name is None or name in self.names:
                continue
            try:
                self.add(name, folder, copy, span)
            except OSError as exc:
                self.give_up(exc)

    def add(self, name, folder, copy, span):
        size = charge(span.length + CACHE_DIGEST_BYTES)
        if is_there(name, folder) or not self.room.take(size):
            return
        try:
            write_entry(name, folder, copy, span)
        finally:
            self.room.written(size)
        with self.lock:
            self.names.add(name)

    def close(self):
        """Ends the job's use of it, and gives back the room that it has not used. Returns the names of its entries."""
        with self.lock:
            folder, self.folder = self.folder, None
        if folder is not None:
            try:
                self.room.give_back()
            except OSError as exc:
                say_not_used(self.path, exc)
        with self.lock:
            return sorted(self.names)


class Room(object):
    """How much jobs may add to the folder: each reserves room before it writes, so that all together keep to the limit.

    The file `account` says how many bytes are there or reserved, and who changes it holds a lock on it. What a job has
    reserved is in a file `room-…` of its own as well, for a count of the folder.
    """

    def __init__(self, folder, limit):
        self.folder = folder
        self.limit = limit
        self.reserved = 0  # by this job, in all
        self.free = 0  # of this, not yet used
        self.in_use = 0  # of this, for entries that are being written
        self.closed = False  # to this job
        self.ticket = "room-" + secrets.token_hex(8)
        self.lock = threading.Lock()

    def take(self, size):
        """Whether an entry of that size may be written now. Raises OSError."""
        with self.lock:
            if self.free < size and not self.closed:
                self.closed = not self.reserve(max(size, min(CACHE_STEP_BYTES, self.limit // 64)))
            if self.free < size:
                return False
            self.free -= size
            self.in_use += size
            return True

    def written(self, size):
        with self.lock:
            self.in_use -= size

    def reserve(self, wanted):
        """Whether there is room. No job gets more than half of all: it would push out what the others use."""
        account = lock_account(self.folder) if self.reserved + wanted <= self.limit // 2 else None
        if account is None:
            return False
        with account:
            total, counted = read_account(account)
            if total is None or total + wanted > self.limit:
                total, counted = self.make_room(wanted), time.time()
            granted = total + wanted <= self.limit
            if granted:
                self.reserved += wanted
                self.free += wanted
                self.write_ticket()
            write_account(account, total + wanted * granted, counted)
            return granted

    def write_ticket(self):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(self.ticket, flags, 0o600, dir_fd=self.folder), "wb") as file:
            file.write(b"%d" % (self.free + self.in_use))

    def make_room(self, wanted):
        """Removes leftovers, and, where it is needed, what was used longest ago. The bytes that are left."""
        total = 0
        entries = []
        for name in os.listdir(self.folder):
            about = status_of(name, self.folder)
            if about is None:
                continue
            if re.match(r"^[0-9a-f]{64}$", name):
                entries.append((about.st_mtime, charge(about.st_size), name))
                total += charge(about.st_size)
            elif name.startswith(("new-", "room-")):
                if about.st_mtime < time.time() - CACHE_DAY_S:
                    remove(name, self.folder)
                elif name.startswith("room-"):
                    total += read_ticket(name, self.folder)
        if total + wanted > self.limit:
            goal = self.limit * 9 // 10 - wanted  # or the next job would have to count all again
            for _, size, name in sorted(entries):
                if total > goal:
                    remove(name, self.folder)
                    total -= size
        return total

    def give_back(self):
        """To be called at the end, when nothing is written any more. Raises OSError."""
        if not self.reserved:
            return
        with self.lock:
            account = lock_account(self.folder)
            remove(self.ticket, self.folder)
            if account is None:
                return
            with account:
                total, counted = read_account(account)
                if total is not None:
                    write_account(account, max(0, total - self.free), counted)


def open_shared(path):
    """A descriptor of the folder, which is made if missing. Raises OSError, also where others could write to it."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    about = os.fstat(folder)
    if about.st_uid != os.geteuid() or about.st_mode & 0o022:
        os.close(folder)
        raise PermissionError(errno.EPERM, "it belongs to another user, or others may write to it")
    return folder


def say_not_used(path, exc):
    say("the cache in %s is not used: %s" % (path, exc.strerror or exc))


def entry_name(copy, span):
    """A digest of which bytes of which version of which object they are; None where that is not known for sure."""
    if not copy.etag:
        return None
    url = urllib.parse.urlsplit(copy.request["url"])
    version = urllib.parse.parse_qs(url.query).get("versionId")
    identity = [url.netloc, url.path, version, copy.etag, copy.size, span.start, span.length]
    return hashlib.sha256(json.dumps(identity).encode("utf-8")).hexdigest()


def write_entry(name, folder, copy, span):
    """The bytes and their checksum, under the entry's name only when all is there. Raises OSError."""
    new = "new-" + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=folder), "wb") as entry, open(copy.path, "rb") as source:
            digest = hashlib.sha256(name.encode("ascii"))
            source.seek(span.at)
            for at in range(0, span.length, COPY_BYTES):
                data = source.read(min(COPY_BYTES, span.length - at))
                digest.update(data)
                entry.write(data)
            entry.write(digest.digest())
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        remove(new, folder)
        raise


def charge(size):
    """What a file of that size counts for, bytes."""
    return max(size, CACHE_LEAST_BYTES)


def status_of(name, folder):
    """As os.stat has it, or None where there is no such file."""
    try:
        return os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return None


def is_there(name, folder):
    return status_of(name, folder) is not None


def remove(name, folder):
    """Removes a file, unless somebody else was faster."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def lock_account(folder):
    """The account, for us alone until it is closed; None where others have it for long. Raises OSError."""
    account = os.fdopen(os.open("account", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=folder), "r+b", 0)
    until = time.monotonic() + CACHE_LOCK_FOR_S
    try:
        while True:
            try:
                fcntl.flock(account.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return account
            except BlockingIOError:
                if time.monotonic() > until:
                    account.close()
                    return None
                time.sleep(0.02)
    except BaseException:
        account.close()
        raise


def read_account(account):
    """(bytes, when they were counted); (None, None) where it is new, torn, or too old to go by."""
    try:
        said = json.loads(os.pread(account.fileno(), 1 << 10, 0).decode("ascii"))
        if abs(time.time() - said["counted"]) < CACHE_DAY_S:
            return int(said["bytes"]), said["counted"]
    except (ValueError, KeyError, TypeError):
        pass
    return None, None


def write_account(account, total, counted):
    account.truncate(0)
    os.pwrite(account.fileno(), json.dumps({"bytes": total, "counted": counted}).encode("ascii"), 0)


def read_ticket(name, folder):
    """How much another job has reserved; nothing, where it has ended meanwhile or is about to say so."""
    try:
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
            return int(file.read() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def forget_entries(job):
    """Removes what this job took or added: its input was damaged, perhaps on the way from S3 to whoever added it."""
    names = job.state.get("entries")
    if not names:
        return
    try:
        folder = open_shared(job.manifest["cache"]["folder"])
        for name in names:
            remove(name, folder)
        os.close(folder)
    except OSError as exc:
        say_not_used(job.manifest["cache"]["folder"], exc)


# --- parts of files ----------------------------------------------------------------------------------------------


class PartialCopy(Copy):
    """Some spans of a file, of which a small file is made that bcftools reads like a whole one.

    They are fetched into a file of their own, one after the other, which goes when the small file is made.
    """

    def __init__(self, entry, path):
        super(PartialCopy, self).__init__(label_of(entry), entry["number"], "request", entry, path + ".spans")
        self.part = entry["part"]
        self.format = entry["format"]
        self.made = path

    def spans(self):
        spans = []  # type: list[Span]
        at = 0
        for start, length, _, _ in self.part["spans"]:
            spans += ranges(start, length, at)
            at += length
        return spans

    def needed(self):
        return 2 * sum(span[1] for span in self.part["spans"])

    def clear(self):
        os.unlink(self.path)

    def conclude(self):
        """The small file and its index."""
        with open(self.path, "rb", buffering=0) as source, open_private(self.made) as file:
            small = SmallFile(self.label, self.format, file)
            at = 0
            for start, length, first, end in self.part["spans"]:
                small.add(Blocks(self.label, source, start, length, at), first, end)
                at += length
            small.end()
        contigs = bcf_contigs(self.made) if self.format == "bcf" else 0
        index = csi_of(self.part, self.format, small.place, contigs)
        self.begins = [small.place(offset) for offset in self.begins]
        with open_private(self.made + ".csi") as file:
            for begin in range(0, len(index), CONTENT_BYTES):
                file.write(pack_block(index[begin : begin + CONTENT_BYTES]))
            file.write(BGZF_END)

    def require_positions(self):
        require_positions(self.made, self.label, self.begins)


def bytes_fetched(entry):
    """How much of an input is read, bytes."""
    return entry["size"] if entry.get("part") is None else sum(span[1] for span in entry["part"]["spans"])


class Blocks(object):
    """The BGZF blocks in bytes [start, start + length) of an object, which are kept at `at` of a local file.

    Offsets are always those of the object.
    """

    def __init__(self, label, file, start, length, at):
        self.label = label
        self.file = file
        self.start = start
        self.stop = start + length
        self.shift = at - start

    def read(self, offset, size):
        data = os.pread(self.file.fileno(), size, offset + self.shift)
        if len(data) < size:
            raise Failed("internal_error", "Bytes of %s cannot be read back from the node's disk." % self.label)
        return data

    def size_at(self, offset):
        """The size of the block that begins at `offset`. Raises Failed where none does, or not all of it is there."""
        head = self.read(offset, min(BGZF_HEAD_BYTES, self.stop - offset))
        if len(head) < BGZF_HEAD_BYTES or head[:4] != BGZF_MAGIC or head[10:16] != BGZF_EXTRA:
            raise damaged(self.label, offset, "no BGZF block begins there, though one must")
        size = head[16] + (head[17] << 8) + 1
        if size <= BGZF_HEAD_BYTES + BGZF_TAIL_BYTES:
            raise damaged(self.label, offset, "the BGZF block there is shorter than a block can be")
        if offset + size > self.stop:
            raise damaged(self.label, offset, "the BGZF block there is longer than what is left to byte %d" % self.stop)
        return size

    def follow(self, begin, end):
        """Goes from block to block from `begin` on. Raises Failed unless that leads to `end`."""
        while begin < end:
            begin += self.size_at(begin)
        if begin != end:
            raise damaged(self.label, end, "no BGZF block begins there, though its index says so")

    def unpack(self, offset):
        """(what is in the block at `offset`, where the next one begins)"""
        size = self.size_at(offset)
        block = self.read(offset, size)
        checksum, length = struct.unpack("<II", block[-BGZF_TAIL_BYTES:])
        packed = block[BGZF_HEAD_BYTES:-BGZF_TAIL_BYTES]
        try:
            content = zlib.decompressobj(-15).decompress(packed, BLOCK_BYTES + 1)
        except zlib.error:
            content = b""
        if len(content) != length or zlib.crc32(content) != checksum:
            raise damaged(self.label, offset, "the BGZF block there does not unpack to what its checksum says")
        return content, offset + size


def damaged(label, offset, words):
    return Failed("input_corrupt", "%s is damaged at byte %d: %s." % (label, offset, words))


def pack_block(content):
    """A BGZF block, quickly packed: it is read once or twice. `content` has CONTENT_BYTES at most."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    size = BGZF_HEAD_BYTES + len(body) + BGZF_TAIL_BYTES
    head = BGZF_MAGIC + b"\0\0\0\0\0\xff" + BGZF_EXTRA + struct.pack("<H", size - 1)
    return head + body + struct.pack("<II", zlib.crc32(content), len(content))


class SmallFile(object):
    """Spans of a file, cut to whole records and written one after the other; knows where every offset has gone.

    Virtual offsets are those of the SAM specification: where a block begins << 16 | a place in its contents. The places
    are in three lists: offsets of the object from `old` on, up to `limit`, are as far behind `new` here.
    """

    def __init__(self, label, file_format, file):
        self.label = label
        self.lines = file_format == "vcf.gz"
        self.file = file
        self.size = 0
        self.old = []  # type: list[int]
        self.new = []  # type: list[int]
        self.limit = []  # type: list[int]

    def add(self, blocks, first, end):
        """The records from virtual offset `first` to `end`: the blocks between are taken as they are."""
        begin, stop = first >> 16, end >> 16
        self.mark(first, end)
        if first & 0xFFFF and begin < stop:
            content, begin = blocks.unpack(begin)
            self.write_records(content, first, (first & ~0xFFFF) + len(content), end)
        blocks.follow(begin, stop)
        self.mark(max(first, begin << 16), end)
        self.take(blocks, begin, stop)
        if end & 0xFFFF:
            content, _ = blocks.unpack(stop)
            self.write_records(content, max(first, stop << 16), end, end)

    def mark(self, old, limit):
        """What is written next was at `old` in the object."""
        self.old.append(old)
        self.new.append(self.size << 16)
        self.limit.append(limit)

    def write_records(self, content, begin, end, limit):
        """From one virtual offset to another in a block with that content, packed anew. Nothing makes no block."""
        first, last = begin & 0xFFFF, end - (begin & ~0xFFFF)
        for cut in (first, last):
            if cut > len(content) or (self.lines and 0 < cut < len(content) and content[cut - 1 : cut] != b"\n"):
                raise damaged(self.label, begin >> 16, "no record begins or ends where its index says so")
        for at in range(first, last, CONTENT_BYTES):
            self.mark(begin - first + at, limit)
            self.write(pack_block(content[at : min(at + CONTENT_BYTES, last)]))

    def take(self, blocks, begin, stop):
        for at in range(begin, stop, COPY_BYTES):
            self.write(blocks.read(at, min(COPY_BYTES, stop - at)))

    def end(self):
        self.write(BGZF_END)

    def write(self, data):
        self.file.write(data)
        self.size += len(data)

    def place(self, offset):
        """Where a virtual offset of the object is in this file."""
        index = bisect.bisect_right(self.old, offset) - 1
        if offset > self.limit[index]:
            raise Failed("internal_error", "The plan reads nothing at byte %d of %s." % (offset >> 16, self.label))
        return self.new[index] + offset - self.old[index]


def bcf_contigs(path):
    """How many contigs the header of a BCF file has."""
    import gzip  # slow to import, and seldom needed

    with gzip.open(path) as file:
        return file.read(struct.unpack("<I", file.read(9)[5:])[0]).count(b"##contig=")


def csi_of(part, file_format, place, least=0):
    """The index of a small file, not packed; the format is that of the CSI specification, version 1.

    A BCF's has an entry for `least` contigs, because bcftools 1.16 dies of a contig that the index does not have.
    """
    contigs = part["contigs"]
    if file_format == "vcf.gz":
        names = b"".join(name.encode("utf-8") + b"\0" for name, _, _ in contigs)
        about = struct.pack("<7i", 2, 1, 2, 0, ord("#"), 0, len(names)) + names  # as tabix does for VCF
        found = [bins for _, _, bins in contigs]
    else:
        about = b""
        bins_of = {number: bins for _, number, bins in contigs}
        found = [bins_of.get(number, []) for number in range(max([least - 1, *bins_of]) + 1)]
    head = struct.pack("<4s3i", b"CSI\1", part["min_shift"], part["depth"], len(about)) + about
    return head + struct.pack("<i", len(found)) + b"".join(csi_contig(bins, place) for bins in found)


def csi_contig(bins, place):
    packed = [struct.pack("<i", len(bins))]
    for number, offsets in bins:
        places = [place(offset) for offset in offsets]
        packed.append(struct.pack("<IQi%dQ" % len(places), number, 0, len(places) // 2, *places))
    return b"".join(packed)


# --- bcftools ----------------------------------------------------------------------------------------------------


try:
    import ctypes

    _prctl = getattr(ctypes.CDLL(None), "prctl", None)
except (ImportError, OSError):  # a Python that was built without libffi
    _prctl = None


def die_with_parent():
    """In the child: Linux kills it when this helper is killed, so that no process outlives its job."""
    if _prctl is not None:
        _prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG, prctl(2)


def start_bcftools(arguments, **options):
    """A bcftools process. Arguments are text or bytes; the words of a process are on `stderr`, a pipe."""
    path = shutil.which("bcftools")
    if path is None:
        raise Failed("bcftools_missing", "There is no bcftools on the PATH of the node %s." % socket.gethostname())
    command = [path.encode("utf-8", "surrogateescape")]
    command += [word if isinstance(word, bytes) else word.encode("utf-8") for word in arguments]
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=die_with_parent, **options)
    except OSError as exc:
        if exc.errno == errno.ENOMEM:
            raise Failed("out_of_memory", "The node has no memory left to start bcftools.") from exc
        if lacks_descriptors(exc):
            raise
        raise Failed("bcftools_missing", "bcftools could not be started: %s" % exc.strerror) from exc


def lacks_descriptors(exc):
    return getattr(exc, "errno", None) in (errno.EMFILE, errno.ENFILE)


def too_many_files(words):
    return (
        "This job needs more open files than it may have on %s (%d, ulimit -n): %s. Choose fewer files or samples, or "
        "ask the site's administrator for a higher limit." % (socket.gethostname(), open_files(), words)
    )


def open_files():
    """How many files may be open at a time."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def bcftools(arguments, cwd=None):
    """Runs bcftools to its end: (status, output, words)."""
    process = start_bcftools(arguments, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        output, words = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.returncode, output, words.decode("utf-8", "replace")


def build_index(job, path, output):
    """bcftools index --csi of a file that this job wrote."""
    arguments = ["index", "--csi", "--force", "--output", output, path]
    status, _, words = bcftools(arguments, job.scratch)
    if status != 0 or has_error(words):
        raise process_failure(job, [word.encode("utf-8") for word in arguments], status, words)


# Which VCF 4.1 to 4.3 allow, and htslib leaves out of the header it makes, with an error that is none.
PEDIGREE_WORDS = re.compile(rb'\[E::bcf_hdr_parse_line\] Could not parse the header line: "##pedigreeDB=<')


def has_error(words):
    """htslib marks errors with [E::; some bcftools exit 0 all the same."""
    return any(tells_error(line) for line in words.encode("utf-8").splitlines())


def tells_error(line):
    return b"[E::" in line and PEDIGREE_WORDS.search(line) is None


# --- run ---------------------------------------------------------------------------------------------------------


class Process(object):
    """One line of the pipeline file, and what became of it. `id` is text, `argv` bytes."""

    def __init__(self, words):
        split = words.index(b"--")
        options = collections.deque(word.decode("utf-8") for word in words[:split])
        self.argv = words[split + 1 :]
        self.id = options.popleft()
        self.sources = []
        self.materialise = False
        self.output = None
        while options:
            option = options.popleft()
            if option == "--from":
                self.sources.append(options.popleft())
            elif option == "--output":
                self.output = options.popleft()
            elif option == "--materialise":
                self.materialise = True
            else:
                raise ValueError("unknown option %s" % option)
        # The result is what it prints, where it is not told to write it.
        self.prints_result = self.output is not None and self.output.encode("utf-8") not in self.argv
        self.level = 0
        self.popen = None
        self.status = None
        self.ended = None  # when, on the monotonic clock
        self.killed = False  # by us
        self.words = b""
        self.unfinished_line = b""
        self.lines = 0
        self.erred = False

    def hear(self, data):
        """Keeps and prints what the process says, both bounded."""
        lines = (self.unfinished_line + data).split(b"\n")
        self.unfinished_line = lines.pop()[-WORDS_BYTES:]
        for line in lines:
            self.hear_line(line)

    def hear_line(self, line):
        self.erred = self.erred or tells_error(line)
        kept = self.words + line + b"\n"
        self.words = kept if len(kept) <= WORDS_BYTES else kept[: WORDS_BYTES // 2] + kept[-WORDS_BYTES // 2 :]
        self.lines += 1
        if self.lines <= LOGGED_LINES:
            say("%s: %s" % (self.id, line.decode("utf-8", "replace")))
        elif self.lines == LOGGED_LINES + 1:
            say("%s: (it says more, which is left out here)" % self.id)

    @property
    def failed(self):
        return self.status is not None and (self.status != 0 or self.erred)

    def text(self):
        return self.words.decode("utf-8", "replace")


def read_pipeline(path):
    """The processes that `pipe` noted down."""
    processes = [Process(words) for words in read_noted(path)]
    check_pipeline(processes)
    return processes


def check_pipeline(processes):
    """Sources come first and are read once; only the last process has no reader."""
    unread = []  # type: list[str]
    for process in processes:
        for source in process.sources:
            if source not in unread:
                raise ValueError("%s reads %s, which is not there" % (process.id, source))
            unread.remove(source)
        unread.append(process.id)
    if not processes or unread != [processes[-1].id] or processes[-1].output is None:
        raise ValueError("the pipeline does not end in one process with an output")
    assign_levels(processes)


def assign_levels(processes):
    """Processes of one level run at once; the reader of a materialised output is a level later."""
    by_id = {process.id: process for process in processes}
    for process in processes:
        sources = [by_id[source] for source in process.sources]
        process.level = max([source.level + source.materialise for source in sources] + [0])
    for process in reversed(processes):
        for source in process.sources:
            if not by_id[source].materialise:
                by_id[source].level = process.level


class Pipeline(object):
    """The processes at work."""

    def __init__(self, job, processes):
        self.job = job
        self.processes = processes
        self.by_id = {process.id: process for process in processes}
        self.ends = {}  # id of a process -> the descriptor to read its output from
        self.text = None  # the result that is being printed

    def run(self):
        try:
            for level in range(self.processes[-1].level + 1):
                current = [process for process in self.processes if process.level == level]
                for process in current:
                    self.start(process)
                self.watch(current)
                if self.text is not None:
                    self.text.close()
                self.judge()
                self.index([process for process in current if process.materialise])
        finally:
            self.kill()

    def index(self, processes):
        """Of what they have stored; plain concat reads it from end to end, and needs none."""
        paths = [materialised(process) for process in processes if not reads_plainly(self.reader_of(process))]
        work_through([functools.partial(build_index, self.job, path, path + ".csi") for path in paths], cores())

    def reader_of(self, process):
        return next(other for other in self.processes if process.id in other.sources)

    def start(self, process):
        inputs, standard_input, passed = self.inputs_of(process)
        writing_end = self.output_of(process)
        try:
            process.popen = start_bcftools(
                with_inputs(process.argv, inputs),
                cwd=self.job.scratch,
                stdin=standard_input,
                stdout=writing_end,
                pass_fds=passed,
            )
        finally:
            for end in passed + [end for end in (standard_input, writing_end) if end != subprocess.DEVNULL]:
                os.close(end)

    def inputs_of(self, process):
        """(words to append, standard input, descriptors to pass on)."""
        names, passed = [], []
        for source in process.sources:
            if self.by_id[source].materialise:
                names.append(materialised(self.by_id[source]).encode("utf-8"))
            elif len(process.sources) == 1:
                return [b"-"], self.ends.pop(source), []
            else:
                passed.append(self.ends.pop(source))
                names.append(b"/dev/fd/%d" % passed[-1])
        return names, subprocess.DEVNULL, passed

    def output_of(self, process):
        if process.prints_result:
            self.text = Text(self.job.path(process.output))
            return self.text.writing_end
        if process.output is not None:
            return subprocess.DEVNULL  # it writes the file itself
        if process.materialise:
            path = self.job.path(materialised(process))
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.ends[process.id], writing_end = os.pipe()
        return writing_end

    def watch(self, processes):
        """Reads every stderr and waits for every process; after a failure the rest have a moment to end."""
        selector = selectors.DefaultSelector()
        for process in processes:
            selector.register(process.popen.stderr, selectors.EVENT_READ, process)
        deadline = None
        while any(process.status is None for process in processes):
            # One that has closed its stderr ends within a moment; nothing else would tell of that.
            ending = sum(process.status is None for process in processes) > len(selector.get_map())
            for key, _ in selector.select(0.002 if ending else 0.1):
                data = os.read(key.fd, 1 << 16)
                if data:
                    key.data.hear(data)
                else:
                    selector.unregister(key.fileobj)
            for process in processes:
                note_end(process)
            if deadline is None and any(process.failed for process in processes):
                deadline = time.monotonic() + GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                self.kill()
        for key in list(selector.get_map().values()):
            drain(key.data)
        selector.close()

    def kill(self):
        """Ends every process that is still there; the pipes' own ends are closed."""
        for process in self.processes:
            if process.popen is not None and process.status is None and process.popen.poll() is None:
                process.killed = True
                process.popen.kill()
        for process in self.processes:
            if process.popen is not None and process.status is None:
                process.popen.wait()
                note_end(process)
        while self.ends:
            os.close(self.ends.popitem()[1])

    def judge(self):
        """Raises the failure of the process that failed first of all, not of those that it took with it."""
        failed = [process for process in self.processes if process.failed and not process.killed]
        if not failed:
            return
        causes = [process for process in failed if not self.is_consequence(process)] or failed
        cause = causes[0]
        if any(process.status == -signal.SIGTERM for process in failed):
            time.sleep(0.2)  # the same signal is on its way to us, which raises Stopped
            raise Stopped("cancelled")
        raise process_failure(self.job, cause.argv, cause.status, cause.text())

    def is_consequence(self, process):
        """A writer whose reader went away first."""
        readers = [other for other in self.processes if process.id in other.sources]
        if not readers:
            return False
        if process.status == -signal.SIGPIPE:
            return True
        left_first = readers[0].ended is not None and process.ended is not None and readers[0].ended <= process.ended
        return left_first and re.search("broken pipe|cannot write|write error|failed to write", process.text(), re.I)

    def bytes_read(self):
        """How much of the staged inputs the processes have read, as the system knows it (Linux).

        Shards read a file each from its own place on, so what they tell is shared among them.
        """
        folder = os.path.realpath(self.job.path("in")) + os.sep
        readers = [process for process in self.processes if any(word.startswith(b"in/") for word in process.argv)]
        files = len({word for process in readers for word in process.argv if word.startswith(b"in/")})
        told = sum(input_bytes_read(process, folder, self.job) for process in readers if process.popen)
        return told * files // max(1, len(readers))


class Text(object):
    """What the last process prints, on its way to a file: bcftools does not notice when it cannot be written."""

    def __init__(self, path):
        self.path = path
        self.lines = 0
        self.failure = None
        reading_end, self.writing_end = os.pipe()
        self.thread = start_thread(functools.partial(self.copy, reading_end))

    def copy(self, reading_end):
        try:
            with os.fdopen(reading_end, "rb", 0) as source, open(self.path, "wb", 0) as target:
                for data in iter(lambda: source.read(1 << 16), b""):
                    while data:
                        written = target.write(data)
                        self.lines += data[:written].count(b"\n")
                        data = data[written:]
        except OSError as exc:
            self.failure = exc

    def close(self):
        """To be called when the process has ended: raises what kept its text from the file."""
        self.thread.join()
        if self.failure is not None:
            raise self.failure


def with_inputs(argv, inputs):
    """The words of a process with the names of what it reads: last, or before the `--` of a plugin (+fill-tags)."""
    if argv[0].startswith(b"+"):
        at = argv.index(b"--")
        return argv[:at] + inputs + argv[at:]
    return argv + inputs


def reads_plainly(process):
    return process.argv[0] == b"concat" and b"--allow-overlaps" not in process.argv


def cores():
    """How many of the node's are ours."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every system
        return 1


def materialised(process):
    return "tmp/%s.bcf" % process.id


def note_end(process):
    if process.status is None and process.popen.poll() is not None:
        drain(process)
        process.ended = time.monotonic()
        process.status = process.popen.returncode


def drain(process):
    """The last words of a process that ended."""
    if process.popen.stderr.closed:
        return
    os.set_blocking(process.popen.stderr.fileno(), False)
    try:
        for data in iter(lambda: os.read(process.popen.stderr.fileno(), 1 << 16), b""):
            process.hear(data)
    except BlockingIOError:
        pass
    if process.unfinished_line:
        process.hear(b"\n")


def input_bytes_read(process, folder, job):
    if process.status is not None:
        paths = {job.path(word.decode("utf-8", "replace")) for word in process.argv if word.startswith(b"in/")}
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    proc = "/proc/%d/" % process.popen.pid
    try:
        return sum(position(proc, number) for number in os.listdir(proc + "fd") if is_in(folder, proc + "fd/" + number))
    except OSError:  # it ended while we looked
        return 0


def is_in(folder, link):
    return os.readlink(link).startswith(folder)


def position(proc, number):
    with open(proc + "fdinfo/" + number) as file:
        return int(file.readline().split()[1])


# What bcftools and htslib (1.16 to 1.24) say of a file that is not whole.
DAMAGED_WORDS = re.compile(
    r"truncated|EOF marker|bgzf_read|bgzf_uncompress|Inflate operation|CRC32 checksum|BCF read error|"
    r"Exec format error|cannot be usefully indexed|not compressed with bgzip|unknown file type|Invalid BCF",
    re.I,
)
UNSORTED_WORDS = re.compile(r"Unsorted positions|blocks not continuous|not in the same order|unsorted", re.I)
FULL_WORDS = re.compile(r"No space left on device|Disk quota exceeded", re.I)
# htslib does not pass on why it could not write.
UNWRITTEN_WORDS = re.compile(
    r"write failed|cannot write|failed to write|write error|close failed|failed to create", re.I
)
NO_PLUGIN_WORDS = re.compile(r"Could not load \"|unrecognized command 'plugin'")
FILES_WORDS = re.compile(r"Too many open files", re.I)
MEMORY_WORDS = re.compile(r"Cannot allocate memory|Out of memory|bad_alloc", re.I)


def process_failure(job, argv, status, words):
    """The Failed for a bcftools process: its command and its own words, and what they mean where that is known."""
    command = shown_command(argv)
    said = "\n".join(line for line in words.splitlines() if "[W::" not in line).strip() or words.strip()
    if status == -signal.SIGKILL:
        return Failed(
            "out_of_memory",
            "%s was killed by the system, most often because the job used more memory than it had asked for." % command,
        )
    if FULL_WORDS.search(words) or (UNWRITTEN_WORDS.search(words) and not has_room(job.scratch)):
        free = readable(shutil.disk_usage(job.scratch).free)
        return Failed(
            "disk_full", "No space is left in %s on %s (%s free)." % (job.scratch, socket.gethostname(), free)
        )
    if FILES_WORDS.search(words):
        return Failed("bcftools_failed", too_many_files(said))
    if MEMORY_WORDS.search(words):
        return Failed("out_of_memory", "%s had not enough memory: %s" % (command, said))
    keys = [label_of(e) for e in job.manifest.get("inputs", []) if os.fsencode(input_word(e)) in argv]
    if keys and DAMAGED_WORDS.search(words):
        return Failed("input_corrupt", "%s cannot be read whole. bcftools says: %s" % (keys[0], said))
    if NO_PLUGIN_WORDS.search(words):
        return Failed(
            "bcftools_failed",
            "The bcftools of %s has no plugin for %s. The site's administrator installs it, or sets BCFTOOLS_PLUGINS "
            "in the script's prologue. bcftools says: %s" % (socket.gethostname(), command, said),
        )
    if status < 0:
        outcome = "was ended by signal %d" % -status
    else:
        outcome = "ended with status %d" % status if status else "reported an error although it ended with status 0"
    return Failed("bcftools_failed", "%s %s: %s" % (command, outcome, said or "(it said nothing)"))


def has_room(folder):
    """Whether one more block of a BGZF file can be written there; quotas and the like are noticed as well."""
    path = os.path.join(folder, "room")
    try:
        write_private(path, bytes(1 << 16))
        return True
    except OSError:
        return False
    finally:
        try:
            os.unlink(path)
        except OSError:
            pass


def input_word(entry):
    return "in/%d.%s" % (entry["number"], entry["format"])


def shown_command(argv):
    text = " ".join(["bcftools"] + [shlex.quote(word.decode("utf-8", "replace")) for word in argv])
    return text if len(text) <= 600 else text[:600] + "..."


def run(job):
    """Runs the pipeline; then the result is checked, indexed (if it is no text) and counted."""
    started = time.monotonic()
    raise_open_files()
    for name in ("tmp", "out"):
        job.folder(name)
    processes = read_pipeline(job.path("pipeline"))
    require_release((job.state.get("tools") or tool_versions())["bcftools"], processes)
    pipeline = Pipeline(job, processes)
    total = sum(os.path.getsize(staged_path(job, entry)) for entry in job.manifest["inputs"])
    with Progress(job.desk, "running", total, pipeline.bytes_read):
        pipeline.run()
    counts = {"lines": pipeline.text.lines} if pipeline.text is not None else complete(job, processes[-1].output)
    job.state["commands"] = [shown_argv(process) for process in processes]
    job.state["counts"] = dict(counts, **(job.state.get("staged") or {}))
    job.record_time("running_s", started)
    job.state.save()
    counted = ", ".join("%d %s" % (counts[name], name) for name in sorted(counts))
    say("ran: %d processes in %.1f s; %s" % (len(processes), job.state["timings"]["running_s"], counted))


def require_release(version, processes):
    """Raises Failed where that bcftools would answer wrongly, or not at all, and would not say why."""
    release = release_of(version or "")
    if MERGE_IS_WRONG[0] <= release < MERGE_IS_WRONG[1] and any(process.argv[0] == b"merge" for process in processes):
        words = "gives values of some samples to others when it merges files (bcftools issue 2244)"
        raise too_old(version, words, MERGE_IS_WRONG[1])
    if release < BRACES_FROM and any(has_braces(process.argv) for process in processes):
        raise too_old(version, "cannot read regions of a contig with ':' in its name", BRACES_FROM)


def has_braces(argv):
    """Whether a place is given as {contig}:1-100, as it is where the name has a colon."""
    return any(word in PLACE_OPTIONS and b"{" in argv[at + 1] for at, word in enumerate(argv[:-1]))


def complete(job, result):
    """Checks and indexes a result of records, and counts what is in it."""
    require_result(job, result)
    build_index(job, result, result + ".csi")
    return {"records": count_records(job, result), "samples": count_samples(job, result)}


def shown_argv(process):
    return {
        "id": process.id,
        "argv": ["bcftools"] + [word.decode("utf-8", "replace") for word in process.argv],
        "from": process.sources,
        "materialise": process.materialise,
    }


def raise_open_files():
    """A wide merge has more files open than the usual soft limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        say("the limit of open files could not be raised")


def require_result(job, result):
    path = job.path(result)
    if not os.path.exists(path) or not ends_with(path, BGZF_END):
        raise Failed("bcftools_failed", "bcftools ended without an error, but its result is not a whole BGZF file.")


def count_records(job, path):
    status, output, words = bcftools(["index", "--nrecords", path], job.scratch)
    if status != 0 or not output.strip().isdigit():
        raise Failed("bcftools_failed", "The records of the result could not be counted: %s" % words)
    return int(output)


def count_samples(job, path):
    status, output, words = bcftools(["query", "--list-samples", path], job.scratch)
    if status != 0:
        raise Failed("bcftools_failed", "The header of %s could not be read: %s" % (os.path.basename(path), words))
    return len(output.splitlines())


# --- index -------------------------------------------------------------------------------------------------------


def index(job):
    """Builds the missing index of the one input, or says in plain words why it cannot be built."""
    started = time.monotonic()
    job.folder("out")
    entry = job.manifest["inputs"][0]
    arguments = ["index", "--csi", "--force", "--output", "out/index.csi", input_word(entry)]
    with Progress(job.desk, "running", 0):
        status, _, words = bcftools(arguments, job.scratch)
        for line in words.splitlines():
            say("index: " + line)
        if status != 0 or has_error(words):
            raise index_failure(job, entry, arguments, status, words)
        status, header, words = bcftools(["view", "--header-only", input_word(entry)], job.scratch)
        if status != 0 or has_error(words) or b"#CHROM" not in header:
            raise Failed("input_corrupt", "The header of %s cannot be read: %s" % (entry["key"], words.strip()))
    job.state["counts"] = {
        "records": count_records(job, "out/index.csi"),
        "samples": count_samples(job, input_word(entry)),
    }
    job.record_time("running_s", started)
    job.state.save()
    say("indexed: %d records, %d samples" % (job.state["counts"]["records"], job.state["counts"]["samples"]))


def index_failure(job, entry, arguments, status, words):
    if UNSORTED_WORDS.search(words):
        return Failed(
            "unsorted",
            "%s is not sorted by chromosome and position, so it cannot be indexed. `divbase files repair %s` sorts it. "
            "bcftools says: %s" % (entry["key"], shlex.quote(entry["key"]), words.strip().splitlines()[0]),
        )
    return process_failure(job, [word.encode("utf-8") for word in arguments], status, words)


# --- repair ------------------------------------------------------------------------------------------------------


def repair(job, result, sort_mb):
    """Writes the one input anew: as BGZF where it is none, sorted where it is not; then indexes and counts it."""
    started = time.monotonic()
    raise_open_files()
    for name in ("tmp", "out"):
        job.folder(name)
    Rewriting(job, result, sort_mb).run()
    require_result(job, result)
    job.state["counts"] = {"records": count_records(job, result), "samples": count_samples(job, result)}
    job.record_time("running_s", started)
    job.state.save()
    say("repaired: %d records, %d samples" % (job.state["counts"]["records"], job.state["counts"]["samples"]))


class Rewriting(object):
    """The bcftools processes that a repair takes. `result` is the path of the new file."""

    def __init__(self, job, result, sort_mb):
        self.job = job
        self.result = result
        self.sort_mb = sort_mb
        self.write = ["-Ob" if result.endswith(".bcf") else "-Oz", "-o", result]

    def run(self):
        entry = self.job.manifest["inputs"][0]
        if is_bgzf(staged_path(self.job, entry)):
            self.sort(input_word(entry))  # its packing is right, so it is the order of its records that is not
            self.index()
            return
        self.process([["view", "--no-version", *self.write, input_word(entry)]])
        if not self.is_indexed():
            packed = "tmp/packed" + os.path.splitext(self.result)[1]
            os.replace(self.job.path(self.result), self.job.path(packed))
            self.sort(packed)
            self.index()

    def process(self, commands):
        """One process, or two of which the second reads the first; the last writes the result."""
        processes = []
        for number, command in enumerate(commands):
            words = [b"p%d" % number] + ([b"--from", b"p%d" % (number - 1)] if number else [])
            if number == len(commands) - 1:
                words += [b"--output", self.result.encode("utf-8")]
            processes.append(Process([*words, b"--", *(word.encode("utf-8") for word in command)]))
        pipeline = Pipeline(self.job, processes)
        total = os.path.getsize(staged_path(self.job, self.job.manifest["inputs"][0]))
        with Progress(self.job.desk, "running", total, pipeline.bytes_read):
            pipeline.run()
        self.job.state.setdefault("commands", []).extend(shown_argv(process) for process in processes)

    def sort(self, path):
        """bcftools sort; it takes no record with a name that the header does not have, so the header gets them."""
        command = ["sort", "--max-mem", "%dM" % self.sort_mb, "--temp-dir", "tmp/sort", *self.write]
        missing = [] if self.result.endswith(".bcf") else undefined_names(self.job.path(path))
        if not missing:
            self.process([[*command, path]])
            return
        say("not defined in the header, and added to it: %s" % ", ".join(name for name, _ in missing[:20]))
        write_private(self.job.path("tmp/header.txt"), completed_header(self.job.path(path), missing))
        self.process([["reheader", "--header", "tmp/header.txt", path], command])

    def is_indexed(self):
        """Whether the result could be indexed; False where it is not sorted."""
        arguments = ["index", "--csi", "--force", "--output", self.result + ".csi", self.result]
        status, _, words = bcftools(arguments, self.job.scratch)
        for line in words.splitlines():
            say("index: " + line)
        if status == 0 and not has_error(words):
            return True
        if UNSORTED_WORDS.search(words):
            return False
        raise process_failure(self.job, [word.encode("utf-8") for word in arguments], status, words)

    def index(self):
        if not self.is_indexed():
            raise Failed("internal_error", "What bcftools sort has written is not sorted.")


DEFINITION = re.compile(rb'##(contig|FILTER|INFO|FORMAT)=<(?:[^"]*,)?ID=([^,>]+)')
LIKE_HTSLIB = {  # what htslib takes a name for that the header does not have
    "contig": "##contig=<ID=%s>",
    "FILTER": '##FILTER=<ID=%s,Description="Not described">',
    "INFO": '##INFO=<ID=%s,Number=1,Type=String,Description="Not described">',
    "flag": '##INFO=<ID=%s,Number=0,Type=Flag,Description="Not described">',
    "FORMAT": '##FORMAT=<ID=%s,Number=1,Type=String,Description="Not described">',
}


def undefined_names(path):
    """[(name, its header line)] for what the records of a packed VCF name and its header does not, in their order."""
    import gzip

    known = {"contig": set(), "FILTER": {b"PASS", b"."}, "INFO": {b"."}, "FORMAT": {b"."}}  # type: dict[str, set[bytes]]
    found = collections.OrderedDict()  # type: collections.OrderedDict[tuple[str, bytes], str]
    seen = set()  # type: set[tuple[str, bytes]]  # columns that were looked at, of which there are few
    with gzip.open(path, "rb") as file:
        for line in file:
            if line.startswith(b"#"):
                match = DEFINITION.match(line)
                if match:
                    known[match.group(1).decode("ascii")].add(match.group(2))
                continue
            columns = line.rstrip(b"\r\n").split(b"\t", 9)
            for kind, at, separator in (("contig", 0, None), ("FILTER", 6, b";"), ("FORMAT", 8, b":")):
                if at < len(columns) and (kind, columns[at]) not in seen:
                    seen.add((kind, columns[at]))
                    for name in columns[at].split(separator) if separator else [columns[at]]:
                        if name not in known[kind]:
                            found.setdefault((kind, name), kind)
            for item in columns[7].split(b";") if len(columns) > 7 else []:
                name, equals, _ = item.partition(b"=")
                if name not in known["INFO"] and (equals or ("INFO", name) not in found):
                    found["INFO", name] = "INFO" if equals else "flag"
    decoded = [(name.decode("utf-8", "surrogateescape"), form) for (_, name), form in found.items()]
    return [(name, LIKE_HTSLIB[form] % name) for name, form in decoded]


def completed_header(path, missing):
    """The header of a packed VCF with these lines before its last one."""
    import gzip

    lines = []  # type: list[bytes]
    with gzip.open(path, "rb") as file:
        for line in file:
            if line.startswith(b"#CHROM"):
                lines += [text.encode("utf-8", "surrogateescape") + b"\n" for _, text in missing]
            lines.append(line)
            if line.startswith(b"#CHROM"):
                break
    return b"".join(lines)


# --- sidecar -----------------------------------------------------------------------------------------------------


def sidecar(job, result):
    """Writes the one input as BCF with its index, and proves that no query can tell the two apart."""
    started = time.monotonic()
    for name in ("tmp", "out"):
        job.folder(name)
    entry = job.manifest["inputs"][0]
    total = os.path.getsize(staged_path(job, entry))
    pipeline = Pipeline(job, [writer_of_copy(result, input_word(entry))])
    with Progress(job.desk, "running", total, pipeline.bytes_read):
        pipeline.run()
        require_result(job, result)
        build_index(job, result, result + ".csi")
        name_all_contigs(job.path(result))
        require_equal(job, input_word(entry), result)
    job.state["commands"] = [shown_argv(process) for process in pipeline.processes]
    job.state["counts"] = {"records": count_records(job, result), "samples": count_samples(job, result)}
    job.record_time("running_s", started)
    job.state.save()
    say("copied: %d records, %d samples" % (job.state["counts"]["records"], job.state["counts"]["samples"]))


def writer_of_copy(result, path):
    words = ["view", "--no-version", "-Ob1", "-o", result, path]
    return Process([b"b", b"--output", result.encode("utf-8"), b"--"] + [word.encode("utf-8") for word in words])


def name_all_contigs(path):
    """Gives the index of a BCF an entry for each contig of its header: bcftools 1.16 dies of one that it has not."""
    import gzip

    with gzip.open(path + ".csi") as file:
        index = file.read()
    at = 16 + struct.unpack_from("<i", index, 12)[0]
    (known,) = struct.unpack_from("<i", index, at)
    more = bcf_contigs(path) - known
    if more <= 0:
        return
    index = index[:at] + struct.pack("<i", known + more) + index[at + 4 : -8] + bytes(4 * more) + index[-8:]
    with open_private(path + ".csi") as file:
        for begin in range(0, len(index), CONTENT_BYTES):
            file.write(pack_block(index[begin : begin + CONTENT_BYTES]))
        file.write(BGZF_END)


def require_equal(job, path, copy):
    """Raises Failed unless bcftools prints file and copy alike, and finds their records at the same places."""
    text, other, ends = PrintedVcf(), Printed(), Printed()
    listen(job, ["view", "--no-version", path], text.hear)
    listen(job, ["view", "--no-version", copy], other.hear)
    if text.digest() != other.digest():
        raise unequal("bcftools prints another text of it than of the file: %s" % text.against(other))
    listen(job, ["query", "--format", r"%END\n", copy], ends.hear)
    if text.ends.digest() != ends.digest():
        raise unequal("some of its records end elsewhere than END and REF say, so regions would find others in it")


def unequal(words):
    return Failed("copy_differs", "There will be no BCF copy of the file: %s." % words)


class Printed(object):
    """What bcftools prints, of which only size and SHA-256 are kept."""

    def __init__(self):
        self.sha256 = hashlib.sha256()
        self.size = 0

    def hear(self, data):
        self.sha256.update(data)
        self.size += len(data)

    def digest(self):
        return self.sha256.hexdigest()

    def against(self, other):
        return "%d bytes (%s) and %d (%s)" % (other.size, other.digest()[:12], self.size, self.digest()[:12])


class PrintedVcf(Printed):
    """The text of a VCF; `ends` are where its records end, each in a line, by the rules that all releases share."""

    def __init__(self):
        super(PrintedVcf, self).__init__()
        self.ends = Printed()
        self.rest = b""

    def hear(self, data):
        super(PrintedVcf, self).hear(data)
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        found = [end_of(line) for line in lines if not line.startswith(b"#")]
        if found:
            self.ends.hear(b"%d\n" * len(found) % tuple(found))


SVLEN = re.compile(rb"(?:^|;)SVLEN=([^;]*)")
END = re.compile(rb"(?:^|;)END=(\d+)")


def end_of(line):
    """The last position of a record, from 1. Raises Failed where that is not the same in all releases of bcftools."""
    columns = line.split(b"\t", 9)
    position, info = int(columns[1]), columns[7]
    end = position + len(columns[3]) - 1
    if position == 0:
        raise unequal("it has a record at position 0, which indexes do not find")
    if b"END=" in info:
        match = END.search(info)
        end = int(match.group(1)) if match and int(match.group(1)) >= position else end
    if b"<" in columns[4]:
        require_plain_length(columns, position, end)
    return end


def require_plain_length(columns, position, end):
    """Newer releases of bcftools go by the lengths of symbolic alleles as well: what older ones wrote would not do."""
    match = SVLEN.search(columns[7]) if any(not each.startswith(b"<INS") for each in columns[4].split(b",")) else None
    lengths = [abs(int(each)) for each in match.group(1).split(b",") if each.lstrip(b"-").isdigit()] if match else []
    blocks = len(columns) > 8 and b"LEN" in columns[8].split(b":")
    if blocks or any(position + length > end for length in lengths):
        place = b"%s:%d" % (columns[0], position)
        raise unequal(
            "where its record at %s ends is said by SVLEN or LEN, which not all releases of bcftools go by"
            % place.decode("utf-8", "replace")
        )


def listen(job, arguments, hear):
    """Runs bcftools to its end and gives what it prints to `hear`, piece by piece."""
    process = start_bcftools(arguments, cwd=job.scratch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    words = collections.deque(maxlen=50)  # type: collections.deque[bytes]
    listener = threading.Thread(target=lambda: words.extend(process.stderr))
    listener.daemon = True
    listener.start()
    try:
        for data in iter(lambda: os.read(process.stdout.fileno(), 1 << 20), b""):
            hear(data)
        status = process.wait()
        listener.join()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    said = b"".join(words).decode("utf-8", "replace")
    if status != 0 or has_error(said):
        raise process_failure(job, [word.encode("utf-8") for word in arguments], status, said)


# --- push --------------------------------------------------------------------------------------------------------


def push(job, path):
    """Sends the result with its index and the record of how it was made; of an index job, the index."""
    started = time.monotonic()
    total = os.path.getsize(job.path(path))
    with Progress(job.desk, "pushing", total) as progress:
        if job.manifest["kind"] == "index":
            send(job, "index", path, progress)
        else:
            send(job, "result", path, progress)
            if os.path.exists(job.path(path + ".csi")):  # text has none
                send(job, "index", path + ".csi", progress)
            job.record_time("pushing_s", started)
            record = json.dumps(provenance(job), indent=1, sort_keys=True).encode("utf-8")
            write_private(job.path("out", "provenance.json"), record)
            send(job, "provenance", "out/provenance.json", progress)
    job.record_time("pushing_s", started)
    job.state["pushed"] = True
    job.state.save()


def send(job, role, path, progress):
    with open(job.path(path), "rb") as file:
        output = Upload(job, os.path.basename(path), role, file, progress).run(job.retry_for_s)
    job.state.setdefault("outputs", []).append(output)
    say("pushed: %s, %s" % (output["name"], readable(output["size"])))


def provenance(job):
    """How the result was made: enough to make it again, and to see that it is the same."""
    facts = ("number", "key", "copy_key", "size", "etag", "sha256", "samples")
    state = job.state
    return {
        "request": job.manifest.get("provenance"),
        "job": job.manifest["job"],
        "attempt": job.manifest["attempt"],
        "inputs": [
            dict({name: entry.get(name) for name in facts}, bytes_read=bytes_fetched(entry))
            for entry in job.manifest["inputs"]
        ],
        "commands": state.get("commands", []),
        "tools": state.get("tools", {}),
        "counts": state.get("counts", {}),
        "timings": state.get("timings", {}),
        "outputs": state.get("outputs", []),
    }


class Upload(object):
    """One output on its way to S3: whole, or in parts of the manifest's size."""

    def __init__(self, job, name, role, file, progress=None):
        self.job = job
        self.name = name
        self.role = role
        self.file = file
        self.progress = progress
        self.lock = threading.Lock()
        self.generation = 0  # of the URLs

    def run(self, retry_for_s):
        """What /finish says of it. Where the store has not what was sent, it is sent again."""
        self.retry_for_s = retry_for_s
        self.measure()
        for _ in range(RESENDS):
            self.announce()
            try:
                return self.send()
            except Refused as exc:
                refusal = exc
                if exc.status != 409:
                    break
        raise Failed("upload_failed", "%s did not arrive as it was sent: %s" % (self.name, refusal.words))

    def send(self):
        stored = {}

        def task(number):
            def work():
                stored[number] = self.put(number)

            return work

        work_through([task(number) for number in range(1, len(self.md5s) + 1)], PARTS_IN_FLIGHT)
        said = {name: self.output[name] for name in ("name", "role", "size", "sha256")}
        said.update(self.job.desk.close_output(self.output, self.upload, stored, self.retry_for_s))
        return said

    def measure(self):
        """Size, SHA-256 of the whole and MD5 of every part, in one reading; an empty file is one empty part."""
        whole_digest = hashlib.sha256()
        self.part_size = self.job.desk.part_size(self.job.manifest, self.role, self.file.seek(0, os.SEEK_END))
        self.md5s = []  # type: list[str]
        self.size = 0
        self.file.seek(0)
        while True:
            part, length = md5(), 0
            while length < self.part_size:
                block = self.file.read(min(1 << 20, self.part_size - length))
                if not block:
                    break
                whole_digest.update(block)
                part.update(block)
                length += len(block)
            if length or not self.md5s:
                self.md5s.append(base64.b64encode(part.digest()).decode("ascii"))
            self.size += length
            if length < self.part_size:
                break
        self.output = {
            "name": self.name,
            "role": self.role,
            "size": self.size,
            "sha256": whole_digest.hexdigest(),
            "md5s": self.md5s,
        }

    def announce(self, refusal=None):
        self.upload, self.requests = self.job.desk.open_output(self.output, self.retry_for_s, refusal)

    def renew(self, generation, refusal):
        with self.lock:
            if self.generation == generation:
                self.announce(refusal)
                self.generation += 1

    def put(self, number):
        """Sends one part until S3 has it."""
        patience = Patience(self.retry_for_s)
        refusals, damaged = 0, 0
        while True:
            with self.lock:
                request, generation = self.requests[number], self.generation
            try:
                answer = self.put_once(number, request)
            except Trouble as trouble:
                endure_store(patience, self.name, trouble)
                continue
            words = store_words(answer)
            if answer.status in (200, 201, 204):
                return StoredPart(answer)
            if is_refusal(answer) and refusals < RENEWALS:
                refusals += 1
                self.renew(generation, Expired(answer))
            elif answer.status == 400 and "Digest" in words and damaged < RESENDS:
                damaged += 1
            elif is_passing(answer.status):
                endure_store(patience, self.name, words)
            else:
                raise Failed("upload_failed", "S3 does not accept %s: %s" % (self.name, words))

    def put_once(self, number, request):
        start = (number - 1) * self.part_size
        length = min(self.part_size, self.size - start)
        body = Slice(self.file, start, length)
        headers = dict(request["headers"])
        headers["Content-Length"] = str(length)
        headers["Content-MD5"] = self.md5s[number - 1]  # S3 checks the bytes by it, whether it is signed or not
        answer = exchange(request["method"], request["url"], headers, body)
        if self.progress is not None and answer.status < 300:
            self.progress.add(length)
        return answer


class StoredPart(object):
    """What S3 said when it had taken a part, or the whole."""

    def __init__(self, answer):
        self.etag = (answer.headers.get("ETag") or "").strip('"')
        self.version_id = answer.headers.get("x-amz-version-id")


class Slice(object):
    """A part of a file as a request body; reads by position, so that threads can share the file."""

    def __init__(self, file, start, length):
        self.file = file
        self.at = start
        self.end = start + length

    def read(self, size=-1):
        wanted = self.end - self.at if size < 0 else min(size, self.end - self.at)
        data = os.pread(self.file.fileno(), wanted, self.at)
        self.at += len(data)
        return data


# --- finish ------------------------------------------------------------------------------------------------------


def finish(job, status, reason):
    """Ships the log and tells the desk how it ended. Returns the exit status: 0 only if the desk took it."""
    if not job.manifest or job.state.get("not_ours"):
        say("nothing is reported: this run does not have the attempt")
        return 0 if status else 1
    report = final_report(job, status, reason)
    say(closing_words(report))
    budget = ENDING_S.get(report["reason"], job.retry_for_s)
    log = ship_log(job, min(budget / 2.0, 30))
    if log is not None:
        report["outputs"].append(log)
    report["log_tail"] = redact(read_tail("job.log", LOG_TAIL_BYTES).decode("utf-8", "replace"))
    job.desk.finish(report, budget)
    return 0


def final_report(job, status, reason):
    failure = job.state.get("failure")
    succeeded = status == 0 and job.state.get("pushed") and not failure
    if not succeeded and not failure:
        failure = guessed_failure(status, reason)
    return {
        "status": "succeeded" if succeeded else "failed",
        "reason": None if succeeded else failure["reason"],
        "message": None if succeeded else failure["message"],
        "outputs": list(job.state.get("outputs", [])),
        "counts": job.state.get("counts", {}),
        "timings": job.state.get("timings", {}),
        "tools": job.state.get("tools", {}),
        "claim": job.state.get("claim"),
    }


def closing_words(report):
    if report["status"] == "succeeded":
        return "finished: succeeded"
    return "finished: %s: %s" % (report["reason"], report["message"])


STOPPED_WORDS = {
    "timed_out": "The job came near its time limit and was stopped. Ask for less, or for more time.",
    "cancelled": "The job was cancelled.",
}


def guessed_failure(status, reason):
    """For an end that no command could record itself."""
    if reason in STOPPED_WORDS:
        return {"reason": reason, "message": STOPPED_WORDS[reason]}
    if status == 128 + signal.SIGKILL:
        words = "The job's helper was killed by the system, most often because the job used too much memory."
        return {"reason": "out_of_memory", "message": words}
    return {"reason": "internal_error", "message": "The script ended with status %d for no known reason." % status}


def ship_log(job, retry_for_s):
    """job.log as it is now, as an output; None where it could not be sent, which is no reason to fail."""
    content = redact(read_tail("job.log", LOG_BYTES).decode("utf-8", "replace")).encode("utf-8")
    path = job.path("job.log")
    try:
        write_private(path, content)
        with open(path, "rb") as file:
            return Upload(job, "job.log", "log", file).run(retry_for_s)
    except (Failed, GaveUp, OSError) as exc:
        say("the log could not be sent: %s" % exc)
        return None


def read_tail(path, size):
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - size))
            return file.read()
    except OSError:
        return b""


# --- the command line --------------------------------------------------------------------------------------------


def listen_to_signals():
    """SIGTERM: cancelled. SIGUSR2: the time limit is near. Both end the command at once."""

    def stop(number, _frame):
        ignore_signals()
        raise Stopped("timed_out" if number == signal.SIGUSR2 else "cancelled")

    for number in SIGNALS:
        signal.signal(number, stop)


def ignore_signals():
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def perform(job, arguments):
    command = arguments[0]
    if command == "finish":
        return finish(job, int(arguments[1]), arguments[2] if len(arguments) > 2 else None)
    if command == "push":
        push(job, arguments[1])
    elif command == "repair":
        repair(job, arguments[1], int(arguments[2]))
    elif command == "sidecar":
        sidecar(job, arguments[1])
    else:
        {"claim": claim, "stage": stage, "run": run, "index": index}[command](job)
    return 0


def explain(exc, job):
    """(reason, message) of an exception that ends a command."""
    if isinstance(exc, Failed):
        return exc.reason, exc.message
    if isinstance(exc, Stopped):
        return str(exc), STOPPED_WORDS[str(exc)]
    if isinstance(exc, MemoryError):
        return "out_of_memory", "The helper had not enough memory."
    if lacks_descriptors(exc):
        return "bcftools_failed", too_many_files(exc.strerror)
    if isinstance(exc, OSError) and disk_trouble(exc, job.scratch):
        return "disk_full", disk_trouble(exc, job.scratch).message
    if isinstance(exc, GaveUp):
        return "gateway_unavailable", str(exc)
    say("".join(traceback.format_exception(type(exc), exc, exc.__traceback__)))
    return "internal_error", "A fault of DivBase's own: %s: %s" % (type(exc).__name__, exc)


def work(scratch):
    """Each step as if it were a command of its own, but that the connections stay open; then the end of the job.

    The exit status is kept in `ended` where the end was reported, or nobody could be told: the script has nothing to
    add to that.
    """
    try:
        for words in read_noted(os.path.join(scratch, "steps")):
            code = main([word.decode("utf-8") for word in words])
            if code != 0:
                return code
        ignore_signals()  # what was asked for is done
    except Stopped as exc:  # between two steps
        return EXIT_STOPPED[str(exc)]
    code = main(["finish", "0"])
    code = code if code in EXIT_UNREPORTED.values() else int(code != 0)
    try:
        write_private(os.path.join(scratch, "ended"), b"%d" % code)
    except OSError as exc:  # a full disk: the script then reports once more, the same
        say("the end could not be noted down: %s" % exc)
    return code


def main(arguments):
    if arguments[0] == "work":
        return work(os.environ["DIVBASE_SCRATCH"])
    job = Job(os.environ["DIVBASE_SCRATCH"])
    if arguments[0] != "finish":
        listen_to_signals()
    try:
        return perform(job, arguments)
    except NotOurs as exc:
        say("this attempt is not ours: %s" % exc)
        job.state["not_ours"] = True
        job.state.save()
        return EXIT_NOT_OURS
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is recorded and said
        reason, message = explain(exc, job)
        say("%s failed: %s: %s" % (arguments[0], reason, message))
        if arguments[0] != "finish":
            job.record_failure(reason, message)
        if reason in EXIT_UNREPORTED and arguments[0] in ("claim", "finish"):
            return EXIT_UNREPORTED[reason]
        return EXIT_STOPPED.get(reason, 1)


def start():
    """Do what the command line says, and end the process."""
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # threads may still wait for an answer that nobody needs any more


if __name__ == "__main__":
    start()
