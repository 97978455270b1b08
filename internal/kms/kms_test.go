package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	emulated "github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

const (
	roleARN   = "arn:aws:iam::111122223333:role/Web"
	accessKey = "AKIAIOSFODNN7EXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// service is a stand-in that is being served, and the client of AWS for it.
type service struct {
	*Server
	client *awskms.Client
	url    string

	mu      sync.Mutex
	reports []string
}

// said returns what was reported since the last call.
func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.Join(s.reports, "\n")
	s.reports = nil
	return text
}

var developmentRoot = sync.OnceValue(func() *devca.Authority {
	root, err := devca.New()
	if err != nil {
		panic(err)
	}
	return root
})

// start serves a stand-in with no keys.
func start(t testing.TB, changes ...func(*Server)) *service {
	t.Helper()
	caller, err := ParseCaller(roleARN)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{}
	s.Server = &Server{
		File: filepath.Join(t.TempDir(), "keys.json"), Root: developmentRoot(), Caller: caller,
		Report: func(line string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reports = append(s.reports, line)
		},
	}
	for _, change := range changes {
		change(s.Server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	s.url = "http://" + l.Addr().String()
	s.client = newClient(s.url, accessKey, secretKey, nil)
	return s
}

// newClient is the client of AWS with nothing changed but its endpoint.
func newClient(url, access, secret string, client *http.Client) *awskms.Client {
	o := awskms.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, nil
		}),
	}
	if client != nil {
		o.HTTPClient = client
	}
	return awskms.New(o)
}

