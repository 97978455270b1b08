package kms

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tryPolicy is what a policy decides for an action with attributes.
func tryPolicy(t testing.TB, text, action string, a attributes) (bool, string) {
	t.Helper()
	p, err := parsePolicy([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	caller, err := ParseCaller(roleARN)
	if err != nil {
		t.Fatal(err)
	}
	allowed, reasons := p.allows(caller, action, "arn:aws:kms:us-east-1:111122223333:key/k", a)
	return allowed, strings.Join(reasons, "\n")
}

func hexPCR(b byte) string { return hex.EncodeToString(bytes.Repeat([]byte{b}, 48)) }

// TestConditions evaluates one condition of a statement that allows.
func TestConditions(t *testing.T) {
	const pcr = `"kms:RecipientAttestation:PCR0"`
	a0, upper := hexPCR(0xa0), strings.ToUpper(hexPCR(0xa0))
	enclave := attributes{
		"kms:recipientattestation:pcr0": {a0}, "kms:recipientattestation:imagesha384": {a0},
		"kms:encryptioncontext:purpose": {"test"}, "kms:encryptioncontextkeys": {"a", "purpose"},
		"aws:principalarn": {roleARN},
	}
	for _, test := range []struct {
		condition string
		want      bool
		without   bool // what is decided where the request has no attributes
	}{
		{`"StringEquals": {` + pcr + `: "` + a0 + `"}`, true, false},
		{`"StringEquals": {` + pcr + `: "` + upper + `"}`, false, false},
		{`"StringEqualsIgnoreCase": {` + pcr + `: "` + upper + `"}`, true, false},
		{`"StringEqualsIgnoreCase": {` + pcr + `: ["` + hexPCR(1) + `", "` + a0 + `"]}`, true, false},
		{`"StringEqualsIgnoreCase": {` + pcr + `: "` + hexPCR(1) + `"}`, false, false},
		{`"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": "` + a0 + `"}`, true, false},
		{`"StringEqualsIgnoreCase": {"kms:recipientattestation:imagesha384": "` + a0 + `"}`, true, false},
		{`"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR1": "` + a0 + `"}`, false, false},
		{`"StringEqualsIgnoreCase": {` + pcr + `: []}`, false, false},
		{`"StringEqualsIfExists": {` + pcr + `: "` + a0 + `"}`, true, true},
		{`"StringEqualsIfExists": {` + pcr + `: "x"}`, false, true},
		{`"StringNotEquals": {` + pcr + `: "` + a0 + `"}`, false, true},
		{`"StringNotEquals": {` + pcr + `: ["x", "` + a0 + `"]}`, false, true},
		{`"StringNotEquals": {` + pcr + `: ["x", "y"]}`, true, true},
		{`"StringNotEqualsIgnoreCase": {` + pcr + `: "` + upper + `"}`, false, true},
		{`"StringLike": {` + pcr + `: "a0*"}`, true, false},
		{`"StringLike": {` + pcr + `: "?0*A0"}`, false, false},
		{`"StringLike": {` + pcr + `: "a0"}`, false, false},
		{`"StringNotLike": {` + pcr + `: "a0*"}`, false, true},
		{`"Null": {` + pcr + `: "false"}`, true, false},
		{`"Null": {` + pcr + `: true}`, false, true},
		{`"Null": {` + pcr + `: "true"}`, false, true},
		{`"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "purpose"}`, true, false},
		{`"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "other"}`, false, false},
		{`"ForAnyValue:StringEqualsIgnoreCase": {"kms:EncryptionContextKeys": ["other", "PURPOSE"]}`, true,
			false},
		{`"ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": "purpose"}`, true, false},
		{`"ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["a", "purpose"]}`, false, false},
		{`"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "purpose", "z"]}`, true, true},
		{`"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "purpose"}`, false, true},
		{`"ForAllValues:StringNotEquals": {"kms:EncryptionContextKeys": "purpose"}`, false, true},
		{`"ForAllValues:StringLike": {"kms:EncryptionContextKeys": "*"}`, true, true},
		{`"ForAnyValue:StringEqualsIgnoreCase": {` + pcr + `: "` + upper + `"}`, true, false},
		{`"ForAllValues:StringEqualsIgnoreCase": {` + pcr + `: "` + upper + `"}`, true, true},
		{`"StringEquals": {"kms:EncryptionContext:Purpose": "test"}`, true, false},
		{`"StringEquals": {"kms:EncryptionContext:purpose": "Test"}`, false, false},
		{`"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/*"}`, true, false},
		{`"ArnEquals": {"aws:PrincipalArn": "arn:*:role/Web"}`, false, false},
		{`"ArnNotEquals": {"aws:PrincipalArn": "` + roleARN + `"}`, false, true},
		{`"StringEquals": {` + pcr + `: "` + a0 + `", "kms:EncryptionContext:purpose": "test"}`, true, false},
		{`"StringEquals": {` + pcr + `: "` + a0 + `", "kms:EncryptionContext:purpose": "x"}`, false, false},
		{`"StringEquals": {` + pcr + `: "` + a0 + `"}, "Null": {"kms:EncryptionContextKeys": false}`, true,
			false},
		// What the stand-in does not know allows nothing.
		{`"IpAddress": {"aws:SourceIp": "127.0.0.1"}`, false, false},
		{`"Bool": {"kms:GrantIsForAWSResource": "true"}`, false, false},
		{`"StringEquals": {"aws:PrincipalArn": "arn:aws:iam::111122223333:role/${aws:username}"}`, false,
			false},
		{`"StringNotEquals": {"kms:RecipientAttestation:PCR32": "x"}`, false, false},
		{`"Null": {` + pcr + `: ["false", "no"]}`, false, false},
		{`"ForSomeValues:StringEquals": {` + pcr + `: "` + a0 + `"}`, false, false},
	} {
		text := func(effect string) string {
			return `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
				"Action": "kms:*", "Resource": "*"}, {"Effect": "` + effect + `", "Principal": {"AWS": "` + roleARN + `"},
				"Action": ["kms:decrypt"], "Resource": "*", "Condition": {` + test.condition + `}}]}`
		}
		allow := strings.Replace(text("Allow"), `"kms:*"`, `"kms:PutKeyPolicy"`, 1)
		for _, c := range []struct {
			a    attributes
			want bool
		}{{enclave, test.want}, {attributes{}, test.without}} {
			got, why := tryPolicy(t, allow, "kms:Decrypt", c.a)
			if got != c.want || got == (why != "") {
				t.Errorf("Allow with %s: %v, expected %v (%s); attributes %v", test.condition, got, c.want,
					why, c.a)
			}
			// The same condition in a statement that denies, after one that allows all. What cannot be
			// decided
			// denies.
			denies := c.want || strings.Contains(why, "the stand-in does not know")
			if got, why := tryPolicy(t, text("Deny"), "kms:Decrypt", c.a); got == denies {
				t.Errorf("Deny with %s: %v (%s); attributes %v", test.condition, got, why, c.a)
			}
		}
	}
}

// TestStatements evaluates principals, actions, resources and the order of statements.
func TestStatements(t *testing.T) {
	statement := func(effect, principal, action, resource string) string {
		return fmt.Sprintf(`{"Sid": %q, "Effect": %q, "Principal": %s, "Action": %s, "Resource": %s}`, effect,
			effect,
			principal, action, resource)
	}
	const all = `"*"`
	for _, test := range []struct {
		name       string
		statements []string
		want       bool
		why        string
	}{
		{"everyone", []string{statement("Allow", all, all, all)}, true, ""},
		{"the role", []string{statement("Allow", `{"AWS": "`+roleARN+`"}`, `"kms:Decrypt"`, all)}, true, ""},
		{"one of two roles", []string{statement("Allow", `{"AWS": ["arn:aws:iam::1:role/x", "`+roleARN+`"]}`,
			all, all)}, true, ""},
		{"the account", []string{statement("Allow", `{"AWS": "111122223333"}`, all, all)}, true, ""},
		{"the account's root", []string{statement("Allow", `{"AWS": "arn:aws:iam::111122223333:root"}`, all,
			all)}, true, ""},
		{"another account", []string{statement("Allow", `{"AWS": "444455556666"}`, all, all)}, false,
			`the Principal is "444455556666"`},
		{"another role", []string{statement("Allow", `{"AWS": "arn:aws:iam::111122223333:role/web"}`, all,
			all)}, false,
			"the caller is " + roleARN},
		{"a service", []string{statement("Allow", `{"Service": "ec2.amazonaws.com"}`, all, all)}, false,
			"the Principal is"},
		{"a pattern of actions", []string{statement("Allow", all, `["kms:Encrypt", "kms:De*"]`, all)}, true,
			""},
		{"an action in other letters", []string{statement("Allow", all, `"KMS:decrypt"`, all)}, true, ""},
		{"another action", []string{statement("Allow", all, `"kms:Encrypt"`, all)}, false,
			"no statement is about this action"},
		{"another resource", []string{statement("Allow", all, all,
			`"arn:aws:kms:us-east-1:111122223333:key/other"`)}, false, "no statement"},
		{"the key", []string{statement("Allow", all, all, `"arn:aws:kms:us-east-1:111122223333:key/?"`)},
			true, ""},
		{"Deny after Allow", []string{statement("Allow", all, all, all), statement("Deny", all,
			`"kms:Decrypt"`, all)}, false,
			`statement "Deny" denies it`},
		{"Deny before Allow", []string{statement("Deny", all, `"kms:Decrypt"`, all), statement("Allow", all,
			all, all)}, false,
			`statement "Deny" denies it`},
		{"Deny of another", []string{statement("Deny", `{"AWS": "444455556666"}`, all, all),
			statement("Allow", all, all, all)}, true, ""},
		{"no statement", nil, false, "no statement"},
	} {
		text := `{"Version": "2012-10-17", "Id": "key", "Statement": [` + strings.Join(test.statements, ",") +
			`]}`
		got, why := tryPolicy(t, text, "kms:Decrypt", nil)
		if got != test.want || !strings.Contains(why, test.why) {
			t.Errorf("%s: %v (%s), expected %v (%s)", test.name, got, why, test.want, test.why)
		}
	}
}

func TestPolicyRejected(t *testing.T) {
	const good = `{"Sid": "Web", "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}`
	policy := func(statement string) string {
		return `{"Version": "2012-10-17", "Statement": [` + statement + `]}`
	}
	if _, err := parsePolicy([]byte(policy(good))); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ text, want string }{
		{"", "not valid JSON"},
		{"policy", "not valid JSON"},
		{`[]`, "cannot unmarshal array"},
		{`null`, "found null"},
		{`{}`, "expected 2012-10-17"},
		{`{"Version": "2012-10-17"}`, "no Statement"},
		{`{"Version": "2012-10-17", "Statement": 1}`, "cannot unmarshal"},
		{`{"Version": "2012-10-18", "Statement": []}`, "expected 2012-10-17"},
		{`{"Version": "2012-10-17", "Statement": [], "Statements": []}`, `unknown field "Statements"`},
		{policy(good) + "{}", "more than one JSON value"},
		{policy(good)[1:], "not valid JSON"},
		{strings.Repeat(" ", maxPolicy) + policy(good), "expected at most 32768"},
		{policy(good[:len(good)-1] + `, "Effect": "Deny"}`), `"Effect" is given twice`},
		{policy(good[:len(good)-1] + `, "Condition": {"StringEquals": {}, "Bool": {}, "StringEquals": {}}}`),
			`"StringEquals" is given twice`},
		{policy(good[:len(good)-1] + `, "Conditions": {}}`), `unknown field "Conditions"`},
		{policy(good[:len(good)-1] + `, "Condition": {"StringEquals": "x"}}`), "cannot unmarshal"},
		{policy(good[:len(good)-1] + `, "Condition": {"StringEquals": {"k": {}}}}`), "expected a string"},
		{policy(good[:len(good)-1] + `, "Condition": {"StringEquals": {"k": [["x"]]}}}`), "expected a string"},
		{policy(good[:len(good)-1] + `, "NotAction": "x"}`),
			`statement "Web": expected one of Action and NotAction`},
		{policy(good[:len(good)-1] + `, "NotPrincipal": "*"}`), "NotPrincipal and NotResource are not supported"},
		{policy(good[:len(good)-1] + `, "effect": "Deny"}`), `"effect" is given twice`},
		{policy(good[:len(good)-1] + `, "re\u017fource": "x"}`), `is given twice`},
		{policy(good[:len(good)-1] + `, "condition": {}}`), `found "condition", expected "Condition"`},
		{policy(good[:len(good)-1] + `, "Condition": {"Null": {"aws:PrincipalArn": "x"}}, "condition": null}`),
			`"condition" is given twice`},
		{policy(good[:len(good)-1] + `, "Condition": null}`), "found null"},
		{policy(good[:len(good)-1] + `, "Condition": {"StringEquals": null}}`), "found null"},
		{policy(strings.Replace(good, `"*"`, `{"aws": "*"}`, 1)), `found "aws", expected "AWS"`},
		{policy(strings.Replace(good, `"*"`, `{"AWS": "arn:aws:iam::111122223333:role/*"}`, 1)),
			"a wildcard must stand alone"},
		{policy(strings.Replace(good, "Allow", "allow", 1)), "expected Allow or Deny"},
		{policy(strings.Replace(good, `"Action": "*", `, "", 1)), "one of Action and NotAction"},
		{policy(strings.Replace(good, `, "Resource": "*"`, "", 1)), "Resource is missing"},
		{policy(strings.Replace(good, `"Principal": "*", `, "", 1)), "Principal is missing"},
		{policy(strings.Replace(good, `"Principal": "*"`, `"Principal": "`+roleARN+`"`, 1)),
			"Principal is invalid"},
		{policy(strings.Replace(good, `"Sid": "Web", `, "", 1) + `, {"Effect": "x"}`),
			"statement 2: the Effect"},
	} {
		if _, err := parsePolicy([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.200s: %v, expected %q", test.text, err, test.want)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": ["*"]},
		"Action": "kms:*", "Resource": ["*"],
		"Condition": {"ForAnyValue:StringLike": {"kms:EncryptionContextKeys": ["a*", "?"]}}}}`, "a")
	f.Add(`{"Version": "2012-10-17", "Statement": [{"Sid": "x", "Effect": "Deny", "Principal": "*",
		"NotAction": [], "Resource": 1, "Condition": {"Null": {"kms:RecipientAttestation:PCR0": true}}}]}`, "")
	caller, _ := ParseCaller(roleARN)
	f.Fuzz(func(t *testing.T, text, value string) {
		p, err := parsePolicy([]byte(text))
		if err != nil {
			return
		}
		a := attributes{"kms:encryptioncontextkeys": {value}, "kms:recipientattestation:pcr0": {value}}
		allowed, reasons := p.allows(caller, "kms:Decrypt", "arn", a)
		again, _ := p.allows(caller, "kms:Decrypt", "arn", a)
		if allowed != again || !allowed && len(reasons) == 0 {
			t.Errorf("%v, then %v: %q", allowed, again, reasons)
		}
		// A statement that denies everything wins over all.
		all := wildcard("", "*", ".*")
		deny := statement{deny: true, principals: texts{"*"}, except: true, resources: []*regexp.Regexp{all}}
		if ok, _ := append(slices.Clone(p), deny).allows(caller, "kms:Decrypt", "arn", a); ok {
			t.Error("allowed in spite of a statement that denies")
		}
	})
}
