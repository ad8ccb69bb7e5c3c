"""Content Credentials: a signed statement inside a media file of what made it (C2PA, https://spec.c2pa.org).

The package c2pa-python signs and reads. Nothing here uses the network, but for a time-stamp server that is asked for.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from phenaki_jax import media
from phenaki_jax.errors import UserError

KINDS = {".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
         ".gif": "image/gif"}
# IPTC's word for what a model that was trained on examples has made; that of edited pictures ends in it, too.
_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_UNTRUSTED, _EXPIRED = "signingCredential.untrusted", "signingCredential.expired"
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
            "builder": {"thumbnail": {"enabled": False}}}


def sign(path: str, *, certificate: str, key: str, title: str, generator: str, about: Mapping[str, Any],
         tsa_url: str | None = None) -> None:
    """Signs a media file in place, in a new manifest that takes the place of one that it has.

    It says that the file was created by a trained model (c2pa.created, trainedAlgorithmicMedia), by which program and
    with what (the action's softwareAgent and parameters), and which model it was (c2pa.ai-disclosure of C2PA 2.4).
    The file is not encoded anew: it has the same frames. A byte that is changed afterwards makes the signature invalid.

    Args:
      path: an mp4, png, jpg, webp or gif file.
      certificate: a PEM file, the signer's X.509 certificate first, then those above it. C2PA wants version 3, the key
        usage digitalSignature and an extended key usage such as emailProtection.
      key: a PEM file with the certificate's private key, without a password: EC P-256, P-384 or P-521 (ES256, ES384,
        ES512), RSA (PS256) or Ed25519.
      title: the work's name, shown by viewers.
      generator: the program's name and version, "phenaki_jax 0.1.0".
      about: what JSON can hold, of how it was made; "model" is the model's hash. All of it can be read by anyone.
      tsa_url: a time-stamp server (RFC 3161) that is asked when this is signed, so that the signature stays valid after
        the certificate has run out. None: none is asked.

    Raises:
      UserError: the extra c2pa is missing, a file of another kind, a certificate or key that cannot be used, or no
        answer from the server.
    """
    c2pa = _c2pa(f"{path} cannot be signed")
    file = Path(path)
    if file.suffix.lower() not in KINDS:
        raise UserError(f"{path} cannot be signed: {file.suffix or 'no suffix'} is none of the kinds that carry "
                        f"Content Credentials here, {', '.join(KINDS)}.")
    if not file.is_file():
        raise UserError(f"{path} does not exist or is no file.")
    manifest = _manifest(title, generator, about)
    with media.atomic_path(file) as temporary, open(file, "rb") as source, open(temporary, "w+b") as signed:
        _sign(c2pa, KINDS[file.suffix.lower()], source, signed, manifest, certificate, key, tsa_url, path)


def check(certificate: str, key: str) -> None:
    """Signs a picture of one pixel, in memory. Raises: UserError where `sign` could not use these."""
    from PIL import Image

    c2pa, picture = _c2pa("files cannot be signed"), io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    _sign(c2pa, "image/png", picture, io.BytesIO(), _manifest("a pixel", "phenaki_jax", {}), certificate, key, None,
          "files")


def _manifest(title: str, generator: str, about: Mapping[str, Any]) -> dict[str, Any]:
    name, _, version = generator.rpartition(" ")
    agent = {"name": name, "version": version} if name else {"name": generator}
    created = {"action": "c2pa.created", "digitalSourceType": _GENERATED, "softwareAgent": agent,
               "parameters": dict(about)}
    model = {"modelType": "c2pa.types.model.jax", "modelName": agent["name"],
             "contentProfile": {"humanOversightLevel": "prompt_guided"}}
    if "model" in about:
        model["modelIdentifier"] = about["model"]
    return {"title": title, "claim_generator_info": [agent], "assertions": [
        {"label": "c2pa.actions", "created": True, "data": {"actions": [created]}},
        {"label": "c2pa.ai-disclosure", "created": True, "data": model}]}


def _sign(c2pa: Any, kind: str, source: IO[bytes], signed: IO[bytes], manifest: Mapping[str, Any], certificate: str,
          key: str, tsa_url: str | None, what: str) -> None:
    chain = _bytes("certificate", certificate)
    algorithm, secret = _key(key)
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, secret, tsa_url))
        with c2pa.Context.from_dict(_OFFLINE, signer) as context, c2pa.Builder(manifest, context) as builder:
            builder.sign(kind, source, signed)
    except c2pa.C2paError as error:
        raise UserError(f"{what} cannot be signed with certificate={certificate!r} and key={key!r}: "
                        f"{_said(error)}.") from None


def _key(path: str) -> tuple[str, bytes]:
    """The C2PA name of a private key's algorithm, and the key in PKCS#8."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    pem = _bytes("key", path)
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise UserError(f"key={path!r} is no private key in PEM without a password.") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(key.curve.name)
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        algorithm = "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None
    if algorithm is None:
        raise UserError(f"key={path!r} is of a kind that C2PA does not sign with; it should be EC (P-256, P-384, "
                        "P-521), RSA or Ed25519.")
    return algorithm, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                        serialization.NoEncryption())