// code is the name of an error of AWS.
func code(err error) string {
	var api interface{ ErrorCode() string }
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

var enclaveKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func spki(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var pcr0 = emulated.Digest(bytes.Repeat([]byte{0xa0}, 48))

// document is what an enclave's module signs under a root.
func document(t testing.TB, root *devca.Authority, publicKey []byte) []byte {
	t.Helper()
	const id = "i-0123456789abcdef0-enc0123456789abcde"
	module := emulated.New(emulated.Config{
		ID: id, PCRs: map[int]emulated.Digest{0: pcr0}, Chain: root.Identity(id[:19], id).Chain,
	})
	m := nsm.Module{Exchange: func(request []byte) ([]byte, error) { return module.Answer(request), nil }}
	d, err := m.Attest(nil, nil, publicKey)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func enclave(t testing.TB) *types.RecipientInfo {
	t.Helper()
	return &types.RecipientInfo{
		KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
		AttestationDocument:    document(t, developmentRoot(), spki(t, enclaveKey())),
	}
}

// unwrap decrypts an answer for the enclave with OpenSSL.
func unwrap(t testing.TB, message []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(enclaveKey())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "message": message,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(require.Command(t, "openssl"), "cms", "-decrypt", "-binary", "-inform", "DER", "-in",
		"message",
		"-inkey", "key.pem")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl cms: %v\n%s", err, err.(*exec.ExitError).Stderr)
	}
	return out
}

func (s *service) newKey(t testing.TB, policy string) string {
	t.Helper()
	arn, err := s.CreateKey("eu-central-1", policy)
	if err != nil {
		t.Fatal(err)
	}
	return arn
}

// TestOperations calls each operation with the client of AWS.
func TestOperations(t *testing.T) {
	s, ctx := start(t), t.Context()
	made, err := s.client.CreateKey(ctx, &awskms.CreateKeyInput{Description: aws.String("first")})
	if err != nil {
		t.Fatal(err)
	}
	arn := *made.KeyMetadata.Arn
	if !strings.HasPrefix(arn, "arn:aws:kms:eu-central-1:111122223333:key/") ||
		time.Since(*made.KeyMetadata.CreationDate) > time.Hour {
		t.Errorf("metadata %+v", made.KeyMetadata)
	}
	described, err := s.client.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: made.KeyMetadata.KeyId})
	if err != nil || *described.KeyMetadata.Arn != arn || *described.KeyMetadata.Description != "first" ||
		described.KeyMetadata.KeyState != types.KeyStateEnabled {
		t.Errorf("%+v, %v", described, err)
	}

	purpose := map[string]string{"purpose": "test", "a": "b"}
	sealed, err := s.client.Encrypt(ctx, &awskms.EncryptInput{
		KeyId: &arn, Plaintext: []byte("secret"), EncryptionContext: purpose,
	})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := s.client.Decrypt(ctx, &awskms.DecryptInput{
		CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: purpose,
	})
	if err != nil || string(opened.Plaintext) != "secret" || *opened.KeyId != arn {
		t.Errorf("%+v, %v", opened, err)
	}
	second := s.newKey(t, "")
	again, err := s.client.ReEncrypt(ctx, &awskms.ReEncryptInput{
		CiphertextBlob: sealed.CiphertextBlob, SourceEncryptionContext: purpose, DestinationKeyId: &second,
	})
	if err != nil || *again.KeyId != second || *again.SourceKeyId != arn {
		t.Fatalf("%+v, %v", again, err)
	}
	opened, err = s.client.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: again.CiphertextBlob,
		KeyId: &second})
	if err != nil || string(opened.Plaintext) != "secret" {
		t.Errorf("%+v, %v", opened, err)
	}

	data, err := s.client.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{
		KeyId: &arn, KeySpec: types.DataKeySpecAes256,
	})
	if err != nil || len(data.Plaintext) != 32 {
		t.Fatalf("%+v, %v", data, err)
	}
	opened, err = s.client.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: data.CiphertextBlob})
	if err != nil || !bytes.Equal(opened.Plaintext, data.Plaintext) {
		t.Errorf("%+v, %v", opened, err)
	}
	for spec := range keyPairs {
		if spec == "RSA_3072" || spec == "RSA_4096" {
			continue // slow, and like RSA_2048
		}
		pair, err := s.client.GenerateDataKeyPair(ctx, &awskms.GenerateDataKeyPairInput{
			KeyId: &arn, KeyPairSpec: types.DataKeyPairSpec(spec),
		})
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		private, err := x509.ParsePKCS8PrivateKey(pair.PrivateKeyPlaintext)
		if err != nil || !bytes.Equal(spki(t, private.(crypto.Signer)), pair.PublicKey) {
			t.Errorf("%s: %v", spec, err)
		}
		opened, err = s.client.Decrypt(ctx, &awskms.DecryptInput{
			CiphertextBlob: pair.PrivateKeyCiphertextBlob})
		if err != nil || !bytes.Equal(opened.Plaintext, pair.PrivateKeyPlaintext) {
			t.Errorf("%s: %+v, %v", spec, opened, err)
		}
	}
	random, err := s.client.GenerateRandom(ctx, &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(1024)})
	if err != nil || len(random.Plaintext) != 1024 {
		t.Errorf("%+v, %v", random, err)
	}

	readOnly := `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*",
		"NotAction": "kms:Decrypt", "Resource": "*"}}`
	if _, err := s.client.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: &arn,
		Policy: &readOnly}); err != nil {
		t.Fatal(err)
	}
	policy, err := s.client.GetKeyPolicy(ctx, &awskms.GetKeyPolicyInput{KeyId: &arn})
	if err != nil || *policy.Policy != readOnly {
		t.Errorf("%+v, %v", policy, err)
	}
	_, err = s.client.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: data.CiphertextBlob})
	if code(err) != "AccessDeniedException" || !strings.Contains(s.said(),
		"no statement is about this action") {
		t.Error(err)
	}
}

// TestRecipient asks for answers that only the enclave can read, in several sizes.
func TestRecipient(t *testing.T) {
	s, ctx := start(t), t.Context()
	arn := s.newKey(t, "")
	for _, n := range []int{1, 16, 999, 1000, 4096} {
		secret := bytes.Repeat([]byte{7}, n)
		sealed, err := s.client.Encrypt(ctx, &awskms.EncryptInput{KeyId: &arn, Plaintext: secret})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := s.client.Decrypt(ctx, &awskms.DecryptInput{
			CiphertextBlob: sealed.CiphertextBlob, Recipient: enclave(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		if opened.Plaintext != nil || !bytes.Equal(unwrap(t, opened.CiphertextForRecipient), secret) {
			t.Errorf("%d bytes: %+v", n, opened)
		}
	}
	data, err := s.client.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{
		KeyId: &arn, NumberOfBytes: aws.Int32(24), Recipient: enclave(t),
	})
	if err != nil || data.Plaintext != nil {
		t.Fatalf("%+v, %v", data, err)
	}
	opened, err := s.client.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: data.CiphertextBlob})
	if err != nil || !bytes.Equal(opened.Plaintext, unwrap(t, data.CiphertextForRecipient)) {
		t.Errorf("%+v, %v", opened, err)
	}
	pair, err := s.client.GenerateDataKeyPair(ctx, &awskms.GenerateDataKeyPairInput{
		KeyId: &arn, KeyPairSpec: types.DataKeyPairSpecEccNistP256, Recipient: enclave(t),
	})
	if err != nil || pair.PrivateKeyPlaintext != nil {
		t.Fatalf("%+v, %v", pair, err)
	}
	if _, err := x509.ParsePKCS8PrivateKey(unwrap(t, pair.CiphertextForRecipient)); err != nil {
		t.Error(err)
	}
	random, err := s.client.GenerateRandom(ctx, &awskms.GenerateRandomInput{
		NumberOfBytes: aws.Int32(5), Recipient: enclave(t),
	})
	if err != nil || random.Plaintext != nil || len(unwrap(t, random.CiphertextForRecipient)) != 5 {
		t.Errorf("%+v, %v", random, err)
	}
}

