package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
)

// engine is a client of a Docker engine's HTTP interface, of which it needs two calls. The paths have no
// version, so that old and new engines understand them.
type engine struct {
	host   string // as in DOCKER_HOST
	base   string // the beginning of URLs
	client *http.Client
}

// Errors for which the image may be elsewhere.
var (
	errNoSuchImage = errors.New("the Docker engine has no such image")
	errNoEngine    = errors.New("no Docker engine answers")
)

func openEngine(ctx context.Context, rest string, o Options) (*Image, error) {
	e, err := findEngine()
	if err != nil {
		return nil, err
	}
	defer e.client.CloseIdleConnections()
	var info struct{ RepoTags []string }
	body, err := e.get(ctx, "/images/"+rest+"/json", nil)
	if err != nil {
		return nil, err
	}
	raw, err := readDocument(body)
	body.Close()
	if err == nil {
		err = decode(raw, &info)
	}
	if err != nil {
		return nil, fmt.Errorf("response of the Docker engine at %s: %w", e.host, err)
	}
	// Without a tag, the engine would send all tags of the repository.
	named := slices.ContainsFunc(info.RepoTags, func(tag string) bool { return sameImage(tag, rest) })
	if named && !strings.ContainsAny(rest[strings.LastIndexByte(rest, '/')+1:], ":@") {
		rest += ":latest"
	}
	platform, err := json.Marshal(map[string]string{"os": "linux", "architecture": arch.Go(o.Arch)})
	if err != nil {
		return nil, err
	}
	body, err = e.get(ctx, "/images/"+rest+"/get", url.Values{"platform": {string(platform)}})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	saved, err := spoolArchive(body, o)
	if err != nil {
		return nil, fmt.Errorf("archive from the Docker engine at %s: %w", e.host, err)
	}
	return fromFiles(ctx, saved, "", o)
}

func (e *engine) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	u := e.base + (&url.URL{Path: path, RawQuery: query.Encode()}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	answer, err := e.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, os.ErrPermission) { // not errNoEngine: the engine may have the image
			return nil, fmt.Errorf("Docker engine at %s: permission denied for this user: %w", e.host, err)
		}
		return nil, fmt.Errorf("%w at %s: %w", errNoEngine, e.host, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // enough of an error message
	var said struct{ Message string }
	if json.Unmarshal(raw, &said) != nil {
		said.Message = strings.TrimSpace(string(raw))
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %s", errNoSuchImage, said.Message)
	}
	return nil, fmt.Errorf("Docker engine at %s: answered %s: %s", e.host, answer.Status, said.Message)
}

// endpoint is the address of an engine, and the credentials for it.
type endpoint struct {
	host   string
	tlsDir string // has ca.pem, cert.pem and key.pem; "" for none
	verify bool
}

// findEngine looks where the docker command does: in DOCKER_HOST, DOCKER_CONTEXT, the current context of its
// configuration, and at the socket of this machine.
func findEngine() (*engine, error) {
	at := endpoint{host: "unix:///var/run/docker.sock"}
	// Stays empty without HOME: a relative path would be in the current directory.
	config := os.Getenv("DOCKER_CONFIG")
	if home, err := os.UserHomeDir(); config == "" && err == nil {
		config = filepath.Join(home, ".docker")
	}
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		at.host = host
		if os.Getenv("DOCKER_TLS") != "" || os.Getenv("DOCKER_TLS_VERIFY") != "" {
			at.verify = os.Getenv("DOCKER_TLS_VERIFY") != ""
			if at.tlsDir = cmp.Or(os.Getenv("DOCKER_CERT_PATH"), config); at.tlsDir == "" {
				return nil, errors.New("DOCKER_TLS: DOCKER_CERT_PATH, DOCKER_CONFIG or HOME is required to " +
					"find the certificates")
			}
		}
	} else if name, err := currentContext(config); err != nil {
		return nil, err
	} else if name != "" && name != "default" {
		if at, err = readContext(config, name); err != nil {
			return nil, fmt.Errorf("docker context %s: %w", name, err)
		}
	}
	return at.connect()
}

func currentContext(config string) (string, error) {
	if name := os.Getenv("DOCKER_CONTEXT"); name != "" {
		return name, nil
	}
	if config == "" {
		return "", nil
	}
	c, err := dockerconfig.Load(config)
	if err != nil {
		return "", err
	}
	return c.CurrentContext, nil
}

// readContext reads a context that docker context create has written.
func readContext(config, name string) (endpoint, error) {
	if config == "" {
		return endpoint{}, errors.New("DOCKER_CONFIG or HOME is required to find contexts")
	}
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	raw, err := os.ReadFile(filepath.Join(config, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return endpoint{}, err
	}
	var meta struct {
		Endpoints map[string]struct {
			Host          string
			SkipTLSVerify bool
		}
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return endpoint{}, err
	}
	docker, ok := meta.Endpoints["docker"]
	if !ok || docker.Host == "" {
		return endpoint{}, errors.New("context has no Docker engine")
	}
	at := endpoint{host: docker.Host, verify: !docker.SkipTLSVerify}
	if dir := filepath.Join(config, "contexts", "tls", id, "docker"); isDir(dir) {
		at.tlsDir = dir
	}
	return at, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func (at endpoint) connect() (*engine, error) {
	scheme, rest, _ := strings.Cut(at.host, "://")
	transport := &http.Transport{DisableCompression: true}
	e := &engine{host: at.host, client: &http.Client{Transport: transport}}
	switch scheme {
	case "unix":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", rest)
		}
		e.base = "http://docker"
		return e, nil
	case "tcp", "http", "https":
		e.base = "http://" + strings.TrimSuffix(rest, "/")
		transport.Proxy = http.ProxyFromEnvironment
		if at.tlsDir == "" && scheme != "https" {
			return e, nil
		}
		e.base = "https://" + strings.TrimSuffix(rest, "/")
		c, err := at.tls()
		transport.TLSClientConfig = c
		return e, err
	}
	return nil, fmt.Errorf("Docker engine at %s: unsupported scheme %s://: "+
		"expected unix://, tcp://, http:// or https://; for ssh, forward its socket with "+
		"ssh -L /tmp/docker.sock:/var/run/docker.sock HOST, and set DOCKER_HOST=unix:///tmp/docker.sock",
		at.host, scheme)
}

func (at endpoint) tls() (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: !at.verify && at.tlsDir != ""}
	if at.tlsDir == "" {
		return c, nil
	}
	ca, err := os.ReadFile(filepath.Join(at.tlsDir, "ca.pem"))
	if err == nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s: found no certificate", filepath.Join(at.tlsDir, "ca.pem"))
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(at.tlsDir, "cert.pem"),
		filepath.Join(at.tlsDir, "key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
