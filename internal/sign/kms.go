package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// KMS is the part of AWS KMS that signing needs. [*kms.Client] is one.
type KMS interface {
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput,
		error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
}

// keyARN is the ARN of a key in any partition of AWS.
var keyARN = regexp.MustCompile(`^(arn:aws[-a-z]*:kms:([a-z0-9-]+):\d{12}:key)[:/]([a-zA-Z0-9-]+)$`)

// IsARN reports whether a text names a resource of AWS, and not a file. [ReadKey] rejects those that are no
// keys.
func IsARN(text string) bool { return strings.HasPrefix(text, "arn:") }

// ReadKey returns the private key that a text names: the ARN of a key in AWS KMS, or a PEM file. It looks for
// credentials where the AWS command line does; the region is that of the key.
func ReadKey(ctx context.Context, name string) (crypto.Signer, error) {
	if !IsARN(name) {
		return ReadPrivateKey(name)
	}
	id, region, err := parseARN(name)
	if err != nil {
		return nil, err
	}
	settings, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("AWS: %w", err)
	}
	return NewKMSKey(ctx, kms.NewFromConfig(settings), id)
}

func parseARN(arn string) (id, region string, err error) {
	parts := keyARN.FindStringSubmatch(arn)
	if parts == nil {
		return "", "", fmt.Errorf("invalid key %q: expected arn:PARTITION:kms:REGION:ACCOUNT:key/ID; "+
			"for a file of that name write ./%s", arn, arn)
	}
	return parts[1] + "/" + parts[3], parts[2], nil
}

// LoadKMS returns a signer whose key is in AWS KMS (see [ReadKey]), with the certificate in a PEM file.
func LoadKMS(ctx context.Context, arn, certificateFile string) (*Signer, error) {
	if _, _, err := parseARN(arn); err != nil {
		return nil, err
	}
	certificate, err := LoadCertificate(certificateFile)
	if err != nil {
		return nil, err
	}
	key, err := ReadKey(ctx, arn)
	if err != nil {
		return nil, err
	}
	return &Signer{Key: key, Certificate: certificate}, nil
}

// kmsKey is a private key that stays in AWS KMS.
type kmsKey struct {
	ctx    context.Context // of the one command that the key is used for
	client KMS
	id     string
	public *ecdsa.PublicKey
}

// NewKMSKey returns a key in AWS KMS as a [crypto.Signer], which works until ctx is done.
func NewKMSKey(ctx context.Context, client KMS, id string) (crypto.Signer, error) {
	out, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: aws.String(id)})
	if err != nil {
		return nil, fmt.Errorf("the key %s: %w", id, err)
	}
	if out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fmt.Errorf("the key %s is for %s: expected SIGN_VERIFY", id, out.KeyUsage)
	}
	public, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the key %s: %w", id, err)
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key %s is %s: expected ECDSA on P-256, P-384 or P-521", id, out.KeySpec)
	}
	return &kmsKey{ctx, client, id, ec}, nil
}

func (k *kmsKey) Public() crypto.PublicKey { return k.public }

func (k *kmsKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	algorithm, ok := map[crypto.Hash]types.SigningAlgorithmSpec{
		crypto.SHA256: types.SigningAlgorithmSpecEcdsaSha256,
		crypto.SHA384: types.SigningAlgorithmSpecEcdsaSha384,
		crypto.SHA512: types.SigningAlgorithmSpecEcdsaSha512,
	}[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("AWS KMS does not sign digests of %v", opts.HashFunc())
	}
	out, err := k.client.Sign(k.ctx, &kms.SignInput{
		KeyId: aws.String(k.id), Message: digest, MessageType: types.MessageTypeDigest,
		SigningAlgorithm: algorithm,
	})
	if err != nil {
		return nil, fmt.Errorf("the key %s: %w", k.id, err)
	}
	return out.Signature, nil
}
