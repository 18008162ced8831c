"""Whether a run's program can reach the gateway at the address that it is told.

A gateway with a certificate is told by a name of the certificate's, which need not lead to this
box from within; its program would say "Connection error." and no more.
"""

import socket
import ssl
from urllib.parse import urlsplit

_WITHIN_S = 3.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def unreachable(url: str) -> tuple[str, str]:
    """Return why calls at a URL would fail, and what helps; two empty texts where they do not."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme == "http" and host in _LOOPBACK:
        return "", ""
    try:
        with socket.create_connection((host, port), _WITHIN_S) as connection:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                context.wrap_socket(connection, server_hostname=host).close()
    except socket.gaierror:
        helps = f"`127.0.0.1 {host}` as a line of /etc/hosts leads it to this box"
        return f"`{host}` leads nowhere from here, so that the program's calls fail", helps
    except ssl.SSLCertVerificationError as fault:
        why = str(fault.verify_message).rstrip(".")
        return (
            f"`{url}` is not trusted here ({why}), so that the program's calls may fail",
            "$SSL_CERT_FILE names who has signed its certificate, for Node $NODE_EXTRA_CA_CERTS",
        )
    except (OSError, UnicodeError) as fault:  # the latter of a name with an empty or long part
        return f"`{url}` cannot be reached from here: {getattr(fault, 'strerror', '') or fault}", ""
    return "", ""
