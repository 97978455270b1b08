package inspect

import (
	"fmt"
	"regexp"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// Policy are registers that a key policy of AWS KMS demands, by their numbers.
type Policy map[int]eif.PCR

// Add takes registers of an image into the policy: those with the given numbers, or all.
func (p Policy) Add(m eif.Measurements, numbers ...int) error {
	known := map[int]eif.PCR{0: m.PCR0, 1: m.PCR1, 2: m.PCR2}
	if m.PCR8 != nil {
		known[8] = *m.PCR8
	}
	if len(numbers) == 0 {
		for n, pcr := range known {
			p[n] = pcr
		}
		return nil
	}
	for _, n := range numbers {
		pcr, ok := known[n]
		switch {
		case ok:
			p[n] = pcr
		case n == 8:
			return fmt.Errorf("PCR8 is the signer's, and the file has no signature")
		default:
			return fmt.Errorf("PCR%d is not determined by a file: 0, 1, 2 and 8 are", n)
		}
	}
	return nil
}

// Condition is the condition block of a policy statement (AWS KMS Developer Guide, "Condition keys for AWS
// Nitro Enclaves"). It refuses registers that are zero, which are those of any enclave in debug mode, and
// conditions that say nothing about one half of an enclave.
func (p Policy) Condition() (any, error) {
	_, image := p[0]
	_, signer := p[8]
	if !image && !signer {
		return nil, fmt.Errorf("a policy without PCR0 and PCR8 lets in enclaves that share a part with this one, and may do anything with the rest")
	}
	keys := map[string]eif.PCR{}
	for n, pcr := range p {
		if pcr.IsZero() {
			return nil, fmt.Errorf("PCR%d is zero: any enclave in debug mode has that", n)
		}
		keys[fmt.Sprintf("kms:RecipientAttestation:PCR%d", n)] = pcr
	}
	return map[string]map[string]eif.PCR{"StringEqualsIgnoreCase": keys}, nil
}

var (
	roleARN    = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}$`)
	instanceID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
)

// CheckRoleARN refuses what is not the ARN of an IAM role: PCR3 measures the text as it is, so a slip would
// go unseen.
func CheckRoleARN(arn string) error {
	if !roleARN.MatchString(arn) {
		return fmt.Errorf("%q is not the ARN of an IAM role, like arn:aws:iam::123456789012:role/Webserver", arn)
	}
	return nil
}

// CheckInstanceID refuses what is not the ID of an EC2 instance: PCR4 measures the text as it is.
func CheckInstanceID(id string) error {
	if !instanceID.MatchString(id) {
		return fmt.Errorf("%q is not the ID of an EC2 instance, like i-0123456789abcdef0", id)
	}
	return nil
}
