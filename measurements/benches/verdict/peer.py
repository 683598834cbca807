"""Runs NVIDIA's own verifier on a report, a certificate chain and a reference manifest, without asking the OCSP service.

    peer.py REPORT CHAIN MANIFEST

The manifest serves as both the driver's and the VBIOS's. Each line of standard input is a number of verdicts to make; the
seconds that they took are printed. Needs nv-local-gpu-verifier 2.7.3.
"""

import logging
import os
import sys
import time

from OpenSSL import crypto
from verifier.attestation import AttestationReport
from verifier.cc_admin_utils import CcAdminUtils
from verifier.config import BaseSettings, HopperSettings
from verifier.nvml.gpu_cert_chains import GpuCertificateChains
from verifier.rim import RIM
from verifier.utils import format_vbios_version

logging.disable(logging.CRITICAL)


def judge_report(report, chain, settings):
    """Verifies the GPU's chain up to NVIDIA's root, and the report's firmware digest, nonce, versions and signature."""
    parsed = AttestationReport(report, settings)
    opaque = parsed.get_response_message().get_opaque_data()
    certificates = GpuCertificateChains.extract_cert_chain(chain)
    fwid = opaque.get_data("OPAQUE_FIELD_ID_FWID").hex()
    verified = CcAdminUtils.verify_gpu_certificate_chain(certificates, settings, fwid)
    assert verified[0], "the chain does not verify"
    driver = opaque.get_data("OPAQUE_FIELD_ID_DRIVER_VERSION").decode().rstrip("\0")
    vbios = format_vbios_version(opaque.get_data("OPAQUE_FIELD_ID_VBIOS_VERSION"))
    nonce = parsed.get_request_message().get_nonce()
    assert CcAdminUtils.verify_attestation_report(parsed, certificates[0], nonce, driver, vbios, settings)


def judge_manifest(name, content, settings):
    """Verifies a manifest's schema, chain and signature, as `RIM.verify` does, but without asking the OCSP service."""
    rim = RIM(rim_name=name, settings=settings, content=content)
    assert rim.validate_schema(), "the manifest's schema does not fit"
    chain = rim.extract_certificates()
    with open(os.path.join(settings.ROOT_CERT_DIR, settings.RIM_ROOT_CERT), encoding="ascii") as root:
        chain.append(crypto.load_certificate(crypto.FILETYPE_PEM, root.read()))
    mode = BaseSettings.Certificate_Chain_Verification_Mode.DRIVER_RIM_CERT
    assert CcAdminUtils.verify_certificate_chain(chain, settings, mode)[0], "the manifest's chain does not verify"
    assert rim.verify_signature(settings)


def main():
    with open(sys.argv[1], encoding="ascii") as file:
        report = bytes.fromhex(file.read())
    with open(sys.argv[2], "rb") as file:
        chain = file.read()
    with open(sys.argv[3], encoding="utf-8") as file:
        manifest = file.read()
    settings = HopperSettings()
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            judge_report(report, chain, settings)
            judge_manifest("driver", manifest, settings)
            judge_manifest("vbios", manifest, settings)
        print(time.perf_counter() - begun, flush=True)


main()
