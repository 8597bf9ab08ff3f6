"""Certificates for tests of TLS, made with openssl: an authority of our own, this machine, another one."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["make_certificates"]


def make_certificates(folder: Path) -> Path:
    """Fill the folder with ``ca.pem``, and ``here``, ``address`` and ``elsewhere``, each as ``.pem`` and ``.key``."""
    key_of = ("-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key")
    _openssl(folder, "req", "-x509", *key_of, "-out", "ca.pem", "-days", "2", "-subj", "/CN=ours")
    _sign(folder, "here", "IP:127.0.0.1,DNS:localhost")
    _sign(folder, "address", "IP:127.0.0.1")  # so it is not localhost's
    _sign(folder, "elsewhere", "DNS:elsewhere.example")
    return folder


def _sign(folder: Path, name: str, host: str) -> None:
    """Make a certificate for a host, from the folder's authority."""
    key_of = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
    _openssl(folder, "req", *key_of, "-out", f"{name}.csr", "-subj", "/CN=x")
    (folder / f"{name}.ext").write_text(f"subjectAltName={host}\n")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
