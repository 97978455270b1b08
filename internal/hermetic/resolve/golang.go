package resolve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Names of toolchains as Go modules.
const (
	toolchainModule = "golang.org/toolchain"
	toolchainPrefix = "v0.0.1-go"
)

// golang sets the lock's Go toolchain to Options.Go, or to the newest patch release of the locked version
// that exists for all hosts. The go command of this machine finds and downloads toolchains, by its GOPROXY,
// and verifies them with the checksum database, by its GOSUMDB.
func (r *resolver) golang(ctx context.Context, l *lock.Lock) error {
	want := r.Go
	if want == "" {
		if r.before.Go.Version == "" {
			return errors.New("--go is required: the lock has no Go version")
		}
		offered, err := goCommand(ctx, nil, "list", "-m", "-retracted", "-versions", toolchainModule)
		if err != nil {
			r.Progress.Send(progress.Event{Stage: "resolve toolchain", Note: fmt.Sprintf(
				"keeping Go %s: no proxy lists toolchains (choose a version with --go): %v",
				r.before.Go.Version, err)})
			return nil
		}
		want = newestPatch(r.before.Go.Version, strings.Fields(string(offered)))
	}
	if !version.IsValid("go"+want) || version.Lang("go"+want) == "go"+want {
		return fmt.Errorf("invalid Go version %q: expected one like 1.26.8", want)
	}
	if want == r.before.Go.Version {
		return nil
	}
	cache, err := os.MkdirTemp("", "neb-go-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	l.Go = lock.Go{Version: want, Hosts: map[string]lock.File{}}
	for _, host := range lock.Hosts {
		r.Progress.Send(progress.Event{Stage: "fetch Go",
			Note: fmt.Sprintf("downloading Go %s for %s", want, host)})
		if l.Go.Hosts[host], err = toolchainOf(ctx, cache, want, host); err != nil {
			return fmt.Errorf("Go %s for %s: %w", want, host, err)
		}
	}
	return nil
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

// toolchainOf downloads a toolchain into a module cache for its hash.
func toolchainOf(ctx context.Context, cache, goVersion, host string) (lock.File, error) {
	f := lock.File{Name: toolchainModule, Version: toolchainPrefix + goVersion + ".linux-" + host, Arch: host,
		Archive: lock.GoProxy}
	f.Path = toolchainModule + "/@v/" + f.Version + ".zip"
	out, err := goCommand(ctx, []string{"GOMODCACHE=" + cache},
		"mod", "download", "-json", "-modcacherw", toolchainModule+"@"+f.Version)
	var got struct{ Zip, Error string }
	if json.Unmarshal(out, &got) == nil && got.Error != "" {
		err = errors.New(got.Error)
	}
	if err == nil {
		f.SHA256, f.Size, err = stream.SHA256(ctx, got.Zip)
	}
	return f, err
}

// goCommand runs the go command of this machine, outside of any module.
func goCommand(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = "/"
	cmd.Env = slices.Concat(os.Environ(), []string{"GOTOOLCHAIN=local", "GOWORK=off", "GO111MODULE=on"}, env)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, err
}
