// Command enclave gets a data key from AWS KMS inside a Nitro Enclave: it makes a key pair, asks the Nitro
// Secure Module for an attestation document with the public key, and decrypts the answer that KMS encrypted
// for it. See docs/attest.md.
//
// KEY_ID is the KMS key, AWS_REGION its region. The parent serves KMS on vsock port 8000. With KMS_ENDPOINT=
// http://localhost it is neb's stand-in; without, the connection is TLS to the endpoint of AWS.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/mdlayher/vsock"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

func main() {
	key, err := dataKey(context.Background(), os.Getenv("KEY_ID"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("got a data key of %d bytes\n", len(key))
}

func dataKey(ctx context.Context, id string) ([]byte, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	module, done, err := nsm.Open()
	if err != nil {
		return nil, err
	}
	defer done()
	document, err := module.Attest(nil, nil, public)
	if err != nil {
		return nil, err
	}

	overVsock := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return vsock.Dial(3, 8000, nil)
		},
	}}
	settings, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(overVsock))
	if err != nil {
		return nil, err
	}
	client := kms.NewFromConfig(settings, func(o *kms.Options) {
		if endpoint := os.Getenv("KMS_ENDPOINT"); endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
	})
	answer, err := client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String(id), KeySpec: types.DataKeySpecAes256,
		Recipient: &types.RecipientInfo{
			KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
			AttestationDocument:    document,
		},
	})
	if err != nil {
		return nil, err
	}
	return open(private, answer.CiphertextForRecipient)
}

// open decrypts a CMS EnvelopedData (RFC 5652) as KMS makes it: one recipient with RSAES-OAEP (SHA-256), and
// AES-256-CBC. The OCTET STRINGs of the message, in their order, are the encrypted key, the initial vector,
// and the parts of the content.
func open(private *rsa.PrivateKey, message []byte) ([]byte, error) {
	var found [][]byte
	if err := octetStrings(message, &found); err != nil {
		return nil, err
	}
	if len(found) < 3 {
		return nil, errors.New("the answer of KMS has too few parts")
	}
	contentKey, err := rsa.DecryptOAEP(sha256.New(), nil, private, found[0], nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	var content []byte
	for _, part := range found[2:] {
		content = append(content, part...)
	}
	if len(found[1]) != aes.BlockSize || len(content) == 0 || len(content)%aes.BlockSize != 0 {
		return nil, errors.New("the answer of KMS has the wrong size")
	}
	cipher.NewCBCDecrypter(block, found[1]).CryptBlocks(content, content)
	padding := int(content[len(content)-1])
	if padding == 0 || padding > aes.BlockSize {
		return nil, errors.New("the answer of KMS has an invalid padding")
	}
	return content[:len(content)-padding], nil
}

// octetStrings collects the OCTET STRINGs in BER, where a length may be indefinite: Go's encoding/asn1 reads
// DER only.
func octetStrings(ber []byte, found *[][]byte) error {
	for len(ber) >= 2 {
		tag, length := ber[0], int(ber[1])
		ber = ber[2:]
		if length > 0x80 { // the length of the length
			n := length & 0x7f
			if n > 2 || n > len(ber) {
				return errors.New("invalid length")
			}
			length = 0
			for _, b := range ber[:n] {
				length = length<<8 | int(b)
			}
			ber = ber[n:]
		} else if length == 0x80 { // until two zero bytes, which are skipped as an empty value
			continue
		}
		if length > len(ber) {
			return errors.New("cut off")
		}
		switch {
		case tag == 0x04:
			*found = append(*found, ber[:length])
		case tag&0x20 != 0: // constructed
			if err := octetStrings(ber[:length], found); err != nil {
				return err
			}
		}
		ber = ber[length:]
	}
	return nil
}
