package resolve

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"go/version"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

// Names of toolchains as Go modules.
const (
	toolchainModule = "golang.org/toolchain"
	toolchainPrefix = "v0.0.1-go"
)

// golang sets the lock's Go toolchain to Options.Go, or to the newest patch release of the locked version
// that exists for all hosts.
func (r *resolver) golang(ctx context.Context, l *lock.Lock) error {
	want := r.Go
	if want == "" {
		if r.before.Go.Version == "" {
			return errors.New("--go is required: the lock has no Go version")
		}
		offered, err := r.offered(ctx)
		if err != nil {
			r.Progress.Send(progress.Event{Stage: "resolve toolchain", Note: fmt.Sprintf(
				"keeping Go %s: no proxy lists toolchains (choose a version with --go): %v", r.before.Go.Version, err)})
			return nil
		}
		want = newestPatch(r.before.Go.Version, offered)
	}
	if !version.IsValid("go"+want) || version.Lang("go"+want) == "go"+want {
		return fmt.Errorf("invalid Go version %q: expected one like 1.26.8", want)
	}
	if want == r.before.Go.Version {
		return nil
	}
	after := lock.Go{Version: want, Hosts: map[string]lock.File{}}
	for _, host := range lock.Hosts {
		f, err := r.toolchainOf(ctx, want, host)
		if err != nil {
			return err
		}
		after.Hosts[host] = f
	}
	l.Go = after
	return nil
}

// offered returns the toolchains of the first proxy that answers.
func (r *resolver) offered(ctx context.Context) ([]string, error) {
	var urls []string
	for _, proxy := range r.Mirrors.Proxies {
		urls = append(urls, proxy+"/"+toolchainModule+"/@v/list")
	}
	if len(urls) == 0 {
		return nil, errors.New("no Go module proxy is configured: set GOPROXY")
	}
	data, err := r.Client.Get(ctx, urls, mostRelease, func(data []byte) error {
		if !strings.Contains(string(data), toolchainPrefix) {
			return errors.New("no toolchains in the list")
		}
		return nil
	})
	return strings.Fields(string(data)), err
}

// newestPatch returns the newest version of the same minor release that is offered for all hosts, or the
// locked one.
func newestPatch(locked string, offered []string) string {
	hosts := map[string]int{} // by version
	for _, v := range offered {
		for _, host := range lock.Hosts {
			if v, ok := strings.CutPrefix(v, toolchainPrefix); ok {
				if v, ok := strings.CutSuffix(v, ".linux-"+host); ok {
					hosts[v]++
				}
			}
		}
	}
	best := locked
	for v, n := range hosts {
		// excludes betas, candidates and vendors' versions
		released := !strings.ContainsAny(v, "abcdefghijklmnopqrstuvwxyz-")
		if n == len(lock.Hosts) && released && version.Lang("go"+v) == version.Lang("go"+locked) &&
			version.Compare("go"+v, "go"+best) > 0 {
			best = v
		}
	}
	return best
}

// toolchainOf downloads a toolchain for its hash, and verifies it with the checksum database.
func (r *resolver) toolchainOf(ctx context.Context, goVersion, host string) (lock.File, error) {
	f := lock.File{Name: toolchainModule, Version: toolchainPrefix + goVersion + ".linux-" + host, Arch: host,
		Archive: lock.GoProxy}
	f.Path = toolchainModule + "/@v/" + f.Version + ".zip"
	urls := r.Mirrors.URLs(f)
	if len(urls) == 0 {
		return lock.File{}, errors.New("no Go module proxy is configured: set GOPROXY")
	}
	r.Progress.Send(progress.Event{Stage: "fetch Go",
		Note: fmt.Sprintf("downloading Go %s for %s", goVersion, host)})
	_, err := r.Client.Get(ctx, urls, mostToolchain, func(zip []byte) error {
		sum := sha256.Sum256(zip)
		f.Size, f.SHA256 = int64(len(zip)), hex.EncodeToString(sum[:])
		return r.checkSum(f, zip)
	})
	if err != nil {
		return lock.File{}, fmt.Errorf("Go %s for %s:\n  %w", goVersion, host, err)
	}
	return f, nil
}

