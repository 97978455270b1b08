// Command foreign verifies an attestation document with github.com/hf/nitrite: DOCUMENT ROOT. ROOT is DER.
// The status is 0 if the document is accepted. It is a module of its own, so that neb does not depend on
// nitrite.
package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/hf/nitrite"
)

func main() {
	if err := verify(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verify(documentFile, rootFile string) error {
	document, err := os.ReadFile(documentFile)
	if err != nil {
		return err
	}
	der, err := os.ReadFile(rootFile)
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	result, err := nitrite.Verify(document, nitrite.VerifyOptions{Roots: roots, CurrentTime: time.Now()})
	if err != nil {
		return err
	}
	if !result.SignatureOK {
		return fmt.Errorf("the signature is wrong")
	}
	fmt.Printf("%s %x\n", result.Document.ModuleID, result.Document.PCRs[0])
	return nil
}
