package inspect

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// Policy is the registers that a key policy of AWS KMS requires, by number.
type Policy map[int]eif.PCR

// Add adds registers of an image to the policy: those with the given numbers, or all.
func (p Policy) Add(m eif.Measurements, numbers ...int) error {
	all := len(numbers) == 0
	if all {
		numbers = []int{0, 1, 2, 8}
	}
	for _, n := range numbers {
		pcr, ok := m.PCR(n)
		switch {
		case ok:
			p[n] = pcr
		case n == 8 && !all:
			return errors.New("PCR8: the file has no signature")
		case n == 0:
			return errors.New("PCR0: the file is of a PCIe enclave, whose PCR0 is not known")
		case n != 8:
			return fmt.Errorf("PCR%d: a file determines only PCR0, PCR1, PCR2 and PCR8", n)
		}
	}
	return nil
}

// Condition returns the condition block of a policy statement (AWS KMS Developer Guide, "Condition keys for
// AWS Nitro Enclaves"). It rejects registers that are zero, as in every enclave in debug mode, and policies
// that leave a half of the enclave open.
func (p Policy) Condition() (any, error) {
	_, image := p[0]
	_, signer := p[8]
	if !image && !signer {
		return nil, errors.New("the policy has neither PCR0 nor PCR8: " +
			"it would admit enclaves that share only a part with this one")
	}
	keys := map[string]eif.PCR{}
	for n, pcr := range p {
		if pcr.IsZero() {
			return nil, fmt.Errorf("PCR%d is zero, as in every enclave in debug mode", n)
		}
		keys[fmt.Sprintf("kms:RecipientAttestation:PCR%d", n)] = pcr
	}
	return map[string]map[string]eif.PCR{"StringEqualsIgnoreCase": keys}, nil
}

var (
	roleARN    = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}$`)
	instanceID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
)

// CheckRoleARN rejects what is not the ARN of an IAM role: PCR3 measures the text, so nothing else finds a
// typo.
func CheckRoleARN(arn string) error {
	if !roleARN.MatchString(arn) {
		return fmt.Errorf("invalid ARN of a role %q: expected one like %s",
			arn, "arn:aws:iam::123456789012:role/Webserver")
	}
	return nil
}

// CheckInstanceID rejects what is not the ID of an EC2 instance: PCR4 measures the text.
func CheckInstanceID(id string) error {
	if !instanceID.MatchString(id) {
		return fmt.Errorf("invalid ID of an EC2 instance %q: expected one like i-0123456789abcdef0", id)
	}
	return nil
}
