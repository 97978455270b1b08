package kms

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A signature is the Authorization of a request (Signature Version 4).
type signature struct {
	accessKey, region string
	headers           []string // those that are signed, in lower case
	value             string   // hexadecimal
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 +Credential=([^/, ]{1,128})/\d{8}/` +
	`([a-z0-9-]{1,32})/kms/aws4_request, *SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})$`)

const (
	dateFormat = "20060102T150405Z"
	maxSkew    = 15 * time.Minute // between the clocks of client and server, as in AWS
)

func parseSignature(r *http.Request) (signature, error) {
	text := r.Header.Get("Authorization")
	if text == "" {
		return signature{}, failf("MissingAuthenticationTokenException",
			"the request has no Authorization: expected a signature of version 4")
	}
	m := authorization.FindStringSubmatch(text)
	if m == nil {
		return signature{}, failf("IncompleteSignatureException",
			"invalid Authorization: expected AWS4-HMAC-SHA256 for the service kms")
	}
	return signature{m[1], m[2], strings.Split(m[3], ";"), m[4]}, nil
}

// check checks the signature of a request with this body, by signing it anew.
func (s *Server) check(sig signature, r *http.Request, body []byte, now time.Time) error {
	if sig.accessKey != s.Credentials.AccessKeyID {
		return failf("UnrecognizedClientException", "the access key %.128q is not the one in --credentials",
			sig.accessKey)
	}
	date, err := time.Parse(dateFormat, r.Header.Get("X-Amz-Date"))
	if err != nil {
		return failf("IncompleteSignatureException", "invalid X-Amz-Date: expected a time like %s",
			dateFormat)
	}
	if skew := now.Sub(date).Abs(); skew > maxSkew {
		return failf("InvalidSignatureException", "the signature's time %s differs by %v from the clock: "+
			"expected at most %v", r.Header.Get("X-Amz-Date"), skew.Round(time.Second), maxSkew)
	}
	again := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: http.Header{}}
	for _, name := range sig.headers {
		if name == "content-length" {
			again.ContentLength = r.ContentLength
		} else if values := r.Header.Values(name); name != "host" && values != nil {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	err = v4.NewSigner().SignHTTP(r.Context(), s.Credentials, again, hash, "kms", sig.region, date)
	_, want, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	if err != nil || !hmac.Equal([]byte(want), []byte(sig.value)) {
		return failf("InvalidSignatureException", "the signature is not by the secret key in --credentials")
	}
	return nil
}
