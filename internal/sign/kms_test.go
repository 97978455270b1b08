package sign_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

const someARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// standIn is a server that answers as AWS KMS does, with a key of its own.
type standIn struct {
	t      *testing.T
	key    crypto.Signer
	usage  string
	refuse bool
	asked  []string
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		KeyID            string `json:"KeyId"`
		Message          []byte
		MessageType      string
		SigningAlgorithm string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		s.t.Errorf("a request that is no JSON: %v", err)
	}
	target := r.Header.Get("X-Amz-Target")
	s.asked = append(s.asked, target)
	if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "/eu-central-1/kms/aws4_request") {
		s.t.Errorf("the request is authorised with %q", auth)
	}
	if in.KeyID != someARN {
		s.t.Errorf("the key is %q", in.KeyID)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	switch {
	case s.refuse:
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"__type": "AccessDeniedException",
			"message": "not for you"})
	case target == "TrentService.GetPublicKey":
		der, err := x509.MarshalPKIXPublicKey(s.key.Public())
		if err != nil {
			s.t.Error(err)
		}
		json.NewEncoder(w).Encode(map[string]any{"KeyId": someARN, "PublicKey": der,
			"KeySpec": "ECC_NIST_P384", "KeyUsage": s.usage})
	case target == "TrentService.Sign":
		if in.MessageType != "DIGEST" || in.SigningAlgorithm != "ECDSA_SHA_384" || len(in.Message) != 48 {
			s.t.Errorf("it should sign %+v", in)
		}
		signature, err := s.key.Sign(rand.Reader, in.Message, crypto.SHA384)
		if err != nil {
			s.t.Error(err)
		}
		json.NewEncoder(w).Encode(map[string]any{"KeyId": someARN, "Signature": signature,
			"SigningAlgorithm": in.SigningAlgorithm})
	default:
		s.t.Errorf("it is asked for %q", target)
	}
}

// startKMS makes a stand-in the KMS of this test.
func startKMS(t *testing.T, s *standIn) {
	t.Helper()
	s.t = t
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_KMS", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
}

func certificateFile(t *testing.T, s *sign.Signer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(path, s.Certificate, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKMS(t *testing.T) {
	local := newSigner(t, "in the cloud")
	kms := &standIn{key: local.Key, usage: "SIGN_VERIFY"}
	startKMS(t, kms)
	for _, arn := range []string{someARN, strings.Replace(someARN, "key/", "key:", 1)} {
		signer, err := sign.LoadKMS(t.Context(), arn, certificateFile(t, local))
		if err != nil {
			t.Fatal(err)
		}
		in, size := someEIF(t)
		f, err := eif.Open(in, size)
		if err != nil {
			t.Fatal(err)
		}
		out := enclaves.TempFile(t)
		m, err := sign.EIF(t.Context(), out, f, signer)
		if err != nil {
			t.Fatal(err)
		}
		if size, err = out.Seek(0, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		signed, err := eif.Open(out, size)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := signed.Signatures()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := entries[0].Verify(m.PCR0, noon); err != nil {
			t.Errorf("signed by KMS: %v", err)
		}
	}
	if got := strings.Join(kms.asked[:2], " "); got != "TrentService.GetPublicKey TrentService.Sign" {
		t.Errorf("it was asked for %s", got)
	}
}

func TestKMSRefuses(t *testing.T) {
	local, other := newSigner(t, "a"), newSigner(t, "b")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		kms  standIn
		want string
	}{
		{"access denied", standIn{key: local.Key, refuse: true}, "not for you"},
		{"a key to encrypt with", standIn{key: local.Key, usage: "KEY_AGREEMENT"}, "expected SIGN_VERIFY"},
		{"an RSA key", standIn{key: rsaKey, usage: "SIGN_VERIFY"}, "ECDSA"},
		{"another key than the certificate's", standIn{key: other.Key, usage: "SIGN_VERIFY"},
			"not for the private key"},
		{"another curve than the certificate's", standIn{key: p256, usage: "SIGN_VERIFY"},
			"not for the private key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			startKMS(t, &test.kms)
			signer, err := sign.LoadKMS(t.Context(), someARN, certificateFile(t, local))
			if err == nil {
				_, err = eif.Sign(signer.Key, signer.Certificate, eif.PCR{}, noon)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// TestARN has names that begin as an ARN does: none of them is taken for a file.
func TestARN(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "certificate.pem")
	for arn, valid := range map[string]bool{
		someARN: true,
		"arn:aws-us-gov:kms:us-gov-west-1:123456789012:key:5678efgh": true,
		"arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1234":        true,
		"arn:aws-iso-b:kms:us-isob-east-1:123456789012:key/1234":     true,
		"arn:aws-eusc:kms:eusc-de-east-1:123456789012:key/1234":      true,
		"arn:aws:kms:us-east-1:123456789012:alias/x":                 false,
		"arn:aws:kms::123456789012:key/x":                            false,
		"arn:aws:kms:us-east-1:12345678901:key/x":                    false,
		"arn:aws:s3:us-east-1:123456789012:key/x":                    false,
		"arn:aws:kms:us-east-1:123456789012:key/":                    false,
		"arn:azure:kms:us-east-1:123456789012:key/x":                 false,
	} {
		if !sign.IsARN(arn) {
			t.Errorf("%q is taken for a file", arn)
		}
		_, err := sign.LoadKMS(t.Context(), arn, missing)
		if err == nil || valid == strings.Contains(err.Error(), "invalid key") {
			t.Errorf("%q: valid is %v, got %v", arn, valid, err)
		}
	}
	for _, file := range []string{"key.pem", "./arn:aws:kms", "/arn:aws:kms:us-east-1:123456789012:key/x",
		""} {
		if sign.IsARN(file) {
			t.Errorf("%q is taken for an ARN", file)
		}
	}
}

func TestLoadSigner(t *testing.T) {
	s := newSigner(t, "a")
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := sign.Load(path, certificateFile(t, s)); err != nil ||
		!got.Key.(*ecdsa.PrivateKey).Equal(s.Key) {
		t.Error(err)
	}
	_, edKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKCS8PrivateKey(edKey); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "ed25519.pem")
	if err := os.WriteFile(other, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Load(other, certificateFile(t, s)); err == nil ||
		!strings.Contains(err.Error(), "expected ECDSA") {
		t.Errorf("an Ed25519 key: %v", err)
	}
	for _, files := range [][2]string{{path, path}, {certificateFile(t, s), certificateFile(t, s)},
		{"/nothing", path}, {path, "/nothing"}} {
		if _, err := sign.Load(files[0], files[1]); err == nil {
			t.Errorf("%v make a signer", files)
		}
	}
}
