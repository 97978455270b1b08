package component

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Directories of the Go toolchain and of modules in a sandbox.
const (
	goTree     = "go"
	moduleTree = "modules"
)

// goEnv is, with GOARCH, the environment of the Go command that builds. Empty values keep out the defaults
// of the toolchain and of go.env.
var goEnv = []string{
	"GOENV=off",
	"GOROOT=/" + goTree,
	"GOTOOLCHAIN=local",
	"GOWORK=off",
	"GOOS=linux",
	"GOAMD64=v1",
	"GOARM64=v8.0",
	"CGO_ENABLED=0",
	"GOEXPERIMENT=",
	"GODEBUG=",
	"GOFIPS140=off",
	"GOFLAGS=-mod=readonly",
	"GO111MODULE=on",
	"GOPROXY=off",
	"GOSUMDB=off",
	"GOTELEMETRY=off",
	"GOPATH=" + sandbox.Build + "/gopath",
	"GOCACHE=" + sandbox.Build + "/cache", // see compileGo
	"GOMODCACHE=/" + moduleTree,
}

// linkFlags are the flags of programs that need their own. init's entry point mounts /dev before the Go
// runtime starts, which exits where the kernel has no console and there is no /dev/null; its build ID is
// the note that pack reads, and must not become a GNU build ID as well. All others have an empty build ID.
var linkFlags = map[string]string{"init": contract.Note + " -B none -E nebstart"}

// goFlags returns the flags that make a build reproducible.
func goFlags(name string) []string {
	return []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=" + linkFlags[name]}
}

// goJob returns a function for the job of a program of this module, static and stripped.
func (b *Builder) goJob(name string) func(context.Context, string) (job, error) {
	return func(ctx context.Context, target string) (job, error) {
		source, err := b.SourceDir(ctx)
		if err != nil {
			return job{}, err
		}
		prog, err := programIn(source, name)
		if err != nil {
			return job{}, err
		}
		toolchain, ok := b.Lock.Go.Hosts[runtime.GOARCH]
		if !ok {
			return job{}, fmt.Errorf("neb.lock: no Go toolchain for this machine (%s)", runtime.GOARCH)
		}
		inputs := lockedInputs("go toolchain", toolchain)
		if b.other != nil {
			inputs = append(inputs, b.other.inputs...)
		}
		texts := map[string]string{}
		for _, file := range prog.files {
			text, err := os.ReadFile(filepath.Join(source, file))
			if err != nil {
				return job{}, err
			}
			texts[file] = string(text)
			inputs = append(inputs, textInput("source file", file, texts[file]))
		}
		inputs = append(inputs, textInput("recipe", "environment and flags",
			strings.Join(append(append([]string{}, goEnv...), goFlags(name)...), "\n")))

		return job{name: name, arch: target, inputs: inputs,
			make: func(ctx context.Context, r *run) error {
				goRoot, err := b.goRoot(ctx)
				if err != nil {
					return err
				}
				if err := place(r.work, "src", texts); err != nil {
					return err
				}
				modules, err := b.modules(ctx, goRoot, texts, prog)
				if err != nil {
					return err
				}
				root := filepath.Join(r.work, "nothing")
				if err := os.Mkdir(root, 0o755); err != nil {
					return err
				}
				args := []string{"/" + goTree + "/bin/go", "build", "-C", sandbox.Src,
					fmt.Sprintf("-p=%d", b.jobs()), "-o", sandbox.Out + "/" + name}
				err = b.compileGo(ctx, r, sandbox.Command{
					Root:  root,
					Trees: map[string]string{goTree: goRoot, moduleTree: modules},
					Env:   append([]string{"GOARCH=" + arch.Go(target)}, goEnv...),
					Args:  append(append(args, goFlags(name)...), "./cmd/"+name),
				})
				if err != nil {
					return errLogged{fmt.Errorf("compiling: %w", err)}
				}
				out := filepath.Join(r.work, "out", name)
				if err := os.Chmod(out, 0o755); err != nil {
					return err
				}
				return os.Rename(out, filepath.Join(r.dir, name))
			}}, nil
	}
}

