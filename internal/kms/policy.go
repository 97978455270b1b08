package kms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/jsontoken"
)

// A policy is the statements of a key policy.
type policy []statement

type statement struct {
	name       string // its Sid or its number, for messages
	deny       bool
	principals texts // of AWS; others cannot be the caller here
	actions    []*regexp.Regexp
	except     bool // actions are those that the statement is not about
	resources  []*regexp.Regexp
	conditions []condition
}

// A condition compares the values of one key of the request.
type condition struct {
	operator  string // as the policy has it
	key       string // as the policy has it
	values    texts
	set       string // ForAnyValue, ForAllValues or none
	ifExists  bool
	negated   bool
	null      bool                    // the operator is Null
	matches   []func(got string) bool // of each value; none for Null
	undecided string                  // why the stand-in cannot decide the condition, if so
}

// attributes are the values of a request by condition key, in lower case.
type attributes map[string][]string

// texts is a JSON text, number or boolean, or a list of such.
type texts []string

// UnmarshalJSON implements [json.Unmarshaler].
func (t *texts) UnmarshalJSON(raw []byte) error {
	list := []json.RawMessage{raw}
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
	}
	*t = make(texts, len(list))
	for i, item := range list {
		switch item[0] {
		case '{', '[', 'n':
			return fmt.Errorf("found %.40s, expected a string", item)
		case '"':
			if err := json.Unmarshal(item, &(*t)[i]); err != nil {
				return err
			}
		default: // a number or a boolean
			(*t)[i] = string(item)
		}
	}
	return nil
}

const maxPolicy = 32 << 10 // bytes, as in AWS KMS

// rawStatement is a statement as JSON has it.
type rawStatement struct {
	Sid               string
	Effect            string
	Principal         json.RawMessage
	Action, NotAction texts
	Resource          texts
	Condition         map[string]map[string]texts
	NotPrincipal      json.RawMessage
	NotResource       json.RawMessage
}

// parsePolicy parses a key policy. It rejects what AWS rejects; null, which would take a condition away; and
// fields given twice, of which only one would count: encoding/json ignores case in their names.
func parsePolicy(text []byte) (policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("the policy has %d bytes: expected at most %d", len(text), maxPolicy)
	}
	if err := unique(text); err != nil {
		return nil, fmt.Errorf("the policy is not valid JSON: %w", err)
	}
	var document struct {
		Version, ID string
		Statement   json.RawMessage
	}
	if err := strict(text, &document); err != nil {
		return nil, err
	}
	if v := document.Version; v != "2012-10-17" && v != "2008-10-17" {
		return nil, fmt.Errorf("the policy's Version is %.20q: expected 2012-10-17", v)
	}
	var statements []rawStatement
	if list := document.Statement; len(list) == 0 {
		return nil, errors.New("the policy has no Statement")
	} else if list[0] != '[' {
		document.Statement = slices.Concat([]byte("["), list, []byte("]"))
	}
	if err := strict(document.Statement, &statements); err != nil {
		return nil, err
	}
	var p policy
	for i, raw := range statements {
		s, err := raw.parse()
		s.name = fmt.Sprintf("%.80q", raw.Sid)
		if raw.Sid == "" {
			s.name = fmt.Sprint(i + 1)
		}
		if err != nil {
			return nil, fmt.Errorf("the policy's statement %s: %w", s.name, err)
		}
		p = append(p, s)
	}
	return p, nil
}

func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the policy: %w", err)
	}
	return nil
}

// elements are the names of a policy's elements and kinds of principals, by their lower case.
var elements = map[string]string{}

func init() {
	for _, name := range []string{"Version", "Id", "Statement", "Sid", "Effect", "Principal", "NotPrincipal",
		"Action", "NotAction", "Resource", "NotResource", "Condition", "AWS", "Service", "Federated",
		"CanonicalUser"} {
		elements[strings.ToLower(name)] = name
	}
}