// checkSum verifies a toolchain's module zip with the checksum database, as Go does.
func (r *resolver) checkSum(f lock.File, data []byte) error {
	if r.SumDB == "off" {
		r.Progress.Send(progress.Event{Stage: "resolve toolchain", Note: fmt.Sprintf(
			"%s %s: not verified, because GOSUMDB is off", f.Name, f.Version)})
		return nil
	}
	found, err := hashZip(data)
	if err != nil {
		return fmt.Errorf("module zip: %w", err)
	}
	db, err := r.sumDB()
	if err != nil {
		return err
	}
	lines, err := sumdb.NewClient(db).Lookup(f.Name, f.Version)
	if err == nil && db.alarm() != "" {
		err = errors.New(db.alarm())
	}
	if err != nil {
		return fmt.Errorf("checksum database (GOSUMDB=off disables it): %w", err)
	}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == f.Name && fields[1] == f.Version {
			if fields[2] != found {
				return fmt.Errorf("wrong content: the checksum database has %s, found %s", fields[2], found)
			}
			return nil
		}
	}
	return fmt.Errorf("checksum database: no entry for %s %s", f.Name, f.Version)
}

// hashZip returns the hash of a module zip as the checksum database has it.
func hashZip(data []byte) (string, error) {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", err
	}
	var names []string
	for _, f := range r.File {
		names = append(names, f.Name)
	}
	return dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return r.Open(name) })
}

// sumDB returns the checksum database that GOSUMDB names: "NAME" or "NAME+KEY", optionally followed by a URL.
func (r *resolver) sumDB() (*database, error) {
	fields := strings.Fields(r.SumDB)
	if len(fields) == 0 {
		fields = []string{knownSumDB}
	}
	key := fields[0]
	name, _, hasKey := strings.Cut(key, "+")
	if !hasKey {
		known, _, _ := strings.Cut(knownSumDB, "+")
		if name != known {
			return nil, fmt.Errorf("invalid GOSUMDB: expected %s or NAME+KEY, found %q", known, r.SumDB)
		}
		key = knownSumDB
	}
	db := &database{r: r, key: key}
	for _, proxy := range r.Mirrors.Proxies {
		db.urls = append(db.urls, proxy+"/sumdb/"+name)
	}
	if len(fields) > 1 {
		db.urls = append(db.urls, strings.TrimRight(fields[1], "/"))
	} else {
		db.urls = append(db.urls, "https://"+name)
	}
	return db, nil
}

// knownSumDB is the name and the public key of the checksum database that Go trusts.
const knownSumDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

// database implements [sumdb.ClientOps]. It keeps nothing on disk: updates are rare and must not trust the
// machine's files.
type database struct {
	r    *resolver
	key  string
	urls []string

	mu     sync.Mutex
	latest []byte
	wrong  string
}

func (d *database) ReadRemote(path string) ([]byte, error) {
	var urls []string
	for _, base := range d.urls {
		urls = append(urls, base+path)
	}
	return d.r.Client.Get(context.Background(), urls, mostRelease, func([]byte) error { return nil })
}

func (d *database) ReadConfig(file string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if file == "key" {
		return []byte(d.key), nil
	}
	return d.latest, nil
}

func (d *database) WriteConfig(_ string, before, after []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if string(before) != string(d.latest) {
		return sumdb.ErrWriteConflict
	}
	d.latest = after
	return nil
}

func (d *database) ReadCache(string) ([]byte, error) { return nil, os.ErrNotExist }
func (d *database) WriteCache(string, []byte)        {}
func (d *database) Log(string)                       {}

func (d *database) SecurityError(message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wrong = message
}

func (d *database) alarm() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wrong
}
