package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// request has the parameters of all operations. Each operation takes its own and ignores the others, as AWS
// does; a name that is not here is an error.
type request struct {
	KeyID                          *string `json:"KeyId"`
	SourceKeyID                    *string `json:"SourceKeyId"`
	DestinationKeyID               *string `json:"DestinationKeyId"`
	Description                    string
	Policy                         *string
	PolicyName                     string
	KeySpec, KeyPairSpec           string
	CustomerMasterKeySpec          string // KeySpec's old name
	KeyUsage, Origin               string
	NumberOfBytes                  *int
	Plaintext, CiphertextBlob      []byte
	EncryptionContext              map[string]string
	SourceEncryptionContext        map[string]string
	DestinationEncryptionContext   map[string]string
	EncryptionAlgorithm            string
	SourceEncryptionAlgorithm      string
	DestinationEncryptionAlgorithm string
	Recipient                      *recipient

	BypassPolicyLockoutSafetyCheck bool
	MultiRegion, DryRun            bool

	GrantTokens []string // there are no grants
	Tags        []struct{ TagKey, TagValue string }
}

// A call is one request and what was found out about it.
type call struct {
	request
	server   *Server
	action   string // "kms:Decrypt"
	region   string
	document *nsm.Document // of the recipient; nil without one
	key      *rsa.PublicKey
}

type operation struct {
	run       func(*call) (any, error)
	recipient bool // it takes a Recipient; the others ignore it
}

// operations are those of the stand-in, by name.
var operations = map[string]operation{
	"CreateKey":           {(*call).createKey, false},
	"DescribeKey":         {(*call).describeKey, false},
	"Encrypt":             {(*call).encrypt, false},
	"Decrypt":             {(*call).decrypt, true},
	"ReEncrypt":           {(*call).reEncrypt, false},
	"GenerateDataKey":     {(*call).generateDataKey, true},
	"GenerateDataKeyPair": {(*call).generateDataKeyPair, true},
	"GenerateRandom":      {(*call).generateRandom, true},
	"GetKeyPolicy":        {(*call).getKeyPolicy, false},
	"PutKeyPolicy":        {(*call).putKeyPolicy, false},
}

// Limits of AWS KMS, in bytes.
const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxRandom     = 1024
	maxContext    = 8192
)

// symmetric is the key spec, and the encryption algorithm, of every key.
const symmetric = "SYMMETRIC_DEFAULT"

type object map[string]any

// named finds the key that a parameter names, and checks that its policy allows the action.
func (c *call) named(parameter string, id *string, context map[string]string) (*key, error) {
	if id == nil || *id == "" {
		return nil, failf(validation, "%s is required", parameter)
	}
	all, err := readKeys(c.server.File)
	if err != nil {
		return nil, err
	}
	k, err := all.find(*id)
	if err != nil {
		return nil, err
	}
	return k, c.authorize(k, c.action, context, nil)
}

// authorize checks that a key's policy allows an action. It reports why not to the user, and less to the
// caller, as AWS does.
func (c *call) authorize(k *key, action string, context map[string]string, more attributes) error {
	if err := checkContext(context); err != nil {
		return err
	}
	p, err := parsePolicy([]byte(k.Policy))
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.server.File, k.ARN, err)
	}
	allowed, reasons := p.allows(c.server.Caller, action, k.ARN, c.attributes(context, more))
	if allowed {
		return nil
	}
	for _, reason := range reasons {
		c.server.report("%s on %s: %s", action, k.ARN, reason)
	}
	return failf("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s "+
		"because no resource-based policy allows the %[2]s action", c.server.Caller.ARN, action, k.ARN)
}

// checkContext rejects an encryption context that is larger than AWS takes, and one whose names differ in
// case only: to a condition they are the same, and the stand-in does not know which of them AWS compares.
func checkContext(context map[string]string) error {
	size, seen := 0, map[string]bool{}
	for name, value := range context {
		if size += len(name) + len(value); size > maxContext {
			return failf(validation, "the encryption context has more than %d bytes", maxContext)
		}
		folded := strings.ToLower(name)
		if seen[folded] {
			return failf(validation, "the encryption context has two names that differ in case only: %.128q",
				name)
		}
		seen[folded] = true
	}
	return nil
}

