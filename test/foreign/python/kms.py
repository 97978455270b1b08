# Uses a KMS endpoint with the AWS SDK for Python: ENDPOINT KEY DOCUMENT ROOT. ROOT is PEM.
import sys

import boto3
from botocore.exceptions import ClientError

endpoint, key, document, root = sys.argv[1:5]
client = boto3.client(
    "kms", region_name="eu-central-1", endpoint_url=endpoint, verify=root,
    aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key=sys.stdin.readline().strip())

context = {"purpose": "test"}
blob = client.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)["CiphertextBlob"]
answer = client.decrypt(CiphertextBlob=blob, EncryptionContext=context)
assert answer["Plaintext"] == b"secret" and answer["KeyId"] == key, answer
metadata = client.describe_key(KeyId=key)["KeyMetadata"]
assert metadata["Arn"] == key and metadata["CreationDate"].year > 2000, metadata

recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": open(document, "rb").read()}
answer = client.decrypt(CiphertextBlob=blob, EncryptionContext=context, Recipient=recipient)
assert "Plaintext" not in answer, answer
open("answer", "wb").write(answer["CiphertextForRecipient"])

try:
    client.decrypt(CiphertextBlob=blob)
    sys.exit("decrypted with another encryption context")
except client.exceptions.InvalidCiphertextException:
    pass
try:
    client.describe_key(KeyId="alias/none")
    sys.exit("described a key that does not exist")
except ClientError as error:
    assert error.response["Error"]["Code"] == "NotFoundException", error
print("ok")