// compileGo runs the Go command with a GOCACHE that this builder's programs share, mostly for the standard
// library. The cache starts empty for each builder. Only the locked toolchain writes to it, in the sandbox,
// at the same path each time, and finds packages by the hash of all inputs including flags and environment.
// So it does not change an output.
func (b *Builder) compileGo(ctx context.Context, r *run, c sandbox.Command) error {
	b.goCache.Lock()
	defer b.goCache.Unlock()
	inside := filepath.Join(r.work, "build", "cache")
	if err := os.Mkdir(filepath.Dir(inside), 0o755); err != nil {
		return err
	}
	if b.goCache.dir == "" {
		work, err := b.Store.Work(ctx)
		if err != nil {
			return err
		}
		b.goCache.dir = filepath.Join(work, "go")
	} else if err := os.Rename(b.goCache.dir, inside); err != nil {
		return err
	}
	if err := r.sandboxed(ctx, c); err != nil {
		b.goCache.dir = "" // its content is unknown
		return err
	}
	return os.Rename(inside, b.goCache.dir)
}

func goRootKey(toolchain lock.File) string {
	return "go-" + keyOf("go", rootVersion, lockedInputs("go toolchain", toolchain))
}

// goRoot returns the unpacked Go toolchain of the lock, an output of the store. The machine's own Go is
// never used, because distributions patch it. After [Builder.UseOther] it is that toolchain, compiled anew.
func (b *Builder) goRoot(ctx context.Context) (string, error) {
	if b.other != nil {
		return b.other.goRoot, nil
	}
	toolchain := b.Lock.Go.Hosts[runtime.GOARCH]
	dir, _, err := b.Store.Output(ctx, goRootKey(toolchain), func(dir string) error {
		if err := b.Fetch(ctx, []lock.File{toolchain}); err != nil {
			return err
		}
		b.Progress.Send(progress.Event{Stage: "unpack", Note: "unpacking Go " + b.Lock.Go.Version})
		if err := unzipModule(ctx, b.Store.Path(toolchain), dir); err != nil {
			return fmt.Errorf("%s: %w", toolchain.Path, err)
		}
		return nil
	})
	return dir, err
}

// unzipModule unpacks a module zip, in which every name begins with module@version/. Such a zip has no
// permissions; as in the Go command, a file is executable by its directory.
func unzipModule(ctx context.Context, from, dir string) error {
	archive, err := zip.OpenReader(from)
	if err != nil {
		return err
	}
	defer archive.Close()
	for _, f := range archive.File {
		_, name, ok := strings.Cut(f.Name, "@")
		if ok {
			_, name, ok = strings.Cut(name, "/")
		}
		if !ok || !filepath.IsLocal(name) {
			return fmt.Errorf("entry %q: expected module@version/path", f.Name)
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "pkg/tool/") {
			mode = 0o755
		}
		in, err := f.Open()
		if err == nil {
			err = tree.WriteFile(filepath.Join(dir, name), mode, stream.Reader(ctx, in))
			in.Close()
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", f.Name, err)
		}
	}
	return nil
}

// modules returns a module cache with the dependencies of a program, an output of the store. The Go command
// verifies them by go.sum.
func (b *Builder) modules(ctx context.Context, goRoot string, texts map[string]string, prog program) (string,
	error) {
	key := "modules-" + keyOf("modules", b.Lock.Go.Version, []Input{
		textInput("source file", "go.mod", texts["go.mod"]),
		textInput("source file", "go.sum", texts["go.sum"]),
		textInput("imports", "", strings.Join(prog.outside, "\n")),
	})
	dir, _, err := b.Store.Output(ctx, key, func(dir string) error {
		if len(prog.outside) == 0 {
			return nil
		}
		b.Progress.Send(progress.Event{Stage: "fetch", Note: "fetching Go modules"})
		source := filepath.Join(dir, ".source")
		if err := place(source, "", texts); err != nil {
			return err
		}
		for _, a := range arch.All {
			args := append([]string{"list", "-deps", "-f={{with .Module}}{{.Path}}{{end}}"}, prog.outside...)
			_, err := b.goNetwork(ctx, goRoot, source, dir, []string{"GOARCH=" + a.Go}, args...)
			if err != nil && b.Offline {
				return fmt.Errorf("Go modules for %s are not in the store, and --offline forbids downloads: "+
					"run the same command once without it: %w", strings.Join(prog.outside, ", "), err)
			}
			if err != nil {
				return fmt.Errorf("download Go modules: %w", err)
			}
		}
		return errors.Join(os.RemoveAll(source), os.RemoveAll(filepath.Join(dir, ".scratch")))
	})
	return dir, err
}

