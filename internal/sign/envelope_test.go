package sign

import "testing"

// The encoding that is signed, by the example of DSSE's protocol.md.
func TestEncoding(t *testing.T) {
	if got, want := string(encoding("http://example.com/HelloWorld", []byte("hello world"))),
		"DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
}