def _bytes(field: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{field}={path!r} cannot be read ({error.strerror}); it has to be a PEM file.") from None


# ------------------------------------------------------------------------------------------------- reading

def read(path: str, anchors: str | None = None) -> dict[str, Any] | None:
    """What a file's Content Credentials say, or None where it has none or is of a kind that can have none.

    Args:
      path: a media file, or a folder of frames, which has none.
      anchors: a PEM file of the certificates whose signers are trusted, such as C2PA's trust list; None: none is.

    Returns:
      state: "valid": this file is what was signed; "expired": it is, and the certificate has run out since; "invalid":
        it was changed, or its credentials were; "unreadable": it cannot be known whether it has any.
      trusted: whether the signer's certificate comes from one of the anchors. Without that anyone may have signed.
      reasons: why it is not valid, a text each.
      signer, generator, title: the names of the certificate, the program and the work, None where not given.
      actions: [{"action", "source", "agent"}], what was done; "source" is the end of the digital source type.
      generated: whether an action says that a trained model has made it, or a part of it.
      model: what the credentials call the model's identifier, or None.

    Raises: UserError where the extra c2pa, the file or the anchors are missing.
    """
    c2pa = _c2pa(f"the Content Credentials of {path} cannot be read")
    settings = dict(_OFFLINE)
    if anchors is not None:
        from cryptography import x509
        data = _bytes("anchors", anchors)
        try:
            x509.load_pem_x509_certificates(data)
        except ValueError:
            raise UserError(f"anchors={anchors!r} has to be a file of certificates in PEM") from None
        settings["trust"] = {"trust_anchors": data.decode()}
    if Path(path).is_dir():
        return None
    try:
        with open(path, "rb") as file, c2pa.Context.from_dict(settings) as context, \
                c2pa.Reader(KINDS.get(Path(path).suffix.lower()), file, context=context) as reader:
            return _said_by(json.loads(reader.json()))
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return None
    except c2pa.C2paError as error:
        # The library's word for a file that it does not understand; all else are credentials that it does not.
        state = "unreadable" if isinstance(error, c2pa.C2paError.Other) else "invalid"
        return _credentials(state=state, reasons=[_said(error)])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def _credentials(**known: Any) -> dict[str, Any]:
    return dict(state="invalid", trusted=False, reasons=[], signer=None, generator=None, title=None, actions=[],
                generated=False, model=None) | known


def _said_by(store: dict) -> dict[str, Any]:
    manifest = store["manifests"][store["active_manifest"]]
    assertions = [(found["label"], found.get("data")) for found in manifest.get("assertions", [])]
    actions = [{"action": action["action"], "source": action.get("digitalSourceType", "").rpartition("/")[2] or None,
                "agent": _named(action.get("softwareAgent"))}
               for label, data in assertions if label.startswith("c2pa.actions") for action in data["actions"]]
    models = [data.get("modelIdentifier") for label, data in assertions if label.startswith("c2pa.ai-disclosure")]
    signature = manifest.get("signature_info", {})
    wrong = {found["code"]: found.get("explanation", "it does not hold")
             for found in store.get("validation_status", []) if found["code"] != _UNTRUSTED}
    state = "valid" if store["validation_state"] in ("Valid", "Trusted") else "invalid"
    return _credentials(
        state="expired" if wrong.keys() == {_EXPIRED} else state, trusted=store["validation_state"] == "Trusted",
        reasons=[f"{explanation} ({code})" for code, explanation in wrong.items()],
        signer=", ".join(filter(None, (signature.get("issuer"), signature.get("common_name")))) or None,
        generator=_named((manifest.get("claim_generator_info") or [manifest.get("claim_generator")])[0]),
        title=manifest.get("title"), actions=actions,
        generated=any((action["source"] or "").lower().endswith("trainedalgorithmicmedia") for action in actions),
        model=next((model for model in models if isinstance(model, str)), None))


def _named(agent: Any) -> str | None:
    """"name version" of a program, which older manifests say in one text."""
    if isinstance(agent, Mapping):
        return " ".join(str(agent[part]) for part in ("name", "version") if part in agent)
    return agent


def _c2pa(what: str) -> Any:
    try:
        import c2pa
    except ImportError:
        raise UserError(f"{what} without c2pa-python: pip install 'phenaki_jax[c2pa]'") from None
    return c2pa


def _said(error: Exception) -> str:
    """The library's sentence, without its kind before it and a full stop behind."""
    kind, _, text = str(error).partition(": ")
    return " ".join((text or kind).split()).rstrip(".")
