"""Make the instance's keys and certificates: once, in `certs/`, readable by their owner only.

Three authorities, so that a certificate is good for one server only: `ca` (for the API server), `etcd-ca`, and
`kubelet-client-ca` (by which node agents recognise the API server).
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runyard_local.files import replace_file

_VALID_FOR = timedelta(days=3650)
_HOST_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def make_certs(folder: Path) -> None:
    """Make the whole set, unless `complete`, which is written last, says that it is there."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _Authority(folder, "ca").issue("apiserver", _SERVER)
    etcd = _Authority(folder, "etcd-ca")
    etcd.issue("etcd", _SERVER, _CLIENT)  # the client half is for its peers
    etcd.issue("etcd-client", _CLIENT)
    _Authority(folder, "kubelet-client-ca").issue("kubelet-client", _CLIENT)
    _write_signing_key(folder)
    (folder / "complete").touch()


class _Authority:
    """A certificate authority: writes `<name>.crt`, and `<issued>.crt` and `<issued>.key` for each that it issues.

    Its own key is never written, so nothing can be issued later.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = _common_name(f"runyard-local-{name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
        )
        _write_certificate(folder / f"{name}.crt", builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *usages: x509.ObjectIdentifier) -> None:
        """Issue a certificate for loopback, good for `usages`."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts: list[x509.GeneralName] = [x509.DNSName(host) for host in _HOST_NAMES]
        hosts.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_common_name(f"runyard-local-{name}"), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(issuer_key, critical=False)
        )
        _write_key(self._folder / f"{name}.key", key)
        _write_certificate(self._folder / f"{name}.crt", builder.sign(self._key, hashes.SHA256()))


def _write_signing_key(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(folder / "service-accounts.key", key)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    replace_file(folder / "service-accounts.pub", public)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    replace_file(path, certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    # PKCS#1 / SEC1: what kube-controller-manager reads for its signing key.
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    replace_file(path, pem)