// attributes are the values of the request that conditions compare.
func (c *call) attributes(context map[string]string, more attributes) attributes {
	a := attributes{
		"aws:principalarn":        {c.server.Caller.ARN},
		"aws:principalaccount":    {c.server.Caller.account},
		"aws:requestedregion":     {c.region},
		"kms:calleraccount":       {c.server.Caller.account},
		"kms:encryptionalgorithm": {symmetric},
		"kms:keyspec":             {symmetric},
		"kms:keyusage":            {"ENCRYPT_DECRYPT"},
		"kms:keyorigin":           {"AWS_KMS"},
	}
	maps.Copy(a, more)
	for name, value := range context {
		a["kms:encryptioncontext:"+strings.ToLower(name)] = []string{value}
	}
	if len(context) > 0 {
		a["kms:encryptioncontextkeys"] = slices.Sorted(maps.Keys(context))
	}
	if c.document != nil {
		for i, value := range c.document.PCRs {
			a[fmt.Sprintf("kms:recipientattestation:pcr%d", i)] = []string{hex.EncodeToString(value)}
		}
		if image, ok := a["kms:recipientattestation:pcr0"]; ok {
			a["kms:recipientattestation:imagesha384"] = image
		}
	}
	return a
}

// secret adds a text to an answer: as it is, or encrypted for the recipient.
func (c *call) secret(answer object, name string, text []byte) (any, error) {
	if c.document == nil {
		answer[name] = text
		return answer, nil
	}
	sealed, err := envelop(c.key, text)
	answer["CiphertextForRecipient"] = sealed
	return answer, err
}

// change runs f on the keys and writes what it returns.
func (s *Server) change(f func(keys) (keys, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := readKeys(s.File)
	if err != nil {
		return err
	}
	if all, err = f(all); err != nil {
		return err
	}
	return all.write(s.File)
}

const malformed = "MalformedPolicyDocumentException"

// checkPolicy checks a policy that a key is to have: the caller must be able to change it again.
func (c *call) checkPolicy(text, resource string) error {
	p, err := parsePolicy([]byte(text))
	if err != nil {
		return failf(malformed, "%v", err)
	}
	allowed, reasons := p.allows(c.server.Caller, "kms:PutKeyPolicy", resource, c.attributes(nil, nil))
	if !allowed && !c.BypassPolicyLockoutSafetyCheck {
		return failf(malformed, "the new key policy will not allow you to update the key policy in the "+
			"future: %s", strings.Join(reasons, "; "))
	}
	return nil
}

const maxKeys = 4096 // in a file

func (c *call) createKey() (any, error) {
	k, err := c.newKey()
	if err != nil {
		return nil, err
	}
	return object{"KeyMetadata": k.metadata()}, nil
}

// newKey adds a key to the file.
func (c *call) newKey() (*key, error) {
	caller := c.server.Caller
	spec, usage, origin := c.KeySpec+c.CustomerMasterKeySpec, c.KeyUsage, c.Origin
	if spec != "" && spec != symmetric || usage != "" && usage != "ENCRYPT_DECRYPT" ||
		origin != "" && origin != "AWS_KMS" || c.MultiRegion {
		return nil, failf(unsupported, "neb kms has symmetric keys only: expected KeySpec "+
			"SYMMETRIC_DEFAULT, KeyUsage ENCRYPT_DECRYPT, Origin AWS_KMS, one region")
	}
	k := &key{
		ARN: fmt.Sprintf("arn:%s:kms:%s:%s:key/%s", caller.partition, c.region, caller.account,
			newID()),
		Material:    make([]byte, 32),
		Created:     time.Now().UTC().Truncate(time.Second),
		Description: c.Description,
		Policy: fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", `+
			`"Principal": {"AWS": %q}, "Action": "kms:*", "Resource": "*"}]}`, caller.root()),
	}
	rand.Read(k.Material)
	if c.Policy != nil {
		k.Policy = *c.Policy
	}
	if err := c.checkPolicy(k.Policy, k.ARN); err != nil {
		return nil, err
	}
	return k, c.server.change(func(all keys) (keys, error) {
		if len(all) >= maxKeys {
			return nil, failf(limitExceeded, "%s has %d keys already", c.server.File, len(all))
		}
		return append(all, k), nil
	})
}

func (k *key) metadata() object {
	return object{
		"AWSAccountId": k.account(), "KeyId": k.id(), "Arn": k.ARN, "CreationDate": k.Created.Unix(),
		"Enabled": true, "Description": k.Description, "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled",
		"Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "KeySpec": symmetric,
		"CustomerMasterKeySpec": symmetric, "EncryptionAlgorithms": []string{symmetric}, "MultiRegion": false,
	}
}

