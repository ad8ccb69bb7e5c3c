"""Content Credentials: what was signed reads valid and shows the same frames, and what was changed does not."""

import datetime
import pathlib
import sys

import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.provenance.content_credentials import check, read, sign

pytest.importorskip("c2pa", reason="the extra c2pa is not installed: pip install 'phenaki_jax[c2pa]'")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ABOUT = {"model": "1a2b3c4d" * 4, "seed": 7}
PEM = serialization.Encoding.PEM


def certify(name, public, issuer, signing_key, authority, days=(-1, 10), usage=True):
    """A certificate as C2PA wants it, of an authority or of a signer."""
    def named(one):
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A Studio"),
                          x509.NameAttribute(NameOID.COMMON_NAME, one)])

    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=day) for day in days)
    extensions = [
        (x509.BasicConstraints(authority, None), True),
        (x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False), True),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), False)]
    if usage and not authority:
        extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False))
    builder = x509.CertificateBuilder(named(issuer), named(name), public, x509.random_serial_number(), begin, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, hashes.SHA256()).public_bytes(PEM)


ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = certify("Root", ROOT_KEY.public_key(), "Root", ROOT_KEY, True)


def write_chain(folder, key, form=serialization.PrivateFormat.PKCS8, password=None, **options):
    """(certificate, key): the paths of a chain and of its signer's key."""
    folder.mkdir(exist_ok=True)
    (folder / "chain.pem").write_bytes(certify("A Signer", key.public_key(), "Root", ROOT_KEY, False, **options) + ROOT)
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, form, locked))
    return dict(certificate=str(folder / "chain.pem"), key=str(folder / "key.pem"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return write_chain(tmp_path_factory.mktemp("chain"), ec.generate_private_key(ec.SECP256R1()))


def make(path, seed=0):
    """A small file of the kind that the path's suffix says."""
    frames = np.random.default_rng(seed).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    if path.suffix == ".webp":
        from PIL import Image
        Image.fromarray(frames[0]).save(path, lossless=True)
    else:
        media.write_video(path, frames if path.suffix in media.VIDEOS else frames[:1], 8)
    return path


def put(path, chain, **options):
    sign(str(path), **(dict(title="A tale", generator="phenaki_jax 0.1.0", about=ABOUT) | chain | options))
    return read(str(path))


# ------------------------------------------------------------------------------------------------- what is signed

@pytest.mark.parametrize("kind", ["mp4", "gif", "png", "jpg", "webp"])
def test_a_signed_file_says_who_and_what_and_shows_the_same(tmp_path, chain, kind):
    path = make(tmp_path / f"a.{kind}")
    before = None if kind == "webp" else media.read_video(path)
    plain = path.read_bytes()
    assert read(str(path)) is None
    found = put(path, chain)
    assert found == {
        "state": "valid", "trusted": False, "reasons": [], "signer": "A Studio, A Signer", "title": "A tale",
        "generator": "phenaki_jax 0.1.0", "generated": True, "model": ABOUT["model"],
        "actions": [{"action": "c2pa.created", "source": "trainedAlgorithmicMedia", "agent": "phenaki_jax 0.1.0"}]}
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name] and path.read_bytes() != plain
    if before:
        frames, fps = media.read_video(path)
        np.testing.assert_array_equal(frames, before[0])
        assert fps == before[1]


@pytest.mark.parametrize("kind", ["mp4", "gif", "png", "jpg", "webp"])
def test_one_changed_bit_of_the_picture_reads_invalid(tmp_path, chain, kind):
    path = make(tmp_path / f"a.{kind}")
    middle = path.stat().st_size * 2 // 3  # noise, so nearly all of the file is pixels
    data = path.read_bytes()[middle:middle + 60]
    put(path, chain)
    signed = bytearray(path.read_bytes())
    assert signed.count(data) == 1
    signed[signed.index(data) + 7] ^= 1
    path.write_bytes(signed)
    found = read(str(path))
    assert found["state"] == "invalid" and any("mismatch" in reason for reason in found["reasons"])
    assert found["generated"] and found["model"] == ABOUT["model"]  # what it said is still told


def test_credentials_that_were_changed_read_invalid(tmp_path, chain):
    path = make(tmp_path / "a.mp4")
    put(path, chain)
    signed = path.read_bytes()
    for old in (ABOUT["model"].encode(), b"trainedAlgorithmicMedia", b"A tale"):
        assert old in signed
        path.write_bytes(signed.replace(old, old[:-1] + b"x"))
        assert read(str(path))["state"] == "invalid"
    path.write_bytes(signed.replace(b"jumdc2pa", b"jumdc2px"))  # what cannot be made out at all
    found = read(str(path))
    assert found["state"] == "invalid" and found["reasons"] and found["generator"] is None


def test_a_certificate_that_has_run_out(tmp_path):
    """expired.png was signed as here, with a certificate that was to end four seconds later."""
    path = pathlib.Path(__file__).with_name("expired.png")
    found = read(str(path))
    assert found["state"] == "expired" and found["generated"] and found["reasons"] == [
        "certificate expired (signingCredential.expired)"]
    changed = bytearray(path.read_bytes())
    changed[-30] ^= 1
    (tmp_path / "a.png").write_bytes(changed)
    assert read(str(tmp_path / "a.png"))["state"] == "invalid"


def test_a_signer_is_trusted_by_an_anchor_only(tmp_path, chain):
    path = make(tmp_path / "a.png")
    assert put(path, chain)["trusted"] is False
    (tmp_path / "root.pem").write_bytes(ROOT)
    found = read(str(path), str(tmp_path / "root.pem"))
    assert found["trusted"] is True and found["state"] == "valid"
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "other.pem").write_bytes(certify("Root", other.public_key(), "Root", other, True))
    assert read(str(path), str(tmp_path / "other.pem")) == found | {"trusted": False}


