"""Gets a data key from AWS KMS inside a Nitro Enclave, with an attestation document. See docs/attest.md.

KEY_ID is the KMS key, AWS_REGION its region. The parent serves KMS on vsock port 8000. With
KMS_ENDPOINT=http://localhost:8000 it is neb's stand-in; for AWS, the endpoint is
https://kms.REGION.amazonaws.com:8000, with that name in /etc/hosts as 127.0.0.1.
"""
import ctypes
import fcntl
import os
import socket
import struct
import threading

import boto3
import cbor2
from asn1crypto.cms import ContentInfo
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def attest(public_key):
    """Asks the Nitro Secure Module for a document (linux/nsm.h: NSM_IOCTL_RAW has two iovecs)."""
    request = cbor2.dumps({"Attestation": {"user_data": None, "nonce": None, "public_key": public_key}})
    sent, received = ctypes.create_string_buffer(request, len(request)), ctypes.create_string_buffer(0x3000)
    message = bytearray(struct.pack("@PNPN", ctypes.addressof(sent), len(sent), ctypes.addressof(received),
                                    len(received)))
    with open("/dev/nsm", "r+b", buffering=0) as device:
        fcntl.ioctl(device, 0xC0200A00, message)
    return cbor2.loads(received.raw)["Attestation"]["document"]


def forward(port):
    """Connects a local TCP port to the same vsock port of the parent, as boto3 does not speak vsock."""
    server = socket.create_server(("127.0.0.1", port))

    def copy(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve():
        while True:
            client, _ = server.accept()
            parent = socket.socket(socket.AF_VSOCK)
            parent.connect((3, port))
            for pair in (client, parent), (parent, client):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def unwrap(private_key, message):
    """Decrypts a CMS EnvelopedData as KMS makes it."""
    envelope = ContentInfo.load(message)["content"]
    wrapped = envelope["recipient_infos"][0].chosen["encrypted_key"].native
    oaep = asymmetric.OAEP(asymmetric.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    info = envelope["encrypted_content_info"]
    initial = info["content_encryption_algorithm"].encryption_iv
    decryptor = Cipher(algorithms.AES(private_key.decrypt(wrapped, oaep)), modes.CBC(initial)).decryptor()
    padded = decryptor.update(info["encrypted_content"].native) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = private.public_key().public_bytes(serialization.Encoding.DER,
                                           serialization.PublicFormat.SubjectPublicKeyInfo)
forward(8000)
client = boto3.client("kms", endpoint_url=os.environ["KMS_ENDPOINT"])
answer = client.generate_data_key(KeyId=os.environ["KEY_ID"], KeySpec="AES_256", Recipient={
    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": attest(public)})
print(f"got a data key of {len(unwrap(private, answer['CiphertextForRecipient']))} bytes")
