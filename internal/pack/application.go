package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Overrides replace values of an image's configuration, as the options of `docker run` do. A nil field keeps
// the image's value.
type Overrides struct {
	Entrypoint []string // without Cmd, it clears the image's Cmd too; [""] is none
	Cmd        []string
	Env        []string // each K=V replaces or adds one variable
	WorkingDir *string
	User       *string
	StopSignal *string

	// Fields that images do not have; see [contract.Description]. The zero value of each is its default.
	Hostname     string
	LoopbackDown bool
	NSMOwner     string
	NSMMode      uint32
	ExitReport   uint32
	Network      bool
	Egress       []string
	Ingress      []string

	CapAdd, CapDrop, Allow []string
	NoNewPrivileges, Pid1  bool
	LogPort                uint32
}

func (o Overrides) none() bool { return reflect.ValueOf(o).IsZero() }

// beyondLines reports whether o has values that nitro-cli's files /cmd and /env cannot express.
func (o Overrides) beyondLines() bool {
	o.Entrypoint, o.Cmd, o.Env = nil, nil, nil
	return !o.none()
}

// Application returns the description of an image's application, from its configuration.
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
		Network:      o.Network,
		Egress:       o.Egress,
		Ingress:      o.Ingress,

		CapAdd: o.CapAdd, CapDrop: o.CapDrop, Allow: o.Allow,
		NoNewPrivileges: o.NoNewPrivileges, Pid1: o.Pid1,
		LogPort: o.LogPort,
	}
	if o.Entrypoint != nil {
		d.Entrypoint, d.Cmd = o.Entrypoint, nil
	}
	if o.Cmd != nil {
		d.Cmd = o.Cmd
	}
	if len(d.Entrypoint) == 1 && d.Entrypoint[0] == "" {
		d.Entrypoint = nil // Docker takes [""] for none
	}
	for to, from := range map[*string]*string{
		&d.WorkingDir: o.WorkingDir, &d.User: o.User, &d.StopSignal: o.StopSignal,
	} {
		if from != nil {
			*to = *from
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

var errNoCommand = errors.New("the image has neither an ENTRYPOINT nor a CMD: set --entrypoint or --cmd")

// lines returns arguments or variables as nitro-cli writes them, one a line; ok is false if one contains a
// line break.
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

// dockerInfo returns what the metadata say about an image: the fields of `docker image inspect` that depend
// on the image's configuration only, so that they are the same wherever the image came from.
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