// TestEnvelope compares the encoding with that of an answer of AWS KMS, which was published in
// github.com/RustCrypto/formats, issue 779. Each line is tag and length.
func TestEnvelope(t *testing.T) {
	message, err := envelop(&enclaveKey().PublicKey, make([]byte, 15))
	if err != nil {
		t.Fatal(err)
	}
	var shape strings.Builder
	outline(t, &shape, message, "")
	const want = `30 indefinite
 06 9
 a0 indefinite
  30 indefinite
   02 1
   31 363
    30 359
     02 1
     80 32
     30 60
      06 9
      30 47
       a0 15
        30 13
         06 9
         05 0
       a1 28
        30 26
         06 9
         30 13
          06 9
          05 0
     04 256
   30 indefinite
    06 9
    30 29
     06 9
     04 16
    a0 indefinite
     04 16
`
	if shape.String() != want {
		t.Errorf("found\n%s\nexpected\n%s", &shape, want)
	}
	long, err := envelop(&enclaveKey().PublicKey, make([]byte, 2100))
	if err != nil {
		t.Fatal(err)
	}
	shape.Reset()
	outline(t, &shape, long, "")
	if !strings.HasSuffix(shape.String(), "     04 1000\n     04 1000\n     04 112\n") {
		t.Errorf("chunks: %s", &shape)
	}
}

// outline writes the tags and lengths of BER values, and returns what follows the end of an indefinite one.
func outline(t *testing.T, out *strings.Builder, ber []byte, indent string) []byte {
	t.Helper()
	for len(ber) > 0 {
		if ber[0] == 0 && ber[1] == 0 {
			return ber[2:]
		}
		tag := ber[0]
		if ber[1] == 0x80 {
			fmt.Fprintf(out, "%s%02x indefinite\n", indent, tag)
			ber = outline(t, out, ber[2:], indent+" ")
			continue
		}
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(ber, &v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "%s%02x %d\n", indent, tag, len(v.Bytes))
		if v.IsCompound {
			outline(t, out, v.Bytes, indent+" ")
		}
		ber = rest
	}
	return nil
}

// TestRecipientRejects has documents that vouch for nothing.
func TestRecipientRejects(t *testing.T) {
	s, ctx := start(t), t.Context()
	other, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := document(t, developmentRoot(), spki(t, enclaveKey()))
	changed := bytes.Clone(good)
	changed[len(changed)-1] ^= 1
	for name, test := range map[string]struct {
		document  []byte
		algorithm string
		want      string
	}{
		"not a document": {[]byte("document"), "", "COSE_Sign1"},
		"another root": {document(t, other, spki(t, enclaveKey())), "",
			"does not start with the trusted root"},
		"changed":          {changed, "", "signature is not by the key"},
		"no key":           {document(t, developmentRoot(), nil), "", "no public_key"},
		"RSA of 1024 bits": {document(t, developmentRoot(), spki(t, small)), "", "at least 2048 bits"},
		"not RSA":          {document(t, developmentRoot(), spki(t, curve)), "", "at least 2048 bits"},
		"PKCS #1": {document(t, developmentRoot(), x509.MarshalPKCS1PublicKey(&enclaveKey().PublicKey)), "",
			"SubjectPublicKeyInfo"},
		"not a key":         {document(t, developmentRoot(), []byte("key")), "", "SubjectPublicKeyInfo"},
		"another algorithm": {good, "RSAES_OAEP_SHA_1", "expected RSAES_OAEP_SHA_256"},
	} {
		algorithm := types.KeyEncryptionMechanismRsaesOaepSha256
		if test.algorithm != "" {
			algorithm = types.KeyEncryptionMechanism(test.algorithm)
		}
		_, err := s.client.GenerateRandom(ctx, &awskms.GenerateRandomInput{
			NumberOfBytes: aws.Int32(1),
			Recipient: &types.RecipientInfo{AttestationDocument: test.document,
				KeyEncryptionAlgorithm: algorithm},
		})
		if code(err) != validation || !strings.Contains(err.Error(), test.want) ||
			!strings.Contains(s.said(), test.want) {
			t.Errorf("%s: %v, expected %q", name, err, test.want)
		}
	}
	r := recipient{"RSAES_OAEP_SHA_256", good}
	root := developmentRoot().Certificate
	if _, _, err := r.verify(root, time.Now().Add(4*time.Minute)); err != nil {
		t.Errorf("after 4 minutes: %v", err)
	}
	for after, want := range map[time.Duration]string{
		6 * time.Minute:  "old: expected at most 5m",
		-6 * time.Minute: "is valid from", // the clock is before the enclave's certificate
	} {
		if _, _, err = r.verify(root, time.Now().Add(after)); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("after %v: %v, expected %q", after, err, want)
		}
	}
}