// passed lists the variables that a connection to a module proxy may need.
var passed = []string{
	"PATH", "HOME", "NETRC", "GOAUTH", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

// goNetwork runs the locked Go command with network access, to download into a module cache. It compiles
// nothing.
func (b *Builder) goNetwork(ctx context.Context, goRoot, dir, modcache string, env []string,
	args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(goRoot, "bin", "go"), args...)
	cmd.Dir = dir
	cmd.Env = append([]string{}, goEnv...)
	scratch := filepath.Join(modcache, ".scratch")
	cmd.Env = append(cmd.Env,
		"GOROOT="+goRoot, "GOPATH="+scratch, "GOCACHE="+filepath.Join(scratch,
			"cache"), "GOMODCACHE="+modcache,
		"GOFLAGS=-mod=readonly -modcacherw", "GOPROXY="+b.goProxy(ctx), "TMPDIR="+os.TempDir(),
	)
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// goProxy returns the GOPROXY for downloads: the module cache of the machine's own Go, then the machine's
// proxies. All modules are verified by go.sum. Offline it contains only directories.
func (b *Builder) goProxy(ctx context.Context) string {
	proxy := cmp.Or(fetch.GoProxy(ctx), "direct")
	if b.Offline {
		var local []string
		for _, address := range strings.FieldsFunc(proxy, func(r rune) bool { return r == ',' || r == '|' }) {
			if strings.HasPrefix(address, "file://") {
				local = append(local, address)
			}
		}
		proxy = strings.Join(append(local, "off"), ",")
	}
	if home, err := os.UserHomeDir(); err == nil {
		own := filepath.Join(home, "go", "pkg", "mod", "cache", "download")
		if _, err := os.Stat(own); err == nil && !strings.ContainsAny(own, ",|%?# ") {
			proxy = "file://" + filepath.ToSlash(own) + "," + proxy
		}
	}
	return proxy
}

// releasedSource returns neb's own module at a version, an output of the store. sum is its hash as in
// go.sum, or "" if this program does not know it.
func (b *Builder) releasedSource(ctx context.Context, version, sum string) (string, error) {
	goRoot, err := b.goRoot(ctx)
	if err != nil {
		return "", err
	}
	key := "source-" + keyOf("source", version, []Input{textInput("sum", "", sum)})
	dir, _, err := b.Store.Output(ctx, key, func(dir string) error {
		modcache := filepath.Join(dir, ".modules")
		if err := os.Mkdir(modcache, 0o755); err != nil {
			return err
		}
		env := []string{"GOSUMDB=off"}
		if sum == "" {
			env = []string{"GOSUMDB=" + os.Getenv("GOSUMDB")} // empty is Go's default
		}
		out, err := b.goNetwork(ctx, goRoot, dir, modcache, env, "mod", "download", "-json",
			module+"@"+version)
		if err != nil && b.Offline {
			return fmt.Errorf("not in the store, and --offline forbids downloads: "+
				"run the same command once without it: %w", err)
		}
		if err != nil {
			return err
		}
		var got struct{ Dir, Sum string }
		if err := json.Unmarshal(out, &got); err != nil {
			return err
		}
		if sum != "" && got.Sum != sum {
			return fmt.Errorf("wrong sum of the module: expected %s, found %s", sum, got.Sum)
		}
		return errors.Join(tree.Copy(ctx, got.Dir, filepath.Join(dir, "neb"), false), os.RemoveAll(modcache))
	})
	return filepath.Join(dir, "neb"), err
}