// unique checks that a text is one JSON value whose objects have each name once, without null.
func unique(text []byte) error {
	complete := false
	for token, err := range jsontoken.All(text) {
		switch right := elements[token.Folded]; {
		case complete:
			return errors.New("found more than one JSON value, expected one")
		case err != nil:
			return err
		case token.Repeated:
			return fmt.Errorf("%.40q is given twice", token.Token)
		case right != "" && right != token.Token:
			return fmt.Errorf("found %.40q, expected %q", token.Token, right)
		case token.Token == nil:
			return errors.New("found null")
		}
		complete = token.Depth == 0
	}
	if !complete {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (r rawStatement) parse() (statement, error) {
	s := statement{deny: r.Effect == "Deny", except: r.NotAction != nil}
	switch {
	case r.Effect != "Allow" && r.Effect != "Deny":
		return s, fmt.Errorf("the Effect is %.20q: expected Allow or Deny", r.Effect)
	case r.NotPrincipal != nil || r.NotResource != nil:
		return s, errors.New("NotPrincipal and NotResource are not supported")
	case (r.Action == nil) == (r.NotAction == nil):
		return s, errors.New("expected one of Action and NotAction")
	case r.Resource == nil:
		return s, errors.New("the Resource is missing")
	case r.Principal == nil:
		return s, errors.New("the Principal is missing")
	}
	var byKind map[string]texts
	if json.Unmarshal(r.Principal, &byKind) == nil {
		s.principals = byKind["AWS"]
	} else if json.Unmarshal(r.Principal, &s.principals) != nil || !slices.Equal(s.principals, texts{"*"}) {
		return s, errors.New(`the Principal is invalid: expected "*" or {"AWS": …}`)
	}
	for _, principal := range s.principals {
		if principal != "*" && strings.ContainsAny(principal, "*?") {
			return s, fmt.Errorf("the Principal %.128q is invalid: a wildcard must stand alone", principal)
		}
	}
	for _, pattern := range slices.Concat(r.Action, r.NotAction) {
		s.actions = append(s.actions, wildcard("(?is)", pattern, ".*"))
	}
	for _, pattern := range r.Resource {
		s.resources = append(s.resources, wildcard("(?s)", pattern, ".*"))
	}
	for _, operator := range slices.Sorted(maps.Keys(r.Condition)) {
		for _, key := range slices.Sorted(maps.Keys(r.Condition[operator])) {
			s.conditions = append(s.conditions, newCondition(operator, key, r.Condition[operator][key]))
		}
	}
	return s, nil
}

// wildcard is a pattern in which ? is one character and * any number of those that any matches.
func wildcard(flags, pattern, many string) *regexp.Regexp {
	expression := strings.NewReplacer(`\*`, many, `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(flags + "^" + expression + "$")
}

// A comparison returns what compares a value of the policy with those of a request.
type comparison func(want string) func(got string) bool

var operators = map[string]comparison{
	"StringEquals":           same,
	"StringEqualsIgnoreCase": fold,
	"Bool":                   fold,
	"StringLike":             like(".*"),
	"ArnLike":                like("[^:]*"),
	"Null":                   nil,
}

func same(want string) func(string) bool {
	return func(got string) bool { return want == got }
}

func fold(want string) func(string) bool {
	return func(got string) bool { return strings.EqualFold(want, got) }
}

func like(many string) comparison {
	return func(want string) func(string) bool { return wildcard("(?s)", want, many).MatchString }
}

// conditionKeys are the keys that [Server] sets where a request has them, in lower case.
var conditionKeys = regexp.MustCompile(`^(kms:recipientattestation:(imagesha384|pcr([0-9]|[12][0-9]|3[01]))` +
	`|kms:encryptioncontext:.*|kms:(encryptioncontextkeys|calleraccount|encryptionalgorithm|keyspec` +
	`|keyusage|keyorigin|reencryptonsamekey)|aws:(principalaccount|principalarn|requestedregion))$`)

func newCondition(operator, key string, values texts) condition {
	c := condition{operator: operator, key: key, values: values}
	name := operator
	if set, rest, ok := strings.Cut(operator, ":"); ok && (set == "ForAnyValue" || set == "ForAllValues") {
		c.set, name = set, rest
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	for _, kind := range []string{"String", "Arn"} {
		if rest, ok := strings.CutPrefix(name, kind+"Not"); ok {
			c.negated, name = true, kind+rest
		}
	}
	if name == "ArnEquals" {
		name = "ArnLike" // IAM compares both alike
	}
	compare, known := operators[name]
	if compare != nil {
		for _, v := range values {
			c.matches = append(c.matches, compare(v))
		}
	}
	c.null = known && compare == nil
	switch {
	case !known:
		c.undecided = "the stand-in does not know this operator"
	case !conditionKeys.MatchString(strings.ToLower(key)):
		c.undecided = "the stand-in does not know this key"
	case slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, "${") }):
		c.undecided = "the stand-in does not know policy variables"
	case c.null && slices.ContainsFunc(values, func(v string) bool { return !isBool(v) }):
		c.undecided = "the stand-in does not know values of Null other than true and false"
	}
	return c
}

func isBool(v string) bool { return strings.EqualFold(v, "true") || strings.EqualFold(v, "false") }

// holds reports whether the request meets the condition (IAM User Guide, "Condition operators" and
// "Multivalued context keys").
func (c condition) holds(request attributes) bool {
	got, present := request[strings.ToLower(c.key)]
	if c.null {
		return slices.ContainsFunc(c.values, func(want string) bool {
			return strings.EqualFold(want, "true") != present
		})
	}
	wanted := func(value string) bool {
		return slices.ContainsFunc(c.matches, func(match func(string) bool) bool { return match(value) })
	}
	passes := func(value string) bool { return wanted(value) != c.negated }
	switch {
	case !present && c.ifExists:
		return true
	case c.set == "ForAllValues":
		return !slices.ContainsFunc(got, func(value string) bool { return !passes(value) })
	case c.set == "ForAnyValue":
		return slices.ContainsFunc(got, passes)
	case !present:
		return c.negated
	}
	return slices.ContainsFunc(got, wanted) != c.negated
}

// describe says why the condition does not hold, with both values.
func (c condition) describe(request attributes) string {
	if c.undecided != "" {
		return fmt.Sprintf("%s %q: %s", c.operator, c.key, c.undecided)
	}
	found := "none in the request"
	if got, ok := request[strings.ToLower(c.key)]; ok {
		found = quote(got)
	} else if strings.HasPrefix(strings.ToLower(c.key), "kms:recipientattestation:") {
		found = "none: the request has no attestation document, or the document does not have it"
	}
	return fmt.Sprintf("%s: found %s, %s expects %s", c.key, found, c.operator, quote(c.values))
}

// quote prints values of a request or a policy, which may be hostile.
func quote(values []string) string {
	const most = 8
	var quoted []string
	for _, v := range values[:min(len(values), most)] {
		quoted = append(quoted, fmt.Sprintf("%.128q", v))
	}
	if len(values) > most {
		quoted = append(quoted, "…")
	}
	return strings.Join(quoted, ", ")
}

// allows decides whether caller may do action on resource: a statement must allow it and none deny it.
// reasons has a line for each statement that is about the action and does not allow it. A condition that the
// stand-in cannot decide fails in a statement that allows, and holds in one that denies.
func (p policy) allows(caller Caller, action, resource string, request attributes,
) (allowed bool, reasons []string) {
	denied := false
	for _, s := range p {
		about := func(patterns []*regexp.Regexp, text string) bool {
			return slices.ContainsFunc(patterns, func(r *regexp.Regexp) bool { return r.MatchString(text) })
		}
		if about(s.actions, action) == s.except || !about(s.resources, resource) {
			continue
		}
		if !slices.ContainsFunc(s.principals, caller.is) {
			if !s.deny {
				reasons = append(reasons, fmt.Sprintf("statement %s: the caller is %s, the Principal is %s",
					s.name, caller.ARN, quote(s.principals)))
			}
			continue
		}
		holds := true
		for _, c := range s.conditions {
			if c.undecided != "" && s.deny || c.undecided == "" && c.holds(request) {
				continue
			}
			holds = false
			if !s.deny {
				reasons = append(reasons, fmt.Sprintf("statement %s: %s", s.name, c.describe(request)))
			}
		}
		switch {
		case holds && s.deny:
			denied = true
			reasons = append(reasons, s.denial(request))
		case holds:
			allowed = true
		}
	}
	if len(reasons) == 0 && !allowed {
		reasons = []string{"no statement is about this action"}
	}
	return allowed && !denied, reasons
}

// denial says which statement denies, and by which conditions.
func (s statement) denial(request attributes) string {
	text := fmt.Sprintf("statement %s denies it", s.name)
	for _, c := range s.conditions {
		text += "; " + c.describe(request)
	}
	return text
}