func (c *call) describeKey() (any, error) {
	k, err := c.named("KeyId", c.KeyID, nil)
	if err != nil {
		return nil, err
	}
	return object{"KeyMetadata": k.metadata()}, nil
}

// algorithm rejects other algorithms than that of all keys.
func algorithm(names ...string) error {
	for _, name := range names {
		if name != "" && name != symmetric {
			return failf("InvalidKeyUsageException",
				"the encryption algorithm %.40q is not that of the key: expected %s", name, symmetric)
		}
	}
	return nil
}

// size rejects a parameter whose size is not from 1 to most.
func size(parameter string, n, most int) error {
	if n < 1 || n > most {
		return failf(validation, "%s has %d bytes: expected 1 to %d", parameter, n, most)
	}
	return nil
}

func (c *call) encrypt() (any, error) {
	if err := size("Plaintext", len(c.Plaintext), maxPlaintext); err != nil {
		return nil, err
	}
	if err := algorithm(c.EncryptionAlgorithm); err != nil {
		return nil, err
	}
	k, err := c.named("KeyId", c.KeyID, c.EncryptionContext)
	if err != nil {
		return nil, err
	}
	return object{
		"KeyId": k.ARN, "EncryptionAlgorithm": symmetric,
		"CiphertextBlob": k.seal(c.Plaintext, c.EncryptionContext),
	}, nil
}

// openBlob finds the key of CiphertextBlob, which must be the one that a parameter names if it names one,
// checks that its policy allows the action, and decrypts.
func (c *call) openBlob(action, parameter string, id *string, context map[string]string,
	more attributes) (*key, []byte, error) {
	if err := size("CiphertextBlob", len(c.CiphertextBlob), maxCiphertext); err != nil {
		return nil, nil, err
	}
	all, err := readKeys(c.server.File)
	if err != nil {
		return nil, nil, err
	}
	k, err := all.keyOf(c.CiphertextBlob)
	if id != nil {
		named, e := all.find(*id)
		if e != nil {
			return nil, nil, e
		}
		if err == nil && named != k {
			return nil, nil, failf("IncorrectKeyException", "%s is not the key that encrypted the ciphertext",
				parameter)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if err := c.authorize(k, action, context, more); err != nil {
		return nil, nil, err
	}
	text, err := k.open(c.CiphertextBlob, context)
	return k, text, err
}

func (c *call) decrypt() (any, error) {
	if err := algorithm(c.EncryptionAlgorithm); err != nil {
		return nil, err
	}
	k, text, err := c.openBlob(c.action, "KeyId", c.KeyID, c.EncryptionContext, nil)
	if err != nil {
		return nil, err
	}
	return c.secret(object{"KeyId": k.ARN, "EncryptionAlgorithm": symmetric}, "Plaintext", text)
}

func (c *call) reEncrypt() (any, error) {
	if err := algorithm(c.SourceEncryptionAlgorithm, c.DestinationEncryptionAlgorithm); err != nil {
		return nil, err
	}
	if c.DestinationKeyID == nil {
		return nil, failf(validation, "DestinationKeyId is required")
	}
	all, err := readKeys(c.server.File)
	if err != nil {
		return nil, err
	}
	to, err := all.find(*c.DestinationKeyID)
	if err != nil {
		return nil, err
	}
	same := attributes{"kms:reencryptonsamekey": {"false"}}
	if from, err := all.keyOf(c.CiphertextBlob); err == nil && from == to {
		same = attributes{"kms:reencryptonsamekey": {"true"}}
	}
	from, text, err := c.openBlob("kms:ReEncryptFrom", "SourceKeyId", c.SourceKeyID,
		c.SourceEncryptionContext, same)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(to, "kms:ReEncryptTo", c.DestinationEncryptionContext, same); err != nil {
		return nil, err
	}
	return object{
		"KeyId": to.ARN, "SourceKeyId": from.ARN,
		"CiphertextBlob":            to.seal(text, c.DestinationEncryptionContext),
		"SourceEncryptionAlgorithm": symmetric, "DestinationEncryptionAlgorithm": symmetric,
	}, nil
}

func (c *call) generateDataKey() (any, error) {
	n, known := map[string]int{"AES_128": 16, "AES_256": 32}[c.KeySpec]
	switch {
	case (c.KeySpec == "") == (c.NumberOfBytes == nil):
		return nil, failf(validation, "expected one of KeySpec and NumberOfBytes")
	case c.NumberOfBytes != nil:
		n = *c.NumberOfBytes
	case !known:
		return nil, failf(validation, "the KeySpec is %.40q: expected AES_128 or AES_256", c.KeySpec)
	}
	if err := size("NumberOfBytes", n, maxRandom); err != nil {
		return nil, err
	}
	k, err := c.named("KeyId", c.KeyID, c.EncryptionContext)
	if err != nil {
		return nil, err
	}
	text := make([]byte, n)
	rand.Read(text)
	answer := object{"KeyId": k.ARN, "CiphertextBlob": k.seal(text, c.EncryptionContext)}
	return c.secret(answer, "Plaintext", text)
}

// keyPairs make the key pairs of GenerateDataKeyPair, by KeyPairSpec.
var keyPairs = map[string]func() (crypto.Signer, error){
	"RSA_2048":      ofBits(2048),
	"RSA_3072":      ofBits(3072),
	"RSA_4096":      ofBits(4096),
	"ECC_NIST_P256": onCurve(elliptic.P256()),
	"ECC_NIST_P384": onCurve(elliptic.P384()),
	"ECC_NIST_P521": onCurve(elliptic.P521()),
}

func ofBits(n int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, n) }
}

