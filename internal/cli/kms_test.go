package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKMS(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const locked = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
		"Action": "kms:Decrypt", "Resource": "*"}]}`
	open := strings.Replace(locked, "kms:Decrypt", "kms:PutKeyPolicy", 1)
	for name, text := range map[string]string{
		"locked": locked, "open": open, "text": "policy", "empty": "[default]\nregion = x\n",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	status, arn, errs := command("kms", "create-key", at("keys"), "--region", "eu-west-1")
	if arn = strings.TrimSpace(arn); status != 0 || !strings.HasPrefix(arn,
		"arn:aws:kms:eu-west-1:111122223333:key/") {
		t.Fatalf("create-key: status %d, printed %q, said %s", status, arn, errs)
	}
	for _, test := range []struct {
		args   string
		status int
		want   string // on standard error
	}{
		{"serve", 1, "run 'neb attest ca init'"},
		{"serve --listen 0.0.0.0:8000", 2, "expected HOST:PORT with a loopback address"},
		{"serve --listen 8000", 2, "expected HOST:PORT with a loopback address"},
		{"serve --principal Web", 2, "--principal: invalid principal"},
		{"serve --credentials " + at("nothing"), 1, "--credentials"},
		{"serve --credentials " + at("empty"), 1, "--credentials"},
		{"serve --attestation-ca " + at("text"), 1, "not a directory"},
		{"serve a b", 2, "at most 1 arg"},
		{"create-key --policy " + at("nothing"), 1, "--policy: open"},
		{"create-key --policy " + at("text"), 1,
			"MalformedPolicyDocumentException: the policy is not valid JSON"},
		{"create-key --policy " + at("locked"), 1, "will not allow you to update the key policy"},
		{"create-key " + at("text"), 1, "mode 0644, expected 0600"},
		{"create-key", 0, ""},
		{"put-key-policy --key " + arn, 2, "--key and --policy are required"},
		{"put-key-policy --key " + arn + " --policy " + at("open"), 1, "NotFoundException"},
		{"put-key-policy " + at("keys") + " --key " + arn + " --policy " + at("open"), 0, ""},
		{"put-key-policy " + at("keys") + " --key " + arn + " --policy " + at("locked"), 1, "will not allow"},
	} {
		status, out, errs := command(strings.Fields("kms " + test.args)...)
		if status != test.status || !strings.Contains(errs, test.want) {
			t.Errorf("neb kms %s: status %d, expected %d; printed %s; said %s, expected %q", test.args,
				status,
				test.status, out, errs, test.want)
		}
	}
	if info, err := os.Stat(at("neb/kms.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the user's own keys: %v, %v", info, err)
	}
	if status, _, errs := command("attest", "ca", "init"); status != 0 {
		t.Fatal(errs)
	}
	status, _, errs = command("kms", "serve", "--listen", taken.Addr().String())
	if status != 1 || !strings.Contains(errs, "in use") {
		t.Errorf("a port in use: status %d, said %s", status, errs)
	}
}
