# Verifies an attestation document with epsilon-attestation-verifier: DOCUMENT ROOT. ROOT is PEM. The status is 0
# if the document is accepted.
import base64
import sys

from epsilon_verifier import verify_attestation

document = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
result = verify_attestation(document, aws_root_cert_path=sys.argv[2])
print(result.error or result.module_id)
sys.exit(0 if result.valid else 1)