// send sends a request that is not of AWS's client, and returns the name of the error and its message.
func (s *service) send(t testing.TB, operation, body string, header map[string]string) (int, string, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "TrentService."+operation)
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=key/20261129/us-east-1/kms/aws4_request, "+
		"SignedHeaders=host;x-amz-date, Signature="+strings.Repeat("0", 64))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var failed struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if err := json.NewDecoder(response.Body).Decode(&failed); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, failed.Type, failed.Message
}

// TestManyKeys fills the file of keys: what it has stays usable.
func TestManyKeys(t *testing.T) {
	s := start(t)
	arn := s.newKey(t, "")
	body := `{"Description": "` + strings.Repeat("<", 200_000) + `"}` // six bytes each in the file
	for i := 0; ; i++ {
		status, code, message := s.send(t, "CreateKey", body, nil)
		if status == http.StatusOK && i < 10 {
			continue
		}
		if code != limitExceeded {
			t.Fatalf("key %d: %d %s: %s", i, status, code, message)
		}
		break
	}
	if _, err := s.client.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: &arn,
		Plaintext: []byte{1}}); err != nil {
		t.Error(err)
	}
}

func TestRequestsRejected(t *testing.T) {
	s := start(t)
	arn := s.newKey(t, "")
	id := arn[strings.LastIndex(arn, "/")+1:]
	other := s.newKey(t, "")
	sealed, err := s.client.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: &other, Plaintext: []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := json.Marshal(sealed.CiphertextBlob)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		operation, body string
		code, want      string
	}{
		{"Sign", `{}`, "UnknownOperationException", `"Sign"`},
		{"", `{}`, "UnknownOperationException", ""},
		{"Decrypt", `{`, validation, "not JSON"},
		{"Decrypt", `[]`, validation, "not JSON"},
		{"Decrypt", `{"CiphertextBlob": "!"}`, validation, "base64"},
		{"Decrypt", `{"Ciphertext": "AA=="}`, validation, `unknown field "Ciphertext"`},
		{"Decrypt", `{}`, validation, "CiphertextBlob has 0 bytes: expected 1 to 6144"},
		{"Decrypt", `{"CiphertextBlob": "AAAA"}`, "InvalidCiphertextException", "not one of neb kms"},
		{"Decrypt", `{"CiphertextBlob": ` + string(blob) + `, "KeyId": "` + id + `"}`,
			"IncorrectKeyException", ""},
		{"Decrypt", `{"CiphertextBlob": ` + string(blob) + `, "EncryptionContext": {"a": "b"}}`,
			"InvalidCiphertextException", "encryption context"},
		{"Decrypt", `{"CiphertextBlob": ` + string(blob) + `, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}`,
			"InvalidKeyUsageException", ""},
		{"Decrypt", `{"CiphertextBlob": ` + string(blob) + `, "DryRun": true}`, "DryRunOperationException",
			""},
		{"Decrypt", `{"CiphertextBlob": "` + strings.Repeat("AAAA", maxBody/4) + `"}`, validation,
			"larger than"},
		{"Encrypt", `{"Plaintext": "AA=="}`, validation, "KeyId is required"},
		{"Encrypt", `{"Plaintext": "AA==", "KeyId": "alias/x"}`, notFound, "no aliases"},
		{"Encrypt", `{"Plaintext": "AA==", "KeyId": "` + id + `", "EncryptionContext": {"name": "a", "Name": "b"}}`,
			validation, "differ in case only"},
		{"Encrypt", `{"Plaintext": "AA==", "KeyId": "` + id + `", "EncryptionContext": {"a": "` +
			strings.Repeat("x", maxContext) + `"}}`, validation, "more than 8192 bytes"},
		{"Encrypt", `{"Plaintext": "AA==", "KeyId": "x"}`, notFound, `"x" does not exist`},
		{"Encrypt", `{"Plaintext": "", "KeyId": "x"}`, validation, "Plaintext has 0 bytes"},
		{"GenerateDataKey", `{"KeyId": "` + id + `"}`, validation, "one of KeySpec and NumberOfBytes"},
		{"GenerateDataKey", `{"KeyId": "` + id + `", "KeySpec": "AES_256", "NumberOfBytes": 1}`, validation,
			"one of"},
		{"GenerateDataKey", `{"KeyId": "` + id + `", "KeySpec": "AES_192"}`, validation, "expected AES_128"},
		{"GenerateDataKey", `{"KeyId": "` + id + `", "NumberOfBytes": 1025}`, validation, "1 to 1024"},
		{"GenerateDataKeyPair", `{"KeyId": "` + id + `", "KeyPairSpec": "SM2"}`, unsupported,
			"ECC_NIST_P256"},
		{"GenerateRandom", `{}`, validation, "NumberOfBytes is required"},
		{"GenerateRandom", `{"NumberOfBytes": -1}`, validation, "1 to 1024"},
		{"GenerateRandom", `{"NumberOfBytes": 1, "Recipient": {}}`, validation, "KeyEncryptionAlgorithm"},
		{"CreateKey", `{"KeySpec": "RSA_2048"}`, unsupported, "symmetric"},
		{"CreateKey", `{"MultiRegion": true}`, unsupported, "symmetric"},
		{"CreateKey", `{"Policy": "policy"}`, malformed, "not valid JSON"},
		{"PutKeyPolicy", `{"KeyId": "` + id + `"}`, validation, "Policy is required"},
		{"PutKeyPolicy", `{"KeyId": "` + id + `", "PolicyName": "x"}`, notFound, "expected default"},
		{"GetKeyPolicy", `{"KeyId": "` + id + `", "PolicyName": "x"}`, notFound, "expected default"},
		{"ReEncrypt", `{"CiphertextBlob": ` + string(blob) + `}`, validation, "DestinationKeyId is required"},
		{"ReEncrypt", `{"DestinationKeyId": "` + id + `"}`, validation, "CiphertextBlob has 0 bytes"},
	} {
		status, code, message := s.send(t, test.operation, test.body, nil)
		if status != http.StatusBadRequest || code != test.code || !strings.Contains(message, test.want) {
			t.Errorf("%s %.80s: %d %s: %s, expected %s with %q", test.operation, test.body, status, code,
				message,
				test.code, test.want)
		}
	}
	for header, want := range map[string]string{
		"":                 "MissingAuthenticationTokenException",
		"Basic a2V5OmtleQ": "IncompleteSignatureException",
		"AWS4-HMAC-SHA256 Credential=key/20261129/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=" +
			strings.Repeat("0", 64): "IncompleteSignatureException",
	} {
		if _, code, _ := s.send(t, "GenerateRandom", `{"NumberOfBytes": 1}`,
			map[string]string{"Authorization": header}); code != want {
			t.Errorf("Authorization %q: %s, expected %s", header, code, want)
		}
	}
	if status, code, _ := s.send(t, "GenerateRandom", `{"NumberOfBytes": 1}`, nil); status != http.StatusOK ||
		code != "" {
		t.Errorf("without --credentials: %d %s", status, code)
	}
}