def test_signing_again_replaces_what_was_said(tmp_path, chain):
    path = make(tmp_path / "a.mp4")
    put(path, chain)
    size = path.stat().st_size
    found = put(path, chain, title="Another tale", generator="someone", about={"model": "ffff"})
    assert (found["title"], found["generator"], found["model"]) == ("Another tale", "someone", "ffff")
    assert found["state"] == "valid" and len(found["actions"]) == 1 and path.stat().st_size < size + 500


def test_a_file_without_a_model(tmp_path, chain):
    assert put(make(tmp_path / "a.gif"), chain, about={})["model"] is None


@pytest.mark.parametrize("key", [
    ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)], ids=lambda key: type(key).__name__)
def test_kinds_of_keys(tmp_path, key):
    chain = write_chain(tmp_path / "chain", key)
    check(**chain)
    assert put(make(tmp_path / "a.jpg"), chain)["state"] == "valid"


def test_a_key_as_openssl_used_to_write_it(tmp_path):
    chain = write_chain(tmp_path / "chain", ec.generate_private_key(ec.SECP256R1()),
                        serialization.PrivateFormat.TraditionalOpenSSL)
    assert put(make(tmp_path / "a.png"), chain)["state"] == "valid"


# ------------------------------------------------------------------------------------------------- what cannot be

def refused(path, chain, words, **options):
    """What `sign` refuses it leaves as it was; `check` says the same beforehand of certificates and keys."""
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        put(path, chain, **options)
    if path.suffix == ".png" and not options:
        with pytest.raises(UserError, match=words):
            check(**chain)
    assert path.read_bytes() == before and not [one for one in path.parent.iterdir() if one.name.startswith(".")]


@pytest.mark.parametrize("name", ["a.webm", "a"])
def test_kinds_that_carry_none(tmp_path, chain, name):
    path = tmp_path / name
    path.write_bytes(make(tmp_path / "b.webm").read_bytes())
    refused(path, chain, "none of the kinds that carry Content Credentials here, .mp4, .png")
    assert read(str(path)) is None


def test_keys_that_do_not_fit(tmp_path, chain):
    path, key = make(tmp_path / "a.png"), ec.generate_private_key(ec.SECP256R1())
    other = write_chain(tmp_path / "other", key)
    refused(path, chain | {"key": other["key"]}, "the signature does not match")
    refused(path, chain | {"key": chain["certificate"]}, "key=.* is no private key in PEM without a password")
    refused(path, write_chain(tmp_path / "locked", key, password=b"secret"), "without a password")
    refused(path, chain | {"key": str(tmp_path / "none.pem")}, "none.pem' cannot be read")
    strange = write_chain(tmp_path / "strange", dsa.generate_private_key(2048))
    refused(path, strange, "of a kind that C2PA does not sign with")
    strange = write_chain(tmp_path / "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    refused(path, strange, "of a kind that C2PA does not sign with")


def test_certificates_that_do_not_fit(tmp_path, chain):
    path, key = make(tmp_path / "a.png"), ec.generate_private_key(ec.SECP256R1())
    refused(path, write_chain(tmp_path / "old", key, days=(-10, -1)), "not valid at time of signing")
    refused(path, write_chain(tmp_path / "use", key, usage=False), "certificate is invalid")
    refused(path, chain | {"certificate": chain["key"]}, "cannot be signed with certificate=")
    refused(path, chain | {"certificate": str(tmp_path / "none.pem")}, "certificate=.*none.pem' cannot be read")


def test_a_time_stamp_server_that_does_not_answer(tmp_path, chain):
    refused(make(tmp_path / "a.png"), chain, "http://127.0.0.1:9/", tsa_url="http://127.0.0.1:9/")


def test_files_that_are_none(tmp_path, chain):
    with pytest.raises(UserError, match="none.mp4 does not exist"):
        put(tmp_path / "none.mp4", chain)
    with pytest.raises(UserError, match="none.mp4 cannot be read"):
        read(str(tmp_path / "none.mp4"))
    (tmp_path / "a.mp4").write_bytes(b"no film at all" * 9)
    refused(tmp_path / "a.mp4", chain, "a.mp4 cannot be signed")
    assert read(str(tmp_path / "a.mp4"))["state"] == "unreadable"
    assert read(str(tmp_path)) is None


def test_anchors_that_are_none(tmp_path, chain):
    path = make(tmp_path / "a.png")
    put(path, chain)
    with pytest.raises(UserError, match="anchors=.*none.pem' cannot be read"):
        read(str(path), str(tmp_path / "none.pem"))
    (tmp_path / "words.pem").write_text("no certificate")
    for wrong in (chain["key"], tmp_path / "words.pem"):
        for file in (path, make(tmp_path / "unsigned.png"), tmp_path):
            with pytest.raises(UserError, match="has to be a file of certificates in PEM"):
                read(str(file), str(wrong))


def test_without_the_package(tmp_path, chain, monkeypatch):
    path = make(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    for call in (lambda: read(str(path)), lambda: put(path, chain), lambda: check(**chain)):
        with pytest.raises(UserError, match=r"pip install 'phenaki_jax\[c2pa\]'"):
            call()
