package inspect

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"
)

// Certificate is what nitro-cli describe-eif prints about a signing certificate, with OpenSSL's names.
type Certificate struct {
	IssuerName map[string]string // by the long names of the attributes
	Algorithm  string            // of the certificate's own signature
	NotBefore  string
	NotAfter   string
	Signature  string // of the certificate, "0A:1B:…"
}

// describeCertificate describes a certificate as nitro-cli does.
func describeCertificate(c *x509.Certificate) *Certificate {
	d := &Certificate{
		IssuerName: map[string]string{},
		Algorithm:  algorithmNames[c.SignatureAlgorithm],
		NotBefore:  opensslTime(c.NotBefore),
		NotAfter:   opensslTime(c.NotAfter),
		Signature:  strings.ReplaceAll(fmt.Sprintf("% X", c.Signature), " ", ":"),
	}
	if d.Algorithm == "" {
		d.Algorithm = c.SignatureAlgorithm.String()
	}
	for _, attribute := range c.Issuer.Names {
		d.IssuerName[attributeName(attribute.Type)] = strings.ReplaceAll(fmt.Sprint(attribute.Value), `"`, "")
	}
	return d
}

// opensslTime is a time as ASN1_TIME_print writes it.
func opensslTime(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05 2006") + " GMT" }

// algorithmNames are OpenSSL's long names (crypto/objects/objects.txt) of the signatures that certificates
// have.
var algorithmNames = map[x509.SignatureAlgorithm]string{
	x509.ECDSAWithSHA1:    "ecdsa-with-SHA1",
	x509.ECDSAWithSHA256:  "ecdsa-with-SHA256",
	x509.ECDSAWithSHA384:  "ecdsa-with-SHA384",
	x509.ECDSAWithSHA512:  "ecdsa-with-SHA512",
	x509.SHA1WithRSA:      "sha1WithRSAEncryption",
	x509.SHA256WithRSA:    "sha256WithRSAEncryption",
	x509.SHA384WithRSA:    "sha384WithRSAEncryption",
	x509.SHA512WithRSA:    "sha512WithRSAEncryption",
	x509.SHA256WithRSAPSS: "rsassaPss",
	x509.SHA384WithRSAPSS: "rsassaPss",
	x509.SHA512WithRSAPSS: "rsassaPss",
	x509.PureEd25519:      "ED25519",
}

// attributeNames are OpenSSL's long names of the attributes that names of certificates have.
var attributeNames = map[string]string{
	"2.5.4.3":                    "commonName",
	"2.5.4.4":                    "surname",
	"2.5.4.5":                    "serialNumber",
	"2.5.4.6":                    "countryName",
	"2.5.4.7":                    "localityName",
	"2.5.4.8":                    "stateOrProvinceName",
	"2.5.4.9":                    "streetAddress",
	"2.5.4.10":                   "organizationName",
	"2.5.4.11":                   "organizationalUnitName",
	"2.5.4.12":                   "title",
	"2.5.4.13":                   "description",
	"2.5.4.17":                   "postalCode",
	"2.5.4.41":                   "name",
	"2.5.4.42":                   "givenName",
	"2.5.4.43":                   "initials",
	"2.5.4.44":                   "generationQualifier",
	"2.5.4.46":                   "dnQualifier",
	"2.5.4.65":                   "pseudonym",
	"2.5.4.97":                   "organizationIdentifier",
	"1.2.840.113549.1.9.1":       "emailAddress",
	"0.9.2342.19200300.100.1.1":  "userId",
	"0.9.2342.19200300.100.1.25": "domainComponent",
}

func attributeName(oid asn1.ObjectIdentifier) string {
	if name, ok := attributeNames[oid.String()]; ok {
		return name
	}
	return oid.String()
}
