"""Where a key and a token may go: to the service alone, over a connection whose certificate is checked."""

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.retrying import NO_RETRIES
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from tests.chaos.proxy import Rule, asks_control, starts, streams
from tests.chaos.proxy.faults import CloseStream, CutAfter, Refuse, Reply
from tests.chaos.runs import Script


class Listener:
    """Another host's server, which notes what it is sent."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                heard.append(f"{self.requestline}\n{self.headers}")
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def elsewhere():
    listener = Listener()
    yield listener
    listener.close()


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("plane", ["control", "start", "stream"])
def test_a_redirect_to_another_host_takes_no_credentials_there(chaos, elsewhere, status, plane):
    which = {
        "control": asks_control,
        "start": starts,
        "stream": lambda request: streams(request) and not starts(request),
    }[plane]

    def plan(run):
        away = Reply(status, {}, location=f"http://localhost:{elsewhere.port}{'/stolen'}")
        return [Rule(streams, CutAfter(2, CloseStream)), Rule(which, Refuse(away))]

    begun = int(plane == "stream")
    script = Script(lines=200, pause=0.05)
    runs = chaos(plan, script, seeds=[1], succeeds=False, starts=begun, leaves_running=True)
    for run in runs:
        assert str(status) in str(run.error)
    assert elsewhere.heard == []


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory):
    """An https server that signed its certificate itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listener = Listener(context)
    yield listener
    listener.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused_by_both_clients(self_signed):
    url = f"https://127.0.0.1:{self_signed.port}"

    with (
        SandboxClient("a-key", url, policy=NO_RETRIES) as client,
        pytest.raises(errors.TransportError) as one,
    ):
        client.get_sandbox("sb-1")
    async with await AsyncSandboxClient.make("a-key", url, policy=NO_RETRIES) as twin:
        with pytest.raises(errors.TransportError) as other:
            await twin.get_sandbox("sb-1")

    for caught in (one, other):
        assert "certificate verify failed" in str(caught.value)
        assert "a-key" not in str(caught.value)
    assert self_signed.heard == []


def test_a_task_at_such_a_server_fails_and_names_the_certificate(chaos, self_signed):
    address = f"https://127.0.0.1:{self_signed.port}"
    for run in chaos(lambda run: [], seeds=[1], host=address, patience=1.0, succeeds=False, starts=0):
        assert "certificate verify failed" in str(run.error)
    assert self_signed.heard == []