// TestCredentials has clients that sign with the right key, another one, and requests that changed on their
// way.
func TestCredentials(t *testing.T) {
	s := start(t, func(s *Server) {
		s.Credentials = aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
	})
	random := &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(1)}
	for _, test := range []struct {
		name, access, secret string
		transport            func(*http.Request)
		want                 string
	}{
		{"the right key", accessKey, secretKey, nil, ""},
		{"another key", "AKIAOTHER", secretKey, nil, "UnrecognizedClientException"},
		{"another secret", accessKey, "other", nil, "InvalidSignatureException"},
		{"another header", accessKey, secretKey, func(r *http.Request) {
			r.Header.Set("X-Amz-Target", "TrentService.CreateKey")
		}, "InvalidSignatureException"},
		{"another body", accessKey, secretKey, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"NumberOfBytes":2}`))
		}, "InvalidSignatureException"},
		{"another time", accessKey, secretKey, func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().UTC().Add(time.Minute).Format(dateFormat))
		}, "InvalidSignatureException"},
		{"an old time", accessKey, secretKey, func(r *http.Request) {
			r.Header.Set("X-Amz-Date", "20150830T123600Z")
		}, "InvalidSignatureException"},
		{"no time", accessKey, secretKey, func(r *http.Request) { r.Header.Del("X-Amz-Date") },
			"IncompleteSignatureException"},
	} {
		client := newClient(s.url, test.access, test.secret,
			&http.Client{Transport: onTheWay(test.transport)})
		_, err := client.GenerateRandom(t.Context(), random)
		if test.want == "" && err != nil || test.want != "" && code(err) != test.want {
			t.Errorf("%s: %v, expected %q", test.name, err, test.want)
		}
	}
}

// onTheWay changes requests after they were signed.
type onTheWay func(*http.Request)

func (change onTheWay) RoundTrip(r *http.Request) (*http.Response, error) {
	if change != nil {
		change(r)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// TestTLS has a client that trusts the development root, one that does not, and the name of AWS's endpoint.
func TestTLS(t *testing.T) {
	s := start(t)
	pool := x509.NewCertPool()
	pool.AddCert(s.Root.Certificate)
	address := strings.TrimPrefix(s.url, "http://")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url  string
		pool *x509.CertPool
		want string
	}{
		{"https://" + address, pool, ""},
		{"https://localhost:" + port, pool, ""},
		{"https://kms.eu-central-1.amazonaws.com:" + port, pool, ""},
		{"https://" + address, x509.NewCertPool(), "unknown authority"},
	} {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: test.pool},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		}
		client := newClient(test.url, accessKey, secretKey, &http.Client{Transport: transport})
		_, err := client.GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(1)})
		transport.CloseIdleConnections()
		if test.want == "" && err != nil ||
			test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, expected %q", test.url, err, test.want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	s := start(t)
	arn := s.newKey(t, "")
	info, err := os.Stat(s.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	good, err := os.ReadFile(s.File)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(good, []byte("They protect nothing")) {
		t.Errorf("the file does not warn: %s", good)
	}
	// Keys are made at once: none is lost.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { s.newKey(t, "") })
	}
	all.Wait()
	if n, err := s.Keys(); n != 9 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
	for name, test := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"others can read": {good, 0o644, "mode 0644, expected 0600"},
		"cut":             {good[:len(good)/2], 0o600, "invalid key file"},
		"too large":       {make([]byte, maxFile+1), 0o600, "larger than"},
		"a short key": {[]byte(`{"Keys": [{"ARN": "` + arn + `", "Material": "AA=="}]}`), 0o600,
			"key 1 was not created by neb kms"},
		"another ARN": {bytes.ReplaceAll(good, []byte(":kms:"), []byte(":s3:")), 0o600,
			"key 1 was not created by neb kms"},
		"no key": {[]byte(`{"Keys": [null]}`), 0o600, "key 1 was not created by neb kms"},
		"an invalid policy": {bytes.ReplaceAll(good, []byte("2012-10-17"), []byte("2013-10-17")), 0o600,
			"Version"},
	} {
		err := os.WriteFile(s.File, test.content, test.mode)
		if err := errors.Join(err, os.Chmod(s.File, test.mode)); err != nil {
			t.Fatal(err)
		}
		_, err = s.client.DescribeKey(t.Context(), &awskms.DescribeKeyInput{KeyId: &arn})
		if code(err) != "KMSInternalException" || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, expected %q", name, err, test.want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	s := &Server{File: filepath.Join(f.TempDir(), "keys.json"), Root: developmentRoot()}
	s.Caller, _ = ParseCaller(roleARN)
	arn, err := s.CreateKey("us-east-1", "")
	if err != nil {
		f.Fatal(err)
	}
	keys, err := readKeys(s.File)
	if err != nil {
		f.Fatal(err)
	}
	blob, _ := json.Marshal(keys[0].seal([]byte("secret"), nil))
	recipient, _ := json.Marshal(enclave(f))
	f.Add("Decrypt", `{"CiphertextBlob": `+string(blob)+`}`)
	f.Add("Decrypt", `{"CiphertextBlob": `+string(blob)+`, "Recipient": `+string(recipient)+`}`)
	f.Add("ReEncrypt", `{"CiphertextBlob": `+string(blob)+`, "DestinationKeyId": "`+arn+`"}`)
	f.Add("GenerateDataKey", `{"KeyId": "`+arn+`", "KeySpec": "AES_256", "EncryptionContext": {"a": "b"}}`)
	f.Add("GenerateRandom", `{"NumberOfBytes": 1}`)
	f.Add("PutKeyPolicy", `{"KeyId": "`+arn+`", "Policy": "{}"}`)
	f.Add("GetKeyPolicy", `{"KeyId": "`+arn+`", "PolicyName": "default"}`)
	f.Fuzz(func(t *testing.T, operation, body string) {
		if operation == "CreateKey" {
			return // the file would grow with every run
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("X-Amz-Target", "TrentService."+operation)
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=k/20261129/us-east-1/kms/aws4_request,"+
			"SignedHeaders=host,Signature="+strings.Repeat("0", 64))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// TestPolicyOfEnclave is the story of the documentation: a key for one image, denied to another, with the
// register and both values on standard error, and a policy that locks its owner out.
func TestPolicyOfEnclave(t *testing.T) {
	s, ctx := start(t), t.Context()
	policy := func(pcr string) string {
		return fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
			{"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
				"NotAction": ["kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*"},
			{"Sid": "Enclave", "Effect": "Allow", "Principal": {"AWS": %q},
				"Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*",
				"Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": %q}}}]}`,
			roleARN, pcr)
	}
	arn := s.newKey(t, policy(hex.EncodeToString(pcr0[:])))
	request := &awskms.GenerateDataKeyInput{KeyId: &arn, KeySpec: types.DataKeySpecAes256,
		Recipient: enclave(t)}
	if _, err := s.client.GenerateDataKey(ctx, request); err != nil {
		t.Error(err)
	}
	request.Recipient = nil
	_, err := s.client.GenerateDataKey(ctx, request)
	if said := s.said(); code(err) != "AccessDeniedException" || !strings.Contains(said,
		`statement "Enclave": kms:RecipientAttestation:PCR0: found none: the request has no attestation`) {
		t.Errorf("%v; said %s", err, said)
	}
	request.Recipient = enclave(t)
	other := policy(hexPCR(0xb1))
	if _, err := s.client.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: &arn,
		Policy: &other}); err != nil {
		t.Fatal(err)
	}
	_, err = s.client.GenerateDataKey(ctx, request)
	said := s.said()
	want := fmt.Sprintf(`kms: kms:GenerateDataKey on %s: statement "Enclave": `+
		`kms:RecipientAttestation:PCR0: found "%x", StringEqualsIgnoreCase expects %q`, arn, pcr0, hexPCR(0xb1))
	if code(err) != "AccessDeniedException" || !slices.Contains(strings.Split(said, "\n"), want) ||
		strings.Contains(err.Error(), "PCR0") {
		t.Errorf("%v; said\n%s\nexpected\n%s", err, said, want)
	}
	lockout := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
		"Action": "kms:Decrypt", "Resource": "*"}]}`
	if _, err = s.client.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: &arn,
		Policy: &lockout}); code(err) != malformed {
		t.Errorf("a policy that locks out: %v", err)
	}
	if _, err = s.client.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{
		KeyId: &arn, Policy: &lockout, BypassPolicyLockoutSafetyCheck: true,
	}); err != nil {
		t.Error(err)
	}
}

func TestParseCaller(t *testing.T) {
	for _, arn := range []string{"", "role/Web", "arn:aws:iam::1:root", "arn:aws:s3::111122223333:root",
		roleARN + "\n"} {
		if _, err := ParseCaller(arn); err == nil {
			t.Errorf("%q is accepted", arn)
		}
	}
	c, err := ParseCaller("arn:aws-us-gov:iam::111122223333:user/a/b")
	if err != nil || !c.is("arn:aws-us-gov:iam::111122223333:root") ||
		c.is("arn:aws:iam::111122223333:root") {
		t.Errorf("%+v, %v", c, err)
	}
}
