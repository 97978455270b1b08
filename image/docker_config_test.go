package image

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// failing answers every request with an error of the system.
type failing syscall.Errno

func (f failing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.Errno(f))}
}

// TestNoEngine tells an engine that is not there from one that this user may not ask. (A test that runs as
// root may open any socket.)
func TestNoEngine(t *testing.T) {
	for number, want := range map[syscall.Errno]bool{syscall.ENOENT: true, syscall.ECONNREFUSED: true,
		syscall.EACCES: false} {
		e := &engine{host: "unix:///x.sock", base: "http://docker",
			client: &http.Client{Transport: failing(number)}}
		_, err := e.get(t.Context(), "/images/x/json", nil)
		if errors.Is(err, errNoEngine) != want || !errors.Is(err, number) ||
			!strings.Contains(err.Error(), "unix:///x.sock") {
			t.Errorf("%v: %v is that there is no engine, want %t", number, err, want)
		}
	}
}

// TestNoConfiguration has no directory of the docker command's: the current directory is none.
func TestNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/config.json", []byte(`{"currentContext":"evil"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/containers", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/containers/auth.json", []byte(`{"auths":{"r.example":{"username":"evil","password":"evil"}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, variable := range []string{"HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG",
		"REGISTRY_AUTH_FILE"} {
		t.Setenv(variable, "")
	}
	r, err := name.NewRegistry("r.example")
	if err != nil {
		t.Fatal(err)
	}
	if who, err := keychain().Resolve(r); who != authn.Anonymous || err != nil {
		t.Errorf("the credentials %v, %v", who, err)
	}
	if name, err := currentContext(""); name != "" && os.Getenv("DOCKER_CONTEXT") == "" || err != nil {
		t.Errorf("the context %q, %v", name, err)
	}
}

func TestSameImage(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"alpine", "docker.io/library/alpine:latest", true},
		{"docker.io/alpine:3", "library/alpine:3", true},
		{"index.docker.io/a/b", "a/b:latest", true},
		{"localhost/a", "localhost/a:latest", true},
		{"localhost:5000/a:1", "localhost:5000/a:1", true},
		{"Not A Reference", "Not A Reference", true},
		{"Not A Reference", "alpine", false},
		{"alpine:3", "alpine", false},
		{"host.example/alpine", "alpine", false},
		{"a/b", "b", false},
	} {
		if got := sameImage(c.a, c.b); got != c.same {
			t.Errorf("%s and %s: %t, want %t", c.a, c.b, got, c.same)
		}
	}
}
