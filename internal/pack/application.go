package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Overrides replace parts of what an image says about its application, as the options of `docker run` do. A nil field
// leaves the image's own.
type Overrides struct {
	Entrypoint []string // without Cmd, the image's Cmd goes too
	Cmd        []string
	Env        []string // each K=V; replaces or adds one variable
	WorkingDir *string
	User       *string
	StopSignal *string

	// What images cannot say; see [contract.Description]. The zero value of each is its default.
	Hostname     string
	LoopbackDown bool
	NSMOwner     string
	NSMMode      uint32
	ExitReport   uint32
}

func (o Overrides) none() bool { return reflect.ValueOf(o).IsZero() }

// beyondLines says whether o holds what nitro-cli's files /cmd and /env have no place for.
func (o Overrides) beyondLines() bool {
	o.Entrypoint, o.Cmd, o.Env = nil, nil, nil
	return !o.none()
}

// Application is the description of an image's application, from its configuration.
func Application(config v1.Config, o Overrides) contract.Description {
	d := contract.Description{
		Entrypoint: config.Entrypoint,
		Cmd:        config.Cmd,
		Env:        append([]string(nil), config.Env...),
		WorkingDir: config.WorkingDir,
		User:       config.User,
		StopSignal: config.StopSignal,

		Hostname:     o.Hostname,
		LoopbackDown: o.LoopbackDown,
		NSMOwner:     o.NSMOwner,
		NSMMode:      o.NSMMode,
		ExitReport:   o.ExitReport,
	}
	if o.Entrypoint != nil {
		d.Entrypoint, d.Cmd = o.Entrypoint, nil
	}
	if o.Cmd != nil {
		d.Cmd = o.Cmd
	}
	for _, v := range []struct{ to, from *string }{{&d.WorkingDir, o.WorkingDir}, {&d.User, o.User}, {&d.StopSignal, o.StopSignal}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
	for _, variable := range o.Env {
		name, _, _ := strings.Cut(variable, "=")
		replaced := false
		for i, old := range d.Env {
			if strings.HasPrefix(old, name+"=") {
				d.Env[i], replaced = variable, true
			}
		}
		if !replaced {
			d.Env = append(d.Env, variable)
		}
	}
	return d
}

// errNoCommand is what an image without a command is refused with.
var errNoCommand = errors.New("the image has neither an ENTRYPOINT nor a CMD, and there is no shell to fall back on: say what to start (--entrypoint, --cmd)")

// lines are arguments or variables as nitro-cli writes them, one a line; ok is false where one of them cannot be
// written so.
func lines(all []string) (text []byte, ok bool) {
	var b bytes.Buffer
	for _, line := range all {
		if strings.Contains(line, "\n") {
			return nil, false
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.Bytes(), true
}

// goArch are the architectures as images name them.
var goArch = map[string]string{eif.X86_64: "amd64", eif.AArch64: "arm64"}

// checkArch refuses an image for another architecture than the enclave's.
func checkArch(config *v1.ConfigFile, arch string) error {
	if config.Architecture == goArch[arch] && (config.OS == "linux" || config.OS == "") {
		return nil
	}
	return fmt.Errorf("the image is for %s/%s, and the enclave is for linux/%s (--arch %s): build the image for that platform, or give another --arch",
		config.OS, config.Architecture, goArch[arch], arch)
}

// dockerInfo is what the metadata say about an image: the fields of `docker image inspect` that its configuration
// alone determines, so that they are the same wherever the image came from.
func dockerInfo(img *image.Image) (json.RawMessage, error) {
	var config struct {
		Created      json.RawMessage `json:"created"`
		Author       string          `json:"author"`
		Architecture string          `json:"architecture"`
		Variant      string          `json:"variant"`
		OS           string          `json:"os"`
		Config       json.RawMessage `json:"config"`
		RootFS       struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(img.RawConfig(), &config); err != nil {
		return nil, fmt.Errorf("the image's configuration: %w", err)
	}
	type rootFS struct {
		Type   string
		Layers []string
	}
	return json.Marshal(struct {
		ID           string `json:"Id"`
		Created      json.RawMessage
		Author       string
		Architecture string
		Variant      string `json:",omitempty"`
		OS           string `json:"Os"`
		Config       json.RawMessage
		RootFS       rootFS
	}{
		img.ConfigDigest(), config.Created, config.Author, config.Architecture, config.Variant, config.OS,
		config.Config, rootFS{config.RootFS.Type, config.RootFS.DiffIDs},
	})
}

// titleLabel is the annotation and label that names an image (OCI image specification, annotations.md).
const titleLabel = "org.opencontainers.image.title"