func onCurve(c elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
}

func (c *call) generateDataKeyPair() (any, error) {
	generate, ok := keyPairs[c.KeyPairSpec]
	if !ok {
		return nil, failf(unsupported, "the KeyPairSpec is %.40q: neb kms has %s", c.KeyPairSpec,
			strings.Join(slices.Sorted(maps.Keys(keyPairs)), ", "))
	}
	k, err := c.named("KeyId", c.KeyID, c.EncryptionContext)
	if err != nil {
		return nil, err
	}
	pair, err := generate()
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(pair.Public())
	if err != nil {
		return nil, err
	}
	return c.secret(object{
		"KeyId": k.ARN, "KeyPairSpec": c.KeyPairSpec, "PublicKey": public,
		"PrivateKeyCiphertextBlob": k.seal(private, c.EncryptionContext),
	}, "PrivateKeyPlaintext", private)
}

func (c *call) generateRandom() (any, error) {
	if c.NumberOfBytes == nil {
		return nil, failf(validation, "NumberOfBytes is required")
	}
	if err := size("NumberOfBytes", *c.NumberOfBytes, maxRandom); err != nil {
		return nil, err
	}
	text := make([]byte, *c.NumberOfBytes)
	rand.Read(text)
	return c.secret(object{}, "Plaintext", text)
}

// onlyPolicy is the name of every key's policy, and the only one that AWS has.
const onlyPolicy = "default"

func (c *call) policyName() error {
	if c.PolicyName != "" && c.PolicyName != onlyPolicy {
		return failf(notFound, "No such policy %.128q exists: expected %s", c.PolicyName, onlyPolicy)
	}
	return nil
}

func (c *call) getKeyPolicy() (any, error) {
	if err := c.policyName(); err != nil {
		return nil, err
	}
	k, err := c.named("KeyId", c.KeyID, nil)
	if err != nil {
		return nil, err
	}
	return object{"Policy": k.Policy, "PolicyName": onlyPolicy}, nil
}

func (c *call) putKeyPolicy() (any, error) {
	if err := c.policyName(); err != nil {
		return nil, err
	}
	if c.Policy == nil {
		return nil, failf(validation, "Policy is required")
	}
	k, err := c.named("KeyId", c.KeyID, nil)
	if err != nil {
		return nil, err
	}
	if err := c.checkPolicy(*c.Policy, k.ARN); err != nil {
		return nil, err
	}
	return object{}, c.server.change(func(all keys) (keys, error) {
		k, err := all.find(k.ARN)
		if err == nil {
			k.Policy = *c.Policy
		}
		return all, err
	})
}

// CreateKey makes a key with a policy, or with that of AWS if it is empty, and returns its ARN.
func (s *Server) CreateKey(region, policy string) (string, error) {
	c := &call{server: s, action: "kms:CreateKey", region: region}
	if policy != "" {
		c.Policy = &policy
	}
	k, err := c.newKey()
	if err != nil {
		return "", err
	}
	return k.ARN, nil
}

// PutKeyPolicy replaces the policy of a key, by ID or ARN, if its present policy allows that to the caller.
func (s *Server) PutKeyPolicy(id, policy string) error {
	c := &call{server: s, action: "kms:PutKeyPolicy", request: request{KeyID: &id, Policy: &policy}}
	_, err := c.putKeyPolicy()
	return err
}

// Keys counts the keys in the file.
func (s *Server) Keys() (int, error) {
	all, err := readKeys(s.File)
	return len(all), err
}
